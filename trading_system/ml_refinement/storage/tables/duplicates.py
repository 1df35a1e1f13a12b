"""Entries that said again what was known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from trading_system.ml_refinement.storage.connection import Connection
from trading_system.ml_refinement.storage.tables.entries import named_apart
from trading_system.ml_refinement.storage.times import Clock, utc_text


class DuplicateRow(NamedTuple):
    """An entry that added nothing; `kind` says what it repeated."""

    stream: str
    entry_id: str
    signal_id: str
    kind: str


class DuplicateEntry(NamedTuple):
    """A duplicate as it was noted."""

    stream: str
    entry_id: str
    kind: str
    seen_at: str


class Duplicates:
    """The table `duplicate_events`."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    def record(self, rows: Sequence[DuplicateRow]) -> int:
        """Note the entries, each once however often it is delivered; how many were new."""
        if not rows:
            return 0
        with self._connection.atomic():
            new = self._insert(rows)
            return new if new == len(rows) else new + self._insert([row for row in map(self._apart, rows) if row])

    def _insert(self, rows: Sequence[DuplicateRow]) -> int:
        now = utc_text(self._clock())
        return len(self._connection.run_many(RECORD, [(*row, now) for row in rows]))

    def _apart(self, row: DuplicateRow) -> DuplicateRow | None:
        """The row under a name of its own, where its entry id is that of another signal's duplicate."""
        noted = self._connection.one(SIGNAL_OF, (row.stream, row.entry_id))
        if noted is None or noted[0] == row.signal_id:
            return None
        return row._replace(entry_id=named_apart(row.entry_id, row.signal_id.encode()))

    def of_signal(self, signal_id: str, limit: int = 20) -> list[DuplicateEntry]:
        """Entries that said again what was known of a signal."""
        return [DuplicateEntry(*row) for row in self._connection.query(OF_SIGNAL, (signal_id, limit))]


OF_SIGNAL = "SELECT stream, entry_id, kind, seen_at FROM duplicate_events WHERE signal_id = ? LIMIT ?"
SIGNAL_OF = "SELECT signal_id FROM duplicate_events WHERE stream = ? AND entry_id = ?"
RECORD = """
    INSERT INTO duplicate_events (stream, entry_id, signal_id, kind, seen_at) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (stream, entry_id) DO NOTHING RETURNING 1"""
