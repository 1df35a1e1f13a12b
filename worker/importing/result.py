"""What an import came to: how many events went where, and what was refused, by its reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from worker.importing.history import RefusedRow

_EXAMPLES = 3


@dataclass(slots=True)
class EventCounts:
    """Of one kind of event.

    Attributes:
        valid: that the door lets in.
        known: that the store has already; nothing was applied for them.
        sent: into the stream.
        applied: of those sent.
    """

    valid: int = 0
    known: int = 0
    sent: int = 0
    applied: int = 0


@dataclass(frozen=True, slots=True)
class RefusalGroup:
    """Rows that were refused for one reason, about one field."""

    reason: str
    about: str
    count: int
    example: str
    places: tuple[str, ...]


@dataclass(slots=True)
class ImportResult:
    """What an import, or a check, came to."""

    rows: int = 0
    repeated: int = 0
    signals: EventCounts = field(default_factory=EventCounts)
    trades: EventCounts = field(default_factory=EventCounts)
    refused: list[RefusedRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    #: Trades whose signal is neither in the files nor in the store: they wait for it.
    waiting: int = 0

    def groups(self) -> list[RefusalGroup]:
        """What was refused, the most frequent first."""
        return grouped(self.refused)


def grouped(refused: Iterable[RefusedRow]) -> list[RefusalGroup]:
    """Rows by reason and field, the most frequent first, each group with its first detail and its first places."""
    found: dict[tuple[str, str], list[RefusedRow]] = {}
    for row in refused:
        found.setdefault((row.reason, row.detail.partition(":")[0]), []).append(row)
    groups = [
        RefusalGroup(reason, about, len(rows), rows[0].detail, tuple(row.place for row in rows[:_EXAMPLES]))
        for (reason, about), rows in found.items()
    ]
    return sorted(groups, key=lambda group: (-group.count, group.reason))
