"""Events that could not be handled: their bytes, why, and what was done about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import orjson

from trading_system.ml_refinement.storage.connection import Connection, Row, id_list
from trading_system.ml_refinement.storage.json_text import finite_json
from trading_system.ml_refinement.storage.times import Clock, parse_bound, utc_text

Status = Literal["open", "replayed", "discarded"]
#: What listings may be ordered by: when they were dead-lettered, when they failed last, and so on.
OrderBy = Literal["id", "last_seen", "reason", "signal_id", "attempts"]


@dataclass(frozen=True, slots=True)
class NewDeadLetter:
    """An event to dead-letter. `fingerprint` groups alike ones; `replay_of` is the dead letter it was replayed from."""

    stream: str
    entry_id: str
    reason: str
    error: str
    payload: bytes
    attempts: int
    worker_version: str
    fingerprint: str
    traceback: str | None = None
    signal_id: str | None = None
    symbol: str | None = None
    replay_of: int | None = None


@dataclass(frozen=True, slots=True)
class DeadLetterRow:
    """A dead-lettered event. `payload` and `edited` are None in a listing without payloads.

    `payload` is what was received, for ever; `edited` is what a replay sends instead, None unless it was edited.
    `replays` counts how often it was sent again; `replay_of` is the dead letter that this one was a replay of.
    """

    id: int
    stream: str
    entry_id: str
    reason: str
    error: str
    traceback: str | None
    payload: bytes | None
    attempts: int
    first_seen: str
    last_seen: str
    signal_id: str | None
    symbol: str | None
    worker_version: str
    fingerprint: str
    status: Status
    replay_of: int | None
    replays: int = 0
    edited: bytes | None = None


@dataclass(frozen=True, slots=True)
class Filter:
    """Which dead letters; None for no condition.

    `since` and `until` bound the first time, as `parse_bound` reads them. `text` is looked for in error, reason, signal
    id, symbol and entry id, whatever its case in ASCII. Numbers are let through that are above `above`, and not above
    `up_to`.
    """

    reason: str | None = None
    stream: str | None = None
    symbol: str | None = None
    fingerprint: str | None = None
    signal_id: str | None = None
    status: Status | None = "open"
    since: str | None = None
    until: str | None = None
    replay_of: int | None = None
    text: str | None = None
    above: int = 0
    up_to: int | None = None

    def where(self, after_id: int = 0) -> tuple[str, list[Any]]:
        """The condition and its parameters."""
        conditions = ["id > ?"]
        params: list[Any] = [max(after_id, self.above)]
        for condition, value in (
            ("status = ?", self.status),
            ("reason = ?", self.reason),
            ("stream = ?", self.stream),
            ("symbol = ?", self.symbol),
            ("fingerprint = ?", self.fingerprint),
            ("signal_id = ?", self.signal_id),
            ("replay_of = ?", self.replay_of),
            ("first_seen >= ?", self.since and parse_bound(self.since, end=False)),
            ("first_seen <= ?", self.until and parse_bound(self.until, end=True)),
            ("id <= ?", self.up_to),
            (_LOOKED_AT_FOR_TEXT, self.text and _like(self.text)),
        ):
            if isinstance(value, str):
                value = _storable(value)
            if value:
                conditions.append(condition)
                params += [value] * condition.count("?")
        return " AND ".join(conditions), params


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One thing that was done to a dead letter."""

    id: int
    dead_letter_id: int
    stream: str
    entry_id: str
    at: str
    action: str
    actor: str
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class DeadLetterGroup:
    """Open dead letters that are alike."""

    fingerprint: str
    reason: str
    count: int
    first_seen: str
    last_seen: str
    example_id: int


class OpenReason(NamedTuple):
    """A reason, how many open dead letters it has, and when the first of them came."""

    reason: str
    letters: int
    first_seen: str


