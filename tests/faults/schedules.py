"""What happens, and to whom: made from a seed, the same each time."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.faults.wire import ACTIONS
from tests.support.disk import DiskPlan

#: Where a worker is killed: a method of ours, before it begins or after it is done.
CRASH_POINTS = (
    "read", "claimed", "archived", "decoded", "computed", "begin", "written", "outcomes", "dead-lettered",
    "before commit", "after commit", "before settle", "sent", "published", "after ack", "charged",
)  # fmt: skip
#: Where a training is killed: in the process that trains.
TRAINING_CRASH_POINTS = (
    "job taken", "lock held", "run entered", "data read", "folds done", "fitted", "before file", "file written",
    "file renamed", "model entered", "settling", "activated", "before activation commits", "after activation committed",
    "watched", "returned",
)  # fmt: skip
VICTIMS = ("horse", "trainer", "both")


@dataclass
class Life:
    """What happens to one worker."""

    crash_point: str | None = None
    nth: int = 1
    #: Killed after so many of its file operations.
    at_file_operation: int | None = None
    disk: DiskPlan | None = None
    through_wire: bool = False
    kill_after_s: float | None = None
    stop_after_s: float | None = None
    #: Told to end in good order (SIGTERM) after so long.
    term_after_s: float | None = None
    #: How much longer every batch takes.
    slow_s: float = 0.0
    role: str = "worker"
    slot: int | None = None
    begin_after_s: float = 0.0
    #: For trainers: who is killed, the process that trains, the RQ worker above it, or both.
    victim: str = "trainer"


@dataclass
class Schedule:
    """Rounds of lives that run beside each other, and what is done to the server meanwhile."""

    seed: int
    kind: str
    rounds: list[list[Life]]
    wire: tuple[str, ...] = ()
    one_in: int = 10
    disaster: str | None = None
    archive: bool = True
    #: For trainings: whether a model serves at the beginning, and how often RQ has the same job.
    champion: bool = True
    copies: int = 1
    #: Whether the server is Redis 7, where there is one.
    on_redis_7: bool = False
    #: What only the run of this kind knows how to read.
    details: dict[str, Any] = field(default_factory=dict)


Plan = Callable[[random.Random, Schedule], None]


def _kill(rng: random.Random, made: Schedule) -> None:
    made.rounds = [[killed(rng)] for _ in range(rng.randint(1, 4))]


def _several(rng: random.Random, made: Schedule) -> None:
    made.rounds = [[killed(rng) if rng.random() < 0.6 else Life() for _ in range(rng.randint(2, 3))] for _ in "ab"]


def _disk(rng: random.Random, made: Schedule) -> None:
    times = rng.choice([1, 1, 2, 5, 1_000_000])
    plan = DiskPlan(rng.choice(["write", "sync"]), rng.randint(1, 12), rng.choice(["EIO", "ENOSPC"]), times)
    made.rounds = [[Life(disk=plan, kill_after_s=1.0 if times > 5 else None)]]
    if rng.random() < 0.3:
        made.rounds.append([Life(disk=DiskPlan("write", rng.randint(1, 9), "EIO", 1), crash_point="after commit")])


def _wire(rng: random.Random, made: Schedule) -> None:
    made.wire = tuple(rng.sample(ACTIONS, rng.randint(1, 3)))
    made.one_in = rng.randint(5, 12)
    made.rounds = [[Life(through_wire=True, kill_after_s=1.5)] * rng.randint(1, 2)]


def _stop(rng: random.Random, made: Schedule) -> None:
    made.rounds = [[Life(stop_after_s=rng.uniform(0, 0.15)), Life(stop_after_s=rng.choice([None, 0.1]))]]


def _server(rng: random.Random, made: Schedule) -> None:
    made.disaster = "kill server"
    made.rounds = [[Life() for _ in range(rng.randint(1, 2))]]


def _server_loses(rng: random.Random, made: Schedule) -> None:
    made.disaster = rng.choice(["flush", "destroy group", "trim"])
    made.rounds = [[killed(rng)], [Life() for _ in range(rng.randint(1, 2))]]


def _training(rng: random.Random, made: Schedule) -> None:
    made.champion = rng.random() < 0.7
    made.copies = rng.choice([1, 1, 2, 3])
    made.rounds = [_trainers(rng) for _ in range(rng.choice([1, 1, 2]))]


def _replay(rng: random.Random, made: Schedule) -> None:
    made.rounds = [[Life()], [Life(role="replayer", kill_after_s=rng.choice([None, 0.02])), Life(role="replayer")]]
    made.rounds.append([killed(rng), Life(role="replayer")])


PLANS: dict[str, Plan] = {
    "kill": _kill, "training": _training, "several": _several, "disk": _disk, "wire": _wire, "stop": _stop,
    "server": _server, "server loses": _server_loses, "replay": _replay,
}  # fmt: skip


def _trainers(rng: random.Random) -> list[Life]:
    """One or two trainers, each killed somewhere or stopped for a while, and a worker beside them; now and then also a
    notebook that trains without asking anybody, while they do.
    """
    lives = [_killed_trainer(rng) for _ in range(rng.choice([1, 2]))]
    if len(lives) == 2 and rng.random() < 0.5:
        lives[0] = Life(role="trainer", stop_after_s=rng.uniform(0.2, 1.5), victim=rng.choice(VICTIMS[:2]))
    if rng.random() < 0.3:
        lives.append(Life(role="notebook", begin_after_s=rng.uniform(0, 1.5)))
    return [*lives, Life() if rng.random() < 0.5 else killed(rng)]


def _killed_trainer(rng: random.Random) -> Life:
    victim = rng.choice(VICTIMS)
    if rng.random() < 0.4:
        return Life(role="trainer", kill_after_s=rng.uniform(0.1, 2.0), victim=victim)
    crash_point = rng.choice(TRAINING_CRASH_POINTS)
    nth = rng.randint(1, 3) if crash_point in ("before file", "file written", "file renamed", "model entered") else 1
    return Life(role="trainer", crash_point=crash_point, nth=nth, victim=victim)


def at_crash_point(crash_point: str) -> Schedule:
    """A worker, or a training, killed at that crash point for certain, and another after it."""
    if crash_point in TRAINING_CRASH_POINTS:
        place = TRAINING_CRASH_POINTS.index(crash_point)
        life = Life(role="trainer", crash_point=crash_point, victim=VICTIMS[place % len(VICTIMS)])
        return Schedule(2 * 10**9 + place, f"at {crash_point}", [[life]])
    rounds = [[Life(crash_point=crash_point)], [Life(crash_point=crash_point, nth=2)]]
    if crash_point == "claimed":
        rounds = [[Life(crash_point="read")], [Life(crash_point=crash_point, slot=1)]]
    if crash_point == "charged":
        rounds = [[Life(crash_point="computed")] for _ in range(3)] + [[Life(crash_point=crash_point)]]
    return Schedule(10**9 + CRASH_POINTS.index(crash_point), f"at {crash_point}", rounds)


def killed(rng: random.Random) -> Life:
    if rng.random() < 0.25:
        return Life(kill_after_s=rng.uniform(0.0, 0.25))
    return Life(crash_point=rng.choice(CRASH_POINTS), nth=rng.randint(1, 3))
