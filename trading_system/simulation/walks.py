"""Trades that walk from day to day between a stop and a target, and what chance such a trade has of a win.

A day moves a trade by `drift + 0.55 * (sqrt(shared) * market + sqrt(1 - shared) * own)`: `market` is the same for all
trades that are open that day, t with four degrees of freedom, `own` is normal, both of unit variance. At a day's close
a trade at or below -1 has been stopped, six times in a hundred behind a gap, and one at or above 2 has reached its
target; what is left on its last day ends at its value. Units are R.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy import stats
from scipy.special import ndtr

from trading_system.ml_refinement.typing import FloatArray, IntArray

Rng = np.random.Generator

DAILY_SD = 0.55
STOP, TARGET = -1.0, 2.0
GAP_SHARE, GAP_TAIL = 0.06, 2.5

#: Width of the cells in which a trade's value is followed; 0 and both barriers lie between two cells.
_CELL = 0.02
#: Drifts at which the chance is computed, and between which it is interpolated.
_DRIFTS = np.linspace(-1.0, 1.0, 101)
_SHOCKS = np.linspace(-12.0, 12.0, 9601)


def market_days(days: int, rng: Rng) -> FloatArray:
    """The factor that open trades share, of unit variance, shape (days,)."""
    shocks: FloatArray = rng.standard_t(4, days) / np.sqrt(2.0)
    return shocks


def walked(
    first: IntArray, hold: IntArray, drift: FloatArray, market: FloatArray, *, shared: float, rng: Rng
) -> tuple[FloatArray, IntArray]:
    """R of n trades, and how many days each was open, both of shape (n,).

    Args:
        first: index into `market` of the first day that moves each trade, shape (n,).
        hold: days after which it is closed at the latest, shape (n,).
        drift: what each trade is moved by a day on average, shape (days, n) or (n,): by day of the trade, or always.
        market: the shared factor, drift of the market included, in standard deviations, shape (market days,).
        shared: the share of a day's variance that is the market's.
        rng: for what is each trade's own.
    """
    value, r, closed = np.zeros(len(first)), np.full(len(first), np.nan), np.zeros(len(first), dtype=np.int64)
    stopped = np.where(
        rng.random(len(first)) < GAP_SHARE, STOP * (1.0 + rng.pareto(GAP_TAIL, len(first))), STOP * np.ones(len(first))
    )
    for day in range(int(hold.max(initial=0))):
        own = rng.standard_normal(len(first))
        value += drift + DAILY_SD * (
            np.sqrt(shared) * market[first + np.minimum(day, hold - 1)] + np.sqrt(1.0 - shared) * own
        )
        ended = (closed == 0) & ((value <= STOP) | (value >= TARGET) | (day + 1 == hold))
        at = np.where(value <= STOP, stopped, np.minimum(value, TARGET))
        r[ended], closed[ended] = at[ended], day + 1
    return r, closed


def win_chance(drift: FloatArray, *, shared: float, holds: tuple[int, int]) -> FloatArray:
    """P(R > 0) of trades with these drifts a day, same shape; holdings uniform over `holds`, both included.

    The density of the walk is followed from day to day, so that nothing is drawn; between drifts it is interpolated.
    """
    chances: FloatArray = np.interp(drift, _DRIFTS, _chances(shared, *holds))
    return chances


@cache
def _chances(shared: float, shortest: int, longest: int) -> FloatArray:
    edges = np.arange(round((TARGET - STOP) / _CELL) + 1) * _CELL + STOP
    middles = (edges[1:] + edges[:-1]) / 2.0
    below = _shock_distribution(shared)
    found = []
    for drift in _DRIFTS:
        reached = np.interp(edges[None, :] - middles[:, None] - drift, _SHOCKS, below)
        step = np.diff(reached, axis=1)
        start = np.interp(edges - drift, _SHOCKS, below)
        inside, won = np.diff(start), 1.0 - start[-1]
        total = 0.0
        for day in range(1, longest + 1):
            if day > 1:
                won += inside @ (1.0 - reached[:, -1])
                inside = inside @ step
            if day >= shortest:
                total += won + inside[middles > 0].sum()
        found.append(total / (longest - shortest + 1))
    return np.array(found)


def _shock_distribution(shared: float) -> FloatArray:
    """P(a day's shock is at most `_SHOCKS`), same shape: the normal part given the market's, averaged over that."""
    market = stats.t.ppf((np.arange(1000) + 0.5) / 1000, 4) / np.sqrt(2.0)
    own = DAILY_SD * np.sqrt(1.0 - shared)
    below: FloatArray = np.mean([ndtr((_SHOCKS - DAILY_SD * np.sqrt(shared) * m) / own) for m in market], axis=0)
    return below
