"""Linear members: scores that are sums over features, learned with what open trades share taken out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trading_system.ml_refinement.models.errors import ModelFileRefused
from trading_system.ml_refinement.models.neutral.design import GROUPS, Design
from trading_system.ml_refinement.models.neutral.rows import TrainingRows
from trading_system.ml_refinement.models.neutral.shared_days import NeutralProducts, SharedDays, neutral_products
from trading_system.ml_refinement.models.neutral.shrinkage import SparsePrior, ridge_weights, sparse_weights
from trading_system.ml_refinement.typing import FloatArray, IndexArray, StringArray

_WINSOR = (0.01, 0.99)


@dataclass(frozen=True, slots=True)
class LinearMembers:
    """Members that weigh the same columns: one sparse, one dense. Their scores are log-odds beyond the base rate's.

    `line` weighs z and `fold` its size `|z|`, both (members, f); `of_type` weighs z besides for signals of one type,
    (members, types, f), and `type_itself` is what that type adds, (members, types). `constant` (members,) makes a
    score 0 in the mean over the training rows.
    """

    design: Design
    line: FloatArray
    fold: FloatArray
    of_type: FloatArray
    type_itself: FloatArray
    constant: FloatArray
    #: Variance of a shared day beside that of a trade's own luck, as found.
    shared_days: float

    def scores(self, X: FloatArray, signal_types: StringArray | None) -> FloatArray:
        """Shape (n, members)."""
        z = self.design.lines(X)
        # Not `@`: row by row the same sum, however many rows there are.
        found = np.einsum("nf,mf->nm", z, self.line) + np.einsum("nf,mf->nm", np.abs(z), self.fold) + self.constant
        for place, rows in self._typed(signal_types, len(X)):
            found[rows] += np.einsum("nf,mf->nm", z[rows], self.of_type[:, place]) + self.type_itself[:, place]
        return np.asarray(found, dtype=np.float64)

    def contributions(self, X: FloatArray, signal_types: StringArray | None) -> FloatArray:
        """What each feature's columns (line, fold, line of its type) add to the scores, and last the type itself.

        Shape (members, n, f + 1): beyond a row of average lines and folds. With a constant they sum to the scores.
        """
        z = self.design.lines(X)
        each = z * self.line[:, None] + (np.abs(z) - self.design.fold_mean) * self.fold[:, None]
        itself = np.zeros((len(self.line), len(X), 1))
        for place, rows in self._typed(signal_types, len(X)):
            each[:, rows] += z[rows] * self.of_type[:, place, None]
            itself[:, rows, 0] = self.type_itself[:, place, None]
        return np.concatenate([each, itself], axis=2)

    def _typed(self, signal_types: StringArray | None, n: int) -> list[tuple[int, IndexArray]]:
        """The rows of each type that has columns of its own, where there are any."""
        number = self.design.type_numbers(signal_types, n)
        return [(place, np.flatnonzero(number == place)) for place in np.unique(number[number >= 0]).tolist()]

    def importance(self) -> FloatArray:
        """Shares of the features by the size of their weights, averaged over members, shape (f,); sums to 1 or is 0."""
        typical = np.abs(self.line) + np.abs(self.fold) * self.design.fold_spread
        typical += np.einsum("mtf,t->mf", np.abs(self.of_type), self.design.type_share)
        total = typical.sum(axis=1, keepdims=True)
        shares = np.divide(typical, total, out=np.zeros_like(typical), where=total > 0)
        return np.asarray(shares.mean(axis=0), dtype=np.float64)

    def state(self) -> dict[str, Any]:
        """Plain values only; the inverse of `from_state`."""
        return {"design": self.design.state(), "shared_days": self.shared_days} | {
            name: getattr(self, name) for name in _ARRAYS
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, n_features: int) -> LinearMembers:
        """Rebuild, checking shapes.

        Raises:
            ModelFileRefused: malformed.
        """
        design = Design.from_state(state["design"], n_features=n_features)
        arrays = {name: state[name] for name in _ARRAYS}
        members, types = len(arrays["constant"]), len(design.types)
        shapes = {
            "line": (members, n_features),
            "fold": (members, n_features),
            "of_type": (members, types, n_features),
            "type_itself": (members, types),
            "constant": (members,),
        }
        for name, array in arrays.items():
            if array.shape != shapes[name] or not np.isfinite(array).all():
                raise ModelFileRefused(f"the linear members' {name} is malformed")
        return cls(design, **arrays, shared_days=float(state["shared_days"]))


_ARRAYS = ("line", "fold", "of_type", "type_itself", "constant")


def fit_linear_members(
    rows: TrainingRows, *, scaling: str | None, clip: float, prior: SparsePrior
) -> tuple[LinearMembers, NeutralProducts]:
    """The sparse and the dense member, and the products that they were learned from.

    Args:
        rows: of both classes, no feature constant.
        scaling: how features are scaled before they are clipped.
        clip: in scaled units.
        prior: of the sparse member.
    """
    design = Design.of(rows, scaling=scaling, clip=clip)
    D = design.columns(rows.X, rows.signal_types)
    days = None
    if rows.entered_us is not None and rows.known_us is not None:
        days = SharedDays.of(rows.entered_us, rows.known_us)
    products = neutral_products(D, blended_target(rows), days)
    group = design.groups()
    found = (
        sparse_weights(products.columns, products.target, group, prior),
        ridge_weights(products.columns, products.target, group, groups=GROUPS),
    )
    weights = np.vstack(found) / (rows.won.mean() * (1.0 - rows.won.mean()))
    return _members(design, weights, -(weights @ D.mean(axis=0)), products.share), products


def blended_target(rows: TrainingRows) -> FloatArray:
    """Half the win, half R drawn in to its 1-99 % range and brought to the win's mean and spread, shape (n,).

    R says by how much, which for trades that end between their stop and their target is most of what there is to know;
    the win is what is asked for. Where R is all one value on either side, both are the same.
    """
    won = rows.won.astype(np.float64)
    r = np.clip(rows.r, *np.quantile(rows.r, _WINSOR))
    if not r.std() > 0:
        return won
    return np.asarray(0.5 * won + 0.5 * (won.mean() + (r - r.mean()) / r.std() * won.std()), dtype=np.float64)


def _members(design: Design, weights: FloatArray, constant: FloatArray, share: float) -> LinearMembers:
    """Weights of the design's columns (members, k) as weights of features."""
    members, f, own, types = len(weights), len(design.median), int(design.own.sum()), len(design.types)
    fold = np.zeros((members, f))
    of_type = np.zeros((members, types, f))
    line, folds, typed, itself = np.split(weights, np.cumsum([f, int(design.fold.sum()), own * types]), axis=1)
    fold[:, design.fold] = folds / design.fold_spread[design.fold]
    of_type[:, :, design.own] = typed.reshape(members, types, own)
    constant = constant - fold @ design.fold_mean - itself @ design.type_share
    return LinearMembers(design, line.copy(), fold, of_type, itself.copy(), constant, share)
