"""Commands that look after an installation, killed after a file operation or at any moment, and run again."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from contextlib import nullcontext, suppress
from datetime import UTC, datetime, timedelta
from os import waitpid
from pathlib import Path
from typing import Any, ClassVar

from tests.faults.fault_harness import LAST_SLOT, ScheduleRun
from tests.faults.invariants import Key, Verdict, judge, published, settled
from tests.faults.kinds.redis_side import busy_workers
from tests.faults.kinds.store_side import adopt
from tests.faults.schedules import Life, Schedule
from tests.support.processes import fork
from tests.support.specification_store import filled
from trading_system.ml_refinement.storage import Filter, StoreDamaged
from trading_system.ml_refinement.storage.sqlite.copies import problems
from worker import app
from worker.dead_letters import DeadLetters
from worker.errors import ConfigurationError
from worker.installation import open_store
from worker.maintenance.backup import back_up, reread, restore
from worker.maintenance.prune import Days, prune
from worker.redis_server.connection import connect
from worker.settings.schema import Settings, load_settings

#: About how many file operations each has, on stores as small as these.
_OPERATIONS = {"backup": 90, "restore": 120, "prune": 60, "rebuild": 90, "migration": 400}
STORE_IS = ("there", "there", "removed", "damaged", "gone with its directory")


def _struck(rng: random.Random, role: str, *, of: str | None = None) -> Life:
    """One that is killed somewhere, now and then only after it was done."""
    if rng.random() < 0.3:
        return Life(role=role, kill_after_s=rng.uniform(0.0, 0.1))
    return Life(role=role, at_file_operation=rng.randint(1, _OPERATIONS[of or role]))


def _beside_workers(role: str) -> Callable[[random.Random, Schedule], None]:
    """Rounds in which the command is killed beside busy workers, and one in which it runs to its end beside them."""

    def plan(rng: random.Random, made: Schedule) -> None:
        made.rounds = [[Life()]]
        made.rounds += [[*busy_workers(rng), _struck(rng, role)] for _ in range(rng.randint(1, 2))]
        made.rounds.append([*busy_workers(rng), Life(role=role)])

    return plan


def restored(rng: random.Random, made: Schedule) -> None:
    """A backup under load; work after it, and perhaps the store's end; restores that are killed, with workers that
    start in between, and one that is not.
    """
    made.rounds = [[Life(), Life(role="backup")], busy_workers(rng)]
    for _ in range(rng.randint(1, 3)):
        made.rounds.append([_struck(rng, "restore")])
        if rng.random() < 0.4:
            made.rounds.append([Life()])
    made.rounds += [[Life(role="restore")], busy_workers(rng)]
    made.details["store is"] = rng.choice(STORE_IS)


def migrated(rng: random.Random, made: Schedule) -> None:
    """Workers begin on a store of the first schema, often two at once, and are killed while they migrate it."""
    for _ in range(rng.randint(1, 3)):
        others = rng.choice([[], [Life()], [_struck(rng, "worker", of="migration")]])
        made.rounds.append([_struck(rng, "worker", of="migration"), *others])


class CommandRun(ScheduleRun):
    """Runs in which one of the lives is a command."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._target: Path = self._state.with_name("backup")

    def _act(self, life: Life, settings: Settings) -> None:
        _COMMANDS[life.role](self, settings)

    def _back_up(self, settings: Settings) -> None:
        if not self._target.exists():
            back_up(settings, self._target, release="chaos", now=datetime.now(UTC))


class BackupRun(CommandRun):
    """A backup is whole or is not there; the last one, restored elsewhere, has what the store has."""

    def _round(self, lives: list[Life], events: list[tuple[str, bytes]]) -> None:
        super()._round(lives, events)
        if self._target.exists():
            found = settled(self._restored() / "features.db")
            self.between += [f"the backup has {key} {count} times" for key, count in found.items() if count > 1]
            shutil.rmtree(self._target)
        elif any(life == Life(role="backup") for life in lives):
            self.between.append("a backup that nobody killed is not there")

    def _restored(self) -> Path:
        elsewhere = load_settings(state_dir=self._state.with_name("elsewhere"))
        restore(elsewhere, self._target, now=datetime.now(UTC))
        for path in (elsewhere.store_path, elsewhere.archive_path):
            if path.exists() and (found := problems(path)):
                self.between.append(f"{path.name} of a backup: {found}")
        return elsewhere.state_dir

    def _judge(self) -> Verdict:
        verdict = super()._judge()
        self._back_up(self._settings(0, Life()))
        labels = self._traffic.labels
        of_copy = judge(self._restored() / "features.db", self._client, must=self.sent, may=self.may, labels=labels)
        verdict.lost += of_copy.lost
        verdict.double += of_copy.double
        verdict.other += of_copy.other
        return verdict