class DeadLetterTable:
    """The tables `dead_letters` and `dead_letter_audit`."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    def add(self, rows: Sequence[NewDeadLetter]) -> list[int]:
        """Keep events that could not be handled; their numbers, in order.

        An entry that is dead-lettered already keeps its number, bytes, first time and status; attempts and last time go
        on.
        """
        now = utc_text(self._clock())
        with self._connection.atomic():
            return [
                int(number) for (number,) in self._connection.run_many(ADD, [_dead_letter(row, now) for row in rows])
            ]

    def get(self, number: int) -> DeadLetterRow | None:
        """One dead letter with its payload."""
        row = self._connection.one(
            SELECT.format(payload="payload", edited="edited", where="id = ?", limit=""), (number,)
        )
        return None if row is None else DeadLetterRow(*row)

    def find(
        self, wanted: Filter | None = None, *, limit: int = 100, after_id: int = 0, payloads: bool = False
    ) -> list[DeadLetterRow]:
        """Dead letters in the order they were dead-lettered, `limit` of them after number `after_id`.

        The open ones when nothing else is said.
        """
        where, params = (wanted or Filter()).where(after_id)
        columns = ("payload", "edited") if payloads else ("NULL", "NULL")
        sql = SELECT.format(payload=columns[0], edited=columns[1], where=where, limit="ORDER BY id LIMIT ?")
        return [DeadLetterRow(*row) for row in self._connection.query(sql, (*params, limit))]

    def page(
        self,
        wanted: Filter,
        *,
        limit: int,
        order_by: OrderBy = "id",
        descending: bool = True,
        start: int | None = None,
        backwards: bool = False,
    ) -> list[DeadLetterRow]:
        """A page of a listing, without payloads and tracebacks: at most `limit` rows in the order asked for.

        Args:
            wanted: which ones.
            limit: at most so many.
            order_by: what they are ordered by, and among equals by number.
            descending: the largest first.
            start: the page goes on after this dead letter; None begins.
            backwards: the page ends before `start` instead.
        """
        where, params = _indexed(wanted)
        forwards = descending is backwards
        way, sign = ("ASC", ">") if forwards else ("DESC", "<")
        column = f"coalesce({order_by}, '')" if order_by == "signal_id" else order_by
        if start is not None:
            where += f" AND ({column}, id) {sign} (SELECT {column}, id FROM dead_letters WHERE id = ?)"  # noqa: S608 - ours
            params.append(start)
        limits = f"ORDER BY {column} {way}, id {way} LIMIT ?"
        rows = self._connection.query(PAGE.format(where=where, limit=limits), (*params, limit))
        found = [DeadLetterRow(*row) for row in rows]
        return found[::-1] if backwards else found

    def nth_newest(self, n: int, status: Status | None) -> int:
        """The number of the n-th newest of a status, or of any; 0 where there are fewer."""
        row = self._connection.one(
            NTH_NEWEST.format(where="status = ?" if status else "CAST(?1 AS TEXT) IS NULL"), (status, n - 1)
        )
        return 0 if row is None else int(row[0])

    def count(self, wanted: Filter) -> int:
        """How many there are."""
        where, params = _indexed(wanted)
        return int(self._connection.query(f"SELECT count(*) FROM dead_letters WHERE {where}", params)[0][0])  # noqa: S608 - bound

    def groups(self, limit: int = 100, wanted: Filter | None = None) -> list[DeadLetterGroup]:
        """Dead letters by fingerprint and reason, the most frequent first; the open ones when nothing else is said."""
        where, params = _indexed(wanted or Filter())
        return [DeadLetterGroup(*row) for row in self._connection.query(GROUPS.format(where=where), (*params, limit))]

    def open_by_reason(self) -> list[OpenReason]:
        """The open ones by reason, the most frequent first."""
        return [OpenReason(*row) for row in self._connection.query(OPEN_BY_REASON)]

    def symbols(self, wanted: Filter, *, most: int = 4) -> list[str]:
        """The symbols that are named most often, so many at most; "..." follows where there are others."""
        where, params = wanted.where()
        found = [str(row[0]) for row in self._connection.query(SYMBOLS.format(where=where), (*params, most + 1))]
        return found if len(found) <= most else [*found[:most], "..."]

    def newest_id(self) -> int:
        """The number of the newest in whatever state; 0 where there is none."""
        return int(self._connection.query("SELECT coalesce(max(id), 0) FROM dead_letters")[0][0])

    def newest_by_reason(self, since: str, *, among: int) -> dict[str, int]:
        """How many of so many newest were dead-lettered since then, by reason, the most frequent first."""
        return dict(self._connection.query(NEWEST_BY_REASON, (among, since)))

    def errors(self, numbers: Sequence[int]) -> dict[int, str]:
        """The error of each of the dead letters, by number."""
        return dict(self._connection.query(ERRORS, (finite_json(list(numbers)),)))

    def reasons_of(self, stream: str, entry_ids: Sequence[str]) -> list[tuple[str, str, str]]:
        """Those of a stream's entries that were dead-lettered: entry id, reason and error."""
        return [(row[0], row[1], row[2]) for row in self._connection.query(REASONS, (id_list(entry_ids), stream))]

    def mark_replayed(self, number: int, new_entry_id: str, *, actor: str) -> bool:
        """Note that an open dead letter was published again. False when it was not open (any more)."""
        return self._settle(number, "replayed", actor, {"new_entry_id": new_entry_id})

    def mark_discarded(self, number: int, reason: str, *, actor: str) -> bool:
        """Note that an open dead letter is not wanted. False when it was not open (any more)."""
        return self._settle(number, "discarded", actor, {"reason": reason})

    def edit(self, number: int, edited: bytes, detail: Mapping[str, Any], *, actor: str) -> bool:
        """Let replays of an open dead letter send other bytes; the original stays. False when it is not open."""
        with self._connection.atomic():
            found = self._connection.query(EDIT, (edited, number))
            for stream, entry_id in found:
                self._enter(number, stream, entry_id, "edited", actor, detail)
            return bool(found)

    def count_settled(self, older_than: str) -> int:
        """How many replayed and discarded ones were last seen before."""
        sql = "SELECT count(*) FROM dead_letters WHERE status <> 'open' AND last_seen < ?"
        return int(self._connection.query(sql, (older_than,))[0][0])

    def prune(self, older_than: str, *, actor: str, limit: int = 1000) -> int:
        """Drop replayed and discarded dead letters last seen before, `limit` at most; how many. Each is audited."""
        with self._connection.atomic():
            gone = self._connection.query(PRUNE, (older_than, limit))
            for number, stream, entry_id, status, reason, first_seen in gone:
                detail = {"was": status, "reason": reason, "first_seen": first_seen}
                self._enter(number, stream, entry_id, "pruned", actor, detail)
                for table in ("replays", "replay_requests"):
                    self._connection.run(f"DELETE FROM {table} WHERE dead_letter_id = ?", (number,))  # noqa: S608 - ours
        return len(gone)

    def audit(self, number: int) -> list[AuditEntry]:
        """All that was done to a dead letter, oldest first; it outlives the dead letter."""
        rows = self._connection.query(AUDIT, (number,))
        return [AuditEntry(*row[:7], *[orjson.loads(row[7])]) for row in rows]

    def recent_audit(self, limit: int = 12) -> list[AuditEntry]:
        """What was done last to any dead letter, newest first."""
        rows = self._connection.query(RECENT_AUDIT, (limit,))
        return [AuditEntry(*row[:7], *[orjson.loads(row[7])]) for row in rows]

    def note_sent(self, number: int, new_entry_id: str, *, actor: str) -> None:
        """Note that a dead letter was published again, one that was settled meanwhile too: it was sent all the same."""
        if not self.mark_replayed(number, new_entry_id, actor=actor):
            found = self._connection.query("SELECT stream, entry_id FROM dead_letters WHERE id = ?", (number,))
            for stream, entry_id in found:
                self._enter(number, stream, entry_id, "replayed", actor, {"new_entry_id": new_entry_id})

    def _settle(self, number: int, status: Status, actor: str, detail: Mapping[str, Any]) -> bool:
        with self._connection.atomic():
            settled = self._connection.query(SETTLE, (status, number))
            for stream, entry_id in settled:
                self._enter(number, stream, entry_id, status, actor, detail)
            return bool(settled)

    def _enter(
        self, number: int, stream: str, entry_id: str, action: str, actor: str, detail: Mapping[str, Any]
    ) -> None:
        at = utc_text(self._clock())
        self._connection.run(ENTER, (number, stream, entry_id, at, action, actor, finite_json(dict(detail))))


