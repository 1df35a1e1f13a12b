"""How often an entry was tried alone. What was tried is charged before the try, so that a death is charged too."""

from __future__ import annotations

from collections.abc import Iterable

from trading_system.ml_refinement.storage.connection import Connection
from trading_system.ml_refinement.storage.times import Clock, utc_text


class Attempts:
    """The table `attempts`; only entries that failed, or came back, have a row."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    def charge(self, stream: str, entry_id: str) -> int:
        """Charge an entry with one try; how many it has had, this one included."""
        with self._connection.atomic():
            return int(self._connection.query(CHARGE, (stream, entry_id, utc_text(self._clock())))[0][0])

    def take_back(self, entries: Iterable[tuple[str, str]]) -> None:
        """Take one try back from each (stream, entry id): it failed for a reason that was not the event's."""
        with self._connection.atomic():
            for entry in entries:
                self._connection.run(TAKE_BACK, entry)
                self._connection.run(FORGET_UNCHARGED, entry)

    def forget(self, entries: Iterable[tuple[str, str]]) -> None:
        """The entries are done with."""
        with self._connection.atomic():
            for entry in entries:
                self._connection.run(FORGET, entry)

    def prune(self, older_than: str) -> int:
        """Drop what was last tried before; how many. Entries that were done with when their worker was killed."""
        return self._connection.run("DELETE FROM attempts WHERE last_at < ?", (older_than,))


CHARGE = """
    INSERT INTO attempts (stream, entry_id, tries, last_at) VALUES (?, ?, 1, ?)
    ON CONFLICT (stream, entry_id) DO UPDATE SET tries = tries + 1, last_at = excluded.last_at RETURNING tries"""
TAKE_BACK = "UPDATE attempts SET tries = tries - 1 WHERE stream = ? AND entry_id = ?"
FORGET_UNCHARGED = "DELETE FROM attempts WHERE tries <= 0 AND stream = ? AND entry_id = ?"
FORGET = "DELETE FROM attempts WHERE stream = ? AND entry_id = ?"
