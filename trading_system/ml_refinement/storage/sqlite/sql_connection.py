"""The store's connection for whoever writes SQL of their own, as the standard library's `sqlite3` has it.

What such statements write is held to the store's rules by temporary triggers, which stand only while one of them runs.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import apsw

from trading_system.ml_refinement.storage.connection import Connection, Row
from trading_system.ml_refinement.storage.sqlite.connection import SqliteConnection
from trading_system.ml_refinement.storage.sqlite.driver_errors import translated

Bindings = Sequence[Any] | Mapping[str, Any]

_COMMENTS = r"(?:\s|--[^\n]*\n|/\*.*?\*/)*"
_WRITES = re.compile(
    rf"{_COMMENTS}(?:INSERT|UPDATE|DELETE|REPLACE|WITH\b.*\b(?:INSERT|UPDATE|DELETE|REPLACE))\b", re.I | re.S
)


class SqlRow:
    """A row by position and by name, in whatever case; `dict(row)` and `tuple(row)` work."""

    __slots__ = ("_index", "_names", "_values")

    def __init__(self, names: tuple[str, ...], index: Mapping[str, int], values: Row) -> None:
        self._names, self._index, self._values = names, index, values

    def keys(self) -> list[str]:
        """The columns' names."""
        return list(self._names)

    def __getitem__(self, key: int | slice | str) -> Any:
        if not isinstance(key, str):
            return self._values[key]
        try:
            return self._values[self._index[key.lower()]]
        except KeyError:
            raise IndexError(f"no column {key!r} among {', '.join(self._names)}") from None

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SqlRow) and (self._names, self._values) == (other._names, other._values)

    def __hash__(self) -> int:
        return hash((self._names, self._values))

    def __repr__(self) -> str:
        return f"SqlRow({dict(zip(self._names, self._values, strict=True))})"


class SqlCursor:
    """What a statement gave. All of its rows are read at once: no reader stays open, and none holds the WAL back.

    Attributes:
        rowcount: rows that it changed; -1 where it changes none.
        lastrowid: of the newest row that was inserted through the connection.
        description: the columns' names, each followed by six None; None without columns.
    """

    arraysize = 1

    def __init__(self, connection: SqlConnection) -> None:
        self.connection = connection
        self.rowcount = -1
        self.lastrowid: int | None = None
        self.description: tuple[tuple[str, None, None, None, None, None, None], ...] | None = None
        self._rows: Iterator[SqlRow] = iter(())

    def execute(self, sql: str, parameters: Bindings = ()) -> SqlCursor:
        """Run one statement; this cursor, with its rows."""
        return self.connection._run_into(self, sql, [parameters], many=False)

    def executemany(self, sql: str, parameters: Iterable[Bindings]) -> SqlCursor:
        """Run one statement for each set of parameters."""
        return self.connection._run_into(self, sql, parameters, many=True)

    def executescript(self, script: str) -> SqlCursor:
        """See `SqlConnection.executescript`."""
        return self.connection.executescript(script)

    def fetchone(self) -> SqlRow | None:
        """The next row, or None."""
        return next(self._rows, None)

    def fetchmany(self, size: int = 1) -> list[SqlRow]:
        """The next rows, at most `size`."""
        return [row for _, row in zip(range(size), self._rows, strict=False)]

    def fetchall(self) -> list[SqlRow]:
        """The rows that are left."""
        return list(self._rows)

    def close(self) -> None:
        """Forget the rows."""
        self._rows = iter(())

    def __iter__(self) -> Iterator[SqlRow]:
        return self

    def __next__(self) -> SqlRow:
        return next(self._rows)

    def _take(self, columns: Sequence[Sequence[Any]], rows: Iterable[Row]) -> None:
        names = tuple(str(column[0]) for column in columns)
        index = {name.lower(): at for at, name in reversed(list(enumerate(names)))}
        self.description = tuple((name, None, None, None, None, None, None) for name in names) or None
        self._rows = iter([SqlRow(names, index, row) for row in rows])


