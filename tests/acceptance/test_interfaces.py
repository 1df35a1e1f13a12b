"""Every name of the specification's listings, its parameters and what it gives, against the library's.

The tables are the specification's: a name is added here when it gets one, and never taken away. What the library has
more are parameters by keyword, or with defaults behind the specified ones.
"""

from __future__ import annotations

import abc
import ast
import inspect
from collections.abc import Iterator
from dataclasses import MISSING, asdict, fields, is_dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from trading_system.ml_refinement import (
    FeatureConfig,
    FeatureSet,
    FeatureVector,
    MLConfig,
    ModelMetadata,
    ModelType,
    TrainingConfig,
)
from trading_system.ml_refinement.features import FeaturePipeline, FeatureRegistry, FeatureScaler
from trading_system.ml_refinement.features.extractors import (
    BaseFeatureExtractor,
    MarketRegimeFeatures,
    MomentumFeatures,
    OHLCVExtractor,
    TrendFeatures,
    VolatilityFeatures,
)
from trading_system.ml_refinement.models import BaseModel, ModelRegistry, SignalQualityModel
from trading_system.ml_refinement.storage import FeatureDatabase

LIBRARY = "trading_system.ml_refinement"
ATTRIBUTE = None

#: Modules, and what is imported from them.
IMPORTS = {
    "": "FeatureConfig FeatureSet FeatureVector MLConfig ModelMetadata ModelType TrainingConfig",
    ".config": "FeatureConfig FeatureSet FeatureVector MLConfig ModelMetadata ModelType TrainingConfig",
    ".storage": "FeatureDatabase",
    ".storage.feature_db": "FeatureDatabase",
    ".features": "FeaturePipeline FeatureRegistry FeatureScaler",
    ".features.feature_registry": "FeatureRegistry",
    ".features.feature_store": "FeatureStore",
    ".features.pipeline": "FeaturePipeline FeatureScaler",
    ".features.extractors": "BaseFeatureExtractor OHLCVExtractor TrendFeatures MomentumFeatures VolatilityFeatures"
    " MarketRegimeFeatures SignalMetadataFeatures",
    ".features.extractors.base_extractor": "BaseFeatureExtractor OHLCVExtractor",
    ".features.extractors.technical_features": "MomentumFeatures TrendFeatures VolatilityFeatures",
    ".features.extractors.market_features": "MarketRegimeFeatures",
    ".features.extractors.signal_features": "SignalMetadataFeatures",
    ".features.extractors.news_features": "NewsFeatures",
    ".models": "BaseModel SignalQualityModel ModelRegistry",
    ".models.base_model": "BaseModel SignalQualityModel",
    ".models.model_registry": "ModelRegistry BaseModel SignalQualityModel",
    ".validation": "PurgedWalkForward Fold auc brier",
    ".validation.walk_forward": "PurgedWalkForward",
    ".validation.metrics": "auc",
}