# The literals are ours alone; every value is bound.
SELECT = """
    SELECT id, stream, entry_id, reason, error, traceback, {payload}, attempts, first_seen, last_seen, signal_id,
        symbol, worker_version, fingerprint, status, replay_of, replays, {edited}
    FROM dead_letters WHERE {where} {limit}"""
PAGE = SELECT.format(payload="NULL", edited="NULL", where="{where}", limit="{limit}").replace("traceback", "NULL")
NTH_NEWEST = "SELECT id FROM dead_letters WHERE {where} ORDER BY id DESC LIMIT 1 OFFSET ?2"
_LOOKED_AT_FOR_TEXT = (
    "(error LIKE ? ESCAPE '!' OR reason LIKE ? ESCAPE '!' OR signal_id LIKE ? ESCAPE '!' "
    "OR symbol LIKE ? ESCAPE '!' OR entry_id LIKE ? ESCAPE '!')"
)
ADD = """
    INSERT INTO dead_letters (stream, entry_id, reason, error, traceback, payload, attempts, first_seen, last_seen,
        signal_id, symbol, worker_version, fingerprint, replay_of)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8, ?9, ?10, ?11, ?12, ?13)
    ON CONFLICT (stream, entry_id) DO UPDATE SET
        attempts = CASE WHEN excluded.attempts > dead_letters.attempts THEN excluded.attempts
            ELSE dead_letters.attempts END,
        last_seen = excluded.last_seen
    RETURNING id"""
