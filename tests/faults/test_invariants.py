"""What judges schedules: it finds what is wrong, and takes nothing else for that."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from tests.faults.invariants import Key, judge
from tests.support.events import SIGNALS
from trading_system.ml_refinement.storage import FeatureDatabase
from trading_system.ml_refinement.storage.tables.duplicates import DuplicateRow

ENTRY: Key = (SIGNALS, "1795866925218-1")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A store in which two events have an end that a server gave one id, in one table."""
    place = tmp_path / "features.db"
    with FeatureDatabase(place) as store:
        store.duplicates.record([DuplicateRow(*ENTRY, "s-1", "signal"), DuplicateRow(*ENTRY, "s-2", "signal")])
    return place


def test_two_events_of_one_id_are_no_fault_where_the_server_gave_it_twice(place: Path, valkey: redis.Redis) -> None:
    assert judge(place, valkey, must=[ENTRY], twice=[ENTRY], labels={}).holds


def test_two_ends_of_an_id_that_was_given_once_are(place: Path, valkey: redis.Redis) -> None:
    assert judge(place, valkey, must=[ENTRY], labels={}).double == [ENTRY]


def test_an_end_of_what_nobody_sent_is(place: Path, valkey: redis.Redis) -> None:
    assert judge(place, valkey, must=[], labels={}).other == [f"{ENTRY} is in the store and was never sent"]