#: Methods and their parameters without `self`.
METHODS: dict[str, dict[str, str | None]] = {
    "storage.feature_db:FeatureDatabase": {
        "__init__": "db_path='features.db'",
        "connection": ATTRIBUTE,
        "transaction": "",
        "initialize": "",
        "close": "",
        "store_feature_vector": "fv, symbol='', asset_class='', signal_type='', conviction=''",
        "update_target": "signal_id, r_multiple, return_pct=None",
        "get_feature_vector": "signal_id",
        "get_training_data": "start_date, end_date, asset_class=None, signal_type=None, require_target=True",
        "get_training_data_binary": "start_date, end_date, **kwargs",
        "count_samples": "start_date=None, end_date=None, require_target=True",
        "register_model": "metadata",
        "activate_model": "model_id",
        "get_active_model": "model_type",
        "get_model_history": "model_type, limit=10",
        "_row_to_metadata": "row",
        "log_prediction": "signal_id, model_id, quality_score, predicted_r=None, confidence=None",
        "update_prediction_actual": "signal_id, actual_r",
    },
    "features.extractors.base_extractor:BaseFeatureExtractor": {
        "name": ATTRIBUTE,
        "feature_names": ATTRIBUTE,
        "category": ATTRIBUTE,
        "extract": "data",
        "validate_output": "features",
    },
    "features.extractors.base_extractor:OHLCVExtractor": {
        "extract": "ohlcv, current_idx=-1",
        "_safe_get": "series, idx, default=0.0",
    },
    "features.extractors.technical_features:TrendFeatures": {
        "__init__": "lookbacks=None",
        "name": ATTRIBUTE,
        "category": ATTRIBUTE,
        "feature_names": ATTRIBUTE,
        "extract": "ohlcv, current_idx=-1",
        "_calculate_atr": "ohlcv, period",
        "_calculate_trend_strength": "ohlcv, period",
        "_count_higher_highs": "high, lookback",
        "_count_lower_lows": "low, lookback",
    },
    "features.extractors.technical_features:MomentumFeatures": {
        "__init__": "lookbacks=None",
        "name": ATTRIBUTE,
        "category": ATTRIBUTE,
        "feature_names": ATTRIBUTE,
        "extract": "ohlcv, current_idx=-1",
        "_calculate_rsi": "close, period",
        "_calculate_divergence": "ohlcv, period",
        "_calculate_acceleration": "close, period",
    },
    "features.extractors.technical_features:VolatilityFeatures": {
        "name": ATTRIBUTE,
        "category": ATTRIBUTE,
        "feature_names": ATTRIBUTE,
        "extract": "ohlcv, current_idx=-1",
        "_calculate_atr": "ohlcv, period",
        "_vol_percentile": "close, short_period, long_period",
        "_vol_trend": "close, period",
    },
    "features.extractors.signal_features:SignalMetadataFeatures": {
        "name": ATTRIBUTE,
        "category": ATTRIBUTE,
        "feature_names": ATTRIBUTE,
        "extract": "signal_data",
    },
    "features.extractors.market_features:MarketRegimeFeatures": {
        "name": ATTRIBUTE,
        "category": ATTRIBUTE,
        "feature_names": ATTRIBUTE,
        "extract": "ohlcv, current_idx=-1, benchmark_data=None",
        "_calculate_trend": "close, period",
        "_calculate_breadth_proxy": "close, period",
        "_calculate_correlation_regime": "symbol_close, market_close, period",
        "_calculate_vol_regime": "close, period",
        "_calculate_drawdown": "close",
        "_days_from_high": "close, lookback",
        "_calculate_rally_strength": "close, period",
    },
    "features.feature_registry:FeatureRegistry": {
        "__init__": "",
        "_register_defaults": "",
        "register": "extractor",
        "get": "name",
        "get_all": "",
        "get_by_category": "category",
        "get_all_feature_names": "",
        "get_feature_count": "",
    },
    "features.pipeline:FeaturePipeline": {
        "__init__": "config=None, registry=None",
        "_get_extractors_for_set": "",
        "extract_features": "signal_id, ohlcv_data, signal_metadata, benchmark_data=None",
        "create_feature_vector": "signal_id, features, target=None, timestamp=None",
        "_scale_features": "features",
        "get_feature_names": "",
        "get_feature_count": "",
    },
    "features.pipeline:FeatureScaler": {
        "__init__": "method='standard'",
        "fit": "feature_data",
        "transform": "features",
        "fit_transform": "feature_data",
    },
    "models.base_model:BaseModel": {
        "__init__": "model_type, version='1.0'",
        "fit": "X_train, y_train, X_val=None, y_val=None, feature_names=None",
        "predict": "X",
        "predict_proba": "X",
        "save": "path",
        "load": "path",
        "get_metadata": "",
        "set_training_period": "start_date, end_date",
    },
    "models.base_model:SignalQualityModel": {
        "__init__": "version='1.0', **kwargs",
        "fit": "X_train, y_train, X_val=None, y_val=None, feature_names=None",
        "predict": "X",
        "predict_proba": "X",
        "save": "path",
        "load": "path",
        "get_top_features": "n=10",
    },
    "models.model_registry:ModelRegistry": {
        "__init__": "model_dir='models/', db=None",
        "register": "model",
        "activate": "model_id",
        "get_active": "model_type",
        "get_model_history": "model_type, limit=10",
        "_load_model": "model_id, model_type",
        "compare_models": "model_type, metric='auc'",
    },
}

