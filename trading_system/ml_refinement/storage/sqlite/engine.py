"""A store in one SQLite file: its schema, also where another program began it, and what can be told of the file."""

from __future__ import annotations

import os
from pathlib import Path

from trading_system.ml_refinement.storage.engine import ArchiveEngine, Engine
from trading_system.ml_refinement.storage.quarantine import CHECKED_BEFORE, QUARANTINE_STEP, QuarantineGroup
from trading_system.ml_refinement.storage.schema import migrate, steps
from trading_system.ml_refinement.storage.sqlite.connection import SqliteConnection
from trading_system.ml_refinement.storage.sqlite.sql_connection import SqlConnection
from trading_system.ml_refinement.storage.times import Clock, utc_text


class SqliteEngine(Engine):
    """SQLite, with one file."""

    on_a_server = False
    connection: SqlConnection

    def __init__(self, path: str | Path, *, read_only: bool) -> None:
        self.connection = SqlConnection(path, read_only=read_only)

    def initialize(self, clock: Clock) -> None:
        """Create the file, or bring its schema up to date. Read-only: check that it is.

        Raises:
            SchemaMismatch: a newer release made it, or it is read-only and not up to date.
        """
        self.upgrade(clock)

    def upgrade(self, clock: Clock, *, shards: int = 1) -> list[int]:  # noqa: ARG002 - SQLite has one write lock
        """See `initialize`; the steps that were applied.

        Raises:
            SchemaMismatch: a newer release made it, or it is read-only and not up to date.
        """
        scripts = steps()
        found: list[QuarantineGroup] = []

        def prepare(step: int) -> None:
            from trading_system.ml_refinement.storage.sqlite.adoption import adopt  # only an older store needs it

            now = utc_text(clock())
            found.extend(adopt(self.connection, now, step=step, quarantine_sql=scripts[QUARANTINE_STEP]))

        applied = migrate(self.connection, scripts, clock, prepared=CHECKED_BEFORE, prepare=prepare)
        if applied:
            from loguru import logger  # only now: an up-to-date store is opened by many a short command

            logger.info("store {}: schema steps applied: {}", self.connection.path, applied)
            for table, action, reason, rows in found:
                logger.warning(
                    "store {}: {} rows of {} {}: {}; kept as they were in the table quarantine",
                    self.connection.path,
                    rows,
                    table,
                    action,
                    reason,
                )
        return applied

    def sizes(self) -> dict[str, int]:
        """See `Engine.sizes`: the file, and its write-ahead log."""
        files = {"store": f"{self.connection.path}", "store_wal": f"{self.connection.path}-wal"}
        return {name: os.stat(path).st_size if os.path.exists(path) else 0 for name, path in files.items()}

    def damage(self) -> str | None:
        """See `Engine.damage`: SQLite's quick check."""
        found = str(self.connection.query("PRAGMA quick_check(1)")[0][0])
        return None if found == "ok" else found


class SqliteArchive(ArchiveEngine):
    """SQLite, with the archive's file. Synchronous NORMAL: after a power cut the newest events may be gone."""

    def __init__(self, path: str | Path, *, read_only: bool) -> None:
        self.connection = SqliteConnection(path, read_only=read_only, synchronous="NORMAL")

    def initialize(self, clock: Clock) -> None:
        """Create the file, or bring its schema up to date.

        Raises:
            SchemaMismatch: a newer release made it, or it is read-only and not up to date.
        """
        migrate(self.connection, steps("archive_"), clock)
