"""A disk that fails on purpose, and one that forgets: an SQLite VFS that stands in for the real one in this process."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

_ERRORS = {
    "EIO": {"write": "SQLITE_IOERR_WRITE", "sync": "SQLITE_IOERR_FSYNC"},
    "ENOSPC": {"write": "SQLITE_FULL", "sync": "SQLITE_FULL"},
}


@dataclass
class DiskPlan:
    """The `nth` write or sync of files whose name ends so, and the `times` - 1 after it, fail."""

    operation: str
    nth: int
    error: str
    times: int
    suffix: tuple[str, ...] = ("features.db", "features.db-wal")
    seen: int = 0
    failed: int = 0

    def strikes(self, operation: str, name: str) -> bool:
        if operation != self.operation or not name.endswith(self.suffix):
            return False
        self.seen += 1
        if self.seen >= self.nth and self.failed < self.times:
            self.failed += 1
            return True
        return False


@dataclass
class Journal:
    """Everything that was done to the files, in order: (what, file name, offset, bytes)."""

    operations: list[tuple[str, str, int, bytes]] = field(default_factory=list)

    def note(self, what: str, name: str = "", offset: int = 0, data: bytes = b"") -> None:
        self.operations.append((what, Path(name).name, offset, data))


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        super().__init__("unix", name, flags)
        self._disk = disk
        self._name = name.filename() if isinstance(name, apsw.URIFilename) else str(name)

    def excepthook(self, *_: Any) -> None:
        """What is raised on purpose needs no traceback on stderr."""

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.strike("write", self._name)
        super().xWrite(data, offset)
        self._disk.note("write", self._name, offset, bytes(data))

    def xTruncate(self, size: int) -> None:
        super().xTruncate(size)
        self._disk.note("truncate", self._name, size)

    def xSync(self, flags: int) -> None:
        self._disk.strike("sync", self._name)
        super().xSync(flags)
        self._disk.note("sync", self._name)


class Disk(apsw.VFS):
    """Becomes this process's disk for SQLite when it is made, until `close`."""

    def __init__(self, plans: Sequence[DiskPlan] = (), journal: Journal | None = None) -> None:
        self._plans = list(plans)
        self._journal = journal
        super().__init__("on-purpose", "unix", makedefault=True)

    def excepthook(self, *_: Any) -> None:
        """What is raised on purpose needs no traceback on stderr."""

    def close(self) -> None:
        """Give the process its own disk back."""
        self.unregister()

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return _File(self, name, flags)

    def xDelete(self, name: str, sync_directory: bool) -> None:
        super().xDelete(name, sync_directory)
        self.note("delete", name)

    def strike(self, operation: str, name: str) -> None:
        for plan in self._plans:
            if plan.strikes(operation, name):
                code = _ERRORS[plan.error][operation]
                raised = apsw.FullError(code) if code == "SQLITE_FULL" else apsw.IOError(code)
                raised.extendedresult = getattr(apsw, code)
                raise raised

    def note(self, what: str, name: str, offset: int = 0, data: bytes = b"") -> None:
        if self._journal is not None:
            self._journal.note(what, name, offset, data)


def after_power_cut(
    start: dict[str, bytes], operations: Sequence[tuple[str, str, int, bytes]], rng: random.Random
) -> dict[str, bytes]:
    """The files as a power cut leaves them: what was synced, and of what was not any part, torn or not."""
    durable = {name: bytearray(data) for name, data in start.items()}
    waiting: dict[str, list[tuple[str, int, bytes]]] = {}
    for what, name, offset, data in operations:
        if what == "sync":
            for change in waiting.pop(name, []):
                _apply(durable.setdefault(name, bytearray()), *change)
        elif what == "delete":
            waiting.pop(name, None)
            durable.pop(name, None)
        elif what in ("write", "truncate"):
            waiting.setdefault(name, []).append((what, offset, data))
    mood = rng.random()
    for name, changes in waiting.items():
        for what, offset, data in changes:
            if mood < 0.3:
                continue  # nothing of it arrived
            if mood < 0.5 or rng.random() < 0.5:
                kept = data if rng.random() < 0.7 else data[: rng.randrange(len(data) + 1) // 512 * 512]
                _apply(durable.setdefault(name, bytearray()), what, offset, kept)
    return {name: bytes(data) for name, data in durable.items()}


def _apply(file: bytearray, what: str, offset: int, data: bytes) -> None:
    if what == "truncate":
        del file[offset:]
        return
    if len(file) < offset:
        file.extend(bytes(offset - len(file)))
    file[offset : offset + len(data)] = data