class SqlConnection(SqliteConnection):
    """A connection with the methods of `sqlite3.Connection`.

    Outside of `FeatureDatabase.transaction()` a statement that writes opens a transaction, which `commit()` keeps and
    `rollback()` or `close()` undoes. A transaction of the store's own methods takes an open one over, and keeps it.
    """

    def execute(self, sql: str, parameters: Bindings = ()) -> SqlCursor:
        """Run one statement; a cursor with its rows.

        Raises:
            StoreError: what SQLite says, as one of its kinds; each is also sqlite3's of that kind.
        """
        return SqlCursor(self).execute(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Bindings]) -> SqlCursor:
        """Run one statement for each set of parameters."""
        return SqlCursor(self).executemany(sql, parameters)

    def executescript(self, script: str) -> SqlCursor:
        """Run several statements: in the transaction that is open by `transaction()`, else after a `commit()`."""
        if not self._depth:
            self.commit()
        cursor = SqlCursor(self)
        with self._lock, self._guarded():
            self._apply(script)
        return cursor

    def cursor(self) -> SqlCursor:
        """A cursor that has run nothing."""
        return SqlCursor(self)

    @property
    def in_transaction(self) -> bool:
        """Is something written that is not yet kept?"""
        return self._handle is not None and not self._handle.get_autocommit()

    @property
    def total_changes(self) -> int:
        """Rows changed since the connection was opened."""
        return self._usable().total_changes()

    def commit(self) -> None:
        """Keep what was written. Inside `transaction()`: so far, and another one goes on."""
        self._settle("COMMIT")

    def rollback(self) -> None:
        """Undo what was written. Inside `transaction()`: so far, and another one goes on."""
        self._settle("ROLLBACK")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.rollback()

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """As `Connection.snapshot`; what is written and not yet kept is part of it."""
        with self._lock:
            if self._depth == 0 and self.in_transaction:
                yield self
            else:
                yield from self._frame(writes=False)

    def _begin(self, *, writes: bool, shards: Collection[int]) -> None:
        if not self.in_transaction:
            super()._begin(writes=writes, shards=shards)
        elif writes:
            self.check_in_place()

    def _settle(self, how: str) -> None:
        with self._lock:
            if self.in_transaction:
                self.run(how)
                if how == "COMMIT":
                    self.check_in_place()
                if self._depth:
                    self.run("BEGIN IMMEDIATE")

    def _run_into(self, cursor: SqlCursor, sql: str, parameters: Iterable[Bindings], *, many: bool) -> SqlCursor:
        with self._lock:
            if not _WRITES.match(sql):
                for values in parameters:
                    self._fetch(cursor, sql, values)
                return cursor
            if not self.in_transaction:
                self.run("BEGIN IMMEDIATE")
            cursor.rowcount = 0
            with self._guarded():
                for values in parameters:
                    cursor.rowcount += self._fetch(cursor, sql, values)
            cursor.lastrowid = None if many else self._usable().last_insert_rowid()
        return cursor

    def _fetch(self, cursor: SqlCursor, sql: str, values: Bindings) -> int:
        """Run it, give its rows to the cursor; how many it changed itself."""
        handle = self._usable()
        columns: list[Sequence[Any]] = []

        def told(given: apsw.Cursor, *_: Any) -> bool:
            # Later the driver has no names of a statement that gives no row.
            columns[:] = given.get_description()
            return True

        try:
            given = handle.cursor()
            given.exec_trace = told
            rows = given.execute(sql, values).fetchall()
            cursor._take(columns, rows)
            return handle.changes()
        except (apsw.Error, OverflowError) as error:
            raise translated(error, self.path) from error

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """The store's rules over what is written meanwhile."""
        if self.read_only:
            yield
            return
        self._apply(GUARDS)
        try:
            yield
        finally:
            if self._handle is not None:
                self._handle.execute(UNGUARD).fetchall()
        self._apply(SETTLE)

    def _apply(self, script: str) -> None:
        try:
            self._usable().execute(script).fetchall()
        except apsw.Error as error:
            raise translated(error, self.path) from error


_NOW = "strftime('%Y-%m-%dT%H:%M:%f', 'now') || '000Z'"
_FIXED_WIDTH = "strftime('%Y-%m-%dT%H:%M:%f', timestamp) || '000Z'"
_CONDITIONS = {
    "features must be a JSON object of finite numbers": """
        NOT json_valid(NEW.features) OR json_type(NEW.features) <> 'object' OR EXISTS (
            SELECT 1 FROM json_each(NEW.features)
            WHERE type NOT IN ('integer', 'real') OR abs(value) > 1.7976931348623157e308)""",
    "the timestamp cannot be read": "strftime('%s', NEW.timestamp) IS NULL",
    "the target must be a finite number": "abs(NEW.target_r_multiple) > 1.7976931348623157e308",
}
_CHECKS = "\n".join(f"SELECT raise(ABORT, '{said}') WHERE {condition};" for said, condition in _CONDITIONS.items())
# The literals are ours alone; every value is bound.
_LEDGER = f"""
    INSERT INTO promotions
        (at, model_type, action, model_id, previous_model_id, artefact_sha256, proven, reason, figures)
    VALUES ({_NOW}, NEW.model_type, {{action}}, NEW.artefact_sha256, NEW.proven, 'by a statement of SQL', '{{{{}}}}')"""  # noqa: S608
