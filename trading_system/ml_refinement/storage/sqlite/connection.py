"""One connection to one SQLite file: how it is opened, and how its transactions begin and end."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

import apsw

from trading_system.ml_refinement.storage.connection import Connection, Row, Values
from trading_system.ml_refinement.storage.counters import count_inserted
from trading_system.ml_refinement.storage.errors import StoreDamaged, StoreError, StoreMoved, StoreUnavailable
from trading_system.ml_refinement.storage.sqlite.driver_errors import OF_THE_DRIVER, translated

#: Releases before this one can corrupt a WAL database that two connections write or checkpoint at once.
FIRST_SOUND_SQLITE = (3, 51, 3)
MEMORY = ":memory:"
#: What SQLite has open beside the file itself. Where one of them is gone from its place, other processes make another.
_BESIDE = ("-wal", "-shm")
_LONGEST_WAIT_MS = 5

#: Handles inherited through a fork. Closing one here could disturb the parent's locks, so they are kept, never closed.
_inherited: list[apsw.Connection] = []


class SqliteConnection(Connection):
    """A connection to one SQLite file.

    A transaction counts only in the file at `path`: what was committed into one that was removed, moved or replaced
    meanwhile was not kept.
    """

    def __init__(
        self, path: str | Path, *, read_only: bool = False, synchronous: str = "FULL", busy_timeout_ms: int = 5000
    ) -> None:
        super().__init__(read_only=read_only)
        self.path = Path(path)
        self.name = str(path)
        self._synchronous = synchronous
        self._busy_timeout_ms = busy_timeout_ms
        self._handle: apsw.Connection | None = None
        #: The files that were at their paths when they were opened, by path: device and inode.
        self._opened: dict[str, _Identity] = {}

    def query(self, sql: str, params: Values = ()) -> list[Row]:
        """All rows of one statement.

        Raises:
            StoreError: what SQLite says, as one of its kinds (`translated`).
        """
        with self._lock:
            handle = self._usable()
            try:
                return handle.execute(sql, params).fetchall()
            except OF_THE_DRIVER as error:
                raise translated(error, self.path) from error

    def run(self, sql: str, params: Values = ()) -> int:
        """Run one statement; how many rows it changed itself (triggers not counted).

        Raises:
            StoreError: what SQLite says, as one of its kinds (`translated`).
        """
        with self._lock:
            handle = self._usable()
            try:
                handle.execute(sql, params)
                return handle.changes()
            except OF_THE_DRIVER as error:
                raise translated(error, self.path) from error

    def run_many(self, sql: str, rows: Iterable[Values]) -> list[Row]:
        """Run one prepared statement for each row; what its RETURNING clause gave, in order.

        Raises:
            StoreError: what SQLite says, as one of its kinds (`translated`).
        """
        with self._lock:
            handle = self._usable()
            try:
                return handle.executemany(sql, rows).fetchall()
            except OF_THE_DRIVER as error:
                raise translated(error, self.path) from error

    def write_rows(self, sql: str, rows: Sequence[Values]) -> None:
        """See `Connection.write_rows`.

        Raises:
            StoreError: what SQLite says, as one of its kinds (`translated`).
        """
        self.run_many(sql, rows)

    def write_new(self, sql: str, rows: Sequence[Values]) -> int:
        """See `Connection.write_new`.

        Raises:
            StoreError: what SQLite says, as one of its kinds (`translated`).
        """
        # RETURNING would cost a third of the insert.
        with self._lock:
            before = self._usable().total_changes()
            self.run_many(sql, rows)
            return self._usable().total_changes() - before

    def write_counted(self, sql: str, rows: Sequence[Values], counter: str) -> None:
        """See `Connection.write_counted`.

        Raises:
            StoreError: what SQLite says, as one of its kinds (`translated`).
        """
        self.write_rows(sql, rows)
        count_inserted(self, counter, len(rows))

    def columns_of(self, table: str) -> list[str]:
        """See `Connection.columns_of`."""
        return [name for (name,) in self.query("SELECT name FROM pragma_table_info(?)", (table,))]

    def chunks(self, sql: str, params: Values = (), *, size: int = 1000) -> Iterator[list[Row]]:
        """The rows of one statement, `size` at a time. Use inside `snapshot()`, and to the end.

        Raises:
            StoreError: what SQLite says, as one of its kinds (`translated`).
        """
        with self._lock:
            handle = self._usable()
            try:
                rows = handle.execute(sql, params)
                while chunk := list(islice(rows, size)):
                    yield chunk
            except OF_THE_DRIVER as error:
                raise translated(error, self.path) from error

    def _begin(self, *, writes: bool, shards: Collection[int]) -> None:  # noqa: ARG002 - SQLite has one write lock
        if writes:
            self.check_in_place()
        self.run("BEGIN IMMEDIATE" if writes else "BEGIN")

    def _commit(self) -> None:
        self.run("COMMIT")
        if self._writing:
            self._note_beside()
            self.check_in_place()

    def _undo(self) -> None:
        """Roll back what was not committed; SQLite has done so by itself when the disk is full."""
        if self._handle is None or self._handle.get_autocommit():
            return
        try:
            self._handle.execute("ROLLBACK")
        except apsw.Error:
            self._handle.close(True)
            self._handle = None

    def check_in_place(self) -> None:
        """See `Connection.check_in_place`: the files at the paths.

        Raises:
            StoreMoved: one was removed, moved or replaced.
            StoreUnavailable: nobody can tell now.
        """
        for path, identity in self._opened.items():
            if _identity(path) != identity:
                raise StoreMoved(
                    f"{path} was removed, moved or replaced while it was open: put the same file back, "
                    "or stop what uses it, see that the right store is there, and start again"
                )

    def close(self) -> None:
        """Close; the next use opens what is at the path then. A disk that fails here costs nothing: the WAL holds what
        was committed.
        """
        with self._lock:
            handle, self._handle = self._handle, None
            self._opened = {}
            if handle is not None:
                with suppress(apsw.Error):
                    handle.close(True)

    def _abandon(self) -> None:
        if self._handle is not None:
            _inherited.append(self._handle)
            self._handle = None

    def _usable(self) -> apsw.Connection:
        if self._handle is None:
            if self._depth:
                raise StoreError(f"{self.path}: this transaction was closed, or belongs to the parent process")
            self._handle = self._open()
        elif self._depth and self._handle.get_autocommit():
            raise StoreUnavailable(f"{self.path}: the transaction was given up by SQLite; nothing of it was kept")
        elif self._depth and self._failed:
            raise StoreError(f"{self.path}: a part of this transaction failed; nothing of it is kept")
        return self._handle

    def _open(self) -> apsw.Connection:
        if tuple(map(int, apsw.sqlite_lib_version().split("."))) < FIRST_SOUND_SQLITE:
            raise StoreError(f"SQLite {apsw.sqlite_lib_version()} can corrupt a database in WAL mode: 3.51.3 is needed")
        self.check_in_place()  # what was open before is opened again, or nothing is
        flags = apsw.SQLITE_OPEN_READONLY
        if not self.read_only:
            flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
            self._create_privately()
        name = str(self.path)
        found = None if name == MEMORY else _identity(name)
        handle = None
        try:
            handle = apsw.Connection(name, flags=flags)
            self._configure(handle)
            self._note_place(found)
        except (apsw.Error, StoreError) as error:
            if handle is not None:
                handle.close()
            raise (translated(error, self.path) if isinstance(error, apsw.Error) else error) from error
        return handle

    def _note_place(self, found: _Identity | None) -> None:
        """Remember which files were opened; what was at the path before and after was opened in between."""
        if found is None:
            return
        self._opened = {os.path.abspath(self.path): found}
        self._note_beside()
        self.check_in_place()

    def _note_beside(self) -> None:
        """SQLite makes them when a new file is first written to, and keeps them for as long as it is open."""
        if len(self._opened) in (0, 1 + len(_BESIDE)):
            return
        name = next(iter(self._opened))
        for ending in _BESIDE:
            if f"{name}{ending}" not in self._opened and (identity := _identity(f"{name}{ending}")) is not None:
                self._opened[f"{name}{ending}"] = identity

    def _create_privately(self) -> None:
        """The file exists before SQLite opens it, readable by its owner alone; its WAL inherits the mode.

        One that is there is not touched: to close any descriptor of it would let go of the locks that this process has.
        """
        if str(self.path) == MEMORY:
            return
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            if self.path.is_dir():
                raise StoreDamaged(f"{self.path}: a directory is in the place of the file") from None
        except OSError as error:
            raise StoreUnavailable(f"{self.path}: {error.strerror or error}") from error

    def _configure(self, handle: apsw.Connection) -> None:
        handle.set_busy_handler(_LockWait(self._busy_timeout_ms))
        for pragma in ("mmap_size = 0", "foreign_keys = ON", "cache_size = -65536", "temp_store = MEMORY"):
            handle.execute(f"PRAGMA {pragma}").fetchall()
        if self.read_only:
            handle.execute("PRAGMA query_only = ON")
            handle.execute("SELECT count(*) FROM sqlite_schema").fetchall()
            return
        self._enter_wal(handle)
        handle.execute(f"PRAGMA synchronous = {self._synchronous}")
        handle.execute("PRAGMA wal_autocheckpoint = 4000")
        handle.execute("PRAGMA journal_size_limit = 67108864")

    def _enter_wal(self, handle: apsw.Connection) -> None:
        """The switch does not wait for other processes that do the same at this moment: SQLite says busy at once."""
        deadline = time.monotonic() + self._busy_timeout_ms / 1000
        while True:
            try:
                mode = handle.execute("PRAGMA journal_mode = WAL").fetchall()[0][0]
            except apsw.BusyError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
                continue
            if mode not in ("wal", "memory"):
                raise StoreError(f"{self.path}: the file system does not support WAL (journal mode is {mode})")
            return


class _LockWait:
    """Waits for the lock that another connection has: looks again after 1, 2, 3, 4 ms, then every 5, until time is up.

    SQLite's own waits grow to 100 ms, in which a lock is free and nobody takes it; who waits longest looks least often.
    """

    def __init__(self, timeout_ms: int) -> None:
        self._timeout_s = timeout_ms / 1000
        self._deadline = 0.0

    def __call__(self, looks: int) -> bool:
        now = time.monotonic()
        if looks == 0:
            self._deadline = now + self._timeout_s
        if now >= self._deadline:
            return False
        time.sleep(min(looks + 1, _LONGEST_WAIT_MS) / 1000)
        return True


_Identity = tuple[int, int]


def _identity(path: str) -> _Identity | None:
    """Device and inode of what is at a path; None when nothing is."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreUnavailable(f"{path}: {error.strerror or error}") from error
    return found.st_dev, found.st_ino
