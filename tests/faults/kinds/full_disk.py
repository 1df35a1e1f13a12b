"""A disk, a real one, that has no room left for a while: that of the store, of the server, of a backup, of models."""

from __future__ import annotations

import os
import random
import shutil
import sys
import time
from contextlib import redirect_stderr, suppress
from typing import Any, ClassVar

import orjson
import redis

from tests.faults.fault_harness import FaultHarness, Place, ScheduleRun
from tests.faults.invariants import Verdict
from tests.faults.kinds.commands import BackupRun
from tests.faults.kinds.redis_side import busy_workers
from tests.faults.schedules import Life, Plan, Schedule
from tests.faults.training import TrainingRun
from tests.support.processes import until
from tests.support.small_disk import SmallDisk
from trading_system.ml_refinement.storage import Filter, StoreError
from worker.cli.main import main
from worker.errors import RefineryError
from worker.installation import open_store
from worker.settings.schema import Settings

_MEGABYTES = 24


def _full_while(role: str = "worker") -> Plan:
    """A worker that begins; then busy ones, and whoever has that role, while the disk is full for a while."""

    def plan(rng: random.Random, made: Schedule) -> None:
        trains = role == "trainer"
        full = rng.uniform(0.0, 2.0 if trains else 0.3)
        room = full + rng.uniform(0.05, 1.0 if trains else 0.5)
        made.details.update(full=full, room=room)
        begins = 0.0 if trains else rng.uniform(max(0.0, full - 0.1), room)
        made.rounds = [[Life()], [Life(role=role, begin_after_s=begins), *busy_workers(rng)]]

    return plan


def _disk(harness: FaultHarness) -> SmallDisk:
    """The small disk that runs of a harness share."""
    if "disk" not in harness.shared:
        harness.shared["disk"] = SmallDisk(harness.directory / "disk", megabytes=_MEGABYTES)
        harness.keep(harness.shared["disk"].close)
    disk: SmallDisk = harness.shared["disk"]
    return disk


class _FullRun(ScheduleRun):
    """A disk that is full for a while in the last round."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._disk = _disk(self._harness)

    def _round(self, lives: list[Life], events: list[tuple[str, bytes]]) -> None:
        details = self._made.details
        if lives is self._made.rounds[-1]:
            self._due = [(details["full"], self._disk.fill), (details["room"], self._disk.make_room)]
        super()._round(lives, events)

    def _undisturb(self) -> None:
        self._disk.make_room()


class _StoreOnDisk(_FullRun):
    """Store, archive and models lie on the disk; they are judged, and kept for a look, in their usual place."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._usual, self._state = self._state, self._disk.place / "var"
        self._market = self._state / "bars"
        shutil.rmtree(self._state, ignore_errors=True)

    def _judge(self) -> Verdict:
        shutil.copytree(self._state, self._usual)
        self._state = self._usual
        return super()._judge()


class _ServerOnDisk(_FullRun):
    """The server's append file lies on the disk."""

    def _find_place(self) -> Place:
        on_redis_7 = self._made.on_redis_7 and self._harness.redis_7 is not None
        name = "server7" if on_redis_7 else "server"
        if name not in self._harness.shared:
            binary = self._harness.redis_7 if on_redis_7 else None
            self._harness.shared[name] = Place.at(_disk(self._harness).place / name, binary)
            self._harness.keep(self._harness.shared[name].close)
        place: Place = self._harness.shared[name]
        return place

    def _set_up(self) -> None:
        super()._set_up()
        with suppress(redis.ResponseError):  # one is going on
            until(lambda: self._client.bgrewriteaof())  # what the schedules before this one left takes no room


class _BothOnDisk(_StoreOnDisk, _ServerOnDisk):
    """One disk for everything, as of an installation on one machine."""


class _BackupOnDisk(_FullRun, BackupRun):
    """What is written is a backup: it fails and leaves nothing, or is whole."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._target = self._disk.place / "backup"
        shutil.rmtree(self._target, ignore_errors=True)

    def _act(self, life: Life, settings: Settings) -> None:
        time.sleep(life.begin_after_s)
        with suppress(RefineryError, StoreError, OSError):
            super()._act(life, settings)
        if (self._disk.place / ".backup.partial").exists():
            raise RuntimeError("a backup that failed left something")


class _ExportOnDisk(_FullRun):
    """What is written are dead letters: the command says that it failed, or all that there were are in the file."""

    def _act(self, life: Life, settings: Settings) -> None:
        time.sleep(life.begin_after_s)
        with open_store(settings) as store:
            wanted = {row.id for row in store.dead_letters.find(Filter(status=None))}
        path = self._disk.place / "export"
        os.environ["REFINERY_STATE_DIR"] = str(settings.state_dir)
        sys.argv = ["refinery", "dead-letters", "export", str(path)]
        try:
            with open(os.devnull, "w") as told, redirect_stderr(told):
                main()
        except SystemExit as ended:
            if ended.code not in (0, 1):
                raise
            if ended.code == 0:
                written = {orjson.loads(line)["id"] for line in path.read_bytes().splitlines()}
                assert wanted <= written, f"{wanted - written} were not written, and the command said nothing"


class _ModelsOnDisk(_StoreOnDisk, TrainingRun):
    """What is written are models beside the store: a training may fail for want of room, and the next one completes."""

    _fair: ClassVar[tuple[str, ...]] = (*TrainingRun._fair, "disk_full")


PLANS: dict[str, Plan] = {
    "no room: store": _full_while(),
    "no room: server": _full_while(),
    "no room: both": _full_while(),
    "no room: backup": _full_while("backup"),
    "no room: export": _full_while("export"),
    "no room: models": _full_while("trainer"),
}
RUNS: dict[str, type[ScheduleRun]] = {
    "no room: store": _StoreOnDisk,
    "no room: server": _ServerOnDisk,
    "no room: both": _BothOnDisk,
    "no room: backup": _BackupOnDisk,
    "no room: export": _ExportOnDisk,
    "no room: models": _ModelsOnDisk,
}