#: Methods that a subclass has to have, and no others.
ABSTRACT = {
    BaseModel: {"fit", "predict", "predict_proba", "save", "load"},
    BaseFeatureExtractor: {"name", "extract"},
    OHLCVExtractor: {"name"},
}

#: Attributes of objects as they are made, and their types.
MADE = {
    "BaseModel": "model_type:ModelType version:str model_id:str is_fitted:bool _train_start_date:NoneType"
    " _train_end_date:NoneType _train_samples:int _validation_samples:int _feature_names:list _feature_importance:dict"
    " _train_metrics:dict _validation_metrics:dict",
    "SignalQualityModel": "params:dict",
    "TrendFeatures": "lookbacks:list name:str category:str feature_names:list",
    "MomentumFeatures": "lookbacks:list name:str category:str feature_names:list",
    "VolatilityFeatures": "name:str category:str feature_names:list",
    "MarketRegimeFeatures": "name:str category:str feature_names:list",
    "FeatureRegistry": "DEFAULT_EXTRACTORS:list _extractors:dict",
    "FeaturePipeline": "config:FeatureConfig registry:FeatureRegistry _extractors:list",
    "FeatureScaler": "method:str fitted:bool _params:dict",
    "ModelRegistry": "MODEL_CLASSES:dict model_dir:PosixPath db:NoneType _active_models:dict",
    "FeatureDatabase": "FEATURE_VERSION:str db_path:PosixPath",
}

#: Fields in order with their defaults; `...` where there is none.
DATACLASSES: dict[type, dict[str, Any]] = {
    FeatureConfig: {
        "feature_set": FeatureSet.STANDARD,
        "custom_features": [],
        "technical_lookbacks": [5, 10, 20, 50, 200],
        "market_regime_window": 20,
        "volatility_window": 20,
        "news_lookback_hours": 48,
        "include_news_features": True,
        "scale_features": True,
        "scaling_method": "standard",
    },
    TrainingConfig: {
        "train_window_days": 252,
        "validation_window_days": 63,
        "step_size_days": 21,
        "min_training_samples": 100,
        "min_validation_samples": 20,
        "model_type": "ensemble",  # the specification's recipe takes less than half of what there is to learn
        "hyperparameters": {},
        "early_stopping": True,
        "early_stopping_rounds": 50,
        "max_features": 50,
        "feature_selection": True,
        "feature_importance_threshold": 0.01,
    },
    MLConfig: {
        "enabled": True,
        "features": FeatureConfig(),
        "training": TrainingConfig(),
        "model_dir": "models/",
        "feature_db_path": "features.db",
        "retrain_frequency_days": 7,
        "min_new_samples_for_retrain": 20,
        "quality_threshold_high": 0.7,
        "quality_threshold_low": 0.3,
        "use_ml_scores": True,
        "ml_score_weight": 0.3,
    },
    FeatureVector: {"signal_id": ..., "timestamp": ..., "features": ..., "target": None, "target_binary": None},
    ModelMetadata: {
        "model_id": ...,
        "model_type": ...,
        "version": ...,
        "created_at": ...,
        "train_start_date": ...,
        "train_end_date": ...,
        "train_samples": ...,
        "validation_samples": ...,
        "train_metrics": {},
        "validation_metrics": {},
        "feature_names": [],
        "feature_importance": {},
        "is_active": False,
        "deployed_at": None,
    },
}

