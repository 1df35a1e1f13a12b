"""What the worker writes and training reads, in batches."""

from __future__ import annotations

import math

import numpy as np
import orjson
import pytest

from tests.support.rows import NAMES, at, insert, metadata, outcome, plain, prediction, vector
from trading_system.ml_refinement.storage import (
    ConstraintRefused,
    DefinitionRow,
    DuplicateRow,
    FeatureDatabase,
    KnownSignal,
)
from trading_system.ml_refinement.storage.packing import feature_texts
from trading_system.ml_refinement.storage.times import us_from_text


def test_a_signal_is_stored_once_within_a_batch_and_across_batches(db: FeatureDatabase) -> None:
    assert insert(db, vector("s1"), vector("s2"), vector("s1")) == [True, True, False]
    assert insert(db, vector("s2", entry_id="other"), vector("s3")) == [False, True]
    assert db.vectors.known(["s1", "s2", "s3", "s4"]) == {
        name: KnownSignal(b"0123456789abcdef", "5-0") for name in ("s1", "s2", "s3")
    }
    assert db.counts().signals == 3


def test_the_json_of_a_batch_holds_every_value_by_its_name(db: FeatureDatabase) -> None:
    values = np.array([[0.1, -2.5e-7]])
    db.vectors.insert_new([vector("s1")], NAMES, values)
    text = db._connection.query("SELECT features FROM feature_vectors")[0][0]
    assert orjson.loads(text) == {"atr": 0.1, "rsi": -2.5e-7}


