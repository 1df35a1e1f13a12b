"""What happens in a store is told once, in the transaction in which it happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.rows import dead, metadata
from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.storage import FeatureDatabase
from trading_system.ml_refinement.storage.notifications.occasions import Occasion
from trading_system.ml_refinement.storage.notifications.table import MOST_KEPT
from trading_system.ml_refinement.storage.tables.models import NOT_PROVEN, ROLLED_BACK
from trading_system.ml_refinement.storage.times import utc_text

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[FeatureDatabase]:
    with FeatureDatabase(tmp_path / "features.db", clock=clock) as store:
        for name in ("m1", "m2"):
            store.models.register(metadata(name))
        store.models.register(replace(metadata("r1"), model_type=ModelType.REGIME_CLASSIFIER))
        yield store


def kinds(store: FeatureDatabase) -> list[str]:
    return [one.kind for one in reversed(store.notifications.recent(100))]


def test_a_model_that_serves_provisionally_is_nothing_to_tell_of_and_its_proof_is(store: FeatureDatabase) -> None:
    store.models.activate("m1", reason="the first one")
    assert kinds(store) == []
    store.models.set_proven("m1", True, reason="AUC 0.58")
    assert kinds(store) == [Occasion.PROOF_GAINED]
    assert store.notifications.recent()[0].details["reason"] == "AUC 0.58"


def test_a_refresh_of_a_proven_model_is_no_new_proof(store: FeatureDatabase) -> None:
    store.models.activate("m1", reason="AUC 0.58", proven=True)
    store.models.activate("m2", reason="no worse", proven=True)
    assert kinds(store) == [Occasion.PROOF_GAINED]


def test_a_proof_that_ends_is_told_with_its_code(store: FeatureDatabase) -> None:
    store.models.activate("m1", reason="AUC 0.58", proven=True)
    store.models.set_proven("m1", False, reason="too old", figures={NOT_PROVEN: "proof_expired"}, actor="gate")
    assert kinds(store) == [Occasion.PROOF_GAINED, Occasion.PROOF_ENDED]
    told = store.notifications.recent()[0].details
    assert (told["model_id"], told["reason_code"], told["actor"]) == ("m1", "proof_expired", "gate")


def test_an_unproven_model_in_the_place_of_a_proven_one_is_a_demotion(store: FeatureDatabase) -> None:
    store.models.activate("m1", reason="AUC 0.58", proven=True)
    store.models.activate("m2", reason="by hand", actor="ann")
    assert kinds(store)[-1] == Occasion.DEMOTION
    told = store.notifications.recent()[0].details
    assert (told["previous_model_id"], told["model_id"], told["actor"]) == ("m1", "m2", "ann")


def test_a_rollback_is_told_as_such_whatever_it_does_to_the_proof(store: FeatureDatabase) -> None:
    store.models.activate("m1", reason="the first one")
    store.models.activate("m2", reason="AUC 0.58", proven=True)
    store.models.activate("m1", reason="m2 was wrong", figures={ROLLED_BACK: "m2"}, actor="ann")
    assert kinds(store) == [Occasion.PROOF_GAINED, Occasion.ROLLBACK]


def test_of_a_model_beside_the_scores_only_its_end_is_told(store: FeatureDatabase) -> None:
    store.models.activate("r1", reason="better than none", proven=True)
    assert kinds(store) == []
    store.models.retire("r1", reason="worse than none")
    assert kinds(store) == [Occasion.DEMOTION]


def test_what_is_rolled_back_by_the_store_is_not_told(store: FeatureDatabase) -> None:
    with suppress(RuntimeError), store.atomic():
        store.models.activate("m1", reason="AUC 0.58", proven=True)
        raise RuntimeError
    assert kinds(store) == []


def test_a_training_that_fails_is_told_once_and_one_that_completes_is_not(store: FeatureDatabase) -> None:
    for run in ("run-1", "run-2"):
        store.runs.start(run, "signal_quality", {}, label_watermark=0, requested_by="schedule")
    store.runs.finish("run-1", "failed", error_message="disk_full: no room")
    store.runs.finish("run-1", "failed", error_message="again")
    store.runs.finish("run-2", "completed")
    assert [one.details["run_id"] for one in store.notifications.recent()] == ["run-1"]
    assert store.notifications.recent()[0].details["reason"] == "disk_full: no room"


def test_an_alarm_that_stays_or_flaps_is_told_once_a_day(store: FeatureDatabase, clock: Clock) -> None:
    def look(*names: str) -> None:
        alarms = [{"name": name, "why": "because"} for name in names]
        at = utc_text(clock.now)
        store.monitoring.add("schedule", at=at, model_id=None, newest_run=0, alarms=alarms, figures={}, features=[])
        clock.now += timedelta(hours=1)

    look("a")
    look("a", "b")
    look()
    look("a")
    for _ in range(30):
        look("b")
    assert [one.details["alarm"] for one in reversed(store.notifications.recent())] == ["a", "b"]
    look("a")
    assert store.notifications.recent()[0].details["alarm"] == "a", "it was gone for more than a day"


def test_the_outbox_is_bounded_and_what_was_dropped_unsent_is_counted(store: FeatureDatabase) -> None:
    at = utc_text(NOON)
    for number in range(MOST_KEPT):
        store.notifications.add(Occasion.ALARM, {"n": number}, at=at)
    store.notifications.sent(1, at=at)
    for number in range(3):
        store.notifications.add(Occasion.ALARM, {"n": number}, at=at)
    assert len(store.notifications.recent(2 * MOST_KEPT)) == MOST_KEPT
    assert store.notifications.counts() == {"sent": 1, "failed": 0, "given_up": 0, "dropped": 2}


def test_dead_letters_are_counted_by_reason_among_the_newest(store: FeatureDatabase, clock: Clock) -> None:
    def letters(reason: str, number: int) -> None:
        first = store.dead_letters.newest_id()
        store.dead_letters.add([dead(f"{first + n}-1", reason=reason) for n in range(number)])

    letters("schema", 5)
    clock.now += timedelta(minutes=20)
    letters("schema", 1)
    letters("bad_json", 3)
    since = utc_text(clock.now - timedelta(minutes=10))
    assert store.dead_letters.newest_by_reason(since, among=100) == {"bad_json": 3, "schema": 1}
    assert store.dead_letters.newest_by_reason(since, among=2) == {"bad_json": 2}