#: Names of the listings that are not here, each with its reason.
ABSENT = {
    "models.base_model:SignalQualityModel._model": "what is fitted is plain arrays: no estimator is kept",
}

EVERY_METHOD = [(owner, name, said) for owner, methods in METHODS.items() for name, said in methods.items()]


class Own(BaseModel):
    """No more than the five methods."""

    def fit(self, X_train, y_train, X_val=None, y_val=None, feature_names=None):
        self.is_fitted = True
        return {}

    def predict(self, X):
        return np.zeros(len(X))

    predict_proba = predict

    def save(self, path):
        return True

    load = save


def class_of(owner: str) -> type:
    module, _, name = owner.partition(":")
    return getattr(import_module(f"{LIBRARY}.{module}"), name)


def made(name: str, folder: Path) -> Any:
    if name == "BaseModel":
        return Own(ModelType.RISK_PREDICTOR)
    owner = next(class_of(owner) for owner in METHODS if owner.endswith(f":{name}"))
    folders = {"ModelRegistry": (str(folder),), "FeatureDatabase": (str(folder / "features.db"),)}
    return owner(*folders.get(name, ()))


def parameters(said: str) -> list[tuple[str, Any]]:
    """Names and defaults of `a, b=1, **kwargs`; the name of what takes the rest does not count."""
    arguments = ast.parse(f"def f({said}): ...").body[0].args  # type: ignore[attr-defined]
    given = [ast.literal_eval(default) for default in arguments.defaults]
    defaults = [inspect.Parameter.empty] * (len(arguments.args) - len(given)) + given
    named = [(argument.arg, default) for argument, default in zip(arguments.args, defaults, strict=True)]
    return named + [("**", inspect.Parameter.empty)] * (arguments.kwarg is not None)


def differences(function: Any, said: str) -> list[str]:
    """In what a method does not take what the specification's takes."""
    wanted = parameters(said)
    taken = list(inspect.signature(function).parameters.values())[1:]
    keywords = {one.name for one in taken if one.kind is one.KEYWORD_ONLY}
    named = [one for one in taken if one.kind not in (one.KEYWORD_ONLY, one.VAR_KEYWORD)]
    found = []
    for place, (name, default) in enumerate(wanted):
        if name == "**":
            found += ["takes no more keywords"] * (all(one.kind is not one.VAR_KEYWORD for one in taken))
        elif place >= len(named) or named[place].name != name:
            found.append(f"{name} is not parameter {place}" + (", but a keyword" if name in keywords else ""))
        elif named[place].default != default:
            found.append(f"{name} is {named[place].default!r} unless given, not {default!r}")
    behind = named[len([name for name, _ in wanted if name != "**"]) :]
    found += [f"{one.name} has to be given" for one in behind if one.default is one.empty]
    needed = [one for one in taken if one.kind is one.KEYWORD_ONLY and one.default is one.empty]
    return found + [f"{one.name} has to be given" for one in needed]


@pytest.mark.parametrize(("module", "names"), IMPORTS.items())
def test_every_import_of_the_specification_works(module: str, names: str) -> None:
    loaded = import_module(LIBRARY + module)
    assert [name for name in names.split() if not hasattr(loaded, name)] == []
    scope: dict[str, Any] = {}
    exec(f"from {LIBRARY}{module} import {', '.join(names.split())}", scope)  # noqa: S102 - as users import it
    offered = getattr(loaded, "__all__", None)
    if offered is not None and (Path(loaded.__file__ or "").name == "__init__.py" or module == ".models.base_model"):
        assert set(names.split()) <= set(offered)


