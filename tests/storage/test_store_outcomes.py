"""Outcomes in any order: late, early, twice, corrected, contradicting."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from tests.storage.conftest import SteppingClock
from tests.support.rows import at, contents, insert, metadata, outcome, prediction, vector
from trading_system.ml_refinement.storage import FeatureDatabase, OutcomeRow

SIGNALS = ("s1", "s2", "s3")
SIGNAL_DAY = 5
STORE_FILES = settings(max_examples=40, deadline=None)


def test_an_outcome_labels_its_signal_and_every_prediction(db: FeatureDatabase) -> None:
    db.register_model(metadata())
    insert(db, vector("s1"))
    db.scores.log_predictions([prediction("s1", predicted_r=0.5)])
    assert db.outcomes.record([outcome("s1", 1.5, return_pct=2.5)]) == ["applied"]
    sql = "SELECT target_r_multiple, target_binary, target_return_pct, label_time FROM feature_vectors"
    assert db._connection.query(sql) == [(1.5, 1, 2.5, at(10))]
    assert db.scores.of_signal("s1")[0].prediction_error == 1.0


def test_every_result_has_its_name(db: FeatureDatabase) -> None:
    insert(db, vector("s1"))
    first = outcome("s1", 1.0, revision=1, entry_id="1-0")
    rows = [
        first,
        first,
        outcome("s1", 1.0, revision=1, entry_id="2-0"),
        outcome("s1", 9.0, revision=1),
        outcome("s1", 0.5, revision=0),
        outcome("s1", 0.7, revision=2),
        outcome("s1", 0.7, revision=3, day=SIGNAL_DAY - 1),
        outcome("later", 0.7),
    ]
    expected = [
        "applied", "redelivered", "duplicate", "conflict", "superseded", "applied", "before_signal", "waiting",
    ]  # fmt: skip
    assert db.outcomes.record(rows) == expected
    again = [
        "redelivered",
        "redelivered",
        "duplicate",
        "conflict",
        "duplicate",
        "duplicate",
        "before_signal",
        "duplicate",
    ]
    assert db.outcomes.record(rows) == again
    assert [row.r_multiple for row in db.outcomes.history("s1")] == [0.5, 1.0, 0.7]


def test_a_conflict_leaves_the_store_as_it_was(db: FeatureDatabase) -> None:
    insert(db, vector("s1"))
    db.outcomes.record([outcome("s1", 1.0)])
    before = contents(db)
    assert db.outcomes.record([outcome("s1", 2.0)]) == ["conflict"]
    assert contents(db) == before


def test_a_correction_counts_no_second_label(db: FeatureDatabase) -> None:
    insert(db, vector("s1"), vector("s2", complete=False))
    db.outcomes.record([outcome("s1", 1.0), outcome("s2", 1.0)])
    db.outcomes.record([outcome("s1", -1.0, revision=1)])
    counts = db.counts()
    assert (counts.labelled, counts.labels_total, counts.outcomes) == (2, 1, 3)
    assert counts.newest_label == at(10)


def test_a_lower_revision_that_comes_later_leaves_the_label_of_the_higher(db: FeatureDatabase) -> None:
    insert(db, vector("s1"))
    assert db.outcomes.record([outcome("s1", 2.0, revision=2)]) == ["applied"]
    assert db.outcomes.record([outcome("s1", -1.0, revision=1)]) == ["superseded"]
    assert db._connection.query("SELECT target_r_multiple, label_revision FROM feature_vectors") == [(2.0, 2)]
    assert [row.r_multiple for row in db.outcomes.history("s1")] == [-1.0, 2.0]


def test_an_outcome_that_preceded_its_signal_is_handed_out_when_the_signal_comes(db: FeatureDatabase) -> None:
    early = outcome("s1", 1.0, revision=1, day=SIGNAL_DAY - 1, entry_id="7-0")
    assert db.outcomes.record([early, outcome("s1", 0.5)]) == ["waiting", "superseded"]
    with db.atomic():
        db.vectors.insert_new([vector("s1", SIGNAL_DAY)], (), np.empty((1, 0)))
        assert db.outcomes.apply_waiting(["s1", "s9"]) == ["s1"]
        assert db.outcomes.take_before_signal(["s1", "s9"]) == [early]
    assert [row.r_multiple for row in db.outcomes.history("s1")] == [0.5]
    assert db.counts().waiting_outcomes == 0


def test_an_early_outcome_that_nobody_took_does_not_hide_a_valid_one(db: FeatureDatabase) -> None:
    db.outcomes.record([outcome("s1", 1.0, revision=5, day=SIGNAL_DAY - 1)])
    with db.atomic():
        db.vectors.insert_new([vector("s1", SIGNAL_DAY)], (), np.empty((1, 0)))
    assert db.outcomes.record([outcome("s1", 0.5)]) == ["applied"]


@pytest.mark.parametrize(
    "row",
    [
        outcome("s1", float("nan")),
        outcome("s1", float("inf")),
        outcome("s1", 1.0, return_pct=float("nan")),
        outcome("s1", 1.0, revision=-1),
        outcome("s1", 1.0, revision=2**63),
        OutcomeRow("s1", 0, "2024-01-10", 1.0),
    ],
)
def test_an_outcome_that_may_not_be_stored_refuses_its_batch(db: FeatureDatabase, row: OutcomeRow) -> None:
    with pytest.raises(ValueError, match=r"finite|negative|fixed-width|too large"):
        db.outcomes.record([outcome("s2"), row])
    assert db.counts().outcomes == 0


def genuine(signal_id: str, revision: int) -> OutcomeRow:
    """What the tracker says for this revision; the odd ones of s3 closed before the signal."""
    early = signal_id == "s3" and revision % 2 == 1
    return outcome(signal_id, revision - 0.5, revision, day=SIGNAL_DAY - 1 if early else 10 + revision)


Event = tuple[str, Any]
OUTCOMES = st.builds(genuine, st.sampled_from(SIGNALS), st.integers(0, 3))
EVENTS = st.one_of(
    st.tuples(st.just("outcome"), OUTCOMES),
    st.tuples(st.just("signal"), st.sampled_from(SIGNALS)),
    st.tuples(st.just("prediction"), st.sampled_from(SIGNALS)),
)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one model, to be copied: making one waits for the disk each time."""
    path = tmp_path_factory.mktemp("empty") / "f.db"
    with FeatureDatabase(path, clock=SteppingClock()) as db:
        db.register_model(metadata())
    return path