SETTLE = """
    UPDATE dead_letters SET status = ?1, replays = replays + CASE WHEN ?1 = 'replayed' THEN 1 ELSE 0 END
    WHERE id = ?2 AND status = 'open' RETURNING stream, entry_id"""
EDIT = "UPDATE dead_letters SET edited = ? WHERE id = ? AND status = 'open' RETURNING stream, entry_id"
PRUNE = """
    DELETE FROM dead_letters WHERE id IN (
        SELECT id FROM dead_letters WHERE status <> 'open' AND last_seen < ? ORDER BY id LIMIT ?)
    RETURNING id, stream, entry_id, status, reason, first_seen"""
GROUPS = """
    SELECT fingerprint, reason, count(*) AS n, min(first_seen), max(last_seen), max(id)
    FROM dead_letters WHERE {where} GROUP BY fingerprint, reason ORDER BY n DESC, fingerprint LIMIT ?"""
OPEN_BY_REASON = """
    SELECT reason, count(*) AS n, min(first_seen) FROM dead_letters WHERE status = 'open'
    GROUP BY reason ORDER BY n DESC, reason"""
SYMBOLS = """
    SELECT symbol FROM dead_letters WHERE {where} AND symbol IS NOT NULL
    GROUP BY symbol ORDER BY count(*) DESC, symbol LIMIT ?"""
NEWEST_BY_REASON = """
    SELECT reason, count(*) AS n FROM (SELECT reason, first_seen FROM dead_letters ORDER BY id DESC LIMIT ?) AS newest
    WHERE first_seen > ? GROUP BY reason ORDER BY n DESC, reason"""
ERRORS = """
    SELECT d.id, d.error FROM json_each(?) AS wanted
    CROSS JOIN dead_letters AS d ON d.id = CAST(wanted.value AS BIGINT)"""
REASONS = """
    SELECT d.entry_id, d.reason, d.error FROM json_each(?) AS wanted
    CROSS JOIN dead_letters AS d ON d.stream = ? AND d.entry_id = wanted.value"""
ENTER = """
    INSERT INTO dead_letter_audit (dead_letter_id, stream, entry_id, at, action, actor, detail)
    VALUES (?, ?, ?, ?, ?, ?, ?)"""
AUDIT = """
    SELECT id, dead_letter_id, stream, entry_id, at, action, actor, detail
    FROM dead_letter_audit WHERE dead_letter_id = ? ORDER BY id"""
RECENT_AUDIT = """
    SELECT id, dead_letter_id, stream, entry_id, at, action, actor, detail
    FROM dead_letter_audit ORDER BY id DESC LIMIT ?"""


def _indexed(wanted: Filter) -> tuple[str, list[Any]]:
    """The condition, such that the index of listings answers it for every status too."""
    where, params = wanted.where()
    return (where if wanted.status else f"{where} AND status IN ('open', 'replayed', 'discarded')"), params


def _like(text: str) -> str:
    """A pattern that finds the text as it stands."""
    for sign in "!%_":
        text = text.replace(sign, f"!{sign}")
    return f"%{text}%"


def _storable(text: str) -> str:
    """The text as both engines can hold it: NUL and what is no Unicode as the escapes that JSON writes for them."""
    return text.replace("\x00", r"\u0000").encode("utf-8", "backslashreplace").decode()


def _dead_letter(row: NewDeadLetter, now: str) -> Row:
    trace, signal_id, symbol = (text and _storable(text) for text in (row.traceback, row.signal_id, row.symbol))
    return (
        row.stream,
        row.entry_id,
        row.reason,
        _storable(row.error),
        trace,
        row.payload,
        row.attempts,
        now,
        signal_id,
        symbol,
        row.worker_version,
        row.fingerprint,
        row.replay_of,
    )