@pytest.mark.parametrize(("owner", "name", "said"), EVERY_METHOD)
def test_every_method_takes_what_the_specification_says(owner: str, name: str, said: str | None) -> None:
    of = class_of(owner)
    assert hasattr(of, name), f"{owner} has no {name}"
    if said is not ATTRIBUTE:
        assert differences(getattr(of, name), said) == []


@pytest.mark.parametrize(("of", "names"), ABSTRACT.items())
def test_a_subclass_has_to_have_no_more_than_the_specification_asks(of: abc.ABCMeta, names: set[str]) -> None:
    assert of.__abstractmethods__ <= names


@pytest.mark.parametrize(("name", "attributes"), MADE.items())
def test_objects_have_the_attributes_of_the_specification(name: str, attributes: str, tmp_path: Path) -> None:
    one = made(name, tmp_path)
    names = [pair.partition(":")[0] for pair in attributes.split()]
    found = [f"{told}:{type(getattr(one, told)).__name__}" for told in names]
    assert found == attributes.split()


@pytest.mark.parametrize(("of", "wanted"), DATACLASSES.items())
def test_dataclasses_have_the_fields_in_order_their_defaults_and_can_be_assigned(
    of: type, wanted: dict[str, Any]
) -> None:
    assert is_dataclass(of)
    found = {
        field.name: field.default_factory() if field.default_factory is not MISSING  # type: ignore[misc]
        else ... if field.default is MISSING else field.default
        for field in fields(of)
    }  # fmt: skip
    assert list(found.items())[: len(wanted)] == list(wanted.items())
    assert ... not in list(found.values())[len(wanted) :]
    one = of(*("x" for default in wanted.values() if default is ...))
    for name in wanted:
        setattr(one, name, f"other {name}")
    assert {name: getattr(one, name) for name in wanted} == {name: f"other {name}" for name in wanted}
    assert asdict(replace(of(*("x" for default in wanted.values() if default is ...)))).keys() >= wanted.keys()


def test_enumerations_are_text() -> None:
    assert [one.value for one in ModelType] == [
        "signal_quality", "return_predictor", "regime_classifier", "risk_predictor"
    ]  # fmt: skip
    assert [one.value for one in FeatureSet] == ["minimal", "standard", "extended", "custom"]
    assert all(isinstance(one, str) for one in (*ModelType, *FeatureSet))


@pytest.mark.parametrize("absent", ABSENT)
def test_what_is_said_to_be_absent_is(absent: str) -> None:
    owner, _, name = absent.rpartition(".")
    assert not hasattr(class_of(owner)(), name)


def test_the_comparison_finds_what_differs() -> None:
    def method(self, a, c=2, *, b=1, d): ...

    assert differences(method, "a, b=1, **kwargs") == [
        "b is not parameter 1, but a keyword",
        "takes no more keywords",
        "d has to be given",
    ]
    assert differences(method, "a, c=3") == ["c is 2 unless given, not 3", "d has to be given"]


@pytest.fixture
def db(tmp_path: Path) -> Iterator[FeatureDatabase]:
    with FeatureDatabase(str(tmp_path / "features.db")) as db:
        yield db


