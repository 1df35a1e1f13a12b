"""Task 4.1.5: the interface of a model, the signal-quality model, and the registry."""

from __future__ import annotations

import json
import pickle
import re
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from tests.support.models_in_files import only_in_files
from trading_system.ml_refinement import ModelMetadata, ModelType
from trading_system.ml_refinement.models import BaseModel, ModelRegistry, SignalQualityModel
from trading_system.ml_refinement.storage import FeatureDatabase

QUALITY = ModelType.SIGNAL_QUALITY
Floats = NDArray[np.float64]


def noise(rows: int = 100, columns: int = 10, seed: int = 0) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, columns)), rng.standard_normal(rows)


def edge(rows: int = 600, columns: int = 4, seed: int = 0) -> tuple[Floats, Floats]:
    """Rows in which the first feature decides, and the others are noise."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows, columns))
    won = rng.random(rows) < 1.0 / (1.0 + np.exp(-3.0 * X[:, 0]))
    return X, np.where(won, 1.5, -1.0)


def auc(won: NDArray[np.bool_], score: Floats) -> float:
    wins, losses = score[won], score[~won]
    return float(np.mean((wins[:, None] > losses) + 0.5 * (wins[:, None] == losses)))


def fitted(seed: int = 0, names: Sequence[str] | None = None, **params: Any) -> SignalQualityModel:
    model = SignalQualityModel(**params)
    model.fit(*edge(300, seed=seed), feature_names=names)
    return model


class Momentum(BaseModel):
    """As somebody writes a model by the specification: five methods, and the attributes of the base."""

    def __init__(self, version: str = "1.0") -> None:
        super().__init__(QUALITY, version)
        self.weight = 0.0

    def fit(
        self,
        X_train: ArrayLike,
        y_train: ArrayLike,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
        feature_names: Sequence[str] | None = None,
    ) -> dict[str, float]:
        X, y = np.asarray(X_train), np.asarray(y_train)
        self.weight = float(np.corrcoef(X[:, 0], y > 0)[0, 1])
        self._train_samples = len(X)
        self._feature_names = list(feature_names or [f"f{i}" for i in range(X.shape[1])])
        self._feature_importance = {self._feature_names[0]: 1.0}
        self._train_metrics = {"accuracy": float(np.mean(self.predict(X) == (y > 0)))}
        if X_val is not None and y_val is not None:
            self._validation_samples = len(np.asarray(X_val))
            self._validation_metrics = {"auc": auc(np.asarray(y_val) > 0, self.predict_proba(X_val))}
        self.is_fitted = True
        return self._train_metrics

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        return (self.predict_proba(X) > 0.5).astype(int)

    def predict_proba(self, X: ArrayLike) -> Floats:
        return 1.0 / (1.0 + np.exp(-4.0 * self.weight * np.asarray(X, dtype=float)[:, 0]))

    def save(self, path: str) -> bool:
        Path(path).write_text(json.dumps({"model_id": self.model_id, "weight": self.weight}))
        return True

    def load(self, path: str) -> bool:
        try:
            told = json.loads(Path(path).read_text())
        except (OSError, ValueError):
            return False
        self.model_id, self.weight, self.is_fitted = told["model_id"], told["weight"], True
        return True


@pytest.fixture
def registry(tmp_path: Path, db: FeatureDatabase) -> ModelRegistry:
    return ModelRegistry(model_dir=str(tmp_path / "models"), db=db)


@pytest.fixture
def own_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a notebook says of which class the models of a type are."""
    monkeypatch.setitem(ModelRegistry.MODEL_CLASSES, QUALITY, Momentum)


# -- BaseModel defines complete interface ---------------------------------------------------------------------------


def test_the_interface_is_five_methods() -> None:
    assert BaseModel.__abstractmethods__ == {"fit", "predict", "predict_proba", "save", "load"}
    with pytest.raises(TypeError, match="abstract"):
        BaseModel(QUALITY)  # type: ignore[abstract]


@pytest.mark.parametrize("missing", ["fit", "predict", "predict_proba", "save", "load"])
def test_a_model_that_lacks_one_of_them_cannot_be_made(missing: str) -> None:
    members = {name: getattr(Momentum, name) for name in BaseModel.__abstractmethods__ - {missing}}
    with pytest.raises(TypeError, match=missing):
        type("Partial", (BaseModel,), members)(QUALITY)


