"""Every kind of schedule: how it is made from a seed, and what runs it."""

from __future__ import annotations

import random
from collections import ChainMap

from tests.faults.fault_harness import EngineName, ScheduleRun
from tests.faults.kinds import (
    clocks,
    commands,
    failover,
    full_disk,
    letters,
    postgres_side,
    redis_side,
    sentinels,
    sharded,
    store_side,
)
from tests.faults.schedules import PLANS as OF_WORKERS, Plan, Schedule
from tests.faults.training import TrainingRun

#: Seeds take the kinds by turns; one that stands twice has twice as many.
KINDS = (
    "kill", "training", "several", "disk", "wire", "stop", "server", "server loses", "replay",
    "trimmed", "full", "rights", "clock", "failover", "kill", "trimmed", "rights", "clock", "failover", "full",
    "moved", "backup", "restore", "prune", "rebuild", "migration", "letters",
    "no room: store", "no room: server", "no room: both", "no room: backup", "no room: export", "no room: models",
    "sentinels",
)  # fmt: skip
#: Those on stores in PostgreSQL: not what is about files; and what happens to servers of databases.
ON_POSTGRES = (
    "kill", "database", "training", "several", "sessions", "wire", "promoted", "stop", "server", "server loses",
    "replay", "database", "trimmed", "full", "promoted", "rights", "clock", "failover", "sessions", "letters", "prune",
    "rebuild", "sentinels", "sharded", "sharded",
)  # fmt: skip
KINDS_OF: dict[EngineName, tuple[str, ...]] = {"sqlite": KINDS, "postgresql": ON_POSTGRES}
_OTHERS = (postgres_side, redis_side, clocks, failover, sentinels, sharded, store_side, commands, letters, full_disk)
PLANS: dict[str, Plan] = dict(ChainMap(OF_WORKERS, *(others.PLANS for others in _OTHERS)))
RUNS: dict[str, type[ScheduleRun]] = dict(ChainMap({"training": TrainingRun}, *(others.RUNS for others in _OTHERS)))


def schedule(seed: int, engine: EngineName = "sqlite") -> Schedule:
    """The schedule of a seed, on stores of that engine."""
    kinds = KINDS_OF[engine]
    rng = random.Random(f"schedule {seed}")
    made = Schedule(seed, kinds[seed % len(kinds)], [], archive=random.Random(f"archive {seed}").random() < 0.7)
    made.on_redis_7 = random.Random(f"server {seed}").random() < 0.25
    PLANS[made.kind](rng, made)
    return made


def run_of(made: Schedule) -> type[ScheduleRun]:
    """What runs the schedule."""
    trains = any(life.role == "trainer" for lives in made.rounds for life in lives)
    return RUNS.get(made.kind) or (TrainingRun if trains else ScheduleRun)
