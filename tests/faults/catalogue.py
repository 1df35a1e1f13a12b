"""Every kind of schedule: how it is made from a seed, and what runs it."""

from __future__ import annotations

import random

from tests.faults.fault_harness import ScheduleRun
from tests.faults.kinds import clocks, failover, redis_side
from tests.faults.schedules import PLANS as OF_WORKERS, Plan, Schedule
from tests.faults.training import TrainingRun

#: Seeds take the kinds by turns; one that stands twice has twice as many.
KINDS = (
    "kill", "training", "several", "disk", "wire", "stop", "server", "server loses", "replay",
    "trimmed", "full", "rights", "clock", "failover", "kill", "trimmed", "rights", "clock", "failover", "full",
)  # fmt: skip
PLANS: dict[str, Plan] = OF_WORKERS | redis_side.PLANS | clocks.PLANS | failover.PLANS
RUNS: dict[str, type[ScheduleRun]] = {"training": TrainingRun} | redis_side.RUNS | clocks.RUNS | failover.RUNS


def schedule(seed: int) -> Schedule:
    """The schedule of a seed."""
    rng = random.Random(f"schedule {seed}")
    made = Schedule(seed, KINDS[seed % len(KINDS)], [], archive=random.Random(f"archive {seed}").random() < 0.7)
    made.on_redis_7 = random.Random(f"server {seed}").random() < 0.25
    PLANS[made.kind](rng, made)
    return made


def run_of(made: Schedule) -> type[ScheduleRun]:
    """What runs the schedule."""
    trains = any(life.role == "trainer" for lives in made.rounds for life in lives)
    return TrainingRun if trains else RUNS.get(made.kind, ScheduleRun)