def test_a_model_is_known_by_type_version_and_eight_digits() -> None:
    model, other = Momentum("2.1"), Momentum("2.1")
    assert re.fullmatch(r"signal_quality_2\.1_[0-9a-f]{8}", model.model_id)
    assert model.model_id != other.model_id
    assert (model.model_type, model.version, model.is_fitted) == (QUALITY, "2.1", False)


def test_what_a_fresh_model_says_of_itself() -> None:
    metadata = Momentum().get_metadata()
    assert isinstance(metadata, ModelMetadata)
    assert (metadata.train_samples, metadata.validation_samples) == (0, 0)
    assert (metadata.train_metrics, metadata.validation_metrics, metadata.feature_importance) == ({}, {}, {})
    assert metadata.feature_names == []
    assert (metadata.train_start_date, metadata.train_end_date) == ("", "")
    assert metadata.is_active is False


def test_a_model_of_ones_own_says_what_its_fit_has_set() -> None:
    model = Momentum()
    X, y = edge(200)
    assert model.fit(X, y, X[:50], y[:50], ["rsi", "a", "b", "c"]) == model.get_metadata().train_metrics
    model.set_training_period("2023-01-01", "2023-12-31")
    metadata = model.get_metadata()
    assert (metadata.model_id, metadata.model_type, metadata.version) == (model.model_id, QUALITY, "1.0")
    assert (metadata.train_samples, metadata.validation_samples) == (200, 50)
    assert metadata.validation_metrics["auc"] > 0.8
    assert metadata.feature_names == ["rsi", "a", "b", "c"]
    assert metadata.feature_importance == {"rsi": 1.0}
    assert metadata.train_start_date.startswith("2023-01-01")
    assert metadata.train_end_date.startswith("2023-12-31")
    assert metadata.created_at


def test_a_model_of_ones_own_lives_in_the_registry(own_models: None, registry: ModelRegistry, tmp_path: Path) -> None:
    model = Momentum()
    X, y = edge(200)
    model.fit(X, y, X[:50], y[:50])
    assert registry.register(model) is True
    assert registry.activate(model.model_id) is True
    again = ModelRegistry(str(tmp_path / "models"), registry.db).get_active(QUALITY)
    assert isinstance(again, Momentum)
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    [history] = registry.get_model_history(QUALITY)
    assert (history.model_id, history.train_samples, history.is_active) == (model.model_id, 200, True)
    assert [row["metric"] for row in registry.compare_models(QUALITY)] == [model._validation_metrics["auc"]]


# -- SignalQualityModel trains and predicts correctly ---------------------------------------------------------------


def test_signal_quality_model_fit() -> None:
    model = SignalQualityModel()
    X, y = noise()
    metrics = model.fit(X, y)
    assert model.is_fitted
    assert "accuracy" in metrics
    assert "auc" in metrics
    assert {"accuracy", "auc", "f1"} <= metrics.keys()
    assert all(0.0 <= metrics[name] <= 1.0 for name in ("accuracy", "auc", "f1"))
    assert model.get_metadata().train_samples == 100


@pytest.mark.parametrize("params", [{}, {"recipe": "gradient_boosting"}], ids=["default", "gradient_boosting"])
def test_a_model_finds_what_decides(params: dict[str, Any]) -> None:
    X, y = edge(900)
    model = SignalQualityModel(**params)
    metrics = model.fit(X[:600], y[:600], X[600:], y[600:], ["rsi", "a", "b", "c"])
    proba = model.predict_proba(X[600:])
    assert proba.shape == (300,)
    assert ((proba >= 0) & (proba <= 1)).all()
    assert auc(y[600:] > 0, proba) > 0.8
    assert metrics["auc"] > 0.8
    predicted = model.predict(X[600:])
    assert predicted.shape == (300,)
    assert set(predicted.tolist()) == {0, 1}
    assert np.mean(predicted == (y[600:] > 0)) > 0.7
    metadata = model.get_metadata()
    assert (metadata.train_samples, metadata.validation_samples) == (600, 300)
    assert metadata.validation_metrics["auc"] == pytest.approx(auc(y[600:] > 0, proba))
    assert metadata.validation_metrics["accuracy"] == pytest.approx(np.mean(predicted == (y[600:] > 0)))
    assert "f1" in metadata.validation_metrics
    assert model.get_top_features(1)[0][0] == "rsi"


def test_one_row_can_be_asked() -> None:
    model = fitted()
    X, _ = edge(5, seed=9)
    np.testing.assert_allclose(model.predict_proba(X[:1]), model.predict_proba(X)[:1], rtol=1e-12)
    assert model.predict(X[:1]).shape == (1,)


