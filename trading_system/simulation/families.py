"""The sixteen cells on families drawn anew: how features load, which of them inform, how, and how many are noise.

What a learner gains by being tuned on one family, it shows on the family of `worlds.py` and loses here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from trading_system.ml_refinement.typing import FloatArray
from trading_system.simulation.worlds import BASE_RATE, N_FEATURES, bayes_auc

Rng = np.random.Generator
Form = Literal["line", "step", "product", "fold"]

FACTORS = 6
#: Fewest and most of the 60 features that inform.
INFORMATIVE = (3, 12)

_FORMS: tuple[Form, ...] = ("line", "step", "product", "fold")
_SHARES = (0.4, 0.2, 0.2, 0.2)
_STRENGTH: dict[Form, float] = {"line": 1.0, "step": 1.5, "product": 1.0, "fold": 1.2}
_SAMPLE = 40_000


@dataclass(frozen=True)
class Term:
    """A part of the opinion: one feature's line, step at a threshold or fold (absolute value), or a product of two."""

    form: Form
    columns: tuple[int, ...]
    weight: float
    threshold: float = 0.0

    def value(self, X: FloatArray) -> FloatArray:
        """The part, shape (n,), of features (n, 60)."""
        z = X[:, self.columns]
        shape = z[:, 0]
        if self.form == "step":
            shape = (shape > self.threshold).astype(np.float64)
        elif self.form == "product":
            shape = shape * z[:, 1]
        elif self.form == "fold":
            shape = np.abs(shape)
        weighted: FloatArray = self.weight * _STRENGTH[self.form] * shape
        return weighted


@dataclass(frozen=True)
class Family:
    """Loadings of unit length, (6, 60), the terms of the opinion, and its scale and offset as a logit."""

    loadings: FloatArray
    terms: tuple[Term, ...]
    scale: float = 1.0
    offset: float = 0.0

    @property
    def informative(self) -> tuple[int, ...]:
        """Indices of the features that inform, ascending."""
        return tuple(sorted(column for term in self.terms for column in term.columns))

    def features(self, n: int, rng: Rng) -> FloatArray:
        """Features of unit variance, shape (n, 60): 0.7 own heavy-tailed noise and 0.3 the six factors."""
        own = rng.standard_t(5, (n, N_FEATURES)) / np.sqrt(5.0 / 3.0)
        mixed: FloatArray = np.sqrt(0.7) * own + np.sqrt(0.3) * rng.standard_normal((n, FACTORS)) @ self.loadings
        return mixed

    def truth(self, X: FloatArray) -> FloatArray:
        """P(win), shape (n,), of features (n, 60)."""
        chance: FloatArray = expit(self.scale * self._opinion(X) + self.offset)
        return chance

    def scaled_to(self, auc: float, rng: Rng) -> Family:
        """The same family, its logit scaled so that the base rate is 0.45 and Bayes attains `auc`."""
        raw = self._opinion(self.features(_SAMPLE, rng))

        def offset(scale: float) -> float:
            return float(brentq(lambda shift: expit(scale * raw + shift).mean() - BASE_RATE, -30.0, 30.0))

        def miss(scale: float) -> float:
            return bayes_auc(expit(scale * raw + offset(scale))) - auc

        scale = float(brentq(miss, 1e-3, 8.0, xtol=1e-4))
        return Family(self.loadings, self.terms, scale, offset(scale))

    def _opinion(self, X: FloatArray) -> FloatArray:
        total: FloatArray = np.sum([term.value(X) for term in self.terms], axis=0)
        return total


def family(kind: str, auc: float, rng: Rng) -> Family:
    """A family drawn anew: `linear`, where every informative feature has a line, or `mixed`, where forms are drawn."""
    raw = rng.standard_normal((FACTORS, N_FEATURES))
    columns = rng.permutation(N_FEATURES)[: rng.integers(INFORMATIVE[0], INFORMATIVE[1] + 1)].tolist()
    terms = []
    while columns:
        form: Form = "line" if kind == "linear" else _FORMS[int(rng.choice(len(_FORMS), p=_SHARES))]
        taken = [columns.pop() for _ in range(2 if form == "product" and len(columns) > 1 else 1)]
        form = "line" if form == "product" and len(taken) == 1 else form
        weight = float(rng.uniform(0.4, 1.0) * rng.choice([-1.0, 1.0]))
        terms.append(Term(form, tuple(taken), weight, float(rng.uniform(-0.8, 0.8))))
    return Family(raw / np.linalg.norm(raw, axis=0), tuple(terms)).scaled_to(auc, rng)
