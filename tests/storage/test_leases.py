"""A lease has one holder, by the database's clock, and its token tells one holder from the next."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.processes import fork
from tests.support.waiting import wait_until
from trading_system.ml_refinement.storage import FeatureDatabase


@pytest.fixture
def store(db: FeatureDatabase) -> FeatureDatabase:
    return db


def test_a_lease_has_one_holder_until_it_is_given_back(store: FeatureDatabase) -> None:
    assert store.leases.holder_of("x") is None
    assert store.leases.take("x", "first", 60) == 1
    assert store.leases.take("x", "second", 60) is None
    assert store.leases.take("other", "second", 60) == 1
    held = store.leases.holder_of("x")
    assert held is not None
    assert held[:2] == ("first", 1)
    store.leases.release("x", 1)
    assert store.leases.holder_of("x") is None
    assert store.leases.renew("x", 1, 60) is False
    assert store.leases.take("x", "second", 60) == 2


def test_one_that_ran_out_is_taken_and_the_late_holder_can_neither_hold_it_nor_give_it_back(
    store: FeatureDatabase,
) -> None:
    assert store.leases.take("x", "first", 0) == 1
    assert store.leases.renew("x", 1, 0) is True  # nobody took it meanwhile
    wait_until(lambda: store.leases.holder_of("x") is None)
    assert store.leases.take("x", "second", 60) == 2
    assert store.leases.renew("x", 1, 60) is False
    store.leases.release("x", 1)
    assert store.leases.take("x", "third", 60) is None


def test_a_holder_that_is_known_to_be_dead_is_not_waited_for_but_the_one_after_it_is(store: FeatureDatabase) -> None:
    store.leases.take("x", "dead", 60)
    assert store.leases.take("x", "second", 60, over=1) == 2
    assert store.leases.take("x", "third", 60, over=1) is None


@pytest.mark.parametrize("year", [1971, 2099])
def test_what_the_process_takes_the_time_for_decides_nothing(
    place: str | Path, store: FeatureDatabase, year: int
) -> None:
    store.leases.take("x", "first", 60)
    off = FeatureDatabase(place, clock=lambda: datetime(year, 1, 1, tzinfo=UTC))
    with off:
        assert off.leases.take("x", "second", 60) is None
        off.leases.release("x", 1)
        assert off.leases.take("x", "second", 60) == 2
    held = store.leases.holder_of("x")
    assert held is not None
    assert len(held.until) == 27
    assert abs((datetime.now(UTC) - datetime.fromisoformat(held.until)).total_seconds()) < 3600


def test_what_was_to_be_done_first_failed_and_so_nobody_has_it(store: FeatureDatabase) -> None:
    def take_and_fail() -> None:
        with store.atomic():
            assert store.leases.take("x", "first", 60) == 1
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        take_and_fail()
    assert store.leases.holder_of("x") is None


def test_of_processes_that_take_it_at_the_same_moment_one_has_it(
    tmp_path: Path, place: str | Path, store: FeatureDatabase
) -> None:
    inside = tmp_path / "inside"

    def contend() -> None:
        with FeatureDatabase(place) as own:
            done = 0
            while done < 15:
                token = own.leases.take("x", str(os.getpid()), 60)
                if token is not None:
                    inside.mkdir()  # there is none: nobody else is inside
                    inside.rmdir()
                    own.leases.release("x", token)
                    done += 1

    children = [fork(contend) for _ in range(3)]
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]
    assert store.leases.take("x", "last", 60) == 46
