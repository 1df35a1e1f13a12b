"""Whole copies of a database file: made while it is in use, checked, and put in its place when it is not."""

from __future__ import annotations

import os
from pathlib import Path

import apsw

from trading_system.ml_refinement.storage.errors import StoreUnavailable
from trading_system.ml_refinement.storage.schema import version
from trading_system.ml_refinement.storage.sqlite.connection import SqliteConnection
from trading_system.ml_refinement.storage.sqlite.driver_errors import OF_THE_DRIVER, translated

_PAGES_AT_ONCE = 1024


def copy_database(source: Path, target: Path) -> None:
    """Copy a database as of one moment, while others read and write it, into one new file that is on disk.

    Raises:
        StoreUnavailable: the source is not there, or one of the two cannot be read or written now.
        StoreDamaged: the source is no database, or is damaged.
    """
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        reader = apsw.Connection(str(source), flags=apsw.SQLITE_OPEN_READWRITE)
        writer = apsw.Connection(str(target))
        reader.set_busy_timeout(30_000)
        try:
            # One read transaction: the copy would begin anew whenever someone writes.
            reader.execute("BEGIN").execute("SELECT count(*) FROM sqlite_schema").fetchall()
            with writer.backup("main", reader, "main") as copying:
                while not copying.done:
                    copying.step(_PAGES_AT_ONCE)
            writer.execute("PRAGMA journal_mode = DELETE").fetchall()
        finally:
            writer.close()
            reader.close()
    except OF_THE_DRIVER as error:
        raise translated(error, source) from error
    sync(target)


def problems(path: Path) -> list[str]:
    """What is wrong with a database file, first hundred; empty when it is sound.

    Raises:
        StoreDamaged: it is no database.
    """
    connection = SqliteConnection(path, read_only=True)
    try:
        found = [row[0] for row in connection.query("PRAGMA integrity_check")]
        orphans = connection.query('SELECT "table", rowid FROM pragma_foreign_key_check LIMIT 100')
    finally:
        connection.close()
    return [text for text in found if text != "ok"] + [f"{table} {row} refers to nothing" for table, row in orphans]


def schema_step(path: Path) -> int:
    """The last schema step of a database file; 0 for one that is none of ours."""
    connection = SqliteConnection(path, read_only=True)
    try:
        return version(connection)
    finally:
        connection.close()


def fold_alone(path: Path) -> None:
    """Fold the write-ahead log into the file, which only works while nobody else has it open.

    Raises:
        StoreUnavailable: another process has it open.
    """
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            mode = connection.execute("PRAGMA journal_mode = DELETE").fetchall()[0][0]
        finally:
            connection.close()
    except apsw.Error as error:
        raise translated(error, path) from error
    if mode != "delete":
        raise StoreUnavailable(f"{path} is in use by another process")


def sync(path: Path) -> None:
    """Have a file, or a directory's entries, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
