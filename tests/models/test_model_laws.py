"""Laws of every model class: a class that is added is held to them by one entry in `MODELS`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.metrics import mean_pinball_loss

from tests.support.learning_installation import NOW
from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.models import (
    BaseModel,
    ModelRegistry,
    RegimeClassifier,
    ReturnPredictor,
    RiskPredictor,
    SignalQualityModel,
    artefact,
)
from trading_system.ml_refinement.models.errors import (
    BadData,
    FeatureContractError,
    ModelFileRefused,
    NoUsableFeatures,
    OneClass,
)
from trading_system.ml_refinement.models.risk_predictor import pinball

NAMES = ("technical_score", "market_trend", "rally_strength", "volatility_regime", "market_breadth", "noise")
VERSION = "laws-1"

MODELS: dict[str, Callable[[], BaseModel]] = {
    "quality": lambda: SignalQualityModel(max_iter=12, clock=lambda: NOW),
    "quality, gradient boosting": lambda: SignalQualityModel(n_estimators=12, clock=lambda: NOW),
    "return": lambda: ReturnPredictor(max_iter=12, clock=lambda: NOW),
    "risk": lambda: RiskPredictor(max_iter=12, clock=lambda: NOW),
    "regime": lambda: RegimeClassifier(clock=lambda: NOW),
}

every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())


def rows(n: int = 240, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features with a market that turns slowly, and R whose mean and spread depend on them."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, len(NAMES)))
    season = np.sin(np.arange(n) / 17.0)
    X[:, 1:3] = np.clip(0.6 * season[:, None] + 0.3 * X[:, 1:3], -1, 1)
    X[:, 3] = np.clip(0.5 + 0.2 * np.cos(np.arange(n) / 29.0) + 0.1 * X[:, 3], 0, 1)
    won = rng.random(n) < 1.0 / (1.0 + np.exp(-1.5 * X[:, 0]))
    return X, np.where(won, 1.4, -1.0 - np.abs(X[:, 5])) + 0.1 * rng.standard_normal(n)


def fitted(make: Callable[[], BaseModel], seed: int = 0) -> BaseModel:
    model = make()
    model.fit(*rows(seed=seed), feature_names=NAMES)
    model.feature_version = VERSION
    return model


def answers(model: BaseModel, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return model.predict(X), model.predict_proba(X)


def same(left: tuple[np.ndarray, ...], right: tuple[np.ndarray, ...]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def test_every_model_type_has_a_class_that_is_held_to_the_laws() -> None:
    assert set(ModelRegistry.MODEL_CLASSES) == set(ModelType)
    assert {type(make()) for make in MODELS.values()} == set(ModelRegistry.MODEL_CLASSES.values())


@every_model
def test_a_model_learns_something_that_its_answers_show(make: Callable[[], BaseModel]) -> None:
    model = fitted(make)
    said, p = answers(model, rows(seed=1)[0])
    assert len(said) == len(p) == 240
    assert len(np.unique(said)) > 1
    assert ((p >= 0) & (p <= 1)).all()
    assert p.ndim == 1 or p.sum(axis=1) == pytest.approx(1.0)
    assert sum(model.get_metadata().feature_importance.values()) == pytest.approx(1.0)


@every_model
def test_a_saved_model_answers_the_same_to_the_bit(make: Callable[[], BaseModel], tmp_path: Path) -> None:
    model, X = fitted(make), rows(seed=1)[0]
    assert model.save(str(tmp_path / "model.skops"))
    loaded = make()
    assert loaded.load(str(tmp_path / "model.skops"))
    assert same(answers(loaded, X), answers(model, X))
    assert (loaded.digest(), loaded.model_id) == (model.digest(), model.model_id)
    assert loaded.get_metadata() == model.get_metadata()


@every_model
def test_the_same_fit_gives_the_same_digest_and_another_one_another(make: Callable[[], BaseModel]) -> None:
    assert fitted(make).digest() == fitted(make).digest() != fitted(make, seed=1).digest()


@every_model
def test_columns_are_taken_by_name_and_an_order_not_fitted_on_is_refused(make: Callable[[], BaseModel]) -> None:
    model = fitted(make)
    frame = pd.DataFrame(rows(30, seed=1)[0], columns=list(NAMES))
    assert same(answers(model, frame[list(NAMES[::-1])]), answers(model, frame.to_numpy()))
    model.check_features(NAMES, VERSION)
    with pytest.raises(FeatureContractError, match="the order"):
        model.check_features(NAMES[::-1], VERSION)
    with pytest.raises(FeatureContractError, match="laws-2"):
        model.check_features(NAMES, "laws-2")
    with pytest.raises(FeatureContractError):
        model.predict(frame.drop(columns="market_trend"))
    with pytest.raises(FeatureContractError):
        model.predict_proba(frame.to_numpy()[:, :-1])


@every_model
def test_missing_values_are_handled_and_infinite_ones_refused(make: Callable[[], BaseModel]) -> None:
    X, r = rows()
    X[::5] = np.where(np.random.default_rng(2).random(X[::5].shape) < 0.5, np.nan, X[::5])
    X[:, 5] = np.nan
    model = make()
    model.fit(X, r, feature_names=NAMES)
    asked = np.vstack([X[:20], np.full((2, len(NAMES)), np.nan)])
    said, p = answers(model, asked)
    assert np.isfinite(p).all()
    assert said.dtype.kind == "U" or np.isfinite(said).all()
    asked[0, 0] = np.inf
    with pytest.raises(BadData, match="infinite"):
        model.predict(asked)
    with pytest.raises(BadData, match="infinite"):
        make().fit(asked, r[: len(asked)], feature_names=NAMES)


@every_model
def test_a_row_alone_is_answered_as_in_its_batch(make: Callable[[], BaseModel]) -> None:
    model, X = fitted(make), rows(40, seed=1)[0]
    said, p = answers(model, X)
    for i in range(len(X)):
        alone, p_alone = answers(model, X[i : i + 1])
        np.testing.assert_allclose(p_alone, p[i : i + 1], rtol=1e-12)
        assert alone[0] == said[i] if said.dtype.kind == "U" else alone[0] == pytest.approx(said[i], rel=1e-12)
    assert len(model.predict(X[:0])) == len(model.predict_proba(X[:0])) == 0


@every_model
def test_what_cannot_be_learned_from_is_named(make: Callable[[], BaseModel]) -> None:
    X, r = rows()
    with pytest.raises((NoUsableFeatures, OneClass)):
        make().fit(np.ones_like(X), r, feature_names=NAMES)
    with pytest.raises(NoUsableFeatures):
        make().fit(np.full_like(X, np.nan), r, feature_names=NAMES)
    with pytest.raises(BadData):
        make().fit(X, r * np.nan, feature_names=NAMES)
    with pytest.raises(BadData):
        make().fit(X, r[:-1], feature_names=NAMES)
    with pytest.raises(NotFittedError):
        make().predict(X)
    with pytest.raises(NotFittedError):
        make().to_bytes()


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("risk", "regime")])
def test_all_wins_or_all_losses_teach_nothing_about_winning(name: str) -> None:
    X, r = rows()
    for one_class in (np.abs(r) + 0.1, -np.abs(r)):
        with pytest.raises(OneClass):
            MODELS[name]().fit(X, one_class, feature_names=NAMES)


def test_a_market_that_never_turned_teaches_nothing_about_regimes() -> None:
    X, r = rows()
    X[:, 1:4] = 0.5
    with pytest.raises(OneClass, match="all 240 rows"):
        RegimeClassifier().fit(X, r, feature_names=NAMES)


@every_model
def test_a_file_that_was_altered_is_refused_and_the_model_stays_as_it_was(
    make: Callable[[], BaseModel], tmp_path: Path
) -> None:
    model = fitted(make)
    before, path = model.digest(), tmp_path / "model.skops"
    registry = ModelRegistry(tmp_path)
    assert registry.register(model)
    path = tmp_path / f"{model.model_id}.skops"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ModelFileRefused, match="SHA-256"):
        registry.load(model.model_id)
    for part in ("learned", "golden", "features"):
        state = artefact.decode(fitted(make).to_bytes())
        del state[part]
        with pytest.raises(ModelFileRefused):
            model.from_bytes(artefact.encode(state))
    assert model.digest() == before


@every_model
def test_a_file_whose_numbers_point_elsewhere_or_answer_otherwise_is_refused(make: Callable[[], BaseModel]) -> None:
    """Every array of what was learned, spoiled in turn: refused, or without any effect on an answer."""
    model, X = fitted(make), rows(seed=1)[0]
    expected = answers(model, X)
    spoiled = 0
    for path in arrays_of(artefact.decode(model.to_bytes())["learned"]):
        for value in (10**6, -7, np.nan):
            state = artefact.decode(model.to_bytes())
            array = state["learned"]
            for key in path:
                array = array[key]
            if array.dtype.kind == "b" or (array.dtype.kind == "i" and value != value):
                continue
            array[...] = value
            other = make()
            try:
                other.from_bytes(artefact.encode(state))
            except ModelFileRefused:
                spoiled += 1
            else:
                assert np.isfinite(answers(other, X)[1]).all(), path
    assert spoiled >= 8
    assert same(answers(model, X), expected)


def arrays_of(state: dict, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for key, value in state.items():
        if isinstance(value, dict):
            found += arrays_of(value, (*path, key))
        elif isinstance(value, np.ndarray) and value.size:
            found.append((*path, key))
    return found


@every_model
def test_a_file_of_one_type_is_no_model_of_another(make: Callable[[], BaseModel]) -> None:
    model = fitted(make)
    for other in MODELS.values():
        if other().model_type != model.model_type:
            with pytest.raises(ModelFileRefused, match=model.model_type.value):
                other().from_bytes(model.to_bytes())


def test_the_return_predictor_beside_a_quality_model_is_the_one_that_would_be_fitted() -> None:
    X, _ = rows()
    quality = fitted(MODELS["quality"])
    beside = ReturnPredictor.beside(quality)
    assert beside.digest() == fitted(MODELS["return"]).digest()
    assert beside.model_id.startswith("return_predictor_")
    assert beside.opinion_digest() == quality.opinion_digest() != fitted(MODELS["return"], seed=1).opinion_digest()
    loaded = ReturnPredictor()
    loaded.from_bytes(beside.to_bytes())
    np.testing.assert_array_equal(loaded.predict(X), quality.predict_r(X))
    np.testing.assert_array_equal(loaded.from_probability(quality.predict_proba(X)), loaded.predict(X))
    assert quality.model_type is ModelType.SIGNAL_QUALITY


def test_a_tenth_of_new_signals_ends_below_the_risk_predicted() -> None:
    rng = np.random.default_rng(3)
    X = rng.standard_normal((2400, 8))
    r = np.exp(0.5 * X[:, 2]) * rng.standard_normal(2400)
    model = RiskPredictor()
    model.fit(X[:1200], r[:1200])
    risk = model.predict(X[1200:])
    assert (r[1200:] < risk).mean() == pytest.approx(0.1, abs=0.03)
    assert model.weight > 0.3
    wide, narrow = X[1200:, 2] > 1, X[1200:, 2] < -1
    assert risk[wide].mean() < 1.5 * risk[narrow].mean()


def test_the_pinball_loss_of_rows_averages_to_the_librarys() -> None:
    rng = np.random.default_rng(5)
    r, risk = rng.standard_normal((2, 500))
    assert pinball(r, risk).mean() == pytest.approx(mean_pinball_loss(r, risk, alpha=0.1), rel=1e-12)


def test_where_features_say_nothing_of_risk_every_signal_has_nearly_the_same() -> None:
    rng = np.random.default_rng(4)
    X, r = rng.standard_normal((600, 8)), rng.standard_normal(600)
    model = RiskPredictor()
    model.fit(X, r)
    assert np.ptp(model.predict(rng.standard_normal((500, 8)))) < 0.6
    few = RiskPredictor()
    few.fit(X[:60], r[:60])
    assert np.ptp(few.predict(X)) == 0.0


def test_without_market_features_a_regime_is_told_from_the_symbols_own_and_without_those_not_at_all() -> None:
    X, r = rows()
    model = RegimeClassifier()
    model.fit(X[:, 1:4], r, feature_names=["price_vs_ma50", "roc_20", "volatility_percentile"])
    assert len(set(model.predict(X[:, 1:4]))) > 1
    with pytest.raises(NoUsableFeatures, match="market_trend"):
        RegimeClassifier().fit(X, r)


def test_a_regime_does_not_flicker_as_the_raw_features_do() -> None:
    X, _ = rows(600)
    model = RegimeClassifier()
    model.fit(X[:400], np.zeros(400), feature_names=NAMES)
    said = model.predict(X[400:])
    bull = np.array([name.startswith("bull") for name in said])
    raw = X[400:, 1] > 0
    assert np.abs(np.diff(bull)).sum() < np.abs(np.diff(raw)).sum()
    truth = np.sin(np.arange(400, 600) / 17.0) > 0
    assert (bull == truth).mean() > (raw == truth).mean()