@contextmanager
def copy_of(empty: Path) -> Iterator[FeatureDatabase]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(shutil.copy(empty, folder))
        with FeatureDatabase(path, clock=SteppingClock()) as db:
            db._connection.query("PRAGMA synchronous = OFF")
            yield db


def play(empty: Path, events: list[Event]) -> dict[str, list[tuple[Any, ...]]]:
    with copy_of(empty) as db:
        for kind, what in events:
            if kind == "signal":
                insert(db, vector(what, SIGNAL_DAY))
            elif kind == "prediction":
                db.scores.log_predictions([prediction(what)])
            else:
                db.outcomes.record([what])
        return contents(db)


@STORE_FILES
@given(st.lists(EVENTS, max_size=14), st.data())
def test_any_order_and_any_repetition_give_the_same_store(
    empty: Path, events: list[Event], data: st.DataObject
) -> None:
    repeated = [*events, *data.draw(st.lists(st.sampled_from(events), max_size=5))] if events else []
    assert play(empty, data.draw(st.permutations(repeated))) == play(empty, events)


@STORE_FILES
@given(st.lists(EVENTS, max_size=12), st.data())
def test_contradictions_never_change_what_was_said_first(empty: Path, events: list[Event], data: st.DataObject) -> None:
    disturbed = list(events)
    for index, (kind, what) in reversed(list(enumerate(events))):
        if kind == "outcome" and what.signal_id != "s3" and data.draw(st.booleans()):
            contradiction = outcome(what.signal_id, what.r_multiple + 7, what.revision)
            disturbed.insert(data.draw(st.integers(index + 1, len(disturbed))), ("outcome", contradiction))
    assert play(empty, disturbed) == play(empty, events)


@STORE_FILES
@given(st.lists(EVENTS, max_size=14), st.integers(1, 5))
def test_batches_of_any_size_give_the_same_store(empty: Path, events: list[Event], size: int) -> None:
    outcomes = [what for kind, what in events if kind == "outcome"]
    others = [event for event in events if event[0] != "outcome"]
    with copy_of(empty) as db:
        for first in range(0, len(outcomes), size):
            db.outcomes.record(outcomes[first : first + size])
        signals = list(dict.fromkeys(what for kind, what in others if kind == "signal"))
        insert(db, *(vector(name, SIGNAL_DAY) for name in signals))
        db.scores.log_predictions([prediction(what) for kind, what in others if kind == "prediction"])
        batched = contents(db)
    alone = play(empty, [("outcome", what) for what in outcomes] + others)
    batched.pop("vectors"), alone.pop("vectors")  # the features of a row depend on its place in the batch here
    assert batched == alone


@STORE_FILES
@given(st.lists(EVENTS, max_size=14))
def test_the_counters_equal_what_counting_gives(empty: Path, events: list[Event]) -> None:
    store = play(empty, events)
    counters = dict(store["counters"])
    signals = {row[0] for row in store["vectors"]}
    labelled = [row for row in store["vectors"] if row[3] is not None]
    assert counters["signals"] == len(signals)
    assert counters["labelled"] == counters["labels_total"] == len(labelled)
    assert counters["outcomes"] == len(store["outcomes"])
    assert counters["waiting_outcomes"] == sum(row[0] not in signals for row in store["outcomes"])
    assert counters["predictions"] == len(store["predictions"])