@pytest.mark.parametrize("ask", ["predict", "predict_proba"])
def test_a_model_that_was_not_fitted_does_not_answer(ask: str) -> None:
    with pytest.raises(ValueError, match=r"(?i)fitted"):
        getattr(SignalQualityModel(), ask)(noise()[0])


def test_a_flat_trade_is_no_win() -> None:
    X, y = edge(300)
    one, other = SignalQualityModel(), SignalQualityModel()
    one.fit(X, y)
    other.fit(X, np.where(y < 0, 0.0, y))
    np.testing.assert_allclose(one.predict_proba(X), other.predict_proba(X), rtol=1e-9)


def test_the_same_rows_make_the_same_model() -> None:
    X, _ = edge(50, seed=3)
    np.testing.assert_array_equal(fitted().predict_proba(X), fitted().predict_proba(X))


def test_parameters_are_given_by_name() -> None:
    model = SignalQualityModel("2.0", recipe="gradient_boosting", n_estimators=7, max_depth=2, random_state=1)
    assert model.version == "2.0"
    assert (model.params["n_estimators"], model.params["max_depth"], model.params["random_state"]) == (7, 2, 1)
    default = SignalQualityModel(recipe="gradient_boosting").params
    assert {name: default[name] for name in ("n_estimators", "max_depth", "learning_rate")} == {
        "n_estimators": 100,
        "max_depth": 5,
        "learning_rate": 0.1,
    }
    assert (default["min_samples_leaf"], default["subsample"], default["random_state"]) == (20, 0.8, 42)


def test_parameters_of_the_specification_alone_mean_its_recipe() -> None:
    model = SignalQualityModel(n_estimators=50, max_depth=3, learning_rate=0.05, min_samples_leaf=10, subsample=0.7)
    assert (model.params["n_estimators"], model.params["max_depth"]) == (50, 3)
    model.fit(*edge(300))
    assert model.is_fitted


def test_a_parameter_that_no_recipe_has_is_refused_with_its_name() -> None:
    with pytest.raises(Exception, match=r"n_estimator\b"):
        SignalQualityModel(n_estimator=50)


def test_c14_rows_of_one_class_are_a_named_error_before_anything_is_fitted() -> None:
    X, _ = noise()
    model = SignalQualityModel()
    with pytest.raises(Exception, match="all 100 trades won"):
        model.fit(X, np.full(100, 1.5))
    assert not model.is_fitted


def test_too_few_rows_are_said_in_the_metrics_and_in_a_warning(warnings_logged: list[str]) -> None:
    model = SignalQualityModel()
    metrics = model.fit(*noise(40))
    assert model.is_fitted
    assert any("40" in line for line in warnings_logged), warnings_logged
    enough = SignalQualityModel().fit(*noise(400))
    assert {name: value for name, value in metrics.items() if enough.get(name) != value and name not in enough} or any(
        name not in ("accuracy", "auc", "f1") and enough[name] != metrics[name] for name in metrics
    ), (metrics, enough)


# -- Feature importance tracked -------------------------------------------------------------------------------------


def test_importance_is_tracked_by_name() -> None:
    model = fitted(names=["rsi", "a", "b", "c"])
    importance = model.get_metadata().feature_importance
    assert set(importance) <= {"rsi", "a", "b", "c"}
    assert {type(value) for value in importance.values()} == {float}
    assert max(importance, key=lambda name: importance[name]) == "rsi"
    top = model.get_top_features(2)
    assert top == sorted(importance.items(), key=lambda item: -item[1])[:2]
    assert len(model.get_top_features()) == min(10, len(importance))


def test_features_without_names_are_numbered() -> None:
    assert fitted().get_metadata().feature_names == ["f0", "f1", "f2", "f3"]


# -- Model save/load works ------------------------------------------------------------------------------------------


def test_model_save_load(tmp_path: Path) -> None:
    model = SignalQualityModel()
    X, y = noise()
    model.fit(X, y)
    path = str(tmp_path / "model.pkl")
    assert model.save(path) is True
    loaded = SignalQualityModel()
    assert loaded.load(path) is True
    assert loaded.is_fitted
    np.testing.assert_array_almost_equal(model.predict_proba(X[:5]), loaded.predict_proba(X[:5]))


