"""What the tables ask of a connection, whichever engine holds the store, and the one transaction idiom.

An engine says how a statement runs, how a transaction begins and ends, and what its driver's errors mean.
"""

from __future__ import annotations

import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import orjson

from trading_system.ml_refinement.storage.errors import StoreError

Row = tuple[Any, ...]
Values = Sequence[Any]

_open_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


class Connection(ABC):
    """A lazily opened connection; safe to share between threads, which then take turns.

    A forked child gets a connection of its own at first use. Every method raises `StoreUnavailable`, `StoreDamaged`,
    `ConstraintRefused`, `UnusableValue` or `StoreError`. Parameters are `?`, or `?1` where one stands twice.

    Attributes:
        name: what is open, as messages name it.
        read_only: nothing can be written through it.
    """

    name: str

    def __init__(self, *, read_only: bool) -> None:
        self.read_only = read_only
        self._depth = 0
        self._writing = False
        self._failed = False
        self._lock = threading.RLock()
        _open_connections.add(self)

    @abstractmethod
    def query(self, sql: str, params: Values = ()) -> list[Row]:
        """All rows of one statement."""

    def one(self, sql: str, params: Values = ()) -> Row | None:
        """The first row, or None."""
        rows = self.query(sql, params)
        return rows[0] if rows else None

    @abstractmethod
    def run(self, sql: str, params: Values = ()) -> int:
        """Run one statement; how many rows it changed itself (triggers not counted)."""

    @abstractmethod
    def run_many(self, sql: str, rows: Iterable[Values]) -> list[Row]:
        """Run one prepared statement for each row; what its RETURNING clause gave, in order."""

    @abstractmethod
    def write_rows(self, sql: str, rows: Sequence[Values]) -> None:
        """Write many rows by one statement: `INSERT INTO table (names) VALUES (?, ...)`, or a `Statement` of arrays.

        What follows VALUES, an ON CONFLICT clause, holds for each row as if it came alone.
        """

    @abstractmethod
    def write_new(self, sql: str, rows: Sequence[Values]) -> int:
        """`write_rows` of a statement that ends with ON CONFLICT DO NOTHING; how many of the rows were not there.

        Of a table whose triggers write nothing: SQLite would count that too.
        """

    @abstractmethod
    def write_counted(self, sql: str, rows: Sequence[Values], counter: str) -> None:
        """`write_rows` of rows that are all new; `counter` goes up by as many, in the same statement where it can."""

    @abstractmethod
    def chunks(self, sql: str, params: Values = (), *, size: int = 1000) -> Iterator[list[Row]]:
        """The rows of one statement, `size` at a time. Use inside `snapshot()`, and to the end."""

    @abstractmethod
    def columns_of(self, table: str) -> list[str]:
        """The names of a table's columns, in its order."""

    @contextmanager
    def atomic(self, *, shards: Collection[int] = ()) -> Iterator[Connection]:
        """All or nothing: one write transaction, beside which no other one runs. Inside another one it joins that.

        What fails inside an inner block fails the whole.

        Args:
            shards: what all that is written, or is looked up before a write, belongs to: beside it run transactions of
                other shards, where the engine can. Without any it runs alone.

        Raises:
            StoreUnavailable: the engine gave the transaction up, or holds something else now; nothing of it counts.
            StoreError: an inner block failed and its error was swallowed; nothing was kept.
        """
        with self._lock:
            if self._depth and not self._writing:
                raise StoreError(f"{self.name}: a write inside a snapshot")
            yield from self._frame(writes=True, shards=shards)

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Several reads of one state of the store. Keep it short: what an open reader sees cannot be cleared away."""
        with self._lock:
            yield from self._frame(writes=False)

    def _frame(self, *, writes: bool, shards: Collection[int] = ()) -> Iterator[Connection]:
        outermost = self._depth == 0
        if outermost:
            self._begin(writes=writes, shards=shards)
            self._writing, self._failed = writes, False
        self._depth += 1
        try:
            yield self
            if outermost:
                self._commit()
        except BaseException:
            self._failed = True
            raise
        finally:
            self._depth -= 1
            if outermost:
                self._writing = False
                self._undo()

    @abstractmethod
    def _begin(self, *, writes: bool, shards: Collection[int]) -> None:
        """Open a transaction; see `atomic`."""

    @abstractmethod
    def _commit(self) -> None:
        """Keep the transaction."""

    @abstractmethod
    def _undo(self) -> None:
        """Roll back what was not committed; the engine may have done so by itself."""

    @abstractmethod
    def check_in_place(self) -> None:
        """Refuse to go on with a store that is not the one that was opened; nothing is asked before it is open.

        Raises:
            StoreMoved: it was removed, moved or replaced.
            StoreUnavailable: nobody can tell now.
        """

    @abstractmethod
    def close(self) -> None:
        """Close; the next use opens it again."""

    @abstractmethod
    def _abandon(self) -> None:
        """In a forked child: forget the handle without closing it, which would disturb the parent's."""


def _after_fork_in_child() -> None:
    for connection in list(_open_connections):
        connection._abandon()
        connection._lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)


def id_list(signal_ids: Iterable[str]) -> str:
    """The ids as the JSON array that the queries over many ids take."""
    return orjson.dumps(list(signal_ids)).decode()
