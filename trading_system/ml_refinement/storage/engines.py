"""Which engine holds a store: what its place says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trading_system.ml_refinement.storage.engine import ArchiveEngine, Engine
from trading_system.ml_refinement.storage.errors import StoreError
from trading_system.ml_refinement.storage.postgres.place import is_postgres
from trading_system.ml_refinement.storage.sqlite.engine import SqliteArchive, SqliteEngine


def engine_at(place: str | Path, *, read_only: bool = False) -> Engine:
    """The engine of the store at a path, or at a URL of PostgreSQL; nothing is opened yet.

    Raises:
        StoreError: PostgreSQL's driver is not installed.
        ValueError: the URL cannot be used.
    """
    if not is_postgres(place):
        return SqliteEngine(place, read_only=read_only)
    with _driver_there():
        from trading_system.ml_refinement.storage.postgres.engine import PostgresEngine  # loads the driver
    return PostgresEngine(str(place), read_only=read_only)


def archive_at(place: str | Path, *, read_only: bool = False) -> ArchiveEngine:
    """The engine of the archive at a path, or in the store at a URL of PostgreSQL; nothing is opened yet.

    Raises:
        StoreError: PostgreSQL's driver is not installed.
        ValueError: the URL cannot be used.
    """
    if not is_postgres(place):
        return SqliteArchive(place, read_only=read_only)
    with _driver_there():
        from trading_system.ml_refinement.storage.postgres.archive import PostgresArchive  # loads the driver
    return PostgresArchive(str(place), read_only=read_only)


@contextmanager
def _driver_there() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise StoreError(
            f"a store in PostgreSQL needs its driver: pip install 'signal-refinery[postgres]' ({error})"
        ) from error
