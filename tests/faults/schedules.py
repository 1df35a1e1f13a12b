"""What happens, and to whom: made from a seed, the same each time."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.faults.wire import ACTIONS
from tests.support.disk import DiskPlan

KINDS = ("kill", "kill", "training", "several", "disk", "wire", "stop", "server", "server loses", "replay")
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
    disk: DiskPlan | None = None
    through_wire: bool = False
    kill_after_s: float | None = None
    stop_after_s: float | None = None
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


def schedule(seed: int) -> Schedule:
    """The schedule of a seed."""
    rng = random.Random(f"schedule {seed}")
    kind = KINDS[seed % len(KINDS)]
    made = Schedule(seed, kind, [], archive=random.Random(f"archive {seed}").random() < 0.7)
    if kind == "kill":
        made.rounds = [[_killed(rng)] for _ in range(rng.randint(1, 4))]
    elif kind == "several":
        made.rounds = [[_killed(rng) if rng.random() < 0.6 else Life() for _ in range(rng.randint(2, 3))] for _ in "ab"]
    elif kind == "disk":
        times = rng.choice([1, 1, 2, 5, 1_000_000])
        plan = DiskPlan(rng.choice(["write", "sync"]), rng.randint(1, 12), rng.choice(["EIO", "ENOSPC"]), times)
        made.rounds = [[Life(disk=plan, kill_after_s=1.0 if times > 5 else None)]]
        if rng.random() < 0.3:
            made.rounds.append([Life(disk=DiskPlan("write", rng.randint(1, 9), "EIO", 1), crash_point="after commit")])
    elif kind == "wire":
        made.wire = tuple(rng.sample(ACTIONS, rng.randint(1, 3)))
        made.one_in = rng.randint(5, 12)
        made.rounds = [[Life(through_wire=True, kill_after_s=1.5)] * rng.randint(1, 2)]
    elif kind == "stop":
        made.rounds = [[Life(stop_after_s=rng.uniform(0, 0.15)), Life(stop_after_s=rng.choice([None, 0.1]))]]
    elif kind == "server":
        made.disaster = "kill server"
        made.rounds = [[Life() for _ in range(rng.randint(1, 2))]]
    elif kind == "server loses":
        made.disaster = rng.choice(["flush", "destroy group", "trim"])
        made.rounds = [[_killed(rng)], [Life() for _ in range(rng.randint(1, 2))]]
    elif kind == "training":
        made.champion = rng.random() < 0.7
        made.copies = rng.choice([1, 1, 2, 3])
        made.rounds = [_trainers(rng) for _ in range(rng.choice([1, 1, 2]))]
    else:
        made.rounds = [[Life()], [Life(role="replayer", kill_after_s=rng.choice([None, 0.02])), Life(role="replayer")]]
        made.rounds.append([_killed(rng), Life(role="replayer")])
    return made


def _trainers(rng: random.Random) -> list[Life]:
    """One or two trainers, each killed somewhere or stopped for a while, and a worker beside them; now and then also a
    notebook that trains without asking anybody, while they do.
    """
    lives = [_killed_trainer(rng) for _ in range(rng.choice([1, 2]))]
    if len(lives) == 2 and rng.random() < 0.5:
        lives[0] = Life(role="trainer", stop_after_s=rng.uniform(0.2, 1.5), victim=rng.choice(VICTIMS[:2]))
    if rng.random() < 0.3:
        lives.append(Life(role="notebook", begin_after_s=rng.uniform(0, 1.5)))
    return [*lives, Life() if rng.random() < 0.5 else _killed(rng)]


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


def _killed(rng: random.Random) -> Life:
    if rng.random() < 0.25:
        return Life(kill_after_s=rng.uniform(0.0, 0.25))
    return Life(crash_point=rng.choice(CRASH_POINTS), nth=rng.randint(1, 3))
