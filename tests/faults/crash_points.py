"""Places in our own code at which a process of a schedule kills itself."""

from __future__ import annotations

import builtins
import io
import os
import signal as signals
from collections.abc import Callable
from typing import Any

import redis

from tests.support.disk import Disk, Journal
from trading_system.ml_refinement.storage import SqliteConnection
from trading_system.ml_refinement.storage.postgres.connection import PostgresConnection
from trading_system.ml_refinement.storage.tables.entries import Attempts
from trading_system.ml_refinement.storage.tables.outcomes import Outcomes
from trading_system.ml_refinement.storage.tables.vectors import Vectors
from worker.consumer.batch_handler import BatchHandler
from worker.dead_letters import DeadLetters
from worker.streams.reader import GroupReader

CONNECTIONS = (SqliteConnection, PostgresConnection)


class Fuse:
    """Burns down each time a place in our code is passed, and then kills.

    Args:
        nth: at which passing.
        die: what kills; by default this process does itself.
    """

    def __init__(self, nth: int, die: Callable[[], None] | None = None) -> None:
        self._left = nth
        self._die = die or (lambda: os.kill(os.getpid(), signals.SIGKILL))

    def burn(self) -> None:
        self._left -= 1
        if self._left <= 0:
            self._die()

    def around(
        self, owner: Any, name: str, *, before: bool = False, only: Callable[..., bool] = lambda *_, **__: True
    ) -> None:
        """Lay the fuse before or after every call of `owner.name` whose arguments satisfy `only`."""
        original = getattr(owner, name)

        def armed(*args: Any, **kwargs: Any) -> Any:
            if before and only(*args, **kwargs):
                self.burn()
            result = original(*args, **kwargs)
            if not before and only(*args, **kwargs) and result != []:
                self.burn()
            return result

        setattr(owner, name, armed)


def arm(crash_point: str, nth: int) -> None:
    """Make this process, a worker, kill itself when it comes to the crash point for the nth time."""
    around = Fuse(nth).around
    match crash_point:
        case "read":
            around(GroupReader, "_read")
        case "claimed":
            around(GroupReader, "claim_idle")
        case "archived":
            around(BatchHandler, "_keep_originals")
        case "decoded":
            around(BatchHandler, "_decoded")
        case "computed":
            around(BatchHandler, "_compute")
        case "begin":
            for engine in CONNECTIONS:
                around(engine, "_begin", only=lambda _, *, writes, shards: writes)
        case "written":
            around(Vectors, "insert_encoded")
        case "outcomes":
            around(Outcomes, "record")
        case "dead-lettered":
            around(DeadLetters, "add")
        case "before commit":
            for engine in CONNECTIONS:
                around(engine, "_commit", before=True)
        case "after commit":
            for engine in CONNECTIONS:
                around(engine, "_commit")
        case "before settle":
            around(GroupReader, "settle", before=True)
        case "sent":
            around(
                redis.connection.AbstractConnection,
                "send_packed_command",
                only=lambda _, data, *__, **___: b"XACK" in b"".join(data),
            )
        case "published":
            around(redis.Redis, "eval", only=lambda _, script, *__, **___: "XACK" in script)
        case "after ack":
            around(GroupReader, "settle")
        case "charged":
            around(Attempts, "charge")


#: What changes files, of the functions that Python's own library goes through.
_FILE_OPERATIONS = ("open", "fsync", "rename", "replace", "mkdir", "rmdir", "unlink", "remove", "chmod")


class _BurningJournal(Journal):
    def __init__(self, fuse: Fuse, counted: tuple[str, ...]) -> None:
        super().__init__()
        self._fuse = fuse
        self._counted = counted

    def note(self, what: str, name: str = "", offset: int = 0, data: bytes = b"") -> None:
        if what in self._counted:
            self._fuse.burn()


def after_file_operation(fuse: Fuse, *, sqlite: tuple[str, ...] = ("write", "truncate", "sync", "delete")) -> Disk:
    """Lay the fuse after everything that this process does to files, itself and, of those kinds, through SQLite; and
    after every statement that it sends to PostgreSQL.

    SQLite forgets a disk that nobody holds: keep what is returned.
    """
    for name in _FILE_OPERATIONS:
        fuse.around(os, name)
    for name in ("query", "run", "run_many", "write_rows"):
        fuse.around(PostgresConnection, name)
    for module in (io, builtins):
        fuse.around(module, "open", only=lambda _, mode="r", *__, **___: isinstance(mode, str) and mode[:1] in "wxa")
    return Disk(journal=_BurningJournal(fuse, sqlite))