def test_a_vector_of_the_library_is_known_without_an_event(db: FeatureDatabase) -> None:
    db.store_feature_vector(plain("s1"))
    assert db.vectors.known(["s1"]) == {"s1": KnownSignal(None, None)}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.array([[1.0, math.nan]]), "'rsi'"),
        (np.array([[math.inf, 1.0]]), "'atr'"),
        (np.array([[1.0]]), "shape"),
        (np.empty((0, 2)), "shape"),
    ],
)
def test_values_that_do_not_fit_or_are_not_finite_are_refused(
    db: FeatureDatabase, values: np.ndarray, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        db.vectors.insert_new([vector("s1")], NAMES, values)
    assert db.counts().signals == 0


def test_a_timestamp_that_is_not_of_the_stores_form_refuses_the_whole_batch(db: FeatureDatabase) -> None:
    with pytest.raises(ValueError, match="fixed-width"):
        insert(db, vector("s1"), vector("s2", timestamp="2024-01-05T10:00:00Z"))
    assert db.counts().signals == 0


def test_the_training_matrix_is_ordered_and_knows_when_labels_were_known(db: FeatureDatabase) -> None:
    insert(db, vector("b", 7), vector("a", 7), vector("c", 6), vector("open", 6), vector("torn", 6, complete=False))
    db.outcomes.record([outcome("a", 1.0, day=9), outcome("b", -1.0, day=8), outcome("c", 0.5), outcome("torn")])
    matrix = db.vectors.training_matrix(feature_version="standard-1", names=["rsi", "atr", "unheard_of"])
    assert matrix.signal_ids == ["c", "a", "b"]
    assert matrix.r.tolist() == [0.5, 1.0, -1.0]
    assert matrix.timestamp_us.tolist() == [us_from_text(at(day)) for day in (6, 7, 7)]
    assert matrix.label_us.tolist() == [us_from_text(at(day)) for day in (10, 9, 8)]
    np.testing.assert_array_equal(matrix.X, [[0.5, 2.0, np.nan], [0.5, 1.0, np.nan], [0.5, 0.0, np.nan]])
    assert matrix.incomplete == 1
    assert matrix.names == ("rsi", "atr", "unheard_of")


def test_the_training_matrix_is_one_version_and_one_selection(db: FeatureDatabase) -> None:
    insert(db, vector("a", 5), vector("b", 6, asset_class="crypto"), vector("c", 7, feature_version="other"))
    db.outcomes.record([outcome(name) for name in "abc"])

    def ids(**selection: str) -> list[str]:
        fields = {"feature_version": "standard-1"} | selection
        return db.vectors.training_matrix(names=NAMES, **fields).signal_ids  # type: ignore[arg-type]

    assert ids() == ["a", "b"]
    assert ids(feature_version="other") == ["c"]
    assert ids(asset_class="crypto") == ["b"]
    assert ids(end="2024-01-05") == ["a"]
    assert ids(start="2024-01-05T10:00:01Z") == ["b"]
    assert ids(signal_type="momentum") == []


def test_the_training_matrix_reads_packed_and_plain_vectors_alike(db: FeatureDatabase) -> None:
    rng = np.random.default_rng(7)
    names = [f"f{index:02d}" for index in range(40)]
    values = rng.normal(size=(2500, 40)) * 10.0 ** rng.integers(-12, 12, size=(2500, 40))
    db.vectors.insert_new([vector(f"s{index:05d}") for index in range(2500)], names, values)
    db.outcomes.record([outcome(f"s{index:05d}") for index in range(2500)])
    packed = db.vectors.training_matrix(feature_version="standard-1", names=names)
    np.testing.assert_array_equal(packed.X, values)
    db._connection.run("UPDATE feature_vectors SET features = features || ' ' WHERE id % 2 = 1")
    assert db._connection.query("SELECT count(*) FROM feature_vectors WHERE packed IS NULL") == [(1250,)]
    np.testing.assert_array_equal(db.vectors.training_matrix(feature_version="standard-1", names=names).X, values)


def test_an_empty_training_matrix_has_its_width(db: FeatureDatabase) -> None:
    matrix = db.vectors.training_matrix(feature_version="none", names=NAMES)
    assert matrix.X.shape == (0, 2)
    assert (matrix.r.size, matrix.signal_ids, matrix.label_us.size) == (0, [], 0)


def test_predictions_are_logged_once_and_the_first_stands(db: FeatureDatabase) -> None:
    db.register_model(metadata("m1"))
    db.register_model(metadata("m2"))
    db.scores.log_predictions([prediction("s1", "m1"), prediction("s1", "m2", role="shadow")])
    db.scores.log_predictions([prediction("s1", "m1", quality_score=0.99), prediction("s2", "m1")])
    assert [logged.prediction for logged in db.scores.of_signal("s1")] == [
        prediction("s1", "m1"),
        prediction("s1", "m2", role="shadow"),
    ]
    assert db.counts().predictions == 3


def test_a_prediction_logged_after_the_outcome_knows_its_error(db: FeatureDatabase) -> None:
    db.register_model(metadata())
    db.outcomes.record([outcome("s1", 1.5)])
    insert(db, vector("s1"))
    db.scores.log_predictions([prediction("s1", predicted_r=0.5)])
    logged = db.scores.of_signal("s1")[0]
    assert (logged.actual_r, logged.prediction_error) == (1.5, 1.0)


def test_one_bad_prediction_refuses_its_whole_batch(db: FeatureDatabase) -> None:
    db.register_model(metadata())
    with pytest.raises(ConstraintRefused):
        db.scores.log_predictions([prediction("s1"), prediction("s2", "nobody")])
    with pytest.raises(ValueError, match="finite"):
        db.scores.log_predictions([prediction("s1"), prediction("s2", quality_score=math.nan)])
    assert db.counts().predictions == 0


def test_what_was_published_first_is_what_a_redelivery_publishes(db: FeatureDatabase) -> None:
    db.register_model(metadata())
    insert(db, vector("s1"), vector("s2"))
    db.scores.put_served([("s1", "m1", "scored", b'{"a":1}'), ("s2", None, "cold_start", b'{"b":2}')])
    db.scores.put_served([("s1", None, "cold_start", b"other")])
    assert db.scores.served(["s1", "s2", "s3"]) == {"s1": b'{"a":1}', "s2": b'{"b":2}'}


def test_a_score_of_a_signal_that_is_not_stored_is_refused(db: FeatureDatabase) -> None:
    with pytest.raises(ConstraintRefused):
        db.scores.put_served([("nobody", None, "cold_start", b"")])


def test_the_served_history_joins_what_was_said_with_what_came_of_it(db: FeatureDatabase) -> None:
    for model_id in ("m1", "m2"):
        db.register_model(metadata(model_id))
    insert(db, vector("b", 6), vector("a", 5), vector("open", 5), vector("torn", 5, complete=False))
    rows = [prediction("a"), prediction("b", "m2"), prediction("open"), prediction("torn")]
    db.scores.log_predictions([*rows, prediction("b", "m1", role="shadow", quality_score=0.2)])
    db.outcomes.record([outcome("a", 1.0, day=8), outcome("b", -1.0, day=9), outcome("torn")])
    served = db.scores.served_history()
    assert served.signal_id.tolist() == ["a", "b"]
    assert served.model_id.tolist() == ["m1", "m2"]
    assert served.r.tolist() == [1.0, -1.0]
    assert served.quality_score.tolist() == [0.6, 0.6]
    assert served.timestamp_us.tolist() == [us_from_text(at(5)), us_from_text(at(6))]
    assert served.label_us.tolist() == [us_from_text(at(8)), us_from_text(at(9))]
    assert db.scores.served_history(since="2024-01-06").signal_id.tolist() == ["b"]
    assert db.scores.served_history(model_ids=["m1"]).signal_id.tolist() == ["a"]
    assert db.scores.served_history(model_ids=["m1"], role="shadow").quality_score.tolist() == [0.2]
    assert db.scores.served_history(since="2025-01-01").r.size == 0


def test_what_was_known_by_a_time_is_what_had_closed_by_then(db: FeatureDatabase) -> None:
    db.register_model(metadata())  # trained on signals up to the second day
    days = {"old": 1, "a": 5, "b": 6, "late": 6, "c": 7, "open": 7}
    insert(db, *(vector(name, on) for name, on in days.items()), vector("torn", 5, complete=False))
    scores = {name: 0.1 * (1 + place) for place, name in enumerate(days)}
    db.scores.log_predictions([prediction(name, quality_score=score) for name, score in scores.items()])
    db.outcomes.record([outcome(name, float(on), day=on + 1) for name, on in days.items() if name != "open"])
    db.outcomes.record([outcome("late", 6.0, day=20, revision=1)])
    for newest, known in ((None, ["a", "b", "c"]), (2, ["b", "c"]), (100, ["a", "b", "c"])):
        score, r = db.scores.known_by(at(9), newest=newest)
        assert score.tolist() == [scores[name] for name in known]
        assert r.tolist() == [float(days[name]) for name in known]
    assert [part.tolist() for part in db.scores.known_by(at(1))] == [[], []]


def test_a_duplicate_is_noted_once_however_often_it_is_delivered(db: FeatureDatabase) -> None:
    rows = [
        DuplicateRow("signals.created", "1-0", "s1", "signal"),
        DuplicateRow("trades.closed", "1-0", "s1", "outcome"),
    ]
    assert db.duplicates.record(rows) == 2
    assert db.duplicates.record(rows) == 0
    assert db.counts().duplicates == 2


def test_feature_definitions_are_renewed_by_name(db: FeatureDatabase) -> None:
    row = DefinitionRow("rsi", "technical", "strength", "Wilder, 14 bars", ("close",))
    db.definitions.put([row])
    db.definitions.put([DefinitionRow("rsi", "technical", "relative strength", "Wilder, 14 bars", ("close",))])
    assert [entry.description for entry in db.definitions.all()] == ["relative strength"]
    assert db.definitions.all()[0].dependencies == ("close",)


@pytest.mark.parametrize("names", [(), ("a",), ("a", 'quote"d', "naïve", "b\\c")])
def test_the_texts_of_a_batch_are_those_of_a_dictionary_each(names: tuple[str, ...]) -> None:
    numbers = [0.0, -0.0, 1.0, 0.1, -2.5e-7, 1e300, 5e-324, 1 / 3, 123456789.125]
    values = np.resize(np.array(numbers), (7, len(names)))
    rows = [orjson.dumps(dict(zip(names, row, strict=True))).decode() for row in values.tolist()]
    assert feature_texts(names, values, 7) == rows
    assert feature_texts(names, values[:0], 0) == []
    whole = np.ones((2, len(names)), dtype=np.int64)
    assert feature_texts(names, whole, 2) == feature_texts(names, whole.astype(float), 2)


def test_what_is_stored_again_is_not_counted_again(db: FeatureDatabase) -> None:
    db.register_model(metadata())
    insert(db, vector("s1"), vector("s2"), vector("s1"))
    insert(db, vector("s2"))
    db.store_feature_vector(plain("s3"))
    db.store_feature_vector(plain("s3"))
    for _ in "ab":
        db.scores.log_predictions([prediction("s1"), prediction("s2")])
        db.log_prediction("s3", metadata().model_id, 0.5)
    counts = db.counts()
    assert (counts.signals, counts.predictions) == (3, 3)
    assert db._connection.query("SELECT count(*) FROM feature_vectors") == [(3,)]
    assert db._connection.query("SELECT count(*) FROM prediction_log") == [(3,)]


def test_what_a_model_said_of_signals_that_it_may_have_known_the_future_of_is_no_history(db: FeatureDatabase) -> None:
    db.register_model(metadata())  # trained on signals up to the second day
    insert(db, vector("same", 2), vector("before", 1), vector("after", 3))
    db.scores.log_predictions([prediction("same"), prediction("before"), prediction("after")])
    db.outcomes.record([outcome("same", day=8), outcome("before", day=8), outcome("after", day=8)])
    assert db.scores.served_history().signal_id.tolist() == ["after"]
    assert db.scores.newest_served() == at(3)
