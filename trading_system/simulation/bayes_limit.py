"""What a learner reaches that is told the family of a world: the limit that learning from n rows has.

A Gibbs sampler of a probit regression under spike and slab (Albert and Chib 1993; George and McCulloch 1993). It knows
which kinds of columns there may be, how many of each matter and how large their weights are; not which, nor the signs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from trading_system.ml_refinement.typing import BoolArray, FloatArray, IntArray
from trading_system.simulation import worlds

#: A logit over this is a probit, nearly.
_LOGIT_TO_PROBIT = 1.7
SWEEPS = 3_000
_BURN_IN = 500
_EVERY = 10


@dataclass(frozen=True)
class Kind:
    """Columns of one kind: how many matter, and their squared weight.

    `features` says of which, shape (columns, 1) or (columns, 2); `made` takes their values, (1 or 2, columns, n).
    """

    features: IntArray
    made: Callable[[FloatArray], FloatArray]
    matter: int
    squared_weight: float

    def of(self, X: FloatArray, columns: IntArray) -> FloatArray:
        """Some of the columns over rows X (n, 60), shape (columns, n)."""
        return self.made(np.stack([X[:, which].T for which in self.features[columns].T]))


def family(kind: str) -> tuple[Kind, ...]:
    """The kinds of columns of `linear` and `mixed` worlds, as `worlds.opinion` weighs them."""
    one = np.arange(worlds.N_FEATURES)[:, None]
    if kind == "linear":
        return (Kind(one, lambda z: z[0], 6, float(np.mean(np.square([1.0, -0.8, 0.7, -0.6, 0.5, 0.4])))),)
    pairs = np.array([(a, b) for a in range(worlds.N_FEATURES) for b in range(a)])
    return (
        Kind(one, lambda z: z[0], 2, (1.0 + 0.8**2) / 2.0),
        Kind(one, lambda z: (z[0] > 0.5).astype(np.float64), 1, 1.5**2),
        Kind(pairs, lambda z: z[0] * z[1], 1, 1.0),
        Kind(one, lambda z: np.abs(z[0]), 1, 1.2**2),
    )


def limit_scores(
    kind: str,
    auc: float,
    X: FloatArray,
    won: BoolArray,
    asked: FloatArray,
    rng: np.random.Generator,
    *,
    sweeps: int = SWEEPS,
) -> FloatArray:
    """Posterior P(win) of rows `asked` (m, 60), learned from X (n, 60) and `won` (n,), shape (m,)."""
    kinds, scale = family(kind), worlds.calibrated_scale(kind, auc)[0] / _LOGIT_TO_PROBIT
    group = np.repeat(np.arange(len(kinds)), [len(each.features) for each in kinds])
    place = np.concatenate([np.arange(len(each.features)) for each in kinds])
    D = np.concatenate([each.of(X, np.arange(len(each.features))) for each in kinds])
    centre = D.mean(axis=1, keepdims=True)
    D = np.ascontiguousarray(D - centre)
    share = np.array([each.matter / len(each.features) for each in kinds])[group]
    slab = np.array([each.squared_weight for each in kinds])[group] * scale**2
    precision = (D**2).sum(axis=1) + 1.0 / slab
    odds = np.log(share) - np.log1p(-share) - 0.5 * np.log(slab * precision)
    weight, intercept = np.zeros(len(D)), float(ndtri(won.mean()))
    total, draws = np.zeros(len(asked)), 0
    for sweep in range(sweeps):
        mean = intercept + weight @ D
        latent = _truncated(mean, won, rng)
        intercept = float((latent - weight @ D).mean() + rng.standard_normal() / np.sqrt(len(won)))
        _update(D, weight, latent - intercept - weight @ D, precision, odds, rng)
        if sweep >= _BURN_IN and sweep % _EVERY == 0:
            active = np.flatnonzero(weight)
            score = np.full(len(asked), intercept)
            for number, each in enumerate(kinds):
                mine = active[group[active] == number]
                if len(mine):
                    score += weight[mine] @ (each.of(asked, place[mine]) - centre[mine])
            total += ndtr(score)
            draws += 1
    return total / draws


def _update(
    D: FloatArray,
    weight: FloatArray,
    left: FloatArray,
    precision: FloatArray,
    odds: FloatArray,
    rng: np.random.Generator,
) -> None:
    """One sweep over the columns in random order: each in or out, and how large. `left` is what they do not explain."""
    uniform, normal = rng.random(len(D)), rng.standard_normal(len(D))
    for k in rng.permutation(len(D)).tolist():
        if weight[k]:
            left += D[k] * weight[k]
        mean = float(D[k] @ left) / precision[k]
        log_odds = odds[k] + 0.5 * mean * mean * precision[k]
        inside = uniform[k] < 1.0 / (1.0 + np.exp(-min(log_odds, 500.0)))
        weight[k] = mean + normal[k] / np.sqrt(precision[k]) if inside else 0.0
        if inside:
            left -= D[k] * weight[k]


def _truncated(mean: FloatArray, won: BoolArray, rng: np.random.Generator) -> FloatArray:
    """Normal values about `mean` (n,) of unit variance, above 0 for wins and below it for losses."""
    below = ndtr(-mean)
    u = rng.random(len(mean))
    p = np.where(won, below + u * (1.0 - below), u * below)
    return np.asarray(mean + ndtri(np.clip(p, 1e-12, 1.0 - 1e-12)), dtype=np.float64)
