"""Which features a fit may use. Everything here is computed from the rows of that one fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from trading_system.ml_refinement.models.errors import NoUsableFeatures
from trading_system.ml_refinement.typing import BoolArray, FloatArray, IndexArray, IntArray


@dataclass(frozen=True, slots=True)
class SelectionRule:
    """How many features may stay, and how little a feature may matter.

    Importance is a feature's share of corr(z, win)^2 + corr(|z|, win)^2 + corr(z of one type, win)^2 for each signal
    type: the variance that its line, its fold and its types' lines explain, so that a feature that matters at both
    ends, or one way here and the other way there, is not taken for useless. Correlations are those within periods,
    where these are told: what a week's trades share is not taken for what its market's features explain.
    """

    enabled: bool = True
    max_features: int = 50
    threshold: float = 0.01


def usable_columns(X: FloatArray) -> IndexArray:
    """Ascending indices of the columns of X (n, n_features) with at least two different known values, shape (k,)."""
    known = ~np.isnan(X)
    low = np.where(known, X, np.inf).min(axis=0, initial=np.inf)
    high = np.where(known, X, -np.inf).max(axis=0, initial=-np.inf)
    return np.flatnonzero(low < high)


class Selected(NamedTuple):
    """Indices of the columns to fit on, ascending, shape (k,), k at least 1; and whether none reached the threshold.

    `strongest` is the share of the column that matters most, NaN where nobody asked.
    """

    columns: IndexArray
    strongest: float = math.nan
    all_below: bool = False


def select_columns(
    X: FloatArray,
    won: BoolArray,
    rule: SelectionRule,
    types: Sequence[BoolArray] = (),
    period: IntArray | None = None,
) -> Selected:
    """The columns to fit on. A higher threshold never keeps more of them.

    Args:
        X: features of the rows fitted on, shape (n, n_features), NaN where missing.
        won: their outcomes, shape (n,).
        rule: how many, and from which importance on; where all lie below it, the strongest alone. Where selection is
            off the threshold is not asked, and the strongest `max_features` stay.
        types: rows of each signal type that is learned apart, masks of shape (n,).
        period: which rows are compared with each other, shape (n,); None: all.

    Raises:
        NoUsableFeatures: every column is constant or missing.
    """
    usable = usable_columns(X)
    if not len(usable):
        raise NoUsableFeatures(f"all {X.shape[1]} features are constant or missing in {len(X)} rows")
    if not rule.enabled and len(usable) <= rule.max_features:
        return Selected(usable)
    share = marginal_importance(X[:, usable], won, types, period)
    order = np.argsort(-share, kind="stable")
    reached = int((share >= rule.threshold).sum()) if rule.enabled else len(order)
    kept = order[: min(max(reached, 1), rule.max_features)]
    return Selected(usable[np.sort(kept)], float(share[order[0]]), reached == 0)


def marginal_importance(
    X: FloatArray, won: BoolArray, types: Sequence[BoolArray] = (), period: IntArray | None = None
) -> FloatArray:
    """Shares summing to 1, shape (n_features,); equal shares where nothing correlates.

    Args:
        X: shape (n, n_features), every column with a known value; a missing one counts as the mean.
        won: shape (n,).
        types: masks of shape (n,): a feature that points one way for one type and the other way for another matters.
        period: which rows are compared with each other, shape (n,); None: all.
    """
    number = np.zeros(len(X), dtype=np.int64) if period is None else np.unique(period, return_inverse=True)[1]
    z = (X - np.nanmean(X, axis=0)) / _positive(np.nanstd(X, axis=0))
    z = np.clip(np.nan_to_num(z, nan=0.0), -5.0, 5.0)
    target = _centred(won[:, None].astype(np.float64), number)[:, 0]
    total = np.zeros(X.shape[1])
    for column in (z, np.abs(z), *(z * rows[:, None] for rows in types)):
        centred = _centred(column, number)
        norms = _positive(np.sqrt((centred**2).sum(axis=0) * (target**2).sum()))
        total += (centred.T @ target / norms) ** 2
    if not total.sum() > 0:
        return np.full(X.shape[1], 1.0 / X.shape[1])
    return np.asarray(total / total.sum(), dtype=np.float64)


def _centred(x: FloatArray, number: IntArray) -> FloatArray:
    """Columns of x (n, k) less their mean over the rows of the same number (n,)."""
    sums = np.column_stack([np.bincount(number, weights=column) for column in x.T])
    return np.asarray(x - (sums / np.bincount(number)[:, None])[number], dtype=np.float64)


def _positive(x: FloatArray) -> FloatArray:
    return np.where(x > 0, x, 1.0)
