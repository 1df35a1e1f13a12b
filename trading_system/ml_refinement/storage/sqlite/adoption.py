"""A store that another program wrote, such as the specification's own code, made fit for ours before a step.

What can be read stays. What cannot is kept aside whole, in the table `quarantine`, with the reason; nothing is dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from trading_system.ml_refinement.storage.connection import Connection, Row
from trading_system.ml_refinement.storage.quarantine import (
    CHECKED_BEFORE,
    Action,
    Cell,
    Quarantine,
    QuarantineGroup,
    Unreadable,
)
from trading_system.ml_refinement.storage.sqlite.adoption_rules import FOREIGN_TABLES, ForeignTable, Original, judge

_AT_ONCE = 1000


def adopt(connection: Connection, now: str, *, step: int, quarantine_sql: str) -> list[QuarantineGroup]:
    """Check the rows that another program may have written; what was kept aside, by reason. Inside `atomic()`.

    Args:
        connection: the store's.
        now: the store's text.
        step: the one of `CHECKED_BEFORE` that is about to be applied.
        quarantine_sql: makes the quarantine. Where it is there, the rows were checked when it was made.
    """
    if connection.query("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'quarantine'"):
        return []
    # A model that leaves takes its predictions along, which are looked at after it.
    connection.run("PRAGMA defer_foreign_keys = ON")
    connection.query(quarantine_sql)
    adoption = _Adoption(connection, now, is_first=step == CHECKED_BEFORE[0])
    for table in FOREIGN_TABLES:
        adoption.check(table)
    adoption.settle_predictions()
    return adoption.found()


class _Adoption:
    def __init__(self, connection: Connection, now: str, *, is_first: bool) -> None:
        self._connection = connection
        self._now = now
        self._is_first = is_first
        self._quarantine = Quarantine(connection)
        self._counts: Counter[tuple[str, Action, str]] = Counter()

    def found(self) -> list[QuarantineGroup]:
        return [QuarantineGroup(*key, rows) for key, rows in self._counts.most_common()]

    def check(self, table: ForeignTable) -> None:
        """Every row of a table by itself."""
        for original in self._originals(table.name, "TRUE" if self._is_first else table.suspect):
            judged = judge(table, original, self._now)
            if judged.removed is not None:
                self._remove(table.name, original, judged.removed)
                continue
            reasons = [why for column, why in judged.reasons.items() if original[column] is not None]
            if reasons:
                self._keep(table.name, original, "corrected", "; ".join(reasons))
            changes = {name: new for name, new in judged.changes.items() if new != original[name]}
            if changes:
                columns = ", ".join(f"{name} = ?" for name in changes)
                sql = f"UPDATE {table.name} SET {columns} WHERE id = ?"  # noqa: S608 - the names are ours
                self._connection.run(sql, (*changes.values(), original["id"]))

    def settle_predictions(self) -> None:
        """What needs other rows: one prediction for a signal and a model that exists, with an error of its own."""
        for condition, why in (
            (ORPHANS, "its model is not in the registry"),
            (REPEATS, "repeats an earlier prediction of the same signal and model"),
        ):
            for original in self._originals("prediction_log", condition):
                self._remove("prediction_log", original, why)
        if self._is_first:
            self._connection.run(FILL_ACTUAL)
        for original in self._originals("prediction_log", f"({WRONG_ERROR}) AND prediction_error IS NOT NULL"):
            self._keep("prediction_log", original, "corrected", "prediction_error is another prediction's")
        self._connection.run(OWN_ERROR)

    def _remove(self, table: str, original: Original, why: str) -> None:
        self._keep(table, original, "removed", why)
        self._connection.run(f"DELETE FROM {table} WHERE id = ?", (original["id"],))  # noqa: S608

    def _keep(self, table: str, original: Original, action: Action, why: str) -> None:
        self._quarantine.keep(self._now, table, int(str(original["id"])), action, why, original)
        self._counts[table, action, why] += 1

    def _originals(self, table: str, condition: str) -> Iterator[dict[str, Cell]]:
        """The rows of a table as they are, in their order. They may be changed meanwhile."""
        columns = [row[0] for row in self._connection.query("SELECT name FROM pragma_table_info(?)", (table,))]
        cells = ", ".join(CELL.format(name=name.replace('"', '""')) for name in columns)
        sql = f"SELECT {cells} FROM {table} AS t WHERE id > ? AND ({condition}) ORDER BY id LIMIT ?"  # noqa: S608
        last = -1 << 63
        while rows := self._connection.query(sql, (last, _AT_ONCE)):
            for row in rows:
                original = dict(zip(columns, map(_cell, row[::2], row[1::2]), strict=True))
                last = int(str(original["id"]))
                yield original


# The literals are ours alone; every value is bound.
#: A text as its bytes, since it need not be Unicode.
CELL = """iif(typeof("{name}") = 'text', CAST("{name}" AS BLOB), "{name}"), typeof("{name}")"""
ORPHANS = "NOT EXISTS (SELECT 1 FROM model_registry AS m WHERE m.model_id = t.model_id)"
#: `+`: through the signal's few predictions, not through all of the model's.
REPEATS = """EXISTS (SELECT 1 FROM prediction_log AS p
    WHERE p.signal_id = t.signal_id AND +p.model_id = t.model_id AND p.id < t.id)"""
WRONG_ERROR = "prediction_error IS NOT actual_r - predicted_r"
OWN_ERROR = f"UPDATE prediction_log SET prediction_error = actual_r - predicted_r WHERE {WRONG_ERROR}"  # noqa: S608
FILL_ACTUAL = """
    UPDATE prediction_log
    SET actual_r = (SELECT target_r_multiple FROM feature_vectors AS v WHERE v.signal_id = prediction_log.signal_id)
    WHERE actual_r IS NULL"""


def _cell(value: Row, kind: str) -> Cell:
    if kind != "text":
        return value  # type: ignore[return-value]
    data = bytes(value)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return Unreadable(data)
