"""A thousand dead letters whose cause is gone, replayed by whoever is killed in the middle, and replayed again."""

from __future__ import annotations

import os
import random
import threading
from functools import partial
from typing import Any, ClassVar

import orjson

from tests.faults.crash_points import Fuse
from tests.faults.fault_harness import ScheduleRun, replay_all, work
from tests.faults.kinds.redis_side import busy_workers
from tests.faults.schedules import Life, Schedule
from tests.support.desk import settings_for
from tests.support.events import SIGNALS, signal
from tests.support.processes import fork
from trading_system.ml_refinement.storage import FeatureDatabase, Filter
from trading_system.ml_refinement.storage.tables.replays import Replays
from worker import dead_letters
from worker.settings.schema import Settings

COUNT = 1000
#: Where a replay is killed, how often each is passed, and where it is laid.
CRASH_POINTS: dict[str, tuple[int, Any, str]] = {
    "asked for": (COUNT // 100, Replays, "ask"),
    "appended": (COUNT, dead_letters, "append"),
    "noted": (COUNT, Replays, "sent"),
}


def replayed(rng: random.Random, made: Schedule) -> None:
    """Rounds in which one or two replays are killed, most of them beside workers, and one in which none is."""
    for _ in range(rng.randint(1, 2)):
        lives = [_killed_replay(rng) for _ in range(rng.choice([1, 1, 2]))]
        made.rounds.append(lives + (busy_workers(rng) if rng.random() < 0.7 else []))
    made.rounds.append([Life(role="replayer"), *busy_workers(rng)])


def _killed_replay(rng: random.Random) -> Life:
    if rng.random() < 0.3:
        return Life(role="replayer", kill_after_s=rng.uniform(0.1, 1.0))
    crash_point = rng.choice(list(CRASH_POINTS))
    return Life(role="replayer", crash_point=crash_point, nth=rng.randint(1, CRASH_POINTS[crash_point][0]))


class LettersRun(ScheduleRun):
    """A store that begins with its dead letters; the bars that they died for want of are there."""

    _changes: ClassVar[dict[str, Any]] = {"batch_size": 50}

    def _set_up(self) -> None:
        self.stores.copy(self._prepared(), self._state)
        with FeatureDatabase(self._store) as store:
            letters = store.dead_letters.find(Filter(reason="no_market_data"), limit=COUNT)
        self.sent += [(letter.stream, letter.entry_id) for letter in letters]
        self._traffic.labels.update({str(letter.signal_id): {None} for letter in letters})

    def _prepared(self) -> Any:
        """The store after a worker refused them all; made once for each harness."""
        kept = self._harness.directory / "letters"
        if not kept.exists():
            growing = kept.with_suffix(".new")
            self.stores.copy(self._harness.template, growing)
            (growing / "no-bars").mkdir()
            made = {name: value for name, value in signal(0).items() if name != "bars"}
            with self._client.pipeline() as pipe:
                for number in range(COUNT):
                    pipe.xadd(SIGNALS, {"data": orjson.dumps(made | {"signal_id": f"letter-{number}"})})
                pipe.execute()
            quick = {"market_data_dir": growing / "no-bars", "batch_size": 200, "block_ms": 5}
            settings = settings_for(growing, self._url, **quick, **self.stores.settings(growing))
            _, status = os.waitpid(fork(partial(work, settings, threading.Event(), idle_rounds=3)), 0)
            self._client.flushall()
            if status:
                raise RuntimeError("the dead letters could not be made")
            self.stores.rename(growing, kept)
        return kept

    def _round(self, lives: list[Life], events: list[tuple[str, bytes]]) -> None:
        self._supply_bars()
        super()._round(lives, events)

    def _act(self, life: Life, settings: Settings) -> None:
        if life.crash_point is not None:
            _, owner, name = CRASH_POINTS[life.crash_point]
            Fuse(life.nth).around(owner, name)
        replay_all(settings)


PLANS = {"letters": replayed}
RUNS: dict[str, type[ScheduleRun]] = {"letters": LettersRun}
