"""Where the stores of schedules are: in a file each, or in a database each of a PostgreSQL of their own."""

from __future__ import annotations

import hashlib
import shutil
from abc import ABC, abstractmethod
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.support.postgres_server import ROLE, PostgresServer
from trading_system.ml_refinement.storage import EventArchive, FeatureDatabase


class Stores(ABC):
    """Stores by state directory; what else is in that directory goes along with them."""

    @abstractmethod
    def at(self, state: Path) -> str | Path:
        """The place of the directory's store."""

    @abstractmethod
    def settings(self, state: Path) -> dict[str, Any]:
        """What makes it the store of processes with that state directory."""

    @abstractmethod
    def make(self, state: Path, *, shards: int = 1) -> None:
        """An empty one."""

    def copy(self, kept: Path, state: Path) -> None:
        """A copy of one that nobody has open."""
        shutil.copytree(kept, state)

    def rename(self, growing: Path, kept: Path) -> None:
        """One that is complete now."""
        growing.rename(kept)

    def remove(self, state: Path) -> None:
        """With the directory that is around it."""
        shutil.rmtree(state.parent)


class InFiles(Stores):
    """SQLite's."""

    def at(self, state: Path) -> Path:
        return state / "features.db"

    def settings(self, state: Path) -> dict[str, Any]:
        return {}

    def make(self, state: Path, *, shards: int = 1) -> None:
        with FeatureDatabase(self.at(state)), EventArchive(state / "events.db"):
            pass


class OnAServer(Stores):
    """PostgreSQL's. A copy is a database made from another one, as files are copied.

    Args:
        servers: those that the stores may be on, the primary first.
    """

    def __init__(self, *servers: PostgresServer) -> None:
        self.servers = servers

    def at(self, state: Path) -> str:
        hosts = quote(",".join(str(server.directory) for server in self.servers))
        which = "&target_session_attrs=read-write" if len(self.servers) > 1 else ""
        return f"postgresql://{ROLE}@/{self.database(state)}?host={hosts}{which}"

    def settings(self, state: Path) -> dict[str, Any]:
        return {"store_url": self.at(state)}

    def make(self, state: Path, *, shards: int = 1) -> None:
        state.mkdir(mode=0o700, parents=True)
        self._primary.run_sql(f"CREATE DATABASE {self.database(state)} OWNER {ROLE}")
        with closing(FeatureDatabase(self.at(state))) as store:
            store.upgrade(shards=shards)

    def copy(self, kept: Path, state: Path) -> None:
        super().copy(kept, state)
        # A connection that was just closed may not have ended on the server.
        self.end_sessions(kept, wait_ms=5000)
        self._primary.run_sql(f"CREATE DATABASE {self.database(state)} OWNER {ROLE} TEMPLATE {self.database(kept)}")

    def rename(self, growing: Path, kept: Path) -> None:
        super().rename(growing, kept)
        self._primary.run_sql(f"ALTER DATABASE {self.database(growing)} RENAME TO {self.database(kept)}")

    def remove(self, state: Path) -> None:
        super().remove(state)
        self._primary.run_sql(f"DROP DATABASE {self.database(state)} WITH (FORCE)")

    def end_sessions(self, state: Path, *, wait_ms: int = 0) -> None:
        """End every session of a store, and wait so long for the end of each."""
        which = f"datname = '{self.database(state)}'"
        self._primary.run_sql(f"SELECT pg_terminate_backend(pid, {wait_ms}) FROM pg_stat_activity WHERE {which}")  # noqa: S608

    @property
    def _primary(self) -> PostgresServer:
        return self.servers[0]

    def database(self, state: Path) -> str:
        """The name of the directory's database."""
        return f"of_{hashlib.blake2b(str(state).encode(), digest_size=8).hexdigest()}"
