"""A connection to PostgreSQL: how it is opened, and how its transactions begin and end."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg.adapt import AdaptersMap
from psycopg.pq import TransactionStatus
from psycopg.types.numeric import FloatLoader, Int2Dumper

from trading_system.ml_refinement.storage.connection import Connection, Row, Values
from trading_system.ml_refinement.storage.errors import StoreError, StoreMoved, StoreUnavailable, UnusableValue
from trading_system.ml_refinement.storage.postgres.arrays import (
    TYPES,
    ColumnDumper,
    ColumnType,
    PackedColumn,
    packed_column,
)
from trading_system.ml_refinement.storage.postgres.dialect import (
    array_types,
    insert_from_arrays,
    insert_target,
    translated_statement,
)
from trading_system.ml_refinement.storage.postgres.driver_errors import OF_THE_DRIVER, translated
from trading_system.ml_refinement.storage.postgres.place import read_place

#: Releases before this one lack what is relied on here; it is also the oldest that is tested.
FIRST_VERSION = 150_000
_CONNECT_S = 5
_LOCK_WAIT_MS = 5000
#: A writer that stands still inside a transaction keeps everyone else from writing: so long, unless the server has a
#: limit of its own. Then the server ends its session, as of a host that is paused, or gone without a word.
_IDLE_WRITER_MS = 30_000
#: A peer that is gone without a word is noticed after so long.
_SILENCE_S = 10

#: What the address may say otherwise.
_UNLESS_TOLD: dict[str, Any] = {
    "connect_timeout": _CONNECT_S,
    "application_name": "signal-refinery",
    "keepalives_idle": _SILENCE_S,
    "keepalives_interval": _SILENCE_S // 3,
    "keepalives_count": 3,
    "tcp_user_timeout": _SILENCE_S * 1000,
}
#: The same for the server, which would go on holding a lock for hours for a host that is gone.
_OF_THE_SERVER = {
    "tcp_keepalives_idle": _SILENCE_S,
    "tcp_keepalives_interval": _SILENCE_S // 3,
    "tcp_keepalives_count": 3,
    "tcp_user_timeout": _SILENCE_S * 1000,
}
_LOOK_EVERY_S = 1.0

#: Handles inherited through a fork. Closing one would end the parent's session, so they are kept, never closed.
_inherited: list[psycopg.Connection[Any]] = []


class _WholeNumberDumper(Int2Dumper):
    """A bool as SQLite stores it: 1 or 0."""

    def dump(self, obj: Any) -> Any:
        return super().dump(int(obj))


def _adapters() -> AdaptersMap:
    adapters = AdaptersMap(psycopg.adapters)
    adapters.register_dumper(bool, _WholeNumberDumper)
    adapters.register_dumper(PackedColumn, ColumnDumper)
    # Sums of whole numbers are `numeric`, which would come as Decimal.
    adapters.register_loader("numeric", FloatLoader)
    return adapters


_ADAPTERS = _adapters()


class PostgresConnection(Connection):
    """A connection to one schema of one database.

    Writers take turns: a transaction that writes holds the schema's advisory lock from its beginning, as SQLite's one
    write lock is held, because what was looked up before a write must still be so when it is written. One of some
    shards holds that lock together with others, and alone those of its shards. Locks are the transaction's, never the
    session's: a pooler in transaction mode works.

    Behind such a pooler nothing outlives a transaction: each says its settings anew, and no statement is prepared.

    The archive's writers (`of_archive`) take turns among themselves, by another lock, and wait for no commit.
    """

    def __init__(self, url: str, *, read_only: bool = False, of_archive: bool = False) -> None:
        super().__init__(read_only=read_only)
        self._of_archive = of_archive
        self._place = read_place(url)
        self.name = self._place.name
        self.schema = self._place.schema
        self._handle: psycopg.Connection[Row] | None = None
        self._pooled = False
        self._begun = False
        self._array_statements: dict[str, tuple[str, tuple[ColumnType, ...]]] = {}
        self._timeline: str | None = None
        self._look_due = 0.0
        #: Which installation was open before, once it was.
        self._installation: str | None = None

    def query(self, sql: str, params: Values = ()) -> list[Row]:
        """See `Connection.query`.

        Raises:
            StoreError: what PostgreSQL says, as one of its kinds (`translated`).
        """
        return self._executed(sql, params)[0]

    def run(self, sql: str, params: Values = ()) -> int:
        """See `Connection.run`.

        Raises:
            StoreError: what PostgreSQL says, as one of its kinds (`translated`).
        """
        return self._executed(sql, params)[1]

    def run_many(self, sql: str, rows: Iterable[Values]) -> list[Row]:
        """See `Connection.run_many`.

        Raises:
            StoreError: what PostgreSQL says, as one of its kinds (`translated`).
        """
        text = translated_statement(sql)
        returning = "RETURNING" in text
        found: list[Row] = []
        with self._lock, self._framed(text), self._translating():
            cursor = self._usable().cursor()
            cursor.executemany(text, list(rows), returning=returning)
            if returning and cursor.description is not None:
                found += cursor.fetchall()
                while cursor.nextset():
                    found += cursor.fetchall()
        return found

    def write_rows(self, sql: str, rows: Sequence[Values]) -> None:
        """See `Connection.write_rows`: an array for each column.

        Raises:
            StoreError: what PostgreSQL says, as one of its kinds (`translated`).
        """
        self._write(sql, rows)

    def write_new(self, sql: str, rows: Sequence[Values]) -> int:
        """See `Connection.write_new`.

        Raises:
            StoreError: what PostgreSQL says, as one of its kinds (`translated`).
        """
        return self._write(sql, rows)

    def write_counted(self, sql: str, rows: Sequence[Values], counter: str) -> None:
        """See `Connection.write_counted`.

        Raises:
            StoreError: what PostgreSQL says, as one of its kinds (`translated`).
        """
        self._write(sql, rows, counter)

    def _write(self, sql: str, rows: Sequence[Values], counter: str | None = None) -> int:
        if not rows:
            return 0
        text, types = self._by_arrays(sql)
        if counter is not None:
            text = COUNTED.format(text=text, counter=counter)
        try:
            arrays = [packed_column(kind, values) for kind, values in zip(types, zip(*rows, strict=True), strict=True)]
        except (TypeError, ValueError, OverflowError) as error:
            raise UnusableValue(f"{self.name}: a value that its column cannot hold: {error}") from error
        with self._lock, self._framed(sql), self._translating():
            return self._usable().execute(text, arrays).rowcount

    def columns_of(self, table: str) -> list[str]:
        """See `Connection.columns_of`."""
        return [name for name, _ in self.query(COLUMN_TYPES, (self.schema, table))]

    def chunks(self, sql: str, params: Values = (), *, size: int = 1000) -> Iterator[list[Row]]:
        """See `Connection.chunks`: a cursor on the server.

        Raises:
            StoreError: what PostgreSQL says, as one of its kinds (`translated`).
        """
        if not self._depth:
            raise StoreError(f"{self.name}: chunks outside of a snapshot")
        with self._lock, self._translating():
            handle = self._usable()
            with psycopg.RawServerCursor(handle, "chunks") as cursor:
                cursor.itersize = size
                cursor.execute(translated_statement(sql), params, binary=True)
                while chunk := cursor.fetchmany(size):
                    yield chunk

    def check_in_place(self) -> None:
        """See `Connection.check_in_place`: looked at whenever a connection is made, so see that there still is one.

        Raises:
            StoreMoved: another store is at the address.
            StoreUnavailable: the server is away.
        """
        with self._lock:
            if self._handle is None or self._depth or time.monotonic() < self._look_due:
                return
            self._look_due = time.monotonic() + _LOOK_EVERY_S
            with self._translating():
                self._handle.execute(b"SELECT 1", prepare=False)

    def close(self) -> None:
        """Close; the next use opens it again."""
        with self._lock:
            handle, self._handle = self._handle, None
            if handle is not None:
                with suppress(psycopg.Error):
                    handle.close()

    def timeline(self) -> str:
        """Which server's history the store is of: another one after a standby took over.

        Raises:
            StoreError: what PostgreSQL says, as one of its kinds (`translated`).
        """
        with self._lock:
            self._usable()
            return self._timeline or ""

    def execute_script(self, script: str) -> None:
        """Run several statements, in the transaction that is open.

        Raises:
            StoreError: what PostgreSQL says, as one of its kinds (`translated`).
        """
        with self._lock, self._translating():
            # The text is one of this package's files, not a literal, which is all that the driver's types know.
            self._usable().execute(script.encode(), prepare=False)

    def _begin(self, *, writes: bool, shards: Collection[int]) -> None:
        handle = self._usable()
        local = self._settings("LOCAL") if self._pooled else []
        if writes:
            # A plan that was made while a table was small stays: it must not be one that reads the whole table. And it
            # does stay, where the planner would rather make one for each batch, at a tenth of a small batch's time.
            steps = [
                "BEGIN",
                *local,
                "SET LOCAL enable_seqscan = off",
                "SET LOCAL plan_cache_mode = force_generic_plan",
                *(["SET LOCAL synchronous_commit = off"] if self._of_archive else []),
                LIMIT_IDLE.format(milliseconds=_IDLE_WRITER_MS),
                *self._locks(sorted(shards)),
            ]
        else:
            steps = ["BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", *local]
        self._begun = True
        try:
            with self._translating():
                handle.execute("; ".join(steps).encode(), prepare=False)
        except StoreError:
            self._undo()
            raise

    def _commit(self) -> None:
        with self._translating():
            # PostgreSQL answers a COMMIT of what it gave up with a ROLLBACK, and without an error.
            if self._usable().execute(b"COMMIT", prepare=False).statusmessage != "COMMIT":
                raise StoreUnavailable(f"{self.name}: the transaction was given up by the server; nothing was kept")

    def _undo(self) -> None:
        self._begun = False
        if self._handle is None or self._handle.info.transaction_status is TransactionStatus.IDLE:
            return
        try:
            self._handle.execute(b"ROLLBACK", prepare=False)
        except psycopg.Error:
            self._drop()

    def _abandon(self) -> None:
        if self._handle is not None:
            _inherited.append(self._handle)
            self._handle = None

    def _locks(self, shards: Sequence[int]) -> list[str]:
        """What keeps others out: everybody, or those of the same shards and whoever keeps everybody out.

        The shards are in order, so that two transactions never wait for each other.
        """
        if not shards:
            return [f"SELECT pg_advisory_xact_lock({self._lock_key()})"]
        own = [f"SELECT pg_advisory_xact_lock({self._lock_key(f'/{shard}')})" for shard in shards]
        # The first one's counters, which nobody else counts in as long as its lock is held.
        counted = f"SET LOCAL signal_refinery.shard = {shards[0]}"
        return [f"SELECT pg_advisory_xact_lock_shared({self._lock_key()})", *own, counted]

    def _lock_key(self, shard: str = "") -> int:
        name = f"signal-refinery/{self.schema}{'/archive' if self._of_archive else ''}{shard}"
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big", signed=True)

    def _executed(self, sql: str, params: Values) -> tuple[list[Row], int]:
        text = translated_statement(sql)
        with self._lock, self._framed(text), self._translating():
            cursor = self._usable().execute(text, params)
            return (cursor.fetchall() if cursor.description is not None else []), cursor.rowcount

    @contextmanager
    def _framed(self, text: str) -> Iterator[None]:
        """A statement of its own in a transaction where it writes, or where only a transaction has our settings."""
        if self._depth:
            yield
        elif text.lstrip()[:6].upper() in ("INSERT", "UPDATE", "DELETE"):
            with self.atomic():
                yield
        else:
            self._usable()
            if not self._pooled:
                yield
                return
            with self.snapshot():
                yield

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except OF_THE_DRIVER as error:
            if self._handle is not None and self._handle.broken:
                self._drop()
            raise translated(error, self.name) from error

    def _drop(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            with suppress(psycopg.Error):
                handle.close()

    def _usable(self) -> psycopg.Connection[Row]:
        if self._handle is None:
            if self._begun:
                raise StoreUnavailable(
                    f"{self.name}: the connection was lost inside a transaction; nothing of it was kept"
                )
            if self._depth:
                raise StoreError(f"{self.name}: this transaction was closed, or belongs to the parent process")
            self._handle = self._open()
        elif self._depth and self._failed:
            raise StoreError(f"{self.name}: a part of this transaction failed; nothing of it is kept")
        return self._handle

    def _open(self) -> psycopg.Connection[Row]:
        try:
            handle = psycopg.Connection.connect(
                self._place.conninfo,
                autocommit=True,
                cursor_factory=psycopg.RawCursor,
                context=_Context(),
                **{name: value for name, value in _UNLESS_TOLD.items() if name not in self._place.options},
            )
        except (*OF_THE_DRIVER, ValueError) as error:
            raise translated(error, self.name) from error
        try:
            self._look_at(handle)
        except BaseException as error:
            handle.close()
            if isinstance(error, OF_THE_DRIVER):
                raise translated(error, self.name) from error
            raise
        return handle

    def _look_at(self, handle: psycopg.Connection[Row]) -> None:
        """Set a new connection up, and refuse a server that must not be used."""
        if handle.info.server_version < FIRST_VERSION:
            version = handle.info.parameter_status("server_version")
            raise StoreError(f"{self.name}: PostgreSQL {version} is too old: {FIRST_VERSION // 10_000} is needed")
        pid, standby = handle.execute(b"SELECT pg_backend_pid(), pg_is_in_recovery()").fetchall()[0]
        if standby and not self.read_only:
            raise StoreUnavailable(f"{self.name}: the server is a standby, which takes no writes")
        # A pooler tells a process id of its own making.
        self._pooled = pid != handle.info.backend_pid
        if self._pooled:
            handle.prepare_threshold = None
        else:
            handle.prepared_max = 500
            silence = [f"SET SESSION {name} = {value}" for name, value in _OF_THE_SERVER.items()]
            handle.execute("; ".join([*self._settings("SESSION"), *silence]).encode(), prepare=False)
        self._see_the_same_installation(handle)
        # A server that took over has another timeline, from its first write on.
        self._timeline = None if standby else str(handle.execute(TIMELINE.encode()).fetchall()[0][0])

    def _settings(self, scope: str) -> list[str]:
        # The schema's name has been held to letters, digits and _.
        # Compiling takes longer than any statement here; turning off reads of whole tables makes small ones seem dear.
        said = {"search_path": self.schema, "lock_timeout": str(_LOCK_WAIT_MS), "jit": "off"}
        if self.read_only:
            said["transaction_read_only" if scope == "LOCAL" else "default_transaction_read_only"] = "on"
        return [f"SET {scope} {name} = {value}" for name, value in said.items()]

    def _see_the_same_installation(self, handle: psycopg.Connection[Row]) -> None:
        there = handle.execute(f"SELECT to_regclass('{self.schema}.installation')::text".encode()).fetchall()[0][0]
        found = None
        if there is not None:
            rows = handle.execute(f"SELECT id FROM {self.schema}.installation".encode()).fetchall()  # noqa: S608 - a checked name
            found = rows[0][0] if rows else None
        if self._installation is not None and found != self._installation:
            raise StoreMoved(
                f"{self.name}: another store is there than was open before: {found}, not {self._installation}"
            )
        self._installation = found

    def _by_arrays(self, sql: str) -> tuple[str, tuple[ColumnType, ...]]:
        """The statement that takes arrays, and their types in its order."""
        known = self._array_statements.get(sql)
        if known is None:
            names = array_types(sql)
            text = translated_statement(sql)
            if names is None:
                table, columns, _ = insert_target(sql)
                kinds: dict[str, str] = dict(self.query(COLUMN_TYPES, (self.schema, table)))
                names = tuple(kinds[column] for column in columns)
                text = insert_from_arrays(sql, names)
            known = self._array_statements[sql] = text, tuple(TYPES[name] for name in names)
        return known


class _Context:
    """What the driver asks for where it looks adapters up."""

    adapters = _ADAPTERS
    connection = None


# The counter is one of ours.
COUNTED = "WITH new AS ({text} RETURNING 1) SELECT add_to_counter('{counter}', count(*)) FROM new"
TIMELINE = """
    SELECT system_identifier || '/' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)
    FROM pg_control_system()"""
LIMIT_IDLE = """
    SELECT set_config('idle_in_transaction_session_timeout', '{milliseconds}', true)
    WHERE current_setting('idle_in_transaction_session_timeout') = '0'"""
COLUMN_TYPES = """
    SELECT column_name::text, data_type::text FROM information_schema.columns
    WHERE table_schema = ? AND table_name = ? ORDER BY ordinal_position"""
