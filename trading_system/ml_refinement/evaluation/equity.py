"""The equity in R that following the scores would have made, with block-bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from trading_system.ml_refinement.config import MLConfig
from trading_system.ml_refinement.storage.times import DAY_US
from trading_system.ml_refinement.typing import BoolArray, FloatArray, IndexArray, IntArray, TimeArray
from trading_system.ml_refinement.validation.evidence import PredictionRecord

RESAMPLES = 1_000
_SEED = 7
_COVERAGE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its 95 % interval; NaN where it cannot be computed."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Equity:
    """One way of following the signals, after costs: figures in R.

    `closes_us` are the closes in order, shape (trades,), and `curve` the cumulative R at each, shape (trades,).
    """

    name: str
    trades: int
    expectancy: Interval
    total: float
    drawdown: float
    #: The drawdown that one in twenty orders of the same blocks exceeds.
    drawdown_bad: float
    closes_us: TimeArray
    curve: FloatArray
    #: Signals that scored exactly what decides, and were left out.
    tied: int = 0


def block_bootstrap(
    cluster: IntArray, statistic: Callable[[IndexArray], float], *, resamples: int = RESAMPLES
) -> Interval:
    """A statistic's percentile interval, whole blocks of shared luck drawn with replacement.

    Args:
        cluster: block of each row, shape (n,).
        statistic: of the rows with these indices; may be NaN where a draw does not allow it.
        resamples: how many draws.
    """
    if not len(cluster):
        return Interval(math.nan, math.nan, math.nan)
    value = statistic(np.arange(len(cluster)))
    blocks = [np.flatnonzero(cluster == label) for label in np.unique(cluster)]
    if len(blocks) < 2:
        return Interval(value, -math.inf, math.inf)
    rng = np.random.default_rng(_SEED)
    draws = np.array(
        [
            statistic(np.concatenate([blocks[i] for i in rng.integers(0, len(blocks), len(blocks))]))
            for _ in range(resamples)
        ]
    )
    known = draws[np.isfinite(draws)]
    if not len(known):
        return Interval(value, -math.inf, math.inf)
    tail = (1.0 - _COVERAGE) / 2.0
    low, high = np.quantile(known, [tail, 1.0 - tail])
    return Interval(value, float(low), float(high))


def mean_interval(values: FloatArray, cluster: IntArray, weight: FloatArray | None = None) -> Interval:
    """The (weighted) mean with its block-bootstrap interval; the same draws as `block_bootstrap`, from block sums.

    Args:
        values: shape (n,).
        cluster: block of each row, shape (n,).
        weight: shape (n,), at or above 0; None: every row counts alike. Where they sum to 0 all is NaN.
    """
    weight = np.ones(len(values)) if weight is None else weight
    if not len(values) or not weight.sum() > 0:
        return Interval(math.nan, math.nan, math.nan)
    _, member = np.unique(cluster, return_inverse=True)
    sums = np.bincount(member, weights=values * weight)
    weights = np.bincount(member, weights=weight)
    value = float(sums.sum() / weights.sum())
    if len(sums) < 2:
        return Interval(value, -math.inf, math.inf)
    rng = np.random.default_rng(_SEED)
    drawn = rng.integers(0, len(sums), (RESAMPLES, len(sums)))
    total = weights[drawn].sum(axis=1)
    means = sums[drawn].sum(axis=1)[total > 0] / total[total > 0]
    tail = (1.0 - _COVERAGE) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(value, float(low), float(high))


def drawdown(curve: FloatArray) -> float:
    """The deepest fall of a cumulative curve (n,) that begins at 0, as a number at or above 0."""
    path = np.concatenate([[0.0], curve])
    return float((np.maximum.accumulate(path) - path).max())


def equity(
    name: str,
    r: FloatArray,
    weight: FloatArray,
    closes_us: TimeArray,
    cluster: IntArray,
    *,
    cost_r: float,
) -> Equity:
    """What trades of these sizes brought.

    Args:
        name: of this way.
        r: outcomes of all signals, shape (n,).
        weight: size of each trade in units of risk, 0 for those not taken, shape (n,).
        closes_us: when each closed, shape (n,).
        cluster: rows that share their luck, shape (n,).
        cost_r: cost of a trade of size 1, in R.
    """
    taken = np.flatnonzero(weight > 0)
    order = taken[np.argsort(closes_us[taken], kind="stable")]
    gains = weight[order] * (r[order] - cost_r)
    curve = np.cumsum(gains)
    expectancy = mean_interval(r[taken] - cost_r, cluster[taken], weight[taken])
    return Equity(
        name,
        len(taken),
        expectancy,
        float(curve[-1]) if len(curve) else 0.0,
        drawdown(curve),
        _bad_drawdown(gains, cluster[order]),
        closes_us[order],
        curve,
    )


def _bad_drawdown(gains: FloatArray, cluster: IntArray) -> float:
    """The 95 % quantile of the drawdown over blocks in random order, drawn with replacement."""
    blocks = [gains[cluster == label] for label in np.unique(cluster)]
    if len(blocks) < 2:
        return math.nan
    rng = np.random.default_rng(_SEED)
    drawn = [
        drawdown(np.cumsum(np.concatenate([blocks[i] for i in rng.integers(0, len(blocks), len(blocks))])))
        for _ in range(RESAMPLES)
    ]
    return float(np.quantile(drawn, _COVERAGE))


def highest_so_far(score: FloatArray, window: IntArray, *, share: float) -> BoolArray:
    """Rows scored among the highest `share` of what came in earlier windows; nothing in the first one.

    Args:
        score: what ranks, shape (n,).
        window: number of the window each row came in, shape (n,); the ranking knows earlier windows alone.
        share: between 0 and 1.
    """
    chosen = np.zeros(len(score), dtype=bool)
    for label in np.unique(window):
        earlier, now = score[window < label], window == label
        if len(earlier):
            chosen[now] = score[now] > np.quantile(earlier, 1.0 - share)
    return chosen


def tied_at_the_edge(score: FloatArray, window: IntArray, *, share: float) -> int:
    """How many rows `highest_so_far` leaves out that score exactly what its edge is.

    Args:
        score: as there, shape (n,).
        window: as there, shape (n,).
        share: as there.
    """
    tied = 0
    for label in np.unique(window):
        earlier, now = score[window < label], score[window == label]
        if len(earlier):
            tied += int((now == np.quantile(earlier, 1.0 - share)).sum())
    return tied


def equities(record: PredictionRecord, config: MLConfig, cost_r: float) -> tuple[Equity, ...]:
    """All signals, those above each band's threshold, the best third by what was known, and sized by score."""
    low, high = config.quality_threshold_low, config.quality_threshold_high
    months, share = _months(record), 1.0 / 3.0
    third = highest_so_far(record.p, months, share=share)
    tied = {"highest third so far": tied_at_the_edge(record.p, months, share=share)}
    ways = (
        ("all signals", np.ones(len(record))),
        (f"not low (P(win) > {low:g})", (record.p > low).astype(float)),
        (f"high (P(win) ≥ {high:g})", (record.p >= high).astype(float)),
        ("highest third so far", third.astype(float)),
        ("sized by score", record.p / np.maximum(record.base, 0.05)),
    )
    cluster = record.evidence.cluster
    return tuple(
        replace(equity(name, record.r, w, record.known_us, cluster, cost_r=cost_r), tied=tied.get(name, 0))
        for name, w in ways
    )


def _months(record: PredictionRecord) -> IntArray:
    """Steps of 21 days: what is ranked against is what came before one's own step."""
    return record.entered_us // (21 * DAY_US)