def test_a_loaded_model_is_the_model_that_was_saved(tmp_path: Path) -> None:
    X, y = edge(300)
    model = SignalQualityModel("3.1")
    model.fit(X, y, X[:50], y[:50], ["rsi", "a", "b", "c"])
    model.set_training_period("2023-01-01", "2023-12-31")
    model.save(str(tmp_path / "model"))
    loaded = SignalQualityModel()
    loaded.load(str(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    assert loaded.get_metadata() == model.get_metadata()
    assert loaded.params == model.params
    assert loaded.get_top_features() == model.get_top_features()


def test_a_model_that_cannot_be_saved_says_so(tmp_path: Path, errors_logged: list[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert fitted().save(str(tmp_path / "file" / "model")) is False
    assert SignalQualityModel().save(str(tmp_path / "model")) is False
    assert len(errors_logged) == 2
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("content", [None, b"", b"no model at all", pickle.dumps({"model": 1})])
def test_a_file_that_is_no_model_is_not_loaded_and_the_model_stays_as_it_was(
    tmp_path: Path, content: bytes | None, errors_logged: list[str]
) -> None:
    path = tmp_path / "model"
    if content is not None:
        path.write_bytes(content)
    assert SignalQualityModel().load(str(path)) is False
    model = fitted()
    X, _ = edge(20)
    before = model.predict_proba(X)
    assert model.load(str(path)) is False
    np.testing.assert_array_equal(model.predict_proba(X), before)
    assert len(errors_logged) == 2


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (Path.touch, (self.path,))


def test_c21_loading_a_file_executes_nothing(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(Trap(sprung)))
    assert SignalQualityModel().load(str(tmp_path / "model.pkl")) is False
    assert not sprung.exists()


# -- Registry manages model versions; active model retrieval works --------------------------------------------------


def test_the_example_of_the_registry(registry: ModelRegistry) -> None:
    model = SignalQualityModel()
    model.fit(*edge(300))
    assert registry.register(model) is True
    assert registry.activate(model.model_id) is True
    active = registry.get_active(QUALITY)
    assert active is not None
    assert active.model_id == model.model_id
    X, _ = edge(20)
    np.testing.assert_array_equal(active.predict_proba(X), model.predict_proba(X))


def test_an_unfitted_model_is_not_registered(registry: ModelRegistry, errors_logged: list[str]) -> None:
    assert registry.register(SignalQualityModel()) is False
    assert registry.get_model_history(QUALITY) == []
    assert errors_logged


def test_nothing_is_active_before_anything_is_activated(registry: ModelRegistry) -> None:
    assert registry.get_active(QUALITY) is None
    registry.register(fitted())
    assert registry.get_active(QUALITY) is None


def test_an_unknown_model_is_not_activated(registry: ModelRegistry, errors_logged: list[str]) -> None:
    assert registry.activate("signal_quality_1.0_00000000") is False
    assert registry.activate("nonsense") is False
    assert len(errors_logged) == 2


def test_the_directory_of_models_is_made(tmp_path: Path) -> None:
    ModelRegistry(model_dir=str(tmp_path / "a" / "b"))
    assert (tmp_path / "a" / "b").is_dir()


def test_the_newest_activation_serves_and_is_found_again_by_another_process(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    one, other = fitted(0), fitted(1)
    for model in (one, other):
        registry.register(model)
        registry.activate(model.model_id)
    for asked in (registry, ModelRegistry(str(tmp_path / "models"), registry.db)):
        active = asked.get_active(QUALITY)
        assert active is not None
        assert active.model_id == other.model_id
    registry.activate(one.model_id)
    active = registry.get_active(QUALITY)
    assert active is not None
    assert active.model_id == one.model_id


def test_the_file_of_a_registered_model_is_the_one_the_store_names(registry: ModelRegistry, tmp_path: Path) -> None:
    model = fitted()
    registry.register(model)
    with sqlite3.connect(tmp_path / "features.db") as connection:
        [(path,)] = connection.execute("SELECT model_path FROM model_registry").fetchall()
    assert model.model_id in path
    assert (tmp_path / "models" / path).is_file()


def test_a_model_whose_file_is_lost_is_not_activated_and_does_not_serve(
    registry: ModelRegistry, tmp_path: Path, errors_logged: list[str]
) -> None:
    model = fitted()
    registry.register(model)
    registry.activate(model.model_id)
    for file in (tmp_path / "models").iterdir():
        file.unlink()
    only_in_files(registry.db)
    assert registry.activate(model.model_id) is False
    assert ModelRegistry(str(tmp_path / "models"), registry.db).get_active(QUALITY) is None
    assert [line for line in errors_logged if model.model_id in line]


def test_a_lost_file_leaves_the_active_model_as_it_was(registry: ModelRegistry, tmp_path: Path) -> None:
    serving, lost = fitted(0), fitted(1)
    registry.register(serving)
    registry.activate(serving.model_id)
    before = set((tmp_path / "models").iterdir())
    registry.register(lost)
    for file in set((tmp_path / "models").iterdir()) - before:
        file.unlink()
    only_in_files(registry.db)
    assert registry.activate(lost.model_id) is False
    active = registry.get_active(QUALITY)
    assert active is not None
    assert active.model_id == serving.model_id


def test_the_history_is_newest_first(registry: ModelRegistry) -> None:
    models = [fitted(seed) for seed in range(3)]
    for model in models:
        registry.register(model)
    history = registry.get_model_history(QUALITY)
    assert sorted(told.model_id for told in history) == sorted(model.model_id for model in models)
    assert [told.created_at for told in history] == sorted((told.created_at for told in history), reverse=True)
    assert len(registry.get_model_history(QUALITY, limit=2)) == 2
    assert registry.get_model_history(ModelType.RISK_PREDICTOR) == []


def test_models_are_compared_by_a_metric_best_first_and_c26_one_without_it_comes_last(registry: ModelRegistry) -> None:
    X, y = edge(300)
    learned, blind, unjudged = SignalQualityModel(), SignalQualityModel(), SignalQualityModel()
    learned.fit(X, y, X, y)
    blind.fit(X, y, X, -y)
    unjudged.fit(X, y)
    for model in (unjudged, blind, learned):
        registry.register(model)
    registry.activate(blind.model_id)
    compared = registry.compare_models(QUALITY, metric="auc")
    assert [row["model_id"] for row in compared] == [model.model_id for model in (learned, blind, unjudged)]
    assert compared == registry.compare_models(QUALITY)
    assert compared[0]["metric"] > 0.5 > compared[1]["metric"]
    assert compared[2]["metric"] is None
    assert [row["is_active"] for row in compared] == [False, True, False]
    assert {"model_id", "version", "created_at", "metric", "is_active"} <= compared[0].keys()
    assert registry.compare_models(ModelType.RISK_PREDICTOR) == []


def test_a_registry_without_a_database_keeps_files(tmp_path: Path) -> None:
    registry = ModelRegistry(str(tmp_path / "models"))
    model = fitted()
    assert registry.register(model) is True
    assert registry.activate(model.model_id) is True
    active = registry.get_active(QUALITY)
    assert active is not None
    assert active.model_id == model.model_id
    assert registry.get_active(ModelType.RISK_PREDICTOR) is None


def test_c28_every_type_of_model_has_a_class() -> None:
    assert set(ModelRegistry.MODEL_CLASSES) == set(ModelType)
    assert ModelRegistry.MODEL_CLASSES[QUALITY] is SignalQualityModel
    assert all(issubclass(kind, BaseModel) for kind in ModelRegistry.MODEL_CLASSES.values())


def test_from_stored_signals_to_a_serving_model(db: FeatureDatabase, registry: ModelRegistry) -> None:
    """The way of a notebook through every task: features stored, outcomes filled in, a model trained and asked."""
    from trading_system.ml_refinement import FeatureVector

    X, y = edge(240)
    for number, (row, r_multiple) in enumerate(zip(X, y, strict=True)):
        features = {f"x{i}": float(value) for i, value in enumerate(row)}
        day = f"2023-{1 + number // 28:02d}-{1 + number % 28:02d}T10:00:00"
        db.store_feature_vector(FeatureVector(f"s-{number}", day, features), symbol="AAPL")
        assert db.update_target(f"s-{number}", float(r_multiple))
    assert db.count_samples() == 240
    read, target, names = db.get_training_data("2023-01-01", "2023-12-31")
    np.testing.assert_array_equal(read, X)
    model = SignalQualityModel()
    model.fit(read, target, feature_names=names)
    model.set_training_period("2023-01-01", "2023-12-31")
    registry.register(model)
    registry.activate(model.model_id)
    active = registry.get_active(QUALITY)
    assert active is not None
    score = float(active.predict_proba(X[:1])[0])
    assert db.log_prediction("s-0", model.model_id, score, predicted_r=0.4)
    assert db.update_prediction_actual("s-0", float(y[0]))
