"""The events of a simulation in the order in which the world would have seen them, one moment per bar close."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from trading_system.simulation.position_tracker import OutcomeEvent, track_positions
from trading_system.simulation.signal_generator import SignalEvent, generate_signals


@dataclass(frozen=True, slots=True)
class Moment:
    """Everything that became known at one instant (RFC 3339 UTC): trades that ended, then signals that were given."""

    instant: str
    outcomes: tuple[OutcomeEvent, ...]
    signals: tuple[SignalEvent, ...]


def arrange(signals: Iterable[SignalEvent], outcomes: Iterable[OutcomeEvent]) -> tuple[Moment, ...]:
    """Group events by the instant at which they became known, in order of time; within an instant the order is kept."""
    given: dict[str, list[SignalEvent]] = {}
    ended: dict[str, list[OutcomeEvent]] = {}
    for signal in signals:
        given.setdefault(signal["timestamp"], []).append(signal)
    for outcome in outcomes:
        ended.setdefault(outcome["closed_at"], []).append(outcome)
    return tuple(
        Moment(at, tuple(ended.get(at, ())), tuple(given.get(at, ()))) for at in sorted(given.keys() | ended.keys())
    )


def timeline_of(market: Mapping[str, pd.DataFrame]) -> tuple[Moment, ...]:
    """All rules on all symbols of `market`, with what became of every trade."""
    signals = generate_signals(market)
    return arrange(signals, track_positions(signals, market))
