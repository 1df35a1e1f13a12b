"""Rows that another program wrote and that cannot be used as they are: the table `quarantine`."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any, Final, Literal, NamedTuple

import orjson

from trading_system.ml_refinement.storage.connection import Connection

#: The step that makes the table, and the steps before which rows are checked: the first of ours, and the table's own
#: for stores that had passed the first one unchecked.
QUARANTINE_STEP: Final = 9
CHECKED_BEFORE: Final = (2, QUARANTINE_STEP)

Action = Literal["removed", "corrected"]


class Unreadable(NamedTuple):
    """A text in the database that is not Unicode, as its bytes."""

    data: bytes


#: What a cell of a foreign table may hold: SQLite checks no types.
Cell = str | int | float | bytes | Unreadable | None


class QuarantinedRow(NamedTuple):
    """A row as it was. `original` is by column.

    What JSON has no word for stands as an object: `{"blob": hex}`, `{"text": hex}` for text that is not Unicode,
    `{"real": "inf"}`.
    """

    at: str
    table: str
    row_id: int
    action: Action
    reason: str
    original: dict[str, Any]


class QuarantineGroup(NamedTuple):
    """How many rows of one table were treated alike."""

    table: str
    action: Action
    reason: str
    rows: int


class Quarantine:
    """The table `quarantine`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def keep(self, at: str, table: str, row_id: int, action: Action, reason: str, original: Mapping[str, Cell]) -> None:
        """Put a row aside, whole."""
        text = orjson.dumps({column: _plain(value) for column, value in original.items()}).decode()
        self._connection.run(KEEP, (at, table, row_id, action, reason, text))

    def groups(self) -> list[QuarantineGroup]:
        """What is there, by table, action and reason. Reads the whole table."""
        return [QuarantineGroup(*row) for row in self._connection.query(GROUPS)]

    def rows(self, *, limit: int = 1000, after: int = 0) -> list[QuarantinedRow]:
        """At most so many rows, in the order they were put there, without the first `after`."""
        return [
            QuarantinedRow(at, table, row_id, action, reason, orjson.loads(original))
            for at, table, row_id, action, reason, original in self._connection.query(ROWS, (limit, after))
        ]


def _plain(value: Cell) -> Any:
    if isinstance(value, Unreadable):
        return {"text": value.data.hex()}
    if isinstance(value, bytes):
        return {"blob": value.hex()}
    if isinstance(value, float) and not isfinite(value):
        return {"real": str(value)}
    return value


# The literals are ours alone; every value is bound.
KEEP = "INSERT INTO quarantine (at, table_name, row_id, action, reason, original) VALUES (?, ?, ?, ?, ?, ?)"
GROUPS = """
    SELECT table_name, action, reason, count(*) FROM quarantine
    GROUP BY table_name, action, reason ORDER BY table_name, action DESC, count(*) DESC, reason"""
ROWS = """
    SELECT at, table_name, row_id, action, reason, original FROM quarantine ORDER BY id LIMIT ? OFFSET ?"""