def test_what_the_store_gives_is_of_the_types_of_the_specification(db: FeatureDatabase) -> None:
    empty_X, empty_y, no_names = db.get_training_data("2024-01-01", "2024-12-31")
    assert (len(empty_X), len(empty_y), no_names) == (0, 0, [])
    for at in range(3):
        fv = FeatureVector(f"s{at}", f"2024-01-0{at + 1}T10:00:00", {"rsi": 1.0, "atr": 2.0})
        assert db.store_feature_vector(fv, "AAPL", "equity", "breakout", "HIGH") is True
        assert db.update_target(f"s{at}", at - 1.0, 2.0) is True
    assert db.update_target("none", 1.0) is False
    assert isinstance(db.get_feature_vector("s1"), FeatureVector)
    assert db.get_feature_vector("none") is None
    for get in (db.get_training_data, db.get_training_data_binary):
        X, y, names = get("2024-01-01", "2024-12-31", asset_class="equity")
        assert (X.shape, y.shape, names) == ((3, 2), (3,), ["atr", "rsi"])
    assert y.tolist() == [0, 0, 1]
    assert db.count_samples("2024-01-02") == 2
    told = ModelMetadata("m1", ModelType.SIGNAL_QUALITY, "1.0", "2024-01-01", "", "", 3, 0, {"auc": 0.6}, {}, ["rsi"])
    assert db.register_model(told) is True
    assert (db.activate_model("m1"), db.activate_model("none")) == (True, False)
    assert db.get_active_model("signal_quality").feature_names == ["rsi"]
    assert db.get_active_model("risk_predictor") is None
    assert [type(one) for one in db.get_model_history("signal_quality", 5)] == [ModelMetadata]
    row = db.connection.execute("SELECT * FROM model_registry").fetchone()
    assert db._row_to_metadata(row) == db.get_active_model("signal_quality")
    assert db.log_prediction("s1", "m1", 0.7, 1.2, 0.5) is True
    assert (db.update_prediction_actual("s1", 2.0), db.update_prediction_actual("none", 2.0)) == (True, False)


def test_what_pipeline_scaler_and_registries_give_is_of_the_types_of_the_specification(tmp_path: Path) -> None:
    registry = FeatureRegistry()
    assert all(isinstance(one, BaseFeatureExtractor) for one in registry.get_all())
    assert isinstance(registry.get_all_feature_names(), list)
    pipeline = FeaturePipeline(FeatureConfig())
    fv = pipeline.create_feature_vector("s1", {"a": 1.0}, target=0.0)
    assert (fv.target, fv.target_binary) == (0.0, 0)
    scaler = FeatureScaler("robust")
    rows = scaler.fit_transform({"a": [1.0, 2.0, 3.0], "b": [5.0, 5.0, 5.0]})
    assert rows == [{"a": -1.0, "b": 0.0}, {"a": 0.0, "b": 0.0}, {"a": 1.0, "b": 0.0}]
    again = FeatureScaler("robust")
    again._params, again.fitted = scaler._params, True
    assert again.transform({"a": 3.0, "b": 6.0, "c": 7.0}) == {"a": 1.0, "b": 1.0, "c": 7.0}

    model = SignalQualityModel(min_samples=50)
    X = np.random.default_rng(0).standard_normal((120, 3))
    metrics = model.fit(X, X[:, 0], X[:20], X[:20, 0], ["a", "b", "c"])
    assert {"accuracy", "auc", "f1"} <= set(metrics)
    assert {"accuracy", "auc", "f1"} <= set(model.get_metadata().validation_metrics)
    assert (model.predict(X).shape, model.predict_proba(X).shape) == ((120,), (120,))
    assert set(model.predict(X).tolist()) <= {0, 1}
    assert [type(pair) for pair in model.get_top_features(2)] == [tuple, tuple]
    models = ModelRegistry(str(tmp_path))
    assert models.register(model)
    [row] = models.compare_models(ModelType.SIGNAL_QUALITY)
    assert set(row) == {"model_id", "version", "created_at", "metric", "is_active"}
    elsewhere = ModelRegistry(str(tmp_path))  # without a store the directory is all there is
    assert elsewhere.activate(model.model_id) is True
    assert elsewhere.get_active(ModelType.SIGNAL_QUALITY).model_id == model.model_id


def test_a_pipeline_may_scale_what_it_gives_by_an_override() -> None:
    class Clipped(FeaturePipeline):
        def _scale_features(self, features):
            return {name: max(-1.0, min(1.0, value)) for name, value in features.items()}

    bars = pd.DataFrame({name: np.full(60, 100.0) for name in ("open", "high", "low", "close", "volume")})
    signal = {"entry_price": 100, "target_price": 150, "stop_price": 95}
    for config, wanted in ((FeatureConfig(), 1.0), (FeatureConfig(scale_features=False), 10.0)):
        assert Clipped(config).extract_features("s1", bars, signal)["risk_reward_ratio"] == wanted


