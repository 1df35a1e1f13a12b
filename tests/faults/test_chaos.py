"""The short set of `make chaos`: a kill at every labelled crash point, and each kind of schedule in its turns."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from tests.faults.catalogue import KINDS, KINDS_OF, ON_POSTGRES, schedule
from tests.faults.fault_harness import EngineName, Tally
from tests.faults.kinds import full_disk
from tests.faults.schedules import CRASH_POINTS, TRAINING_CRASH_POINTS
from tests.support.postgres_server import needs_postgres

#: Trainings take long: one kind of them has a test of its own, the other is left to `make chaos`.
WORKERS = sorted(set(KINDS) - {"training", "no room: models"})
WORKERS_ON_POSTGRES = sorted(set(ON_POSTGRES) - {"training"})
#: The places where half a model could be left; `make chaos` kills at all of them.
DELICATE = ("run entered", "file written", "file renamed", "activated", "after activation committed")


def run(directory: Path, *arguments: str, engine: EngineName = "sqlite") -> dict[str, Tally]:
    """What the schedules came to; their seeds are printed, and one is run again with `--seed`."""
    kinds = KINDS_OF[engine]
    seed = random.SystemRandom().randrange(10**6) * len(kinds)
    path = directory / "tallies.json"
    command = [sys.executable, "-m", "tests.faults.chaos", "--processes", "1", "--json", str(path), "--engine", engine]
    turns = sum(kind in arguments for kind in kinds)
    command += ["--schedules", str(turns), "--seed", str(seed), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    sys.stdout.write(done.stdout + done.stderr)
    assert path.exists(), done.stdout + done.stderr
    return {kind: Tally(**values) for kind, values in orjson.loads(path.read_bytes()).items()}


def several(option: str, names: tuple[str, ...] | list[str]) -> list[str]:
    return [word for name in names for word in (option, name)]


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tally]:
    return run(tmp_path_factory.mktemp("chaos"), *several("--at", CRASH_POINTS), *several("--kind", WORKERS))


@pytest.fixture(scope="module")
def on_postgres(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tally]:
    kinds = several("--kind", WORKERS_ON_POSTGRES)
    return run(tmp_path_factory.mktemp("chaos"), *several("--at", CRASH_POINTS), *kinds, engine="postgresql")


def nothing_is_amiss(tally: Tally) -> bool:
    assert tally.failures == []
    return (tally.lost, tally.double, tally.wrong, tally.unfinished) == (0, 0, 0, 0)


@pytest.mark.parametrize("crash_point", CRASH_POINTS)
def test_a_worker_killed_at_a_crash_point_costs_nothing(crash_point: str, workers: dict[str, Tally]) -> None:
    tally = workers[f"at {crash_point}"]
    assert tally.killed >= 1, "nobody came to the crash point"
    assert nothing_is_amiss(tally)


@pytest.mark.parametrize("kind", WORKERS)
def test_whatever_happens_every_event_has_one_effect(kind: str, workers: dict[str, Tally]) -> None:
    if kind not in workers and kind in full_disk.PLANS:
        pytest.skip("no file system can be mounted here")
    assert workers[kind].events > 0
    assert nothing_is_amiss(workers[kind])


@needs_postgres
@pytest.mark.parametrize("name", [*(f"at {crash_point}" for crash_point in CRASH_POINTS), *WORKERS_ON_POSTGRES])
def test_whatever_happens_to_a_store_in_postgresql_every_event_has_one_effect(
    name: str, on_postgres: dict[str, Tally]
) -> None:
    assert on_postgres[name].events > 0
    assert on_postgres[name].killed >= 1 or not name.startswith("at "), "nobody came to the crash point"
    assert nothing_is_amiss(on_postgres[name])


def test_whoever_is_killed_in_a_training_what_serves_is_whole_and_the_next_training_completes(tmp_path: Path) -> None:
    """One test, so that the processes of a parallel run do not run it several times."""
    tallies = run(tmp_path, *several("--at", DELICATE), "--kind", "training")
    assert set(tallies) == {"training", *(f"at {crash_point}" for crash_point in DELICATE)}
    assert all(tally.killed >= 1 and nothing_is_amiss(tally) for tally in tallies.values())


def test_a_notebook_may_train_beside_trainers_that_are_killed(tmp_path: Path) -> None:
    first = random.SystemRandom().randrange(10**6) * len(KINDS) + KINDS.index("training")
    seeds = range(first, first + 100 * len(KINDS), len(KINDS))
    seed = next(
        seed for seed in seeds if any(life.role == "notebook" for lives in schedule(seed).rounds for life in lives)
    )
    tallies = run(tmp_path, "--kind", "training", "--seed", str(seed), "--schedules", "1")
    assert tallies["training"].schedules == 1
    assert nothing_is_amiss(tallies["training"])


def test_a_seed_makes_the_same_schedule_again() -> None:
    for engine in KINDS_OF:
        assert [schedule(seed, engine) for seed in range(50)] == [schedule(seed, engine) for seed in range(50)]
    assert set(DELICATE) <= set(TRAINING_CRASH_POINTS)
