"""A model class written to the specification's interface and nothing else, through its whole life."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from loguru import logger
from sklearn.tree import DecisionTreeClassifier

from tests.support.models_in_files import only_in_files
from trading_system.ml_refinement import ModelMetadata, ModelType
from trading_system.ml_refinement.models import BaseModel, ModelRegistry, SignalQualityModel
from trading_system.ml_refinement.models.return_predictor import ReturnPredictor
from trading_system.ml_refinement.models.risk_predictor import RiskPredictor
from trading_system.ml_refinement.storage import FeatureDatabase

NAMES = ["rsi", "trend"]


class TreeModel(BaseModel):
    """The five methods, a pickle for a file, and the attributes that the base class reads."""

    def __init__(self, version="1.0", depth=3):
        super().__init__(ModelType.SIGNAL_QUALITY, version)
        self.depth = depth
        self._model = None

    def fit(self, X_train, y_train, X_val=None, y_val=None, feature_names=None):
        won = (y_train > 0).astype(int)
        self._model = DecisionTreeClassifier(max_depth=self.depth, random_state=1).fit(X_train, won)
        self._train_samples = len(X_train)
        self._feature_names = feature_names or [f"f{i}" for i in range(X_train.shape[1])]
        self._feature_importance = dict(zip(self._feature_names, self._model.feature_importances_, strict=True))
        self._train_metrics = {"accuracy": self._model.score(X_train, won), "auc": float("nan")}
        if X_val is not None:
            self._validation_samples = np.int64(len(X_val))
            self._validation_metrics = {"accuracy": self._model.score(X_val, y_val > 0)}
        self.is_fitted = True
        return self._train_metrics

    def predict(self, X):
        return self._model.predict(X)

    def predict_proba(self, X):
        return self._model.predict_proba(X)[:, 1]

    def save(self, path):
        with open(path, "wb") as f:
            pickle.dump((self._model, self._feature_names), f)
        return True

    def load(self, path):
        with open(path, "rb") as f:
            self._model, self._feature_names = pickle.load(f)  # noqa: S301 - its own file
        self.is_fitted = True
        return True


class OwnRegistry(ModelRegistry):
    MODEL_CLASSES = {**ModelRegistry.MODEL_CLASSES, ModelType.SIGNAL_QUALITY: TreeModel}  # noqa: RUF012 - as one writes it


@pytest.fixture
def db(tmp_path: Path) -> Iterator[FeatureDatabase]:
    with FeatureDatabase(str(tmp_path / "features.db")) as db:
        yield db


@pytest.fixture
def said() -> Iterator[Callable[[], str]]:
    """What the library logs, from its start on."""
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line)), level="WARNING")
    yield lambda: "".join(lines)
    logger.remove(sink)


def rows(n: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, len(NAMES)))
    return X, np.where(X[:, 0] + 0.5 * rng.standard_normal(n) > 0, 1.5, -1.0)


def fitted() -> TreeModel:
    model = TreeModel()
    model.fit(*rows(), *rows(50, seed=1), feature_names=NAMES)
    model.set_training_period("2024-01-01", "2024-06-30")
    return model


def test_a_model_of_five_methods_is_fitted_registered_activated_and_used(tmp_path: Path, db: FeatureDatabase) -> None:
    registry, model = OwnRegistry(str(tmp_path / "models"), db), fitted()
    assert registry.register(model) is True
    assert registry.get_active(ModelType.SIGNAL_QUALITY) is None
    assert registry.activate(model.model_id) is True

    elsewhere = OwnRegistry(str(tmp_path / "models"), db).get_active(ModelType.SIGNAL_QUALITY)
    assert isinstance(elsewhere, TreeModel)
    assert elsewhere.model_id == model.model_id
    X, _ = rows(30, seed=2)
    np.testing.assert_array_equal(elsewhere.predict_proba(X), model.predict_proba(X))
    assert db.log_prediction("s1", elsewhere.model_id, float(elsewhere.predict_proba(X)[0])) is True


def test_the_registry_keeps_what_the_model_set_in_its_fit(tmp_path: Path, db: FeatureDatabase) -> None:
    model = fitted()
    told = model.get_metadata()
    assert isinstance(told, ModelMetadata)
    assert (told.train_samples, told.validation_samples, told.feature_names) == (200, 50, NAMES)
    assert (told.train_start_date, told.train_end_date) == ("2024-01-01", "2024-06-30")
    assert told.train_metrics["accuracy"] > 0.8
    assert set(told.feature_importance) == set(NAMES)

    assert OwnRegistry(str(tmp_path / "models"), db).register(model)
    [kept] = db.get_model_history("signal_quality")
    assert (kept.train_samples, kept.validation_samples) == (200, 50)
    assert kept.validation_metrics == told.validation_metrics
    assert kept.feature_importance == pytest.approx(told.feature_importance)
    assert "auc" not in kept.train_metrics, "what is no number is left out"


def test_a_registry_without_a_store_takes_it_too_and_knows_the_class_of_what_it_registered(tmp_path: Path) -> None:
    registry, model = ModelRegistry(str(tmp_path)), fitted()
    assert registry.register(model)
    assert registry.activate(model.model_id)
    assert isinstance(registry.get_active(ModelType.SIGNAL_QUALITY), TreeModel)
    assert (tmp_path / f"{model.model_id}.pkl").exists()


def test_a_registry_that_does_not_know_the_class_says_which_it_needs(
    tmp_path: Path, db: FeatureDatabase, said: Callable[[], str]
) -> None:
    model = fitted()
    assert OwnRegistry(str(tmp_path), db).register(model)
    assert ModelRegistry(str(tmp_path), db).activate(model.model_id) is False
    assert "TreeModel" in said()
    assert "MODEL_CLASSES" in said()


@pytest.mark.parametrize("own", [True, False], ids=["a class of one's own", "the library's"])
@pytest.mark.parametrize("harm", ["lost", "damaged"])
def test_a_lost_or_damaged_file_answers_false_and_none_and_the_log_says_why(
    tmp_path: Path, db: FeatureDatabase, said: Callable[[], str], own: bool, harm: str
) -> None:
    registry = (OwnRegistry if own else ModelRegistry)(str(tmp_path / "models"), db)
    first, second = (fitted() if own else SignalQualityModel() for _ in range(2))
    for model in (first, second):
        model.fit(*rows(), feature_names=NAMES)
        assert registry.register(model)
    assert registry.activate(first.model_id)
    for path in (tmp_path / "models").iterdir():
        path.unlink() if harm == "lost" else path.write_bytes(path.read_bytes()[:-1] + b"?")
    only_in_files(db)

    assert registry.activate(second.model_id) is False
    assert registry.activate("signal_quality_1.0_nothere") is False
    assert type(registry)(str(tmp_path / "models"), db).get_active(ModelType.SIGNAL_QUALITY) is None
    assert db.get_active_model("signal_quality").model_id == first.model_id
    assert second.model_id in said()
    assert ("No such file" if harm == "lost" else "SHA-256") in said()


def test_saving_and_loading_answer_true_and_false(tmp_path: Path, said: Callable[[], str]) -> None:
    model = SignalQualityModel()
    assert model.save(str(tmp_path / "unfitted.pkl")) is False
    model.fit(*rows())
    assert model.save(str(tmp_path / "model.pkl")) is True
    assert model.save(str(tmp_path / "no folder" / "model.pkl")) is False

    other = SignalQualityModel()
    assert other.load(str(tmp_path / "nothing.pkl")) is False
    (tmp_path / "damaged.pkl").write_bytes(b"no model")
    assert other.load(str(tmp_path / "damaged.pkl")) is False
    assert not other.is_fitted
    assert other.load(str(tmp_path / "model.pkl")) is True
    assert other.model_id == model.model_id
    for word in ("not fitted", "no folder", "nothing.pkl", "not a model file"):
        assert word in said()


def test_a_model_whose_own_save_fails_is_not_registered(
    tmp_path: Path, db: FeatureDatabase, said: Callable[[], str]
) -> None:
    class Unwritable(TreeModel):
        def save(self, path):
            return False

    class Raising(TreeModel):
        def save(self, path):
            raise TypeError("cannot pickle this")

    for kind in (Unwritable, Raising):
        model = kind()
        model.fit(*rows())
        assert OwnRegistry(str(tmp_path), db).register(model) is False
    assert OwnRegistry(str(tmp_path), db).register(TreeModel()) is False
    assert db.get_model_history("signal_quality") == []
    assert "cannot pickle this" in said()
    assert "not fitted" in said()


def test_parameters_that_are_changed_before_the_fit_are_fitted_with() -> None:
    model = SignalQualityModel(n_estimators=30)
    assert model.params["n_estimators"] == 30
    model.params["n_estimators"] = 7
    model.fit(*rows())
    assert model.iterations == 7
    assert model.recipe == "gradient_boosting"

    other = SignalQualityModel()
    other.params["n_estimators"] = 9
    other.fit(*rows())
    assert (other.recipe, other.iterations) == ("gradient_boosting", 9)


def test_too_few_samples_are_told_in_the_metrics_and_in_a_warning(said: Callable[[], str]) -> None:
    model = SignalQualityModel()
    metrics = model.fit(*rows(60))
    assert metrics["base_rate_served"] == 1.0
    assert metrics["min_samples"] == 100.0
    assert len(set(model.predict_proba(rows(20, seed=3)[0]))) == 1
    assert "60 of 100 samples" in said()
    assert model.get_metadata().train_metrics["base_rate_served"] == 1.0

    assert SignalQualityModel(min_samples=50, max_iter=5).fit(*rows(400))["base_rate_served"] == 0.0
    assert said().count("\n") == 1, "what learned something warns of nothing"


def test_too_few_samples_to_calibrate_on_are_told_as_well(said: Callable[[], str]) -> None:
    assert SignalQualityModel(min_samples=20).fit(*rows(60))["base_rate_served"] == 1.0
    assert "calibrate" in said()


def test_the_other_predictors_tell_it_too(said: Callable[[], str]) -> None:
    assert ReturnPredictor().fit(*rows(60))["base_rate_served"] == 1.0
    assert "60 of 100 samples" in said()
    assert RiskPredictor().fit(*rows(60))["base_percentile_served"] == 1.0
    assert "60 of 100 held out" in said()