def test_the_families_protected_methods_are_the_features_with_other_windows() -> None:
    rng = np.random.default_rng(0)
    close = pd.Series(100 * np.exp(np.cumsum(rng.normal(0, 0.02, 300))))
    market = pd.Series(100 * np.exp(np.cumsum(rng.normal(0, 0.02, 320))))
    bars = pd.DataFrame({"open": close, "high": close * 1.01, "low": close * 0.98, "close": close, "volume": close})
    trend, momentum, volatility = TrendFeatures(), MomentumFeatures(), VolatilityFeatures()
    regime = MarketRegimeFeatures()
    spans = pd.concat(
        [bars["high"] - bars["low"], (bars["high"] - close.shift()).abs(), (bars["low"] - close.shift()).abs()], axis=1
    ).max(axis=1)
    for period in (7, 14):
        assert trend._calculate_atr(bars, period) == pytest.approx(spans.iloc[-period:].mean())
        assert volatility._calculate_atr(bars.iloc[:3], period) == 0.0
        straight = np.corrcoef(np.arange(period), close.iloc[-period:])[0, 1] ** 2
        assert trend._calculate_trend_strength(bars, period) == pytest.approx(straight)
        rising = (close.diff().iloc[1 - period :] > 0).mean()
        assert trend._count_higher_highs(close, period) == pytest.approx(rising)
        assert trend._count_lower_lows(close, period) == pytest.approx(1 - rising)
        moves = close.diff().iloc[-period:]
        rsi = 100 * moves.clip(lower=0).sum() / moves.abs().sum()
        assert momentum._calculate_rsi(close, period) == pytest.approx(rsi)
        assert momentum._calculate_rsi(close.iloc[:period], period) == 50.0
        assert momentum._calculate_acceleration(close, period) == pytest.approx(
            close.pct_change(period).diff(period).iloc[-1]
        )
        turn = close.pct_change(period).diff(period - 1).iloc[-1]
        change = close.iloc[-1] / close.iloc[-period] - 1
        assert momentum._calculate_divergence(bars, period) == pytest.approx(turn if turn * change < 0 else 0.0)
        vol = close.pct_change().rolling(period).std()
        assert volatility._vol_percentile(close, period, 100) == (vol.iloc[-100:] < vol.iloc[-1]).mean()
        assert volatility._vol_trend(close, period) == pytest.approx(vol.iloc[-1] / vol.iloc[-period] - 1)
        returns = close.pct_change()
        average = close.iloc[-period:].mean()
        distance = (close.iloc[-1] - average) / (average * returns.iloc[-period:].std() * period**0.5)
        assert regime._calculate_trend(close, period) == pytest.approx(np.clip(distance, -1, 1))
        assert regime._calculate_breadth_proxy(close, period) == (returns.iloc[-period:] > 0).mean()
        together = np.corrcoef(returns.iloc[-period:], market.pct_change().iloc[-period:])[0, 1]
        assert regime._calculate_correlation_regime(close, market, period) == pytest.approx(together)
        ratio = returns.iloc[-period:].std() / returns.iloc[-2 * period : -period].std()
        assert regime._calculate_vol_regime(close, period) == pytest.approx(min(1.0, ratio / 2))
        since = period - 1 - int(close.iloc[-period:].to_numpy().argmax())
        assert regime._days_from_high(close, period) == pytest.approx(since / period)
        strength = (close.iloc[-1] / close.iloc[-period] - 1) / (returns.iloc[-period:].std() * period**0.5)
        assert regime._calculate_rally_strength(close, period) == pytest.approx(np.clip(strength, -1, 1))
    assert regime._calculate_drawdown(close) == pytest.approx(close.iloc[-1] / close.max() - 1)
