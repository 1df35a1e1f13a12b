"""Notifications that wait to be sent, and what came of those that were."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from trading_system.ml_refinement.storage.connection import Connection, Row
from trading_system.ml_refinement.storage.json_text import finite_json
from trading_system.ml_refinement.storage.notifications.occasions import Occasion

#: So many of the newest are kept, in whatever state. One that waits and is older is dropped, and counted.
MOST_KEPT = 1_000
#: What a failed try came to is kept up to this length.
_MOST_ERROR = 200


@dataclass(frozen=True, slots=True)
class Notification:
    """One that is to be told, or was. `message_id` is the same however often it is sent."""

    id: int
    message_id: str
    at: str
    kind: str
    details: dict[str, Any]
    state: str
    attempts: int
    next_try: str
    settled_at: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits now: how many, since when the oldest, and what the last try came to where it failed."""

    number: int
    oldest_at: str | None
    attempts: int
    error: str | None


class Notifications:
    """The tables `notifications` and `notification_counts`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, kind: Occasion, details: Mapping[str, Any], *, at: str) -> int:
        """Enter one that waits to be sent, in the transaction of what it tells of; its number.

        Args:
            kind: what it is about.
            details: plain values.
            at: the store's text of the moment.

        Raises:
            ValueError: a value among the details is not finite.
        """
        with self._connection.atomic():
            number = int(self._connection.query(ADD, (at, kind.value, finite_json(dict(details)), at))[0][0])
            self._count("dropped", self._connection.query(DROP, (number - MOST_KEPT,)).count(("waiting",)))
        return number

    def told_since(self, kind: Occasion, at: str) -> bool:
        """Whether there was one of that kind since then."""
        return bool(self._connection.query(TOLD_SINCE, (kind.value, at)))

    def due(self, now: str, *, limit: int = 50) -> list[Notification]:
        """Those that may be sent now, oldest first."""
        return [_notification(row) for row in self._connection.query(DUE, (now, limit))]

    def sent(self, number: int, *, at: str) -> None:
        """Note that one was taken by the receiver."""
        self._settle(SENT, (at, number), "sent")

    def failed(self, number: int, error: str, *, next_try: str, hold_all: bool) -> None:
        """Note a try that came to nothing, and when the next one is due; `hold_all`: of all others too."""
        with self._connection.atomic():
            self._connection.run(FAILED, (error[:_MOST_ERROR], next_try, number))
            if hold_all:
                self._connection.run(HOLD, (next_try, next_try))
            self._count("failed", 1)

    def give_up(self, before: str, *, at: str) -> int:
        """Stop trying those that have waited since before then; how many."""
        return self._settle(GIVE_UP, (at, before), "given_up")

    def refuse(self, wanted: Collection[str], *, at: str) -> int:
        """Settle those of other kinds than `wanted` as not to be told; how many."""
        return self._settle(REFUSE, (at, orjson.dumps(sorted(wanted)).decode()), None)

    def waiting(self) -> Waiting:
        """What waits now."""
        row = self._connection.query(WAITING)[0]
        return Waiting(int(row[0]), row[1], int(row[2] or 0), row[3])

    def counts(self) -> dict[str, int]:
        """How many were `sent`, tries that `failed`, were `given_up`, and were `dropped` unsent, ever."""
        return dict(self._connection.query("SELECT result, number FROM notification_counts"))

    def recent(self, limit: int = 20) -> list[Notification]:
        """The newest in whatever state, newest first."""
        return [_notification(row) for row in self._connection.query(f"{SELECT} ORDER BY id DESC LIMIT ?", (limit,))]

    def _settle(self, statement: str, params: Sequence[Any], result: str | None) -> int:
        with self._connection.atomic():
            number = self._connection.run(statement, params)
            if result is not None:
                self._count(result, number)
        return number

    def _count(self, result: str, number: int) -> None:
        if number:
            self._connection.run(COUNT, (number, result))


# The literals are ours alone; every value is bound.
ADD = "INSERT INTO notifications (at, kind, details, next_try) VALUES (?, ?, ?, ?) RETURNING id"
DROP = "DELETE FROM notifications WHERE id <= ? RETURNING state"
COUNT = "UPDATE notification_counts SET number = number + ? WHERE result = ?"
TOLD_SINCE = "SELECT 1 FROM notifications WHERE kind = ? AND at > ? LIMIT 1"
SELECT = """
    SELECT id, message_id, at, kind, details, state, attempts, next_try, settled_at, error FROM notifications"""
DUE = f"{SELECT} WHERE state = 'waiting' AND next_try <= ? ORDER BY id LIMIT ?"
SENT = """
    UPDATE notifications SET state = 'sent', attempts = attempts + 1, settled_at = ?, error = NULL
    WHERE id = ? AND state = 'waiting'"""
FAILED = "UPDATE notifications SET attempts = attempts + 1, error = ?, next_try = ? WHERE id = ? AND state = 'waiting'"
HOLD = "UPDATE notifications SET next_try = ? WHERE state = 'waiting' AND next_try < ?"
GIVE_UP = "UPDATE notifications SET state = 'given_up', settled_at = ? WHERE state = 'waiting' AND at < ?"
REFUSE = """
    UPDATE notifications SET state = 'unwanted', settled_at = ?
    WHERE state = 'waiting' AND kind NOT IN (SELECT value FROM json_each(?))"""
WAITING = """
    SELECT count(*), min(at), max(attempts),
        (SELECT error FROM notifications WHERE state = 'waiting' AND error IS NOT NULL ORDER BY id DESC LIMIT 1)
    FROM notifications WHERE state = 'waiting'"""


def _notification(row: Row) -> Notification:
    fields = list(row)
    fields[4] = orjson.loads(row[4])
    return Notification(*fields)
