"""A signal's trade walked over the bars that followed, until stop, target or time ends it (Lopez de Prado 2018, ch. 3).

Pure functions of bars and levels. Within a bar the path is unknown, and what is unknown is taken for the worse:

- The entry is the open of the first bar that surely opened after the signal, as a market order gets it. A bar's opening
  is taken to be the close of the bar before it, or as much before its own close as a session is said to be long. A bar
  that may have been open when the signal came is passed over: its prices may be older than the signal.
- An open at the stop or beyond, at the target or beyond, or a whole stop distance better than the signal's own price is
  no entry: nobody takes that trade. Any other open is one, whether the signal's price is traded again or not.
- A bar that opens beyond a level fills at its open. A bar that touches both stop and target is stopped.
- Time ends a trade at the close of the first bar that closes at or after signal plus holding.
- The outcome is known at the close of the bar that ended the trade, never before. A trade that none has ended is open.

R is the gain over the distance from the signal's own price to its stop, which the position was sized on; without costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from trading_system.ml_refinement.bars import Bars

#: A bar counts as opened after a signal that came in so small a part of it: orders and clocks take their moment.
OPENING_SLACK = 0.01
#: What no trade makes: levels that give more are not meant, as at the door.
MOST_R = 1_000.0


class Ended(StrEnum):
    """How a walk ended."""

    STOP = "stop"
    TARGET = "target"
    TIME = "time"
    NO_LEVELS = "no_levels"
    """The signal names no price and stop, or levels on the wrong side of its price: there is no R."""
    NOT_FILLED = "not_filled"
    """The first open was beyond a level, or a whole stop distance better: there was no such trade."""
    OPEN = "open"
    """The bars end before the trade does."""
    NO_BARS = "no_bars"
    """There are no bars of the time of the signal."""


#: What later bars do not change any more.
FINAL = frozenset(Ended) - {Ended.OPEN, Ended.NO_BARS}


class Levels(NamedTuple):
    """What a signal says of its trade; None where it does not say."""

    entry: float | None
    stop: float | None
    target: float | None = None
    is_long: bool = True


class TradePlan(NamedTuple):
    """One signal's trade: when the signal was known, its levels, and how long its trade may last.

    `session_us` is how long before its close a bar opens at the earliest; 0: that is not known.
    """

    timestamp_us: int
    levels: Levels
    hold_us: int
    session_us: int = 0


class VirtualTrade(NamedTuple):
    """How it ended, and for stop, target and time the R and when it was known.

    `passed_over`: a bar was left out that may have been open when the signal came.
    """

    ended: Ended
    r: float | None = None
    known_us: int | None = None
    passed_over: bool = False


def walk(bars: Bars, plans: Sequence[TradePlan], *, max_gap_us: int) -> list[VirtualTrade]:
    """The trades of signals on one symbol, in their order.

    Args:
        bars: of the symbol, of any time; those that had closed when a signal came only say when the next one opened.
        plans: any number.
        max_gap_us: a signal whose last bar before it, or whose entry bar, is further away than this has no bars.
    """
    return [_walk(bars, plan, max_gap_us) for plan in plans]


def _walk(bars: Bars, plan: TradePlan, max_gap_us: int) -> VirtualTrade:
    side, stop, target = _sided(plan.levels)
    if not side or plan.levels.entry is None:
        return VirtualTrade(Ended.NO_LEVELS)
    first, passed_over = _entry_bar(bars, plan)
    found = _presence(bars, plan, first, max_gap_us)
    if found is not None:
        return VirtualTrade(found, passed_over=passed_over)
    named = side * plan.levels.entry
    risk, fill = named - stop, side * bars.open.item(first)
    if fill <= stop or fill >= min(target, named + risk):
        return VirtualTrade(Ended.NOT_FILLED, passed_over=passed_over)
    last = max(first, int(bars.timestamp.searchsorted(plan.timestamp_us + plan.hold_us)))
    ended, price, place = _exit(bars, first, last, side, stop, target)
    if ended is Ended.OPEN:
        return VirtualTrade(ended, passed_over=passed_over)
    r = (price - fill) / risk
    if not abs(r) <= MOST_R:
        return VirtualTrade(Ended.NO_LEVELS)
    return VirtualTrade(ended, r, bars.timestamp.item(place), passed_over)


def _sided(levels: Levels) -> tuple[float, float, float]:
    """Side, stop and target as a long trade sees them: a short one sees prices negated. Side 0: there is no trade."""
    side = 1.0 if levels.is_long else -1.0
    if levels.entry is None or levels.stop is None:
        return 0.0, 0.0, 0.0
    entry, stop = side * levels.entry, side * levels.stop
    target = np.inf if levels.target is None else side * levels.target
    return (side if stop < entry < target else 0.0), stop, target


def _entry_bar(bars: Bars, plan: TradePlan) -> tuple[int, bool]:
    """The first bar that surely opened after the signal, and whether one before it had to be passed over."""
    after = int(bars.timestamp.searchsorted(plan.timestamp_us, side="right"))
    if not 0 < after < len(bars):
        return after, False
    closes = bars.timestamp.item(after)
    opened = bars.timestamp.item(after - 1)
    if plan.session_us:
        opened = max(opened, closes - plan.session_us)
    surely = opened + OPENING_SLACK * (closes - opened) >= plan.timestamp_us
    return (after, False) if surely else (after + 1, True)


def _presence(bars: Bars, plan: TradePlan, first: int, max_gap_us: int) -> Ended | None:
    """Why the trade cannot have been entered on these bars; None where it can."""
    before = int(bars.timestamp.searchsorted(plan.timestamp_us, side="right")) - 1
    if before < 0 or bars.timestamp.item(before) < plan.timestamp_us - max_gap_us:
        return Ended.NO_BARS
    if first >= len(bars):
        return Ended.OPEN
    return Ended.NO_BARS if bars.timestamp.item(first) > plan.timestamp_us + max_gap_us else None


def _exit(bars: Bars, first: int, last: int, side: float, stop: float, target: float) -> tuple[Ended, float, int]:
    """What ended the trade, at which price as a long trade sees it, in which bar. `last` is the bar that time ends."""
    rows = slice(first, last + 1)
    worst, best = (bars.low[rows], bars.high[rows]) if side > 0 else (-bars.high[rows], -bars.low[rows])
    touched = (worst <= stop) | (best >= target)
    if touched.any():
        inside = int(touched.argmax())
        opened = side * bars.open.item(first + inside)
        if opened <= stop or opened >= target:
            return (Ended.STOP if opened <= stop else Ended.TARGET), opened, first + inside
        if worst.item(inside) <= stop:
            return Ended.STOP, stop, first + inside
        return Ended.TARGET, target, first + inside
    if last < len(bars):
        return Ended.TIME, side * bars.close.item(last), last
    return Ended.OPEN, 0.0, last
