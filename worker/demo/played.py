"""What a replay published and what it read back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from trading_system.simulation.position_tracker import OutcomeEvent
from trading_system.simulation.signal_generator import SignalEvent


@dataclass(frozen=True, slots=True)
class Scored:
    """One `signal.scored` message as it was read, and its exact bytes."""

    signal_id: str
    status: str
    quality_score: float | None
    quality_band: str | None
    proven: bool
    not_proven: str | None
    combined_score: float | None
    payload: bytes

    @classmethod
    def from_bytes(cls, payload: bytes) -> Scored:
        fields = orjson.loads(payload)
        return cls(
            fields["signal_id"],
            fields["status"],
            fields["quality_score"],
            fields["quality_band"],
            fields["proven"],
            fields["not_proven"],
            fields["combined_score"],
            payload,
        )


@dataclass(frozen=True, slots=True)
class Played:
    """Everything the replay published and read back."""

    signals: Sequence[SignalEvent]
    outcomes: Sequence[OutcomeEvent]
    scored: Sequence[Scored]
    seconds: float