_ACTIVATED = _LEDGER.format(action="'activate', NEW.model_id, NULL")
_RETIRED = _LEDGER.format(action="'retire', NULL, NEW.model_id")
_COUNT = "UPDATE counters SET value = value + 1 WHERE name ="
_DATE = f"UPDATE feature_vectors SET timestamp = {_FIXED_WIDTH} WHERE id = NEW.id"  # noqa: S608
_NOTE = "INSERT OR IGNORE INTO by_hand_labelled VALUES (NEW.id)"
_TRIGGERS = {
    "checked": f"BEFORE INSERT ON feature_vectors BEGIN {_CHECKS} END",
    "rechecked": f"""BEFORE UPDATE OF features, timestamp, target_r_multiple ON feature_vectors BEGIN {_CHECKS}
        SELECT raise(ABORT, 'an outcome is corrected, not removed')
        WHERE OLD.target_r_multiple IS NOT NULL AND NEW.target_r_multiple IS NULL; END""",
    "counted": f"AFTER INSERT ON feature_vectors BEGIN {_COUNT} 'signals'; END",
    "dated": f"AFTER INSERT ON feature_vectors WHEN length(NEW.timestamp) <> 27 BEGIN {_DATE}; END",
    "redated": f"AFTER UPDATE OF timestamp ON feature_vectors WHEN length(NEW.timestamp) <> 27 BEGIN {_DATE}; END",
    "labelled": f"""AFTER INSERT ON feature_vectors WHEN NEW.target_r_multiple IS NOT NULL
        OR EXISTS (SELECT 1 FROM trade_outcomes WHERE signal_id = NEW.signal_id) BEGIN {_NOTE}; END""",  # noqa: S608
    "relabelled": f"""AFTER UPDATE OF target_r_multiple, target_return_pct ON feature_vectors
        WHEN NEW.target_r_multiple IS NOT OLD.target_r_multiple OR NEW.target_return_pct IS NOT OLD.target_return_pct
        BEGIN {_NOTE}; END""",
    "predicted": f"AFTER INSERT ON prediction_log BEGIN {_COUNT} 'predictions'; END",
    "entered": f"AFTER INSERT ON model_registry WHEN NEW.is_active = 1 BEGIN {_ACTIVATED}; END",
    "activated": f"""AFTER UPDATE OF is_active ON model_registry WHEN NEW.is_active = 1 AND OLD.is_active = 0
        BEGIN {_ACTIVATED}; END""",
    "retired": f"""AFTER UPDATE OF is_active ON model_registry WHEN NEW.is_active = 0 AND OLD.is_active = 1
        BEGIN {_RETIRED}; END""",
}
# With recursive triggers a row that is replaced counts as deleted.
GUARDS = "\n".join(
    (
        "PRAGMA recursive_triggers = ON;",
        "CREATE TEMP TABLE IF NOT EXISTS by_hand_labelled (id INTEGER PRIMARY KEY);",
        *(f"CREATE TEMP TRIGGER IF NOT EXISTS by_hand_{name} {body};" for name, body in _TRIGGERS.items()),
    )
)
UNGUARD = "\n".join(
    ("PRAGMA recursive_triggers = OFF;", *(f"DROP TRIGGER IF EXISTS temp.by_hand_{name};" for name in _TRIGGERS))
)
#: What was labelled is an outcome, as the next revision; the highest one is the vector's and its predictions'.
SETTLE = f"""
    INSERT INTO trade_outcomes (signal_id, revision, closed_at, r_multiple, return_pct, recorded_at)
        SELECT v.signal_id,
            coalesce((SELECT max(revision) + 1 FROM trade_outcomes AS o WHERE o.signal_id = v.signal_id), 0),
            max({_NOW}, v.timestamp), v.target_r_multiple, v.target_return_pct, {_NOW}
        FROM by_hand_labelled CROSS JOIN feature_vectors AS v USING (id) WHERE v.target_r_multiple IS NOT NULL;
    UPDATE feature_vectors SET (target_r_multiple, target_binary, target_return_pct, label_time, label_revision) = (
        SELECT r_multiple, r_multiple > 0, return_pct, max(closed_at, timestamp), revision FROM trade_outcomes AS o
        WHERE o.signal_id = feature_vectors.signal_id ORDER BY revision DESC LIMIT 1)
        WHERE id IN (SELECT id FROM by_hand_labelled);
    UPDATE prediction_log SET actual_r = v.target_r_multiple, prediction_error = v.target_r_multiple - predicted_r
        FROM by_hand_labelled CROSS JOIN feature_vectors AS v USING (id) WHERE prediction_log.signal_id = v.signal_id;
    DROP TABLE by_hand_labelled;"""  # noqa: S608
