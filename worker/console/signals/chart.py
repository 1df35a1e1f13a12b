"""The price a signal was given at: what was known then, what was planned, and where the trade ended."""

from __future__ import annotations

from typing import Any, NamedTuple

import matplotlib.dates
import orjson
from markupsafe import Markup

from trading_system.ml_refinement.bars import Bars
from trading_system.ml_refinement.storage import OutcomeRow
from trading_system.ml_refinement.storage.times import DAY_US, us_from_text
from worker.console import charts
from worker.errors import DecodeError
from worker.events.decoding import SignalCreated, decode_kept
from worker.market_data.directory import bars_to_look_at
from worker.settings.schema import Settings

#: The newest bars before the signal.
_SHOWN_BARS = 120
#: A longer event or file of bars is not parsed for a chart.
_MOST_BYTES = 1024 * 1024
_dates: Any = matplotlib.dates


class PricePlan(NamedTuple):
    """Prices that the signal named; None for one that it did not."""

    entry: float | None
    stop: float | None
    target: float | None

    def exit(self, r_multiple: float) -> float | None:
        """The price at which a trade of so many R ended, by what was at risk; None without entry or stop."""
        if self.entry is None or self.stop is None:
            return None
        return self.entry + r_multiple * (self.entry - self.stop)


def read_event(data: bytes | None) -> SignalCreated | None:
    """The signal as it was received; None where it is not kept, is large, or is no event to this release."""
    if data is None or len(data) > _MOST_BYTES:
        return None
    try:
        return decode_kept(data)
    except (DecodeError, orjson.JSONDecodeError):
        return None


def plan_of(event: SignalCreated) -> PricePlan:
    """The prices in it."""
    return PricePlan(event.metadata.entry_price, event.metadata.stop_price, event.metadata.target_price)


def known_bars(settings: Settings, event: SignalCreated) -> Bars | None:
    """The bars that came with it, or those of the market-data directory up to it; None where there are none to show."""
    if event.bars is not None:
        return event.bars
    bars = bars_to_look_at(settings, event.symbol, most_bytes=_MOST_BYTES)
    return None if bars is None else bars.as_of(event.timestamp_us)


def price_chart(event: SignalCreated, bars: Bars | None, outcome: OutcomeRow | None) -> Markup | None:
    """What was known of the price, what was planned, and how it ended; None without bars."""
    if bars is None or not len(bars):
        return None
    plan = plan_of(event)
    times = bars.timestamp[-_SHOWN_BARS:] / DAY_US
    closes, highs, lows = (column[-_SHOWN_BARS:] for column in (bars.close, bars.high, bars.low))
    known = event.timestamp_us / DAY_US

    def draw(axes: Any) -> None:
        axes.fill_between(times, lows, highs, color=charts.LINE, alpha=0.9, linewidth=0)
        axes.plot(times, closes, color=charts.INK, linewidth=1.3)
        axes.axvline(known, color=charts.SOFT, linewidth=0.9, linestyle=(0, (2, 3)))
        ends = [known]
        if outcome is not None:
            closed = us_from_text(outcome.closed_at) / DAY_US
            price, colour = plan.exit(outcome.r_multiple), charts.GOOD if outcome.r_multiple > 0 else charts.BAD
            ends.append(closed)
            if price is not None and plan.entry is not None:
                axes.plot([known, closed], [plan.entry, price], color=colour, linewidth=1.2, linestyle=(0, (3, 2)))
                axes.plot([closed], [price], color=colour, marker="o", markersize=5)
        first, last = float(times[0]), max(ends)
        axes.set_xlim(first, last + 0.26 * (last - first))
        _levels(axes, plan)
        locator = _dates.AutoDateLocator(minticks=2, maxticks=6)  # for some ranges no unit gives 5 or 6
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(_dates.ConciseDateFormatter(locator, show_offset=False))

    return charts.drawn(draw, "Price before the signal, with entry, stop, target and how the trade ended", height=2.9)


def _levels(axes: Any, plan: PricePlan) -> None:
    for name, price, colour in (
        ("entry", plan.entry, charts.ACCENT),
        ("stop", plan.stop, charts.BAD),
        ("target", plan.target, charts.GOOD),
    ):
        if price is not None:
            axes.axhline(price, color=colour, linewidth=1.1)
            axes.annotate(
                f"{name} {price:g}", (1, price), xycoords=("axes fraction", "data"), xytext=(-2, 3),
                textcoords="offset points", ha="right", fontsize=8.5, color=colour,
            )  # fmt: skip
