"""Where the store of a directory and its archive are: in files, or where the environment says; one that goes away."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.postgres_server import DATABASE, PostgresServer
from trading_system.ml_refinement.storage.postgres.place import read_place
from worker.settings.schema import Settings


def store_place(directory: Path) -> str | Path:
    """The place of the store that processes with this state directory have."""
    return os.environ.get("REFINERY_STORE_URL") or directory / "features.db"


def archive_place(directory: Path) -> str | Path:
    """The place of the archive that processes with this state directory have."""
    return os.environ.get("REFINERY_STORE_URL") or directory / "events.db"


class StoreAway:
    """A store that is not where it was, under its processes, and is put back as it was.

    Args:
        settings: of the processes.
        server: which has the store, where no file does.
    """

    def __init__(self, settings: Settings, server: PostgresServer | None = None) -> None:
        self._path = settings.store_path
        self._server = server
        self._schema = "" if settings.store_url is None else read_place(settings.store_url).schema

    def take(self) -> None:
        if self._server is None:
            self._path.rename(self._path.with_name("away.db"))
        else:
            self._rename(self._schema, f"{self._schema}_away")

    def put_back(self) -> None:
        if self._server is None:
            self._path.with_name("away.db").rename(self._path)
        else:
            self._rename(f"{self._schema}_away", self._schema)

    def _rename(self, before: str, after: str) -> None:
        assert self._server is not None
        self._server.run_sql(f'ALTER SCHEMA "{before}" RENAME TO "{after}"', database=DATABASE)