class RestoreRun(CommandRun):
    """What came since the backup is read again from the streams."""

    #: Whether the first restore has begun; just before it the store ends.
    _begun = False

    def _round(self, lives: list[Life], events: list[tuple[str, bytes]]) -> None:
        if any(life.role == "restore" for life in lives):
            self.earlier |= published(self._client)
            if not self._begun:
                self._end_store()
            self._begun = True
        super()._round(lives, events)

    def _end_store(self) -> None:
        match self._made.details["store is"]:
            case "removed":
                for path in self._state.glob("features.db*"):
                    path.unlink()
            case "damaged":
                (self._state / "features.db").write_bytes(self._rng.randbytes(8192))
            case "gone with its directory":
                for path in self._state.iterdir():
                    if path != self._market:
                        shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _live(self, slot: int, life: Life) -> None:
        # A worker refuses a store that is gone, damaged or restored by half.
        may_refuse = slot != LAST_SLOT and life.role == "worker"
        with suppress(ConfigurationError, StoreDamaged) if may_refuse else nullcontext():
            super()._live(slot, life)

    def _restore(self, settings: Settings) -> None:
        restore(settings, self._target, now=datetime.now(UTC))
        if self._made.details["store is"] == "gone with its directory":
            adopt(settings)
        with connect(settings.redis_url or "") as client:
            reread(client, settings)


class PruneRun(CommandRun):
    """Letters that were discarded go, each with one line in the audit; nothing else does."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._discarded: dict[int, Key] = {}

    def _round(self, lives: list[Life], events: list[tuple[str, bytes]]) -> None:
        if any(life.role == "prune" for life in lives):
            self._discard()
        super()._round(lives, events)

    def _discard(self) -> None:
        with open_store(self._settings(0, Life())) as store:
            dead = DeadLetters(store, version="chaos")
            letters = [row for row in dead.chosen([], Filter(status="open")) if row.reason != "no_market_data"]
            dead.discard(letters, "nobody wants them", actor="chaos")
        for row in letters:
            self._discarded[row.id] = key = (row.stream, row.entry_id)
            if key in self.sent:
                self.sent.remove(key)
                self.may.append(key)

    def _prune(self, settings: Settings) -> None:
        # In three days everything is old: also what is in hand.
        prune(settings, Days(1, 1, 1), now=datetime.now(UTC) + timedelta(days=3))

    def _judge(self) -> Verdict:
        verdict = super()._judge()
        with open_store(self._settings(0, Life())) as store:
            for number in self._discarded:
                pruned = [entry.action for entry in store.dead_letters.audit(number)].count("pruned")
                if pruned != 1 or store.dead_letters.get(number) is not None:
                    verdict.other.append(f"dead letter {number} was pruned {pruned} times")
        return verdict


class RebuildRun(CommandRun):
    """In the end every vector is what its event comes to in the new version."""

    _changes: ClassVar[dict[str, Any]] = {"archive": {"enabled": True}}

    def _rebuild(self, _: Settings) -> None:
        with app.feature_rebuild(self._of_the_new_version()) as job:
            job.run()

    def _of_the_new_version(self) -> Settings:
        changed = {"ml": {"features": {"volatility_window": 15}}}
        where = {"state_dir": self._state, "market_data_dir": self._market, **self.stores.settings(self._state)}
        return load_settings(batch_size=4, **where, **changed)

    def _judge(self) -> Verdict:
        verdict = super()._judge()
        _, status = waitpid(fork(self._all_are_right), 0)
        if status:
            verdict.other.append("a vector is not what its event comes to")
        return verdict

    def _all_are_right(self) -> None:
        with app.feature_rebuild(self._of_the_new_version()) as job:
            done = job.run()
            assert done.not_rebuilt == [], done
            assert job.pending() == {}
            again = job.run(force=True)
            assert (again.rebuilt, again.not_rebuilt) == (0, []), again


class MigrationRun(ScheduleRun):
    """A store of the specification's own code, with labels, a model and its predictions."""

    _ROWS = 40

    def _set_up(self) -> None:
        self._state.mkdir(parents=True, mode=0o700)
        filled(self._state / "features.db", self._ROWS)
        self._traffic.labels.update({f"s-{n:03d}": {1.5 if n % 3 else -1.0} for n in range(self._ROWS)})


_COMMANDS: dict[str, Callable[..., None]] = {
    "backup": CommandRun._back_up, "restore": RestoreRun._restore, "prune": PruneRun._prune,
    "rebuild": RebuildRun._rebuild,
}  # fmt: skip
PLANS = {
    "backup": _beside_workers("backup"), "restore": restored, "prune": _beside_workers("prune"),
    "rebuild": _beside_workers("rebuild"), "migration": migrated,
}  # fmt: skip
RUNS: dict[str, type[ScheduleRun]] = {
    "backup": BackupRun, "restore": RestoreRun, "prune": PruneRun, "rebuild": RebuildRun, "migration": MigrationRun,
}  # fmt: skip
