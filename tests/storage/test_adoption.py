"""A store that the specification's own code wrote opens: what can be read stays, the rest is kept aside and told."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tests.support.specification_store import SpecificationStore, filled
from trading_system.ml_refinement.models import SignalQualityModel
from trading_system.ml_refinement.storage import FeatureDatabase, SqliteConnection, StoreError
from trading_system.ml_refinement.storage.schema import migrate, steps
from trading_system.ml_refinement.storage.sqlite.adoption import REPEATS
from trading_system.ml_refinement.storage.times import utc_now

UNREADABLE = [
    "yesterday",
    "",
    "None",
    "nan",
    "now",
    "1704067200",
    1704067200,
    1704067200.5,
    "1612010100000",
    "2024-02-30",
]
READABLE = {
    "2024-01-01": "2024-01-01T00:00:00.000000Z",
    "2024-01-01T10:00:00": "2024-01-01T10:00:00.000000Z",
    "2024-01-01 10:00:00.123456": "2024-01-01T10:00:00.123456Z",
    "2024-01-01T10:00:00+05:30": "2024-01-01T04:30:00.000000Z",
    "  2024-01-01T10:00:00Z \n": "2024-01-01T10:00:00.000000Z",
}


def aside(db: FeatureDatabase) -> list[tuple[str, str, str]]:
    """What is in the quarantine: table, action and reason."""
    return [(row.table, row.action, row.reason) for row in db.quarantine.rows()]


def test_a_clean_store_opens_whole_and_can_be_trained_on(path: Path) -> None:
    filled(path)
    with FeatureDatabase(path) as db:
        X, r, names = db.get_training_data("2024-01-01", "2024-12-31")
        model = SignalQualityModel("adopted")
        model.fit(X, r, feature_names=names)
        assert X.shape == (60, 2)
        assert model.predict_proba(X).shape == (60,)
        assert db.count_samples() == db.counts().labelled == db.counts().predictions == 60
        assert aside(db) == [("model_registry", "corrected", "its file is a pickle, which is never loaded")]


@pytest.mark.parametrize("said", UNREADABLE)
def test_a_signal_whose_time_cannot_be_read_is_kept_aside_whole(path: Path, said: object) -> None:
    filled(path, dirty=[{"signal_id": "odd", "timestamp": said, "symbol": "ODD"}])
    with FeatureDatabase(path) as db:
        assert db.get_feature_vector("odd") is None
        assert db.count_samples(require_target=False) == 60
        (row,) = [row for row in db.quarantine.rows() if row.table == "feature_vectors"]
        assert (row.action, row.reason) == ("removed", "timestamp is not a time")
        assert row.original["timestamp"] == str(said)
        assert (row.original["signal_id"], row.original["symbol"]) == ("odd", "ODD")
        assert json.loads(row.original["features"]) == {"rsi": 65.0, "atr": 2.5}
        assert row.original["id"] == row.row_id == 61
        assert db.counts().quarantined == 2


@pytest.mark.parametrize("said", READABLE)
def test_a_time_that_can_be_read_is_the_same_time_in_the_stores_form(path: Path, said: str) -> None:
    filled(path, rows=0, dirty=[{"signal_id": "a", "timestamp": said}])
    with FeatureDatabase(path) as db:
        stored = db.get_feature_vector("a")
        assert stored is not None
        assert stored.timestamp == READABLE[said]


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        ({"rsi": math.nan}, "a feature is not a finite number"),
        ({"rsi": 1.0, "atr": -math.inf}, "a feature is not a finite number"),
        ({"rsi": "65.0"}, "a feature is not a number"),
        ({"rsi": [1.0]}, "a feature is not a number"),
        ("[1.0, 2.0]", "features are not an object"),
        ("{'rsi': 1.0}", "features are not JSON"),
        ("", "features are not JSON"),
        ('{"rsi": 1e400}', "features are not JSON"),
        ('{"\\ud800": 1.0}', "features are not JSON"),
        (b'{"rsi": 1.0}', "features is not text"),
    ],
)
def test_features_that_cannot_be_read_are_kept_aside_and_the_rest_trains(
    path: Path, features: object, reason: str
) -> None:
    filled(path, dirty=[{"signal_id": "odd", "features": features, "target_r_multiple": 1.0, "target_binary": 1}])
    with FeatureDatabase(path) as db:
        X, r, _ = db.get_training_data("2024-01-01", "2024-12-31")
        assert len(X) == len(r) == 60
        assert np.isfinite(X).all()
        assert ("feature_vectors", "removed", reason) in aside(db)


def test_a_feature_that_is_null_is_missing(path: Path) -> None:
    filled(path, rows=0, dirty=[{"signal_id": "a", "features": {"rsi": None, "atr": 2, "up": True}}])
    with FeatureDatabase(path) as db:
        stored = db.get_feature_vector("a")
        assert stored is not None
        assert stored.features == {"atr": 2.0, "up": 1.0}
        X, _, names = db.get_training_data("2024-01-01", "2024-12-31", require_target=False)
        assert names == ["atr", "rsi", "up"]
        np.testing.assert_array_equal(X, [[2.0, np.nan, 1.0]])


@pytest.mark.parametrize("target", [math.inf, -1e308, "a win", b"\x00\x00\xc0\x3f"])
def test_an_outcome_that_is_no_finite_number_takes_its_row_aside(path: Path, target: object) -> None:
    filled(path, dirty=[{"signal_id": "odd", "target_r_multiple": target}])
    with FeatureDatabase(path) as db:
        assert db.count_samples() == 60
        assert ("feature_vectors", "removed", "target_r_multiple is not a finite number") in aside(db)


@pytest.mark.parametrize(
    ("target", "binary", "stands"),
    [(1.5, 0, 1), (-1.0, 7, 0), (0.0, None, 0), (None, 2, None), (None, 1, 1), (None, b"\x01\0\0\0", None)],
)
def test_an_odd_binary_target_is_what_the_outcome_says_and_the_row_stays(
    path: Path, target: float | None, binary: object, stands: int | None
) -> None:
    filled(path, rows=0, dirty=[{"signal_id": "a", "target_r_multiple": target, "target_binary": binary}])
    with FeatureDatabase(path) as db:
        stored = db.get_feature_vector("a")
        assert stored is not None
        assert (stored.target, stored.target_binary) == (target, stands)
        kept = [row for row in db.quarantine.rows() if row.table == "feature_vectors"]
        assert [row.action for row in kept] == ["corrected"] * (binary not in (None, stands))


def test_a_label_whose_time_cannot_be_read_is_no_label_from_the_beginning_of_time(path: Path) -> None:
    odd = {"target_r_multiple": 1.0, "target_binary": 1}
    filled(
        path, dirty=[{"signal_id": "odd", "updated_at": "later", **odd}, {"signal_id": "ok", "updated_at": None, **odd}]
    )
    with FeatureDatabase(path) as db:
        assert db.count_samples() == 61
        assert ("feature_vectors", "removed", "when its outcome was known is not a time") in aside(db)


def test_of_repeated_predictions_the_first_stands_and_the_others_are_kept_aside(path: Path) -> None:
    filled(path, rows=1)
    with SpecificationStore(path) as store:
        for score in (0.1, 0.2):
            store.prediction("s-000", quality_score=score)
        store.prediction("s-000", "gone")
    with FeatureDatabase(path) as db:
        (logged,) = db.scores.of_signal("s-000")
        assert logged.prediction.quality_score == 0.6
        kept = [row for row in db.quarantine.rows() if row.table == "prediction_log"]
        assert [(row.reason, row.original["quality_score"]) for row in kept] == [
            ("its model is not in the registry", 0.6),
            ("repeats an earlier prediction of the same signal and model", 0.1),
            ("repeats an earlier prediction of the same signal and model", 0.2),
        ]
        assert db.counts().predictions == 1
        assert not db.connection.query("PRAGMA foreign_key_check")


def test_each_prediction_has_its_own_error_and_the_outcome_of_its_signal(path: Path) -> None:
    with SpecificationStore(path) as store:
        for model_id in ("m1", "m2", "m3"):
            store.model(model_id)
        store.vector("a")
        store.target("a", 1.5)
        store.prediction("a", "m1", 0.5)
        store.prediction("a", "m2", 2.0)
        store.actual("a", 1.5)
        store.prediction("a", "m3", 1.0)
    with FeatureDatabase(path) as db:
        errors = {one.prediction.model_id: (one.actual_r, one.prediction_error) for one in db.scores.of_signal("a")}
        assert errors == {"m1": (1.5, 1.0), "m2": (1.5, -0.5), "m3": (1.5, 0.5)}
        assert [row for row in aside(db) if row[0] == "prediction_log"] == [
            ("prediction_log", "corrected", "prediction_error is another prediction's")
        ]


def test_a_pickled_model_stays_listed_and_never_serves_again(path: Path) -> None:
    filled(path, rows=1)
    with SpecificationStore(path) as store:
        store.model("m2", validation_metrics=json.dumps({"auc": math.nan, "accuracy": 0.7}))
        store.model("m3", feature_importance=json.dumps({"rsi": math.nan, "atr": 1.0}), created_at="soon")
    with FeatureDatabase(path) as db:
        assert db.get_active_model("signal_quality") is None
        assert db.models.serving("signal_quality") == ()
        listed = {one.model_id: one for one in db.get_model_history("signal_quality")}
        assert set(listed) == {"m1", "m2", "m3"}
        assert listed["m2"].validation_metrics == {"auc": None, "accuracy": 0.7}
        assert listed["m3"].feature_importance == {"atr": 1.0}
        assert not db.activate_model("m2")
        with pytest.raises(StoreError, match=r"m2: its file m2\.pkl is a pickle, which is never loaded"):
            db.models.activate("m2", reason="by hand")
        assert db.get_active_model("signal_quality") is None


def test_a_model_of_no_known_type_is_kept_aside_with_its_predictions(path: Path) -> None:
    filled(path, rows=1)
    with SpecificationStore(path) as store:
        store.model("odd", model_type="oracle")
        store.prediction("s-000", "odd")
    with FeatureDatabase(path) as db:
        assert ("model_registry", "removed", "model_type is none that exists") in aside(db)
        assert ("prediction_log", "removed", "its model is not in the registry") in aside(db)
        assert [row.model_id for row in db.models.history()] == ["m1"]


def test_text_that_is_not_unicode_is_kept_as_its_bytes(path: Path) -> None:
    filled(path, rows=1)
    with SpecificationStore(path) as store:
        store.connection.execute("UPDATE feature_vectors SET signal_id = CAST(x'ff41' AS TEXT)")
    with FeatureDatabase(path) as db:
        (row,) = [row for row in db.quarantine.rows() if row.table == "feature_vectors"]
        assert (row.reason, row.original["signal_id"]) == ("signal_id is not text", {"text": "ff41"})


def test_opening_again_finds_the_same(path: Path) -> None:
    filled(path, dirty=[{"signal_id": "odd", "timestamp": "yesterday"}])
    seen = []
    for _ in range(2):
        with FeatureDatabase(path) as db:
            rows = db.connection.query("SELECT * FROM feature_vectors ORDER BY id")
            seen.append((rows, db.quarantine.rows(), db.counts()))
    assert seen[0] == seen[1]


def test_a_step_that_fails_after_the_check_leaves_the_file_as_it_was(path: Path) -> None:
    filled(path, dirty=[{"signal_id": "odd", "timestamp": "yesterday"}])
    with SpecificationStore(path) as store:
        store.connection.execute("CREATE TABLE trade_outcomes (x)")
        before = list(store.connection.iterdump())
    with pytest.raises(StoreError, match="trade_outcomes"):
        FeatureDatabase(path).initialize()
    with SpecificationStore(path) as store:
        assert list(store.connection.iterdump()) == before


def test_a_store_that_was_taken_over_unchecked_is_checked_now(path: Path) -> None:
    filled(path, dirty=[{"signal_id": "odd", "features": {"rsi": math.nan}}])
    older = SqliteConnection(path)
    migrate(older, {number: sql for number, sql in steps().items() if number < 8}, utc_now)
    older.close()
    with FeatureDatabase(path) as db:
        assert db.count_samples(require_target=False) == 60
        assert aside(db) == [
            ("model_registry", "corrected", "its file is a pickle, which is never loaded"),
            ("feature_vectors", "removed", "a feature is not a finite number"),
        ]
        assert db.counts().signals == 60
        assert db.get_active_model("signal_quality") is None


@pytest.mark.parametrize("step", [1, 8])
def test_repeats_are_looked_for_signal_by_signal(path: Path, step: int) -> None:
    older = SqliteConnection(path)
    migrate(older, {number: sql for number, sql in steps().items() if number <= step}, utc_now)
    plan = older.query("EXPLAIN QUERY PLAN SELECT id FROM prediction_log AS t WHERE " + REPEATS)  # noqa: S608 - ours
    assert any("INDEX idx_pred_signal (signal_id=?" in row[3] for row in plan), plan
