"""Task 4.1.2: the schema of the store, and everything a quant does with `FeatureDatabase`."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trading_system.ml_refinement import FeatureVector, ModelMetadata, ModelType
from trading_system.ml_refinement.storage import FeatureDatabase

#: Columns of every table: name, type, whether NOT NULL.
TABLES = {
    "feature_vectors": (
        "id INTEGER, signal_id TEXT!, timestamp TEXT!, features TEXT!, target_r_multiple REAL, target_binary INTEGER, "
        "target_return_pct REAL, feature_version TEXT!, created_at TEXT!, updated_at TEXT, symbol TEXT, "
        "asset_class TEXT, signal_type TEXT, conviction TEXT"
    ),
    "model_registry": (
        "id INTEGER, model_id TEXT!, model_type TEXT!, version TEXT!, created_at TEXT!, train_start_date TEXT, "
        "train_end_date TEXT, train_samples INTEGER, validation_samples INTEGER, train_metrics TEXT, "
        "validation_metrics TEXT, feature_names TEXT, feature_importance TEXT, model_path TEXT, is_active INTEGER!, "
        "deployed_at TEXT, retired_at TEXT"
    ),
    "feature_definitions": (
        "id INTEGER, name TEXT!, category TEXT!, description TEXT, data_type TEXT!, computation TEXT, "
        "dependencies TEXT, created_at TEXT!"
    ),
    "training_runs": (
        "id INTEGER, run_id TEXT!, model_type TEXT!, started_at TEXT!, completed_at TEXT, status TEXT!, config TEXT, "
        "train_samples INTEGER, validation_samples INTEGER, best_iteration INTEGER, metrics TEXT, model_id TEXT, "
        "error_message TEXT"
    ),
    "prediction_log": (
        "id INTEGER, signal_id TEXT!, model_id TEXT!, predicted_at TEXT!, quality_score REAL, predicted_r REAL, "
        "confidence REAL, actual_r REAL, prediction_error REAL"
    ),
    "ml_schema_migrations": "version INTEGER, applied_at TEXT!",
}
#: Every index: its table, and whether it is unique.
INDEXES = {
    "idx_fv_signal_id": ("feature_vectors", False),
    "idx_fv_timestamp": ("feature_vectors", False),
    "idx_fv_symbol": ("feature_vectors", False),
    "idx_fv_asset_class": ("feature_vectors", False),
    "idx_fv_has_target": ("feature_vectors", False),
    "idx_model_type": ("model_registry", False),
    "idx_model_active": ("model_registry", False),
    "idx_model_type_active": ("model_registry", True),
    "idx_training_status": ("training_runs", False),
    "idx_training_model_type": ("training_runs", False),
    "idx_pred_signal": ("prediction_log", False),
    "idx_pred_model": ("prediction_log", False),
}
UNIQUE = {
    "feature_vectors": "signal_id",
    "model_registry": "model_id",
    "feature_definitions": "name",
    "training_runs": "run_id",
}
YEAR = ("2023-01-01", "2023-12-31")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "features.db"


@pytest.fixture
def db(path: Path) -> Iterator[FeatureDatabase]:
    db = FeatureDatabase(str(path))
    db.initialize()
    yield db
    db.close()


def vector(number: int, day: int | None = None, **fields: Any) -> FeatureVector:
    fields.setdefault("features", {"rsi": float(number), "atr": number / 10})
    return FeatureVector(f"s-{number}", f"2023-03-{day or number:02d}T10:00:00", **fields)


def metadata(model_id: str, day: int = 1, **fields: Any) -> ModelMetadata:
    fields = {
        "model_type": ModelType.SIGNAL_QUALITY,
        "version": "1.0",
        "created_at": f"2024-06-{day:02d}T00:00:00",
        "train_start_date": "2023-01-01",
        "train_end_date": "2023-12-31",
        "train_samples": 180,
        "validation_samples": 40,
    } | fields
    return ModelMetadata(model_id=model_id, **fields)


def moment(text: str) -> datetime:
    """A stored time; without an offset it is UTC."""
    read = datetime.fromisoformat(text)
    return read if read.tzinfo else read.replace(tzinfo=UTC)


def rows(path: Path, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """What any other SQLite program reads from the file."""
    with sqlite3.connect(path) as connection:
        return connection.execute(sql, parameters).fetchall()


# -- Schema creates all tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
def test_every_table_has_the_columns_of_the_specification_first_and_in_order(
    db: FeatureDatabase, path: Path, table: str
) -> None:
    found = [
        f"{name} {kind}{'!' * notnull}" for _, name, kind, notnull, *_ in rows(path, f"PRAGMA table_info({table})")
    ]
    wanted = TABLES[table].split(", ")
    assert found[: len(wanted)] == wanted


@pytest.mark.parametrize("index", INDEXES)
def test_every_index_of_the_specification_exists(db: FeatureDatabase, path: Path, index: str) -> None:
    table, unique = INDEXES[index]
    there = {name: bool(is_unique) for _, name, is_unique, *_ in rows(path, f"PRAGMA index_list({table})")}
    assert there.get(index) is unique


@pytest.mark.parametrize(("table", "column"), UNIQUE.items())
def test_what_identifies_a_row_is_unique(db: FeatureDatabase, path: Path, table: str, column: str) -> None:
    unique = [name for _, name, is_unique, *_ in rows(path, f"PRAGMA index_list({table})") if is_unique]
    columns = [[name for *_, name in rows(path, f"PRAGMA index_info({index})")] for index in unique]
    assert [column] in columns


def test_the_first_migration_is_noted_with_its_time(db: FeatureDatabase, path: Path) -> None:
    [(applied_at,)] = rows(path, "SELECT applied_at FROM ml_schema_migrations WHERE version = 1")
    assert moment(applied_at) <= datetime.now(UTC)


def test_a_model_is_inactive_by_default_and_two_of_a_type_cannot_be_active(db: FeatureDatabase, path: Path) -> None:
    insert = "INSERT INTO model_registry (model_id, model_type, version, created_at{}) VALUES (?, 'a', '1', '2024'{})"
    with sqlite3.connect(path) as connection:
        connection.execute(insert.format("", ""), ("m0",))
        connection.execute(insert.format(", is_active", ", 1"), ("m1",))
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(insert.format(", is_active", ", 1"), ("m2",))
        connection.rollback()
    db.register_model(metadata("m3"))
    assert rows(path, "SELECT is_active FROM model_registry WHERE model_id = 'm3'") == [(0,)]


def test_initialising_twice_keeps_what_is_there(db: FeatureDatabase, path: Path) -> None:
    db.store_feature_vector(vector(1))
    db.initialize()
    with FeatureDatabase(str(path)) as other:
        other.initialize()
        assert other.get_feature_vector("s-1") is not None
    assert rows(path, "SELECT COUNT(*) FROM ml_schema_migrations WHERE version = 1") == [(1,)]


def test_the_path_may_be_text_or_a_path_and_is_known(path: Path) -> None:
    assert FeatureDatabase(str(path)).db_path == path
    assert FeatureDatabase(path).db_path == path
    assert FeatureDatabase().db_path == Path("features.db")
    assert FeatureDatabase.FEATURE_VERSION == "1.0"


def test_a_closed_database_opens_again_when_it_is_asked(db: FeatureDatabase) -> None:
    db.store_feature_vector(vector(1))
    db.close()
    db.close()
    assert db.get_feature_vector("s-1") is not None


def test_the_connection_answers_sql(db: FeatureDatabase) -> None:
    db.store_feature_vector(vector(1), symbol="AAPL")
    row = db.connection.execute("SELECT signal_id, symbol FROM feature_vectors WHERE symbol = ?", ("AAPL",)).fetchone()
    assert (row["signal_id"], row["symbol"]) == ("s-1", "AAPL")
    assert tuple(row) == ("s-1", "AAPL")
    everything = db.connection.execute("SELECT signal_id FROM feature_vectors").fetchall()
    assert [row[0] for row in everything] == ["s-1"]
    assert db.connection.execute("SELECT 1 FROM feature_vectors WHERE symbol = 'X'").fetchone() is None


def test_a_transaction_is_kept_whole_or_not_at_all(db: FeatureDatabase, path: Path) -> None:
    db.store_feature_vector(vector(1))
    db.store_feature_vector(vector(2))
    with db.transaction() as connection:
        changed = connection.execute("UPDATE feature_vectors SET symbol = ? WHERE signal_id = ?", ("AAPL", "s-1"))
        assert changed.rowcount == 1

    def interrupted() -> None:
        with db.transaction() as connection:
            connection.execute("UPDATE feature_vectors SET symbol = 'MSFT'")
            raise RuntimeError("in between")

    with pytest.raises(RuntimeError, match="in between"):
        interrupted()
    symbols = rows(path, "SELECT signal_id, symbol FROM feature_vectors ORDER BY signal_id")
    assert symbols[0] == ("s-1", "AAPL")
    assert symbols[1][1] != "MSFT"


# -- Feature vector CRUD operations work ----------------------------------------------------------------------------


def test_store_and_retrieve_features(tmp_path: Path) -> None:
    db = FeatureDatabase(str(tmp_path / "test.db"))
    db.initialize()
    fv = FeatureVector(signal_id="test-123", timestamp="2024-01-01T10:00:00", features={"rsi": 65.0, "atr": 2.5})
    assert db.store_feature_vector(fv, symbol="AAPL") is True
    retrieved = db.get_feature_vector("test-123")
    assert retrieved is not None
    assert retrieved.features["rsi"] == 65.0
    assert retrieved.features == fv.features
    assert moment(retrieved.timestamp) == moment(fv.timestamp)
    assert (retrieved.target, retrieved.target_binary) == (None, None)
    db.close()


def test_an_unknown_signal_has_no_vector(db: FeatureDatabase) -> None:
    assert db.get_feature_vector("nobody") is None


def test_what_describes_the_signal_is_stored_beside_its_features(db: FeatureDatabase, path: Path) -> None:
    db.store_feature_vector(vector(1), symbol="AAPL", asset_class="equity", signal_type="breakout", conviction="HIGH")
    db.store_feature_vector(vector(2), "MSFT", "equity", "momentum", "LOW")
    stored = rows(
        path,
        "SELECT symbol, asset_class, signal_type, conviction, feature_version FROM feature_vectors ORDER BY signal_id",
    )
    assert stored == [("AAPL", "equity", "breakout", "HIGH", "1.0"), ("MSFT", "equity", "momentum", "LOW", "1.0")]
    [(features, created_at)] = rows(path, "SELECT features, created_at FROM feature_vectors WHERE signal_id = 's-1'")
    assert json.loads(features) == {"rsi": 1.0, "atr": 0.1}
    assert abs((datetime.now(UTC) - moment(created_at)).total_seconds()) < 24 * 3600


def test_a_vector_that_brings_its_outcome_keeps_it(db: FeatureDatabase) -> None:
    db.store_feature_vector(vector(1, target=2.0, target_binary=1))
    db.store_feature_vector(vector(2, target=-1.0, target_binary=0))
    first, second = db.get_feature_vector("s-1"), db.get_feature_vector("s-2")
    assert first is not None
    assert second is not None
    assert (first.target, first.target_binary) == (2.0, 1)
    assert (second.target, second.target_binary) == (-1.0, 0)


def test_a_win_or_loss_without_an_r_multiple_is_kept(db: FeatureDatabase) -> None:
    db.store_feature_vector(vector(1, target_binary=1))
    stored = db.get_feature_vector("s-1")
    assert stored is not None
    assert (stored.target, stored.target_binary) == (None, 1)


def test_c4_storing_a_vector_again_renews_its_features_and_keeps_its_outcome(db: FeatureDatabase, path: Path) -> None:
    db.store_feature_vector(vector(1), symbol="AAPL")
    db.update_target("s-1", 1.5)
    [(created_at,)] = rows(path, "SELECT created_at FROM feature_vectors")
    assert db.store_feature_vector(vector(1, features={"rsi": 70.0}), symbol="AAPL") is True
    stored = db.get_feature_vector("s-1")
    assert stored is not None
    assert stored.features == {"rsi": 70.0}
    assert (stored.target, stored.target_binary) == (1.5, 1)
    assert rows(path, "SELECT created_at, COUNT(*) FROM feature_vectors") == [(created_at, 1)]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_not_stored(db: FeatureDatabase, value: float) -> None:
    with pytest.raises(ValueError, match="rsi"):
        db.store_feature_vector(vector(1, features={"rsi": value}))
    assert db.get_feature_vector("s-1") is None


# -- Target updates work correctly ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("r_multiple", "won"), [(2.5, 1), (0.01, 1), (0.0, 0), (-1.0, 0)])
def test_the_outcome_of_a_signal_is_filled_in(db: FeatureDatabase, r_multiple: float, won: int) -> None:
    db.store_feature_vector(vector(1))
    assert db.update_target("s-1", r_multiple) is True
    stored = db.get_feature_vector("s-1")
    assert stored is not None
    assert (stored.target, stored.target_binary) == (r_multiple, won)


def test_the_return_in_percent_and_the_time_of_the_update_are_kept(db: FeatureDatabase, path: Path) -> None:
    db.store_feature_vector(vector(1))
    db.store_feature_vector(vector(2))
    db.update_target("s-1", 1.5, return_pct=3.2)
    db.update_target("s-2", 1.5, 4.5)
    kept = rows(path, "SELECT target_return_pct, updated_at IS NOT NULL FROM feature_vectors ORDER BY signal_id")
    assert kept == [(3.2, 1), (4.5, 1)]


def test_the_outcome_of_an_unknown_signal_says_so_and_c5_is_applied_when_the_signal_comes(db: FeatureDatabase) -> None:
    assert db.update_target("s-1", 2.0) is False
    db.store_feature_vector(vector(1))
    stored = db.get_feature_vector("s-1")
    assert stored is not None
    assert (stored.target, stored.target_binary) == (2.0, 1)


def test_a_later_outcome_corrects_the_earlier_one(db: FeatureDatabase) -> None:
    db.store_feature_vector(vector(1))
    assert db.update_target("s-1", 2.0)
    assert db.update_target("s-1", -1.0)
    stored = db.get_feature_vector("s-1")
    assert stored is not None
    assert (stored.target, stored.target_binary) == (-1.0, 0)


# -- Training data retrieval returns numpy arrays -------------------------------------------------------------------


def test_get_training_data(tmp_path: Path) -> None:
    db = FeatureDatabase(str(tmp_path / "test.db"))
    db.initialize()
    for number in range(1, 11):
        db.store_feature_vector(vector(number, target=number - 5.0), symbol="AAPL")
    X, y, feature_names = db.get_training_data(start_date="2023-01-01", end_date="2023-12-31")
    assert isinstance(X, np.ndarray)
    assert isinstance(y, np.ndarray)
    assert X.shape == (10, 2)
    assert y.shape == (10,)
    assert X.dtype == y.dtype == np.float64
    assert feature_names == ["atr", "rsi"]
    np.testing.assert_array_equal(X[:, 1], np.arange(1.0, 11.0))
    np.testing.assert_array_equal(y, np.arange(1, 11) - 5.0)
    db.close()


def test_rows_come_in_the_order_of_their_time_however_they_were_stored(db: FeatureDatabase) -> None:
    for number in (7, 2, 9, 4):
        db.store_feature_vector(vector(number, target=float(number)))
    _, y, _ = db.get_training_data(*YEAR)
    assert y.tolist() == [2.0, 4.0, 7.0, 9.0]


def test_without_data_the_arrays_are_empty(db: FeatureDatabase) -> None:
    X, y, feature_names = db.get_training_data(*YEAR)
    assert (X.size, y.size, len(X), len(y), feature_names) == (0, 0, 0, 0, [])
    X, y, feature_names = db.get_training_data_binary(*YEAR)
    assert (X.size, y.size, feature_names) == (0, 0, [])


def test_signals_without_an_outcome_are_left_out_unless_they_are_asked_for(db: FeatureDatabase) -> None:
    db.store_feature_vector(vector(1, target=1.0))
    db.store_feature_vector(vector(2))
    assert db.get_training_data(*YEAR)[0].shape == (1, 2)
    X, y, _ = db.get_training_data(*YEAR, require_target=False)
    assert X.shape == (2, 2)
    np.testing.assert_array_equal(y, [1.0, np.nan])


def test_asset_class_and_signal_type_choose_rows(db: FeatureDatabase) -> None:
    db.store_feature_vector(vector(1, target=1.0), asset_class="equity", signal_type="breakout")
    db.store_feature_vector(vector(2, target=2.0), asset_class="crypto", signal_type="breakout")
    db.store_feature_vector(vector(3, target=3.0), asset_class="crypto", signal_type="momentum")

    def chosen(**wanted: str) -> list[float]:
        return db.get_training_data(*YEAR, **wanted)[1].tolist()  # type: ignore[arg-type]

    assert chosen(asset_class="crypto") == [2.0, 3.0]
    assert chosen(signal_type="breakout") == [1.0, 2.0]
    assert chosen(asset_class="crypto", signal_type="breakout") == [2.0]
    assert chosen(asset_class="bond") == []
    assert db.get_training_data_binary(*YEAR, asset_class="equity")[1].tolist() == [1]


def test_the_binary_target_is_whether_the_trade_won(db: FeatureDatabase) -> None:
    for number, r_multiple in enumerate([1.5, -1.0, 0.0, 0.2], start=1):
        db.store_feature_vector(vector(number, target=r_multiple))
    X, y, feature_names = db.get_training_data_binary("2023-01-01", "2023-12-31")
    assert X.shape == (4, 2)
    assert y.tolist() == [1, 0, 0, 1]
    assert np.issubdtype(y.dtype, np.integer)
    assert feature_names == ["atr", "rsi"]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        ("2023-03-05", "2023-03-07", [5, 6, 7]),
        ("2023-03-05T10:00:00", "2023-03-07T10:00:00", [5, 6, 7]),
        ("2023-03-05T10:00:01", "2023-03-07T09:59:59", [6]),
        ("2023-03-05T12:00:00+02:00", "2023-03-05T12:00:00+02:00", [5]),
        ("2024-01-01", "2024-12-31", []),
    ],
)
def test_c9_a_range_of_dates_means_whole_days_and_moments_mean_moments(
    db: FeatureDatabase, start: str, end: str, expected: list[int]
) -> None:
    for number in range(1, 11):
        db.store_feature_vector(vector(number, target=float(number)))
    assert db.get_training_data(start, end)[1].tolist() == expected
    assert db.count_samples(start, end) == len(expected)


def test_c23_a_feature_that_a_row_lacks_is_missing_and_not_zero(db: FeatureDatabase) -> None:
    db.store_feature_vector(vector(1, features={"rsi": 1.0}, target=1.0))
    db.store_feature_vector(vector(2, features={"atr": 2.0, "rsi": 2.0}, target=1.0))
    X, _, feature_names = db.get_training_data(*YEAR)
    assert feature_names == ["atr", "rsi"]
    np.testing.assert_array_equal(X, [[np.nan, 1.0], [2.0, 2.0]])


def test_samples_are_counted(db: FeatureDatabase) -> None:
    for number in range(1, 6):
        db.store_feature_vector(vector(number, target=1.0 if number < 4 else None))
    assert db.count_samples() == 3
    assert db.count_samples(require_target=False) == 5
    assert db.count_samples(start_date="2023-03-02") == 2
    assert db.count_samples(end_date="2023-03-02") == 2
    assert db.count_samples("2023-03-03", "2023-03-04", require_target=False) == 2


# -- Model registry tracks versions ---------------------------------------------------------------------------------


def test_the_metadata_of_a_model_survive_the_store(db: FeatureDatabase, path: Path) -> None:
    told = metadata(
        "m-1",
        train_metrics={"auc": 0.7},
        validation_metrics={"auc": 0.6, "accuracy": 0.55},
        feature_names=["rsi", "atr"],
        feature_importance={"rsi": 0.9, "atr": 0.1},
    )
    assert db.register_model(told) is True
    [kept] = db.get_model_history("signal_quality")
    for name in ("model_id", "model_type", "version", "train_samples", "validation_samples", "train_metrics"):
        assert getattr(kept, name) == getattr(told, name)
    assert kept.model_type is ModelType.SIGNAL_QUALITY
    assert kept.validation_metrics == told.validation_metrics
    assert kept.feature_names == ["rsi", "atr"]
    assert kept.feature_importance == told.feature_importance
    assert moment(kept.created_at) == moment(told.created_at)
    assert kept.train_start_date.startswith("2023-01-01")
    assert kept.train_end_date.startswith("2023-12-31")
    assert (kept.is_active, kept.deployed_at) == (False, None)
    [(names, metrics)] = rows(path, "SELECT feature_names, train_metrics FROM model_registry")
    assert json.loads(names) == ["rsi", "atr"]
    assert json.loads(metrics) == {"auc": 0.7}


def test_a_model_is_registered_once(db: FeatureDatabase) -> None:
    db.register_model(metadata("m-1"))
    with pytest.raises(Exception, match=r"UNIQUE|m-1"):
        db.register_model(metadata("m-1"))
    assert len(db.get_model_history("signal_quality")) == 1


def test_one_model_of_a_type_is_active_and_c19_the_one_before_is_retired(db: FeatureDatabase, path: Path) -> None:
    for model_id in ("m-1", "m-2"):
        db.register_model(metadata(model_id))
    db.register_model(metadata("r-1", model_type=ModelType.RISK_PREDICTOR))
    assert db.get_active_model("signal_quality") is None
    assert db.activate_model("m-1") is True
    assert db.activate_model("r-1") is True
    assert db.activate_model("m-2") is True
    active = db.get_active_model("signal_quality")
    assert active is not None
    assert (active.model_id, active.is_active) == ("m-2", True)
    assert active.deployed_at is not None
    other = db.get_active_model("risk_predictor")
    assert other is not None
    assert other.model_id == "r-1"
    retired = rows(path, "SELECT model_id, is_active, retired_at IS NOT NULL FROM model_registry ORDER BY model_id")
    assert retired == [("m-1", 0, 1), ("m-2", 1, 0), ("r-1", 1, 0)]


def test_an_unknown_model_cannot_be_activated_and_changes_nothing(db: FeatureDatabase) -> None:
    db.register_model(metadata("m-1"))
    db.activate_model("m-1")
    assert db.activate_model("nobody") is False
    active = db.get_active_model("signal_quality")
    assert active is not None
    assert active.model_id == "m-1"


def test_the_history_is_newest_first_and_limited(db: FeatureDatabase) -> None:
    for day in (3, 1, 2):
        db.register_model(metadata(f"m-{day}", day))
    db.register_model(metadata("r-1", 9, model_type=ModelType.RISK_PREDICTOR))
    assert [kept.model_id for kept in db.get_model_history("signal_quality")] == ["m-3", "m-2", "m-1"]
    assert [kept.model_id for kept in db.get_model_history("signal_quality", limit=2)] == ["m-3", "m-2"]
    assert db.get_model_history("regime_classifier") == []
    for day in range(4, 20):
        db.register_model(metadata(f"m-{day}", day))
    assert len(db.get_model_history("signal_quality")) == 10


# -- Prediction logging works ---------------------------------------------------------------------------------------


def predictions(path: Path) -> list[tuple[Any, ...]]:
    return rows(
        path,
        "SELECT signal_id, model_id, quality_score, predicted_r, confidence, actual_r, prediction_error "
        "FROM prediction_log ORDER BY signal_id, model_id",
    )


def test_a_prediction_is_logged_and_its_actual_filled_in(db: FeatureDatabase, path: Path) -> None:
    db.register_model(metadata("m-1"))
    assert db.log_prediction("s-1", "m-1", 0.7, predicted_r=0.5, confidence=0.9) is True
    assert db.log_prediction(signal_id="s-2", model_id="m-1", quality_score=0.4) is True
    assert predictions(path) == [
        ("s-1", "m-1", 0.7, 0.5, 0.9, None, None),
        ("s-2", "m-1", 0.4, None, None, None, None),
    ]
    assert db.update_prediction_actual("s-1", 2.0) is True
    assert db.update_prediction_actual("s-2", actual_r=-1.0) is True
    assert predictions(path) == [("s-1", "m-1", 0.7, 0.5, 0.9, 2.0, 1.5), ("s-2", "m-1", 0.4, None, None, -1.0, None)]
    [(predicted_at,)] = rows(path, "SELECT predicted_at FROM prediction_log WHERE signal_id = 's-1'")
    assert abs((datetime.now(UTC) - moment(predicted_at)).total_seconds()) < 24 * 3600


def test_the_actual_of_a_signal_that_nobody_predicted_says_so(db: FeatureDatabase) -> None:
    assert db.update_prediction_actual("nobody", 1.0) is False


def test_c6_every_model_gets_its_own_error(db: FeatureDatabase, path: Path) -> None:
    for model_id, predicted_r in (("m-1", 0.5), ("m-2", -1.0), ("m-3", None)):
        db.register_model(metadata(model_id))
        db.log_prediction("s-1", model_id, 0.6, predicted_r=predicted_r)
    db.update_prediction_actual("s-1", 2.0)
    assert [row[-2:] for row in predictions(path)] == [(2.0, 1.5), (2.0, 3.0), (2.0, None)]


def test_c7_a_prediction_told_twice_is_one_row(db: FeatureDatabase, path: Path) -> None:
    db.register_model(metadata("m-1"))
    db.log_prediction("s-1", "m-1", 0.7)
    db.log_prediction("s-1", "m-1", 0.7)
    assert len(predictions(path)) == 1


def test_c8_a_prediction_names_a_model_that_is_registered(db: FeatureDatabase, path: Path) -> None:
    with pytest.raises(Exception, match=r"(?i)foreign key|nobody"):
        db.log_prediction("s-1", "nobody", 0.7)
    assert predictions(path) == []


# -- The rest of what the text promises -----------------------------------------------------------------------------


def test_c10_times_are_written_in_utc(db: FeatureDatabase, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        db.store_feature_vector(vector(1))
    finally:
        monkeypatch.undo()
        time.tzset()
    [(created_at,)] = rows(path, "SELECT created_at FROM feature_vectors")
    assert abs((datetime.now(UTC) - moment(created_at)).total_seconds()) < 4 * 3600


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ("2023-03-05T10:00:00", "2023-03-05T10:00:00+00:00"),
        ("2023-03-05T10:00:00Z", "2023-03-05T10:00:00+00:00"),
        ("2023-03-05T12:00:00+02:00", "2023-03-05T10:00:00+00:00"),
        ("2023-03-05 10:00:00.250", "2023-03-05T10:00:00.250+00:00"),
        ("2023-03-05", "2023-03-05T00:00:00+00:00"),
    ],
)
def test_c9_times_of_any_offset_compare_as_moments(db: FeatureDatabase, told: str, meant: str) -> None:
    db.store_feature_vector(FeatureVector("s-1", told, {"rsi": 1.0}))
    stored = db.get_feature_vector("s-1")
    assert stored is not None
    assert moment(stored.timestamp) == moment(meant)


# -- A store that the specification's own code has written ----------------------------------------------------------


def old_store(path: Path, vectors: list[tuple[str, str, str, float | None]]) -> None:
    """A file as migration 001 alone makes it and plain `sqlite3` fills it: local times, JSON as Python writes it."""
    sql = resources.files("trading_system.ml_refinement.storage") / "migrations" / "001_feature_schema.sql"
    with sqlite3.connect(path) as connection:
        connection.executescript(sql.read_text())
        connection.execute("INSERT OR IGNORE INTO ml_schema_migrations VALUES (1, datetime('now'))")
        for signal_id, timestamp, features, target in vectors:
            connection.execute(
                "INSERT INTO feature_vectors (signal_id, timestamp, features, target_r_multiple, target_binary,"
                " feature_version, created_at, symbol, asset_class, signal_type, conviction)"
                " VALUES (?, ?, ?, ?, ?, '1.0', '2024-01-01T09:00:00.123456', '', '', '', '')",
                (signal_id, timestamp, features, target, None if target is None else int(target > 0)),
            )
        connection.execute(
            "INSERT INTO model_registry (model_id, model_type, version, created_at, train_start_date, train_end_date,"
            " train_samples, validation_samples, model_path, is_active, deployed_at) VALUES ('m-1', 'signal_quality',"
            " '1.0', '2024-01-01T09:00:00.123456', '', '', 100, 0, 'm-1.pkl', 1, '2024-01-01T09:00:00.123456')"
        )
        connection.execute(
            "INSERT INTO prediction_log (signal_id, model_id, predicted_at, quality_score)"
            " VALUES ('s-1', 'm-1', '2024-01-01T09:00:00.123456', 0.6), ('s-1', 'm-1', '2024-01-01T09:00:01', 0.6)"
        )


def test_a_store_of_the_specifications_own_code_opens_and_trains(path: Path) -> None:
    old_store(path, [(f"s-{day}", f"2023-03-{day:02d}T10:00:00", '{"rsi": 1.5}', day - 3.0) for day in range(1, 7)])
    db = FeatureDatabase(str(path))
    db.initialize()
    X, y, feature_names = db.get_training_data("2023-01-01", "2023-12-31")
    assert (X.shape, y.tolist(), feature_names) == ((6, 1), [-2.0, -1.0, 0.0, 1.0, 2.0, 3.0], ["rsi"])
    assert [kept.model_id for kept in db.get_model_history("signal_quality")] == ["m-1"]
    assert db.get_active_model("signal_quality") is None, "C21: its file is a pickle, and those are never loaded"
    db.close()


def whole(path: Path) -> list[str]:
    """Every row of every table as text."""
    tables = [name for (name,) in rows(path, "SELECT name FROM sqlite_master WHERE type = 'table'")]
    return [str(row) for table in tables for row in rows(path, f"SELECT * FROM {table}")]  # noqa: S608  names of tables


def test_rows_of_such_a_store_that_cannot_be_read_are_kept_aside_and_the_rest_opens(
    path: Path, warnings_logged: list[str]
) -> None:
    good = ("s-1", "2023-03-01T10:00:00", '{"rsi": 1.5}', 1.0)
    bad = [
        ("s-2", "yesterday", '{"rsi": 1.5}', 1.0),
        ("s-3", "2023-03-03T10:00:00", '{"rsi": NaN}', 1.0),
        ("s-4", "2023-03-04T10:00:00", '{"rsi": Infinity}', 1.0),
        ("s-5", "2023-03-05T10:00:00", "not json", 1.0),
    ]
    old_store(path, [good, *bad])
    db = FeatureDatabase(str(path))
    db.initialize()
    assert db.get_training_data("2023-01-01", "2023-12-31")[0].tolist() == [[1.5]]
    assert db.get_feature_vector("s-1") is not None
    db.close()
    counted = [int(count) for line in warnings_logged for count in re.findall(r"(\d+) rows of feature_vectors", line)]
    assert sum(counted) == 4, warnings_logged
    kept = [line.replace("\\", "") for line in whole(path)]
    lost = [row for row in bad if not any(all(text in line for text in row[:3]) for line in kept)]
    assert lost == []
