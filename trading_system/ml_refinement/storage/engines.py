"""Which engine holds a store: what its place says."""

from __future__ import annotations

from pathlib import Path

from trading_system.ml_refinement.storage.engine import Engine
from trading_system.ml_refinement.storage.errors import StoreError
from trading_system.ml_refinement.storage.postgres.place import is_postgres
from trading_system.ml_refinement.storage.sqlite.engine import SqliteEngine


def engine_at(place: str | Path, *, read_only: bool = False) -> Engine:
    """The engine of the store at a path, or at a URL of PostgreSQL; nothing is opened yet.

    Raises:
        StoreError: PostgreSQL's driver is not installed.
        ValueError: the URL cannot be used.
    """
    if not is_postgres(place):
        return SqliteEngine(place, read_only=read_only)
    try:
        from trading_system.ml_refinement.storage.postgres.engine import PostgresEngine  # loads the driver
    except ImportError as error:
        raise StoreError(
            f"a store in PostgreSQL needs its driver: pip install 'signal-refinery[postgres]' ({error})"
        ) from error
    return PostgresEngine(str(place), read_only=read_only)
