"""Events of a producer that the server may not have yet, in a file of their own."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from trading_system.ml_refinement.storage.sqlite.connection import SqliteConnection


class OutboxEvent(NamedTuple):
    """An event that is kept. Numbers rise in the order in which events were kept."""

    number: int
    stream: str
    data: bytes


class Outbox:
    """The table `outbox`; each event is flushed to disk before it counts as kept."""

    def __init__(self, path: Path) -> None:
        self._connection = SqliteConnection(path)
        self._connection.run(CREATE)

    def keep(self, stream: str, data: bytes) -> None:
        """Keep an event until it is dropped."""
        self._connection.run("INSERT INTO outbox (stream, data) VALUES (?, ?)", (stream, data))

    def oldest(self, limit: int, *, most_bytes: int) -> list[OutboxEvent]:
        """The events that were kept first, of so many bytes together at most, but one at least."""
        sizes = self._connection.query("SELECT id, length(data) FROM outbox ORDER BY id LIMIT ?", (limit,))
        upto = list(accumulate(size for _, size in sizes))
        number = sum(total <= most_bytes for total in upto) or 1
        rows = self._connection.query("SELECT id, stream, data FROM outbox ORDER BY id LIMIT ?", (number,))
        return [OutboxEvent(*row) for row in rows]

    def drop_until(self, number: int) -> None:
        """Drop the events up to this number."""
        self._connection.run("DELETE FROM outbox WHERE id <= ?", (number,))

    def count(self) -> int:
        """How many events are kept."""
        return int(self._connection.query("SELECT count(*) FROM outbox")[0][0])

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


CREATE = "CREATE TABLE IF NOT EXISTS outbox (id INTEGER PRIMARY KEY, stream TEXT, data BLOB)"
