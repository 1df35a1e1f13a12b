"""The specification's interface, and the corrections to it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from tests.storage.conftest import SteppingClock
from tests.support.rows import QUALITY, insert, metadata, plain, vector
from trading_system.ml_refinement.storage import ConstraintRefused, FeatureDatabase


def test_features_are_stored_and_retrieved(db: FeatureDatabase) -> None:
    assert db.store_feature_vector(plain("s1"), symbol="AAPL")
    stored = db.get_feature_vector("s1")
    assert stored is not None
    assert stored.features == {"rsi": 65.0, "atr": 2.5}
    assert stored.timestamp == "2024-01-05T10:00:00.000000Z"
    assert db.get_feature_vector("s2") is None


def test_training_data_is_a_matrix_ordered_by_time(db: FeatureDatabase) -> None:
    for day, r in ((3, 2.0), (1, -1.0), (2, 0.5)):
        db.store_feature_vector(
            plain(f"s{day}", f"2024-01-0{day}", features={"rsi": day, "atr": 1.0}), "AAPL", "equity"
        )
        db.update_target(f"s{day}", r)
    db.store_feature_vector(plain("open", "2024-01-02"))
    X, y, names = db.get_training_data("2024-01-01", "2024-12-31")
    assert names == ["atr", "rsi"]
    assert X.tolist() == [[1, 1], [1, 2], [1, 3]]
    assert y.tolist() == [-1.0, 0.5, 2.0]
    assert db.get_training_data_binary("2024-01-01", "2024-12-31")[1].tolist() == [0, 1, 1]


def test_training_data_is_filtered_by_class_and_type(db: FeatureDatabase) -> None:
    for index, (asset_class, signal_type) in enumerate([("equity", "breakout"), ("crypto", "breakout")]):
        db.store_feature_vector(plain(f"s{index}", target=1.0), "X", asset_class, signal_type)
    assert len(db.get_training_data("2024-01-01", "2024-12-31", asset_class="crypto")[1]) == 1
    assert len(db.get_training_data("2024-01-01", "2024-12-31", signal_type="breakout")[1]) == 2
    assert len(db.get_training_data("2024-01-01", "2024-12-31", "equity", "momentum")[1]) == 0


def test_no_training_data_has_empty_shapes(db: FeatureDatabase) -> None:
    X, y, names = db.get_training_data("2024-01-01", "2024-12-31")
    assert (X.shape, y.shape, names) == ((0, 0), (0,), [])


def test_vectors_without_an_outcome_have_nan_targets_and_are_no_losses(db: FeatureDatabase) -> None:
    db.store_feature_vector(plain("s1"))
    assert math.isnan(db.get_training_data("2024-01-01", "2024-12-31", require_target=False)[1][0])
    with pytest.raises(ValueError, match="needs an outcome"):
        db.get_training_data_binary("2024-01-01", "2024-12-31", require_target=False)


def test_samples_are_counted_with_and_without_outcome(db: FeatureDatabase) -> None:
    db.store_feature_vector(plain("s1", target=1.0))
    db.store_feature_vector(plain("s2", "2024-02-01"))
    assert db.count_samples() == 1
    assert db.count_samples(require_target=False) == 2
    assert db.count_samples("2024-01-31", "2024-02-01", require_target=False) == 1


def test_c3_a_target_of_zero_is_a_loss(db: FeatureDatabase) -> None:
    db.store_feature_vector(plain("s1", target=0.0))
    stored = db.get_feature_vector("s1")
    assert stored is not None
    assert (stored.target, stored.target_binary) == (0.0, 0)


def test_targets_that_contradict_each_other_are_refused(db: FeatureDatabase) -> None:
    with pytest.raises(ValueError, match="disagree"):
        db.store_feature_vector(plain("s1", target=-1.0, target_binary=1))


def test_c4_storing_again_keeps_what_was_not_given(db: FeatureDatabase, clock: SteppingClock) -> None:
    db.store_feature_vector(plain("s1"), "AAPL", "equity", "breakout", "HIGH")
    db.update_target("s1", 1.5, 3.0)
    clock.move(days=1)
    db.store_feature_vector(plain("s1", features={"rsi": 1.0}), conviction="LOW", feature_version="2.0")
    sql = """SELECT target_r_multiple, target_binary, target_return_pct, symbol, asset_class, signal_type, conviction,
        feature_version, created_at, updated_at FROM feature_vectors"""
    assert db._connection.query(sql) == [
        (1.5, 1, 3.0, "AAPL", "equity", "breakout", "LOW", "2.0", "2024-06-01T12:00:00.000000Z",
         "2024-06-02T12:00:00.000000Z")
    ]  # fmt: skip
    stored = db.get_feature_vector("s1")
    assert stored is not None
    assert stored.features == {"rsi": 1.0}


def test_c4_renewing_a_packed_vector_renews_what_training_reads(db: FeatureDatabase) -> None:
    insert(db, vector("s1"))
    db.store_feature_vector(plain("s1", features={"atr": 9.0}), feature_version="standard-1")
    db.update_target("s1", 1.0)
    matrix = db.vectors.training_matrix(feature_version="standard-1", names=["atr", "rsi"])
    np.testing.assert_array_equal(matrix.X, [[9.0, np.nan]])


def test_c5_an_outcome_before_its_signal_is_kept_and_applied(db: FeatureDatabase) -> None:
    assert db.update_target("s1", 1.5, 3.0) is False
    assert db.counts().waiting_outcomes == 1
    db.store_feature_vector(plain("s1"))
    stored = db.get_feature_vector("s1")
    assert stored is not None
    assert (stored.target, stored.target_binary) == (1.5, 1)
    assert db.counts().waiting_outcomes == 0


def test_updating_a_target_again_corrects_it_and_the_same_again_changes_nothing(db: FeatureDatabase) -> None:
    db.store_feature_vector(plain("s1"))
    assert db.update_target("s1", 1.5, 3.0)
    assert db.update_target("s1", 1.5)
    assert db.update_target("s1", -1.0)
    assert [row.r_multiple for row in db.outcomes.history("s1")] == [1.5, -1.0]
    assert db.get_training_data("2024-01-01", "2024-12-31")[1].tolist() == [-1.0]
    assert db.counts().labels_total == 1


def test_c6_each_prediction_gets_its_own_error(db: FeatureDatabase) -> None:
    for model_id, predicted_r in (("m1", 0.5), ("m2", 2.0), ("m3", None)):
        db.register_model(metadata(model_id))
        assert db.log_prediction("s1", model_id, 0.6, predicted_r)
    assert db.update_prediction_actual("s1", 1.5)
    errors = [logged.prediction_error for logged in db.scores.of_signal("s1")]
    assert errors == [1.0, -0.5, None]
    assert db.update_prediction_actual("unknown", 1.5) is False


def test_c7_a_prediction_is_logged_once_for_each_signal_and_model(db: FeatureDatabase) -> None:
    db.register_model(metadata())
    assert db.log_prediction("s1", "m1", 0.6)
    assert db.log_prediction("s1", "m1", 0.9) is False
    assert [logged.prediction.quality_score for logged in db.scores.of_signal("s1")] == [0.6]


def test_c8_a_prediction_of_an_unregistered_model_is_refused(db: FeatureDatabase) -> None:
    with pytest.raises(ConstraintRefused):
        db.log_prediction("s1", "nobody", 0.6)
    assert db.counts().predictions == 0


def test_c9_the_end_date_includes_its_day_and_offsets_are_times(db: FeatureDatabase) -> None:
    db.store_feature_vector(plain("late", "2023-12-31T22:00:00"))
    db.store_feature_vector(plain("offset", "2024-01-01T00:30:00+02:00"))
    db.store_feature_vector(plain("next", "2024-01-01T00:00:00"))
    assert db.count_samples("2023-12-31", "2023-12-31", require_target=False) == 2
    assert db.count_samples("2023-12-31T22:15:00Z", "2023-12-31", require_target=False) == 1
    stored = db.get_feature_vector("offset")
    assert stored is not None
    assert stored.timestamp == "2023-12-31T22:30:00.000000Z"


def test_c10_times_of_writing_come_from_the_injected_clock(db: FeatureDatabase) -> None:
    now = "2024-06-01T12:00:00.000000Z"
    db.store_feature_vector(plain("s1", target=1.0))
    db.register_model(metadata())
    db.activate_model("m1")
    db.log_prediction("s1", "m1", 0.6)
    for sql in (
        "SELECT created_at FROM feature_vectors",
        "SELECT label_time FROM feature_vectors",
        "SELECT deployed_at FROM model_registry",
        "SELECT predicted_at FROM prediction_log",
        "SELECT DISTINCT applied_at FROM ml_schema_migrations",
    ):
        assert db._connection.query(sql) == [(now,)], sql


def test_c18_numpy_scalars_and_integers_become_floats(db: FeatureDatabase) -> None:
    features = {"a": np.float32(0.5), "b": np.int64(3), "c": 7, "d": True}
    db.store_feature_vector(plain("s1", features=features))
    stored = db.get_feature_vector("s1")
    assert stored is not None
    assert stored.features == {"a": 0.5, "b": 3.0, "c": 7.0, "d": 1.0}
    assert {type(value) for value in stored.features.values()} == {float}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None, "x", np.float64("nan")])
def test_a_feature_that_is_not_a_finite_number_is_refused(db: FeatureDatabase, bad: object) -> None:
    with pytest.raises(ValueError, match="'a'"):
        db.store_feature_vector(plain("s1", features={"a": bad}))
    assert db.counts().signals == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nothing_non_finite_is_stored(db: FeatureDatabase, bad: float) -> None:
    db.store_feature_vector(plain("s1"))
    db.register_model(metadata())
    for write in (
        lambda: db.update_target("s1", bad),
        lambda: db.update_target("s1", 1.0, bad),
        lambda: db.store_feature_vector(plain("s2", target=bad)),
        lambda: db.log_prediction("s1", "m1", bad),
        lambda: db.log_prediction("s1", "m1", 0.5, bad),
        lambda: db.log_prediction("s1", "m1", 0.5, 1.0, bad),
        lambda: db.update_prediction_actual("s1", bad),
        lambda: db.register_model(metadata("m2", train_metrics={"auc": np.float64(bad)})),
    ):
        with pytest.raises(ValueError, match="finite"):
            write()
    counts = db.counts()
    assert (counts.signals, counts.labelled, counts.outcomes, counts.predictions) == (1, 0, 0, 0)
    assert db.models.get("m2") is None


@pytest.mark.parametrize("bad", ["\ud800", "a\ud800b"])
def test_text_that_is_not_unicode_is_a_value_error(db: FeatureDatabase, bad: str) -> None:
    with pytest.raises(ValueError, match="no UTF-8"):
        db.store_feature_vector(plain(bad))
    assert db.counts().signals == 0


def test_c19_activation_retires_the_model_before(db: FeatureDatabase, clock: SteppingClock) -> None:
    db.register_model(metadata("m1"))
    db.register_model(metadata("m2"))
    assert db.activate_model("m1")
    clock.move(days=1)
    assert db.activate_model("m2")
    assert db.activate_model("nobody") is False
    retired = db.models.get("m1")
    active = db.get_active_model(QUALITY)
    assert retired is not None
    assert active is not None
    assert (retired.is_active, retired.retired_at) == (False, "2024-06-02T12:00:00.000000Z")
    assert (active.model_id, active.is_active, active.deployed_at) == ("m2", True, "2024-06-02T12:00:00.000000Z")


def test_the_model_history_is_newest_first_and_complete(db: FeatureDatabase) -> None:
    for day in range(1, 4):
        db.register_model(metadata(f"m{day}", f"2024-01-0{day}T00:00:00.000000Z", feature_importance={"rsi": 0.25}))
    history = db.get_model_history(QUALITY, limit=2)
    assert [row.model_id for row in history] == ["m3", "m2"]
    assert history[0].feature_importance == {"rsi": 0.25}
    assert history[0].feature_names == ["atr", "rsi"]
    assert db.get_active_model(QUALITY) is None


def test_c23_one_feature_version_at_a_time_and_missing_is_nan(db: FeatureDatabase) -> None:
    db.store_feature_vector(plain("old", features={"rsi": 1.0, "gone": 2.0}, target=1.0), feature_version="1.0")
    db.store_feature_vector(plain("new1", features={"rsi": 3.0, "atr": 4.0}, target=1.0), feature_version="2.0")
    db.store_feature_vector(plain("new2", features={"rsi": 5.0}, target=1.0), feature_version="2.0")
    X, _, names = db.get_training_data("2024-01-01", "2024-12-31")
    assert names == ["atr", "rsi"]
    np.testing.assert_array_equal(X, [[4.0, 3.0], [np.nan, 5.0]])
    X, _, names = db.get_training_data("2024-01-01", "2024-12-31", feature_version="1.0")
    assert (names, X.tolist()) == (["gone", "rsi"], [[2.0, 1.0]])


def test_an_incomplete_vector_is_not_trained_on(db: FeatureDatabase) -> None:
    db.store_feature_vector(plain("s1", target=1.0), complete=False)
    assert db.get_training_data("2024-01-01", "2024-12-31")[1].size == 0
    assert db.count_samples() == 0
    counts = db.counts()
    assert (counts.incomplete, counts.labelled, counts.labels_total) == (1, 1, 0)
    db.store_feature_vector(plain("s2", target=2.0))
    ((version,),) = db._connection.query("SELECT DISTINCT feature_version FROM feature_vectors")
    matrix = db.vectors.training_matrix(feature_version=version, names=["rsi"])
    assert (matrix.signal_ids, matrix.X.tolist(), matrix.incomplete) == (["s2"], [[65.0]], 1)


def test_a_store_is_named_by_a_string_and_survives_closing(tmp_path: Path) -> None:
    db = FeatureDatabase(str(tmp_path / "test.db"))
    db.initialize()
    db.store_feature_vector(plain("s1"))
    db.close()
    assert db.get_feature_vector("s1") is not None
    db.close()


def test_a_store_in_memory_serves_a_notebook() -> None:
    with FeatureDatabase(":memory:") as db:
        db.store_feature_vector(plain("s1"))
        assert db.counts().signals == 1
