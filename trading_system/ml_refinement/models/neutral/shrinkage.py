"""Weights of many columns from few rows: two priors whose strength is learned from the same rows.

Both take the products `A = D'PD / s2` (k, k) and `h = D'Py / s2` (k,), and know of a column only which group it is in.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import lapack

from trading_system.ml_refinement.typing import FloatArray, IntArray

_SWEEPS = 100
_SWEEP_TOLERANCE = 1e-6
#: The slab's first variance counts as much as so many columns.
_SLAB_COLUMNS = 2.0
_ROUNDS = 15
_ROUND_TOLERANCE = 5e-2
_RIDGE_VARIANCE = 5e-4


class SparsePrior(NamedTuple):
    """Share of columns that matter ~ Beta(1, `against[g]`), their weights ~ N(0, v), v about `slab`, by group."""

    against: tuple[float, ...]
    slab: float


def sparse_weights(A: FloatArray, h: FloatArray, group: IntArray, prior: SparsePrior) -> FloatArray:
    """Posterior mean of the weights under spike and slab, shape (k,), by coordinate ascent (Carbonetto, Stephens 2012).

    Shares and slab variances are learned along the way. Columns are visited from the strongest to the weakest.

    Args:
        A: shape (k, k), positive semidefinite.
        h: shape (k,).
        group: a number below `len(prior.against)` for each column, shape (k,).
        prior: see there.
    """
    groups = [np.flatnonzero(group == number) for number in range(len(prior.against))]
    share = np.array([1.0 / (1.0 + against) for against in prior.against])
    slab = np.full(len(groups), prior.slab)
    own = np.diag(A).copy()
    order = np.flatnonzero(own > 0)
    order = order[np.argsort(-(h[order] ** 2) / own[order], kind="stable")]
    included, centre, weight = np.zeros(len(h)), np.zeros(len(h)), np.zeros(len(h))
    explained = np.zeros(len(h))
    for _ in range(_SWEEPS):
        before = weight.copy()
        variance = 1.0 / (own + 1.0 / slab[group])
        odds = (np.log(share) - np.log1p(-share))[group] + 0.5 * np.log(variance / slab[group])
        for k in order.tolist():
            mean = variance[k] * (h[k] - explained[k] + own[k] * weight[k])
            log_odds = odds[k] + 0.5 * mean * mean / variance[k]
            included[k] = 1.0 / (1.0 + np.exp(-log_odds)) if log_odds > -500.0 else 0.0
            change = included[k] * mean - weight[k]
            explained += A[k] * change
            weight[k] += change
            centre[k] = mean
        for number, members in enumerate(groups):
            inside = included[members].sum()
            squares = included[members] @ (centre[members] ** 2 + variance[members])
            share[number] = (1.0 + inside) / (1.0 + prior.against[number] + len(members))
            slab[number] = (squares + _SLAB_COLUMNS * prior.slab) / (inside + _SLAB_COLUMNS)
        if np.abs(weight - before).max(initial=0.0) < _SWEEP_TOLERANCE:
            break
    return weight


def ridge_weights(A: FloatArray, h: FloatArray, group: IntArray, *, groups: int) -> FloatArray:
    """Posterior mean of the weights, shape (k,), under `N(0, v_g)`, each group's v by evidence (MacKay 1992).

    Args:
        A: shape (k, k), positive semidefinite.
        h: shape (k,).
        group: a number below `groups` for each column, shape (k,).
        groups: how many.
    """
    variance = np.full(groups, _RIDGE_VARIANCE)
    members = [np.flatnonzero(group == number) for number in range(groups)]
    weight = np.zeros(len(h))
    for _ in range(_ROUNDS):
        weight, spread = _posterior(A, h, 1.0 / variance[group])
        before = variance.copy()
        for number, inside in enumerate(members):
            if len(inside):
                known = len(inside) - spread[inside].sum() / variance[number]
                variance[number] = np.clip((weight[inside] ** 2).sum() / max(known, 1e-9), 1e-9, 1.0)
        if np.abs(np.log(variance / before)).max() < _ROUND_TOLERANCE:
            break
    return np.asarray(weight, dtype=np.float64)


def _posterior(A: FloatArray, h: FloatArray, precision: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and variances, both (k,), of weights with these prior precisions (k,)."""
    total = A + np.diag(precision)
    factor, failed = lapack.dpotrf(total, lower=1)
    if failed:  # rounding made it indefinite
        covariance = np.linalg.pinv(total, hermitian=True)
        return covariance @ h, np.diag(covariance).copy()
    mean, _ = lapack.dpotrs(factor, h, lower=1)
    lower, _ = lapack.dpotri(factor, lower=1)
    return np.asarray(mean, dtype=np.float64), np.diag(lower).copy()
