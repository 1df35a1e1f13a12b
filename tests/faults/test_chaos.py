"""The short set of `make chaos`: a kill at every labelled boundary, and each kind of schedule several times."""

from __future__ import annotations

import random
import subprocess
import sys

import orjson
import pytest

from tests.faults.schedules import BOUNDARIES, KINDS, schedule
from tests.faults.theatre import Tally

SCHEDULES = 2 * len(KINDS)


@pytest.fixture(scope="module")
def tallies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tally]:
    """What the schedules came to; their seeds are printed, and one is played again with `--seed`."""
    seed = random.SystemRandom().randrange(10**6) * len(KINDS)
    path = tmp_path_factory.mktemp("chaos") / "tallies.json"
    command = [sys.executable, "-m", "tests.faults.chaos", "--boundaries", "--processes", "1", "--json", str(path)]
    command += ["--schedules", str(SCHEDULES), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    sys.stdout.write(done.stdout + done.stderr)
    assert path.exists(), done.stdout + done.stderr
    return {kind: Tally(**values) for kind, values in orjson.loads(path.read_bytes()).items()}


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_worker_killed_at_a_boundary_costs_nothing(boundary: str, tallies: dict[str, Tally]) -> None:
    tally = tallies[f"at {boundary}"]
    assert tally.killed >= 1, "nobody came to the boundary"
    assert tally.failures == []
    assert (tally.lost, tally.double, tally.wrong, tally.unfinished) == (0, 0, 0, 0)


@pytest.mark.parametrize("kind", sorted(set(KINDS)))
def test_whatever_happens_every_event_has_one_effect(kind: str, tallies: dict[str, Tally]) -> None:
    tally = tallies[kind]
    assert tally.failures == []
    assert tally.events > 0
    assert (tally.lost, tally.double, tally.wrong, tally.unfinished) == (0, 0, 0, 0)


def test_a_seed_makes_the_same_schedule_again() -> None:
    assert [schedule(seed) for seed in range(50)] == [schedule(seed) for seed in range(50)]
