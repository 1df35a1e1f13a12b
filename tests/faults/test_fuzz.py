"""A short `make fuzz`."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

from tests.faults.fuzz import fuzz


def test_mutated_events_crash_nothing_and_their_dead_letters_keep_every_byte(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**9)
    found = fuzz(seed, 2_000, tmp_path)
    assert (found.crashes, found.wrong) == ([], []), f"seeds from {seed}"
    assert 100 < found.read < 1_900
    assert found.read_together > 50 or importlib.util.find_spec("simdjson") is None
    assert len(found.settled) > 8
