"""What became of the trades: each signal is walked forward bar by bar until stop, target or time ends it.

A signal is known when its bar has closed, and that close can no longer be traded: the entry is the open of the next
bar. Risk, the unit of R, is the distance from the signal's own price to its stop, because that is what the position
was sized on; a bad open therefore costs more than 1 R at the stop. Within a bar the path is unknown, so a bar that
touches both stop and target counts as stopped. An open beyond a level fills at the open, for better or worse. Both
ways together cost `COST_BPS` of the entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypedDict

import pandas as pd

from trading_system.simulation.signal_generator import HOLD_BARS, SignalEvent

#: Commission and slippage of a round trip, in basis points of the entry price.
COST_BPS: Final = 10.0


class OutcomeEvent(TypedDict):
    """`trade.closed`, as it goes to the stream. `closed_at` is the close of the bar in which the trade ended."""

    signal_id: str
    closed_at: str
    r_multiple: float
    return_pct: float
    exit_reason: str


def track_positions(
    signals: Iterable[SignalEvent],
    market: Mapping[str, pd.DataFrame],
    *,
    hold_bars: Mapping[str, int] = HOLD_BARS,
    cost_bps: float = COST_BPS,
) -> list[OutcomeEvent]:
    """The outcomes of all signals whose trades ended within `market`, ordered by `closed_at` and then `signal_id`.

    Every signal is taken, whatever anyone thinks of it: what is not traded cannot be learned from.
    """
    outcomes = [
        outcome
        for signal in signals
        if (outcome := close_trade(signal, market[signal["symbol"]], hold_bars[signal["signal_type"]], cost_bps))
    ]
    return sorted(outcomes, key=lambda outcome: (outcome["closed_at"], outcome["signal_id"]))


def close_trade(
    signal: SignalEvent, bars: pd.DataFrame, hold_bars: int, cost_bps: float = COST_BPS
) -> OutcomeEvent | None:
    """Follow one signal through the bars after its own, the entry bar being the first of at most `hold_bars`.

    Returns:
        The outcome, or None while the trade is still open at the end of `bars`.
    """
    first = int(bars.index.searchsorted(pd.Timestamp(signal["timestamp"]), side="right"))
    ahead = bars.iloc[first : first + hold_bars]
    ended = _exit(signal, ahead)
    if ended is not None:
        position, price, reason = ended
    elif len(ahead) == hold_bars:
        position, price, reason = hold_bars - 1, float(ahead["close"].iloc[-1]), "time"
    else:
        return None
    entry = float(ahead["open"].iloc[0])
    side = 1.0 if signal["direction"] == "long" else -1.0
    gain = side * (price - entry) - entry * cost_bps / 10_000
    risk = abs(signal["entry_price"] - signal["stop_price"])
    return OutcomeEvent(
        signal_id=signal["signal_id"],
        closed_at=f"{ahead.index[position]:%Y-%m-%dT%H:%M:%SZ}",
        r_multiple=round(gain / risk, 6),
        return_pct=round(100 * gain / entry, 6),
        exit_reason=reason,
    )


def _exit(signal: SignalEvent, ahead: pd.DataFrame) -> tuple[int, float, str] | None:
    """Where stop or target ends the trade: position of the bar in `ahead`, fill price, reason."""
    side = 1.0 if signal["direction"] == "long" else -1.0
    stop, target = side * signal["stop_price"], side * signal["target_price"]
    for position, (opened, best, worst) in enumerate(_path(ahead, side)):
        if opened <= stop:
            return position, side * opened, "stop"
        if opened >= target:
            return position, side * opened, "target"
        if worst <= stop:
            return position, side * stop, "stop"
        if best >= target:
            return position, side * target, "target"
    return None


def _path(ahead: pd.DataFrame, side: float) -> Iterator[tuple[float, float, float]]:
    """Open, best and worst price of each bar as a long trade sees them: a short one sees prices negated."""
    best, worst = ("high", "low") if side > 0 else ("low", "high")
    return zip(side * ahead["open"], side * ahead[best], side * ahead[worst], strict=True)
