"""What an operator's mistake does to the store of running workers: it is moved, removed or replaced, and put back."""

from __future__ import annotations

import os
import random
import shutil
import signal as signals
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults.fault_harness import LAST_SLOT, ScheduleRun
from tests.faults.kinds.redis_side import busy_workers
from tests.faults.schedules import Life, Schedule
from trading_system.ml_refinement.storage import FeatureDatabase
from worker.errors import ConfigurationError
from worker.installation import open_store, ownership
from worker.redis_server.connection import connect
from worker.settings.schema import Settings
from worker.state_dir import make_private

#: The database last where they are put back: who finds it takes what is beside it for its own.
_FILES = ("features.db-wal", "features.db-shm", "features.db")
WAYS = ("moved", "removed", "replaced", "exchanged", "rescued")


def displaced(rng: random.Random, made: Schedule) -> None:
    """A worker that enters the streams as its own, and busy ones from which the store goes away."""
    made.rounds = [[Life()], busy_workers(rng)]
    away = rng.uniform(0.02, 0.3)
    made.details.update(way=rng.choice(WAYS), away=away, back=away + rng.uniform(0.05, 0.4))


class DisplacedRun(ScheduleRun):
    """A store that is away for a while.

    Moved: the state directory, and back. Removed: the store's files, and the same ones back. Replaced: another store in
    the place of the directory. Exchanged: a copy in its place, made of it while nothing ran, to stay. Rescued: the
    files removed, copied out of whoever has them open, who is killed then.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._aside = self._state.with_name("aside")

    def _set_up(self) -> None:
        super()._set_up()
        self._aside.mkdir()

    def _round(self, lives: list[Life], events: list[tuple[str, bytes]]) -> None:
        """In the last round most events are sent one by one while the workers run, and while the store is away."""
        details, few = self._made.details, len(events) // 3
        away, back = _WAYS[details["way"]]
        self._due = []
        if lives is self._made.rounds[-1]:
            self._due = [(self._rng.uniform(0, details["back"]), partial(self._send, *one)) for one in events[few:]]
            self._due += [(details["away"], partial(away, self)), (details["back"], partial(back, self))]
            self._due.sort(key=lambda due: due[0])
        super()._round(lives, events[:few])
        if details["way"] == "exchanged" and lives is self._made.rounds[-1]:
            adopt(self._settings(0, Life()))

    def _live(self, slot: int, life: Life) -> None:
        # One that starts while the store is away refuses, and ends.
        with nullcontext() if slot == LAST_SLOT else suppress(ConfigurationError):
            super()._live(slot, life)

    def _move(self) -> None:
        self._state.rename(self._aside / "var")

    def _move_back(self) -> None:
        """In the place of what a worker that starts meanwhile makes there, however often it does."""
        while (self._aside / "var").exists():
            shutil.rmtree(self._state, ignore_errors=True)
            with suppress(OSError):
                (self._aside / "var").rename(self._state)

    def _remove(self) -> None:
        for name in reversed(_FILES):
            with suppress(FileNotFoundError):
                (self._state / name).rename(self._aside / name)

    def _put_back(self) -> None:
        for name in _FILES:
            with suppress(FileNotFoundError):
                (self._aside / name).replace(self._state / name)

    def _replace(self) -> None:
        self._move()
        with FeatureDatabase(self._state / "features.db"):
            pass

    def _exchange(self) -> None:
        """While nothing runs, so that the copy is one, and what is done after it is not in it."""
        self._signal(signals.SIGSTOP)
        shutil.copytree(self._state, self._aside / "copy")
        self._state.rename(self._aside / "before")
        (self._aside / "copy").rename(self._state)
        self._signal(signals.SIGCONT)

    def _end_all(self) -> None:
        self._signal(signals.SIGTERM)

    def _unlink(self) -> None:
        """Only where somebody has them open that stays: who is gone can rescue nothing."""
        self._signal(signals.SIGSTOP)
        if any(True for _ in self._open_files()):
            for name in reversed(_FILES):
                os.link(self._state / name, self._aside / name)
                (self._state / name).unlink()
        self._signal(signals.SIGCONT)

    def _rescue(self) -> None:
        """As docs/operations.md says; from the links where whoever had them open has ended meanwhile."""
        if not (self._aside / "features.db").exists():
            return
        self._signal(signals.SIGSTOP)
        for path, descriptor in self._open_files(deleted=True):
            (self._aside / path.name).unlink()
            shutil.copyfile(descriptor, self._aside / path.name)
        self._signal(signals.SIGKILL)
        (self._aside / "features.db-shm").unlink()
        self._put_back()

    def _open_files(self, *, deleted: bool = False) -> Iterator[tuple[Path, Path]]:
        """The store's file and log that one worker has open: where they were, and the descriptors to read them from."""
        wanted = {self._state / name for name in ("features.db", "features.db-wal")}
        for pid in self._children:
            found = {}
            with suppress(FileNotFoundError, PermissionError):
                for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                    target = os.readlink(descriptor)
                    path = Path(target.removesuffix(" (deleted)"))
                    if path in wanted and target.endswith(" (deleted)") == deleted:
                        found[path] = descriptor
            if found.keys() == wanted:
                yield from found.items()
                return

    def _signal(self, number: signals.Signals) -> None:
        for pid in self._children:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


_WAYS = {
    "moved": (DisplacedRun._move, DisplacedRun._move_back),
    "removed": (DisplacedRun._remove, DisplacedRun._put_back),
    "replaced": (DisplacedRun._replace, DisplacedRun._move_back),
    "exchanged": (DisplacedRun._exchange, DisplacedRun._end_all),
    "rescued": (DisplacedRun._unlink, DisplacedRun._rescue),
}


def adopt(settings: Settings) -> None:
    """As an operator does whose state directory is a copy or a new one, once nothing of the other one runs."""
    make_private(settings.state_dir / "workers")
    with open_store(settings) as store, connect(settings.redis_url or "") as client:
        ownership(settings, client, store).adopt()


PLANS = {"moved": displaced}
RUNS: dict[str, type[ScheduleRun]] = {"moved": DisplacedRun}
