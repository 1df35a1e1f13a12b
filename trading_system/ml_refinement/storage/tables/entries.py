"""Stream entries: what became of them, for whoever decides on one a second time, and how often each was tried alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import orjson

from trading_system.ml_refinement.storage.connection import Connection, id_list
from trading_system.ml_refinement.storage.statement import Statement
from trading_system.ml_refinement.storage.times import Clock, utc_text

#: (stream, entry id)
EntryKey = tuple[str, str]
#: What the store has of an event's content.
Content = tuple[object, ...]


def named_apart(entry_id: str, content: bytes) -> str:
    """What an event is kept under where another one is kept under its entry id: the id and a digest of its content.

    A server that was emptied, or a replica that lacked entries when it took over, gives ids out a second time.
    """
    return f"{entry_id}~{hashlib.blake2b(content, digest_size=4).hexdigest()}"


def id_given(name: str) -> str:
    """The entry id that the server gave to what is kept under `name`."""
    return name.partition("~")[0]


class Entries:
    """Every table that an entry can have come to rest in, by entry id."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def dead_lettered(self, entries: Sequence[EntryKey]) -> dict[EntryKey, bytes]:
        """Those that are dead letters, whatever became of these, with the bytes they were dead-lettered with."""
        by_stream: dict[str, list[str]] = {}
        for stream, entry_id in entries:
            by_stream.setdefault(stream, []).append(entry_id)
        return {
            (stream, entry_id): payload
            for stream, ids in by_stream.items()
            for entry_id, payload in self._connection.query(DEAD_LETTER, (id_list(ids), stream))
        }

    def duplicates(self, entries: Sequence[EntryKey]) -> list[tuple[EntryKey, str]]:
        """Those that were noted as duplicates, each with the signal that it was of; several for an id given twice."""
        return [((row[0], row[1]), row[2]) for row in self._connection.query(DUPLICATES, (_pairs(entries),))]

    def stored_signals(self, entry_ids: Iterable[str]) -> list[tuple[str, Content]]:
        """Those that brought a stored signal: its id, and the hash of its content where one is kept."""
        return [(row[0], row[1:]) for row in self._connection.query(SIGNALS, (id_list(entry_ids),))]

    def stored_outcomes(self, entry_ids: Iterable[str]) -> list[tuple[str, Content]]:
        """Those that brought a stored outcome: its signal, revision, time of the close, R, return and exit reason."""
        return [(row[0], row[1:]) for row in self._connection.query(OUTCOMES, (id_list(entry_ids),))]


class Attempts:
    """The table `attempts`: how often an entry was tried alone. Only entries that failed, or came back, have a row.

    What was tried is charged before the try, so that a death is charged too.
    """

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


class Marks:
    """The table `marks`: how far entries have been looked through, by what looks."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get(self, name: str) -> int | None:
        """The mark of this name; None before the first."""
        rows = self._connection.query(MARK, (name,))
        return int(rows[0][0]) if rows else None

    def raise_to(self, name: str, value: int) -> None:
        """Move the mark forward, or set it; one that is further stays."""
        with self._connection.atomic():
            self._connection.run(RAISE_MARK, (name, value))

    def put(self, name: str, value: int) -> None:
        """Move the mark, or set it."""
        with self._connection.atomic():
            self._connection.run(PUT_MARK, (name, value))


def _pairs(entries: Sequence[EntryKey]) -> str:
    return orjson.dumps(entries).decode()


DEAD_LETTER = """
    SELECT d.entry_id, d.payload FROM json_each(?) AS wanted
    CROSS JOIN dead_letters AS d ON d.stream = ? AND d.entry_id = wanted.value"""
DUPLICATES = Statement(
    """
    SELECT d.stream, d.entry_id, d.signal_id FROM json_each(?1) AS wanted
    CROSS JOIN duplicate_events AS d ON d.stream = wanted.value ->> 0 AND d.entry_id = wanted.value ->> 1
    UNION ALL
    SELECT d.stream, wanted.value ->> 1, d.signal_id FROM json_each(?1) AS wanted
    CROSS JOIN duplicate_events AS d ON d.stream = wanted.value ->> 0
        AND d.entry_id BETWEEN (wanted.value ->> 1) || '~' AND (wanted.value ->> 1) || '~~'""",
    postgres="""
    SELECT d.stream, d.entry_id, d.signal_id FROM jsonb_array_elements(CAST(?1 AS jsonb)) AS wanted
    JOIN duplicate_events AS d ON d.stream = wanted.value ->> 0 AND d.entry_id = wanted.value ->> 1
    UNION ALL
    SELECT d.stream, wanted.value ->> 1, d.signal_id FROM jsonb_array_elements(CAST(?1 AS jsonb)) AS wanted
    JOIN duplicate_events AS d ON d.stream = wanted.value ->> 0
        AND d.entry_id BETWEEN (wanted.value ->> 1) || '~' AND (wanted.value ->> 1) || '~~'""",
)
SIGNALS = """
    SELECT v.entry_id, v.signal_id, v.event_hash FROM json_each(?) AS wanted
    CROSS JOIN feature_vectors AS v ON v.entry_id = wanted.value"""
OUTCOMES = """
    SELECT o.entry_id, o.signal_id, o.revision, o.closed_at, o.r_multiple, o.return_pct, o.exit_reason
    FROM json_each(?) AS wanted
    CROSS JOIN trade_outcomes AS o ON o.entry_id = wanted.value"""
CHARGE = """
    INSERT INTO attempts (stream, entry_id, tries, last_at) VALUES (?, ?, 1, ?)
    ON CONFLICT (stream, entry_id) DO UPDATE SET tries = attempts.tries + 1, last_at = excluded.last_at
    RETURNING tries"""
TAKE_BACK = "UPDATE attempts SET tries = tries - 1 WHERE stream = ? AND entry_id = ?"
FORGET_UNCHARGED = "DELETE FROM attempts WHERE tries <= 0 AND stream = ? AND entry_id = ?"
FORGET = "DELETE FROM attempts WHERE stream = ? AND entry_id = ?"
MARK = "SELECT value FROM marks WHERE name = ?"
RAISE_MARK = """
    INSERT INTO marks (name, value) VALUES (?, ?)
    ON CONFLICT (name) DO UPDATE SET value = excluded.value WHERE marks.value < excluded.value"""
PUT_MARK = "INSERT INTO marks (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
