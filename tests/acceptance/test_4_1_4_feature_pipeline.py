"""Task 4.1.4: the pipeline, the registry and the scaler."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.support.sample_ohlcv import create_sample_ohlcv
from trading_system.ml_refinement import FeatureConfig, FeatureSet, FeatureVector
from trading_system.ml_refinement.features import FeaturePipeline, FeatureRegistry, FeatureScaler
from trading_system.ml_refinement.features.extractors import (
    BaseFeatureExtractor,
    MarketRegimeFeatures,
    MomentumFeatures,
    OHLCVExtractor,
    SignalMetadataFeatures,
    TrendFeatures,
    VolatilityFeatures,
)
from trading_system.ml_refinement.storage import FeatureDatabase

FIVE = [TrendFeatures, MomentumFeatures, VolatilityFeatures, MarketRegimeFeatures, SignalMetadataFeatures]
SIGNAL = {
    "technical_score": 7.5,
    "news_score": 4.0,
    "combined_score": 6.0,
    "conviction": "HIGH",
    "entry_price": 100.0,
    "target_price": 110.0,
    "stop_price": 95.0,
    "position_size_pct": 2.0,
    "asset_class": "equity",
    "signal_type": "breakout",
}
NEUTRAL = {
    "rsi_14": 0.5,
    "volatility_percentile": 0.5,
    "range_ratio": 1.0,
    "market_breadth": 0.5,
    "correlation_regime": 0.5,
    "volatility_regime": 0.5,
}


def names_of(*kinds: type[BaseFeatureExtractor]) -> list[str]:
    return [name for kind in kinds for name in kind().feature_names]


def extracted(
    feature_set: FeatureSet = FeatureSet.STANDARD, frame: pd.DataFrame | None = None, **config: Any
) -> dict[str, float]:
    pipeline = FeaturePipeline(FeatureConfig(feature_set=feature_set, **config))
    return pipeline.extract_features("test", create_sample_ohlcv(300) if frame is None else frame, SIGNAL)


class DeskScore(BaseFeatureExtractor):
    """Reads the signal as the specification's own extractor does."""

    @property
    def name(self) -> str:
        return "desk_score"

    @property
    def category(self) -> str:
        return "signal"

    @property
    def feature_names(self) -> list[str]:
        return ["desk_score", "desk_mood"]

    def extract(self, signal_data: dict[str, Any]) -> dict[str, float]:
        return {"desk_score": signal_data.get("technical_score", 0) / 10, "desk_mood": signal_data.get("mood", -1.0)}


class LastTrades(OHLCVExtractor):
    """Reads a column of its own from the bars."""

    @property
    def name(self) -> str:
        return "last_trades"

    @property
    def feature_names(self) -> list[str]:
        return ["last_trades"]

    def extract(self, ohlcv: pd.DataFrame, current_idx: int = -1) -> dict[str, float]:
        return {"last_trades": self._safe_get(ohlcv["trades"], current_idx) / 1000}


class Broken(DeskScore):
    """Fails as extractors do."""

    @property
    def name(self) -> str:
        return "broken"

    @property
    def feature_names(self) -> list[str]:
        return ["one", "two"]

    def extract(self, signal_data: dict[str, Any]) -> dict[str, float]:
        return {"one": 1.0 / len(signal_data.get("nothing", ())), "two": 2.0}


def registry_with(*extractors: BaseFeatureExtractor) -> FeatureRegistry:
    registry = FeatureRegistry()
    for extractor in extractors:
        registry.register(extractor)
    return registry


# -- The registry ---------------------------------------------------------------------------------------------------


def test_the_registry_has_the_five_extractors_by_default_and_takes_ones_own() -> None:
    registry = FeatureRegistry()
    assert isinstance(FeatureRegistry.DEFAULT_EXTRACTORS, list)
    assert [kind for kind in FeatureRegistry.DEFAULT_EXTRACTORS if kind in FIVE] == FIVE
    registry.register(DeskScore())
    assert isinstance(registry.get("trend_features"), TrendFeatures)
    assert isinstance(registry.get("desk_score"), DeskScore)
    all_names = registry.get_all_feature_names()
    assert isinstance(all_names, list)
    assert set(names_of(*FIVE)) | {"desk_score", "desk_mood"} <= set(all_names)
    assert registry.get_feature_count() == len(all_names) == len(set(all_names))


def test_the_default_extractors_can_be_added_to_in_a_subclass() -> None:
    class WithDesk(FeatureRegistry):
        DEFAULT_EXTRACTORS = [*FeatureRegistry.DEFAULT_EXTRACTORS, DeskScore]  # noqa: RUF012  as the specification has it

    assert isinstance(WithDesk().get("desk_score"), DeskScore)


def test_an_unknown_extractor_is_a_key_error_that_names_it() -> None:
    with pytest.raises(KeyError, match="no_such_features"):
        FeatureRegistry().get("no_such_features")


def test_extractors_are_found_by_category() -> None:
    registry = FeatureRegistry()
    technical = registry.get_by_category("technical")
    assert [type(extractor) for extractor in technical] == [TrendFeatures, MomentumFeatures, VolatilityFeatures]
    assert [type(extractor) for extractor in registry.get_by_category("market")] == [MarketRegimeFeatures]
    assert [type(extractor) for extractor in registry.get_by_category("signal")] == [SignalMetadataFeatures]
    assert registry.get_by_category("nonsense") == []


def test_all_extractors_are_listed_and_one_of_the_same_name_takes_the_place() -> None:
    registry = FeatureRegistry()
    before = registry.get_all()
    assert isinstance(before, list)
    assert [type(extractor) for extractor in before if type(extractor) in FIVE] == FIVE
    short = TrendFeatures([3])
    registry.register(short)
    assert registry.get("trend_features") is short
    assert len(registry.get_all()) == len(before)


def test_registries_are_apart() -> None:
    registry_with(DeskScore())
    with pytest.raises(KeyError):
        FeatureRegistry().get("desk_score")


# -- Pipeline combines all extractors; feature sets work ------------------------------------------------------------


def test_the_example_of_the_pipeline() -> None:
    pipeline = FeaturePipeline(FeatureConfig(feature_set=FeatureSet.EXTENDED))
    features = pipeline.extract_features(
        signal_id="sig-123",
        ohlcv_data=create_sample_ohlcv(300),
        signal_metadata=SIGNAL,
        benchmark_data=create_sample_ohlcv(300, seed=9),
    )
    fv = pipeline.create_feature_vector(signal_id="sig-123", features=features, target=2.5)
    assert isinstance(fv, FeatureVector)
    assert (fv.signal_id, fv.target, fv.target_binary) == ("sig-123", 2.5, 1)
    assert fv.features == features


def test_pipeline_standard_features() -> None:
    pipeline = FeaturePipeline(FeatureConfig(feature_set=FeatureSet.STANDARD))
    features = pipeline.extract_features(
        signal_id="test",
        ohlcv_data=create_sample_ohlcv(100),
        signal_metadata={"technical_score": 7.5, "conviction": "HIGH"},
    )
    assert len(features) > 0
    assert all(isinstance(v, float) for v in features.values())
    assert {type(v) for v in features.values()} == {float}


@pytest.mark.parametrize(
    ("feature_set", "kinds"),
    [
        (FeatureSet.MINIMAL, [TrendFeatures, SignalMetadataFeatures]),
        (FeatureSet.STANDARD, [TrendFeatures, MomentumFeatures, VolatilityFeatures, SignalMetadataFeatures]),
    ],
)
def test_a_feature_set_is_its_extractors(feature_set: FeatureSet, kinds: list[type[BaseFeatureExtractor]]) -> None:
    pipeline = FeaturePipeline(FeatureConfig(feature_set=feature_set))
    features = extracted(feature_set)
    assert sorted(features) == sorted(names_of(*kinds))
    assert sorted(pipeline.get_feature_names()) == sorted(features)
    assert list(features) == pipeline.get_feature_names()
    assert pipeline.get_feature_count() == len(features)


def test_the_extended_set_is_everything_that_is_registered() -> None:
    registry = registry_with(DeskScore())
    pipeline = FeaturePipeline(FeatureConfig(feature_set=FeatureSet.EXTENDED), registry)
    assert pipeline.registry is registry
    assert set(pipeline.get_feature_names()) == set(registry.get_all_feature_names())
    assert set(names_of(*FIVE)) < set(extracted(FeatureSet.EXTENDED))


def test_the_standard_set_is_the_default() -> None:
    pipeline = FeaturePipeline()
    assert pipeline.config == FeatureConfig()
    assert sorted(pipeline.get_feature_names()) == sorted(extracted(FeatureSet.STANDARD))


def test_the_features_are_those_of_the_extractors() -> None:
    frame, spy = create_sample_ohlcv(300), create_sample_ohlcv(300, seed=9)
    config = FeatureConfig(feature_set=FeatureSet.EXTENDED)
    features = FeaturePipeline(config).extract_features("test", frame, SIGNAL, spy)
    expected: dict[str, float] = {}
    for kind in (TrendFeatures, MomentumFeatures, VolatilityFeatures):
        expected |= kind().extract(frame)
    expected |= MarketRegimeFeatures().extract(frame, benchmark_data=spy)
    expected |= SignalMetadataFeatures().extract(SIGNAL)
    assert {name: features[name] for name in expected} == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_the_benchmark_is_the_market() -> None:
    frame = create_sample_ohlcv(300, drift=0.005)
    falling = create_sample_ohlcv(300, seed=9, drift=-0.005)
    pipeline = FeaturePipeline(FeatureConfig(feature_set=FeatureSet.EXTENDED))
    assert pipeline.extract_features("test", frame, SIGNAL)["market_trend"] > 0
    assert pipeline.extract_features("test", frame, SIGNAL, falling)["market_trend"] < 0


# -- Custom feature selection works ---------------------------------------------------------------------------------


def test_a_custom_set_is_the_extractors_that_are_named() -> None:
    named = ["momentum_features", "volatility_features"]
    features = extracted(FeatureSet.CUSTOM, custom_features=named)
    assert sorted(features) == sorted(names_of(MomentumFeatures, VolatilityFeatures))


def test_a_custom_set_may_name_an_extractor_of_ones_own() -> None:
    config = FeatureConfig(feature_set=FeatureSet.CUSTOM, custom_features=["desk_score", "trend_features"])
    features = FeaturePipeline(config, registry_with(DeskScore())).extract_features(
        "test", create_sample_ohlcv(60), SIGNAL
    )
    assert set(features) == {"desk_score", "desk_mood", *TrendFeatures().feature_names}
    assert features["desk_score"] == 0.75


def test_an_unknown_name_in_a_custom_set_is_an_error_that_names_near_ones() -> None:
    config = FeatureConfig(feature_set=FeatureSet.CUSTOM, custom_features=["momentum_feature"])
    with pytest.raises((KeyError, ValueError), match=r"momentum_feature\b.*momentum_features"):
        FeaturePipeline(config)


@pytest.mark.parametrize(
    ("mood", "expected"), [({}, {"desk_score": 0.0, "desk_mood": -1.0}), ({"mood": 0.5, **SIGNAL}, None)]
)
def test_an_extractor_of_ones_own_gets_the_signal_as_it_was_given(
    mood: dict[str, Any], expected: dict[str, float] | None
) -> None:
    config = FeatureConfig(feature_set=FeatureSet.CUSTOM, custom_features=["desk_score"])
    pipeline = FeaturePipeline(config, registry_with(DeskScore()))
    features = pipeline.extract_features("test", create_sample_ohlcv(60), mood)
    assert features == (expected or {"desk_score": 0.75, "desk_mood": 0.5})


def test_an_extractor_of_ones_own_on_bars_gets_columns_of_ones_own() -> None:
    config = FeatureConfig(feature_set=FeatureSet.CUSTOM, custom_features=["last_trades", "trend_features"])
    pipeline = FeaturePipeline(config, registry_with(LastTrades()))
    frame = create_sample_ohlcv(60).assign(trades=range(60))
    assert pipeline.extract_features("test", frame, SIGNAL)["last_trades"] == 0.059


def test_c13_settings_shape_the_features() -> None:
    short = extracted(technical_lookbacks=[3, 9])
    assert {"price_vs_ma3", "ma9_slope"} <= short.keys()
    assert "price_vs_ma200" not in short
    wide = FeatureSet.EXTENDED
    assert extracted(wide)["volatility_trend"] != extracted(wide, volatility_window=10)["volatility_trend"]
    assert extracted(wide)["market_breadth"] != extracted(wide, market_regime_window=33)["market_breadth"]
    assert [name for name in extracted(wide, include_news_features=False) if name.startswith("news_")] == ["news_score"]
    assert len([name for name in extracted(wide) if name.startswith("news_")]) > 1


# -- Scaler fits and transforms correctly ---------------------------------------------------------------------------

TRAINING = {"feature1": [1.0, 2.0, 3.0, 4.0, 5.0], "feature2": [10.0, 20.0, 30.0, 40.0, 50.0]}


def test_feature_scaler() -> None:
    scaler = FeatureScaler(method="standard")
    scaler.fit(TRAINING)
    transformed = scaler.transform({"feature1": 3.0, "feature2": 30.0})
    assert abs(transformed["feature1"]) < 0.1
    assert abs(transformed["feature2"]) < 0.1


@pytest.mark.parametrize(
    ("method", "expected"), [("standard", 2 / math.sqrt(2)), ("minmax", 1.0), ("robust", 2.0 / 2.0)]
)
def test_every_method_scales_as_its_name_says(method: str, expected: float) -> None:
    scaler = FeatureScaler(method)
    assert (scaler.method, scaler.fitted) == (method, False)
    scaler.fit(TRAINING)
    assert scaler.fitted
    transformed = scaler.transform({"feature1": 5.0, "feature2": 50.0})
    assert transformed == pytest.approx({"feature1": expected, "feature2": expected})
    assert {type(value) for value in transformed.values()} == {float}


def test_the_standard_method_is_the_default() -> None:
    assert FeatureScaler().method == "standard"


@pytest.mark.parametrize("method", ["standard", "minmax", "robust"])
def test_a_feature_that_never_changes_is_zero_and_one_that_was_not_fitted_stays(method: str) -> None:
    scaler = FeatureScaler(method)
    scaler.fit({"constant": [7.0, 7.0, 7.0], "moving": [0.0, 1.0, 2.0]})
    assert scaler.transform({"constant": 7.0, "unknown": 42.0}) == {"constant": 0.0, "unknown": 42.0}
    assert math.isfinite(scaler.transform({"constant": 9.0})["constant"])


def test_c12_the_largest_value_may_be_zero() -> None:
    scaler = FeatureScaler("minmax")
    scaler.fit({"drawdown": [-0.5, -0.25, 0.0]})
    assert scaler.transform({"drawdown": 0.0})["drawdown"] == pytest.approx(1.0)
    assert scaler.transform({"drawdown": -0.25})["drawdown"] == pytest.approx(0.5)


def test_an_unfitted_scaler_changes_nothing() -> None:
    assert FeatureScaler().transform({"rsi": 65.0}) == {"rsi": 65.0}


@pytest.mark.parametrize("method", ["standard", "minmax", "robust"])
def test_fitting_and_transforming_in_one_step_gives_the_samples_back_scaled(method: str) -> None:
    scaler = FeatureScaler(method)
    samples = scaler.fit_transform(TRAINING)
    assert scaler.fitted
    assert len(samples) == 5
    for number, sample in enumerate(samples):
        one = {name: values[number] for name, values in TRAINING.items()}
        assert sample == pytest.approx(scaler.transform(one))
    assert samples[2] == pytest.approx(dict.fromkeys(TRAINING, 0.5 if method == "minmax" else 0.0))


def test_an_unknown_method_is_refused_with_the_ones_there_are() -> None:
    with pytest.raises(ValueError, match="standard"):
        FeatureScaler("magic")


def test_c12_features_are_given_unscaled_and_whole_for_the_scaler_that_training_fits() -> None:
    big = {**SIGNAL, "position_size_pct": 80.0, "target_price": 100_000.0}
    frame = create_sample_ohlcv(60)
    scaled = FeaturePipeline(FeatureConfig()).extract_features("test", frame, big)
    plain = FeaturePipeline(FeatureConfig(scale_features=False)).extract_features("test", frame, big)
    assert (plain["position_size"], plain["risk_reward_ratio"]) == (80.0, 19980.0)
    assert scaled == plain


# -- Feature vector creation works ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "won"), [(2.5, 1), (0.01, 1), (0.0, 0), (-1.0, 0), (None, None)], ids=lambda value: f"{value}"
)
def test_a_vector_knows_whether_its_trade_won_c3_a_flat_one_did_not(target: float | None, won: int | None) -> None:
    fv = FeaturePipeline().create_feature_vector("sig-1", {"rsi": 1.0}, target)
    assert (fv.target, fv.target_binary) == (target, won)


def test_a_vector_is_of_the_time_it_is_given_or_c10_of_this_moment_in_utc() -> None:
    pipeline = FeaturePipeline()
    given = pipeline.create_feature_vector("sig-1", {"rsi": 1.0}, timestamp="2024-01-01T10:00:00")
    assert given.timestamp == "2024-01-01T10:00:00"
    before = datetime.now(UTC)
    stamped = datetime.fromisoformat(pipeline.create_feature_vector("sig-1", {"rsi": 1.0}).timestamp)
    stamped = stamped if stamped.tzinfo else stamped.replace(tzinfo=UTC)
    assert before - timedelta(seconds=1) <= stamped <= datetime.now(UTC) + timedelta(seconds=1)


# -- Handles missing/invalid data gracefully ------------------------------------------------------------------------


def trained_on(db: FeatureDatabase, pipeline: FeaturePipeline, features: dict[str, float]) -> bool:
    """Whether a vector of these features, stored as a notebook does it, is in the training data."""
    fv = pipeline.create_feature_vector("sig-1", features, target=1.0, timestamp="2024-01-01T10:00:00")
    assert db.store_feature_vector(fv) is True
    return len(db.get_training_data("2024-01-01", "2024-01-31")[1]) == 1


def row_of(value: float, column: str | None = None, at: int = -1) -> pd.DataFrame:
    frame = create_sample_ohlcv(300)
    if column is None:
        frame.iloc[at] = value
    else:
        frame.iloc[at, list(frame.columns).index(column)] = value
    return frame


BROKEN: dict[str, pd.DataFrame | None] = {
    "a last row of nothing": row_of(np.nan),
    "a row of nothing in the middle": row_of(np.nan, at=150),
    "a price of zero": row_of(0.0, "close", at=290),
    "a negative price": row_of(-1.0, "low", at=290),
    "an infinite price": row_of(np.inf, "high", at=290),
    "no close": create_sample_ohlcv(300).drop(columns="close"),
    "text for prices": create_sample_ohlcv(300).assign(close="n/a"),
    "no frame": None,
}


@pytest.mark.parametrize("feature_set", [FeatureSet.MINIMAL, FeatureSet.STANDARD, FeatureSet.EXTENDED])
@pytest.mark.parametrize("case", BROKEN)
def test_c15_bars_that_are_broken_give_numbers_and_a_vector_that_is_never_trained_on(
    db: FeatureDatabase, case: str, feature_set: FeatureSet
) -> None:
    pipeline = FeaturePipeline(FeatureConfig(feature_set=feature_set))
    features = pipeline.extract_features("sig-1", BROKEN[case], SIGNAL)  # type: ignore[arg-type]
    assert list(features) == pipeline.get_feature_names()
    assert all(type(value) is float and math.isfinite(value) for value in features.values())
    assert features["technical_score"] == 0.75
    assert not trained_on(db, pipeline, features)


def test_sound_features_are_trained_on(db: FeatureDatabase) -> None:
    pipeline = FeaturePipeline()
    assert trained_on(db, pipeline, pipeline.extract_features("sig-1", create_sample_ohlcv(300), SIGNAL))


def test_a_short_history_is_neutral_where_it_is_too_short_and_sound(db: FeatureDatabase) -> None:
    pipeline = FeaturePipeline()
    features = pipeline.extract_features("sig-1", create_sample_ohlcv(30), SIGNAL)
    assert (features["price_vs_ma200"], features["volatility_percentile"]) == (0.0, 0.5)
    assert features["price_vs_ma20"] != 0.0


def test_bars_without_volume_are_as_good_as_any_where_no_feature_needs_it() -> None:
    frame = create_sample_ohlcv(300)
    assert extracted(frame=frame.drop(columns="volume")) == extracted(frame=frame)


@pytest.mark.parametrize("score", ["strong", float("nan"), [7.5]])
def test_c15_a_score_that_is_no_number_is_neutral_and_the_vector_never_trained_on(
    db: FeatureDatabase, score: Any
) -> None:
    pipeline = FeaturePipeline()
    features = pipeline.extract_features("sig-1", create_sample_ohlcv(300), {**SIGNAL, "technical_score": score})
    assert features["technical_score"] == 0.0
    assert features["price_vs_ma20"] != 0.0
    assert not trained_on(db, pipeline, features)


def test_c16_fields_that_are_none_are_no_fault(db: FeatureDatabase) -> None:
    pipeline = FeaturePipeline()
    metadata = {"technical_score": None, "conviction": None, "signal_type": None}
    features = pipeline.extract_features("sig-1", create_sample_ohlcv(300), metadata)
    assert features["technical_score"] == features["conviction_high"] == 0.0
    assert trained_on(db, pipeline, features)


def test_c15_an_extractor_that_fails_is_neutral_told_about_and_the_vector_never_trained_on(
    db: FeatureDatabase, warnings_logged: list[str]
) -> None:
    config = FeatureConfig(feature_set=FeatureSet.CUSTOM, custom_features=["broken", "trend_features"])
    pipeline = FeaturePipeline(config, registry_with(Broken()))
    features = pipeline.extract_features("sig-1", create_sample_ohlcv(300), SIGNAL)
    assert (features["one"], features["two"]) == (0.0, 0.0)
    assert features["price_vs_ma20"] != 0.0
    assert any("broken" in line for line in warnings_logged)
    assert not trained_on(db, pipeline, features)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "text"])
def test_c11_an_extractor_that_gives_no_number_has_failed(db: FeatureDatabase, value: Any) -> None:
    class Wrong(DeskScore):
        def extract(self, signal_data: dict[str, Any]) -> dict[str, float]:
            return {"desk_score": value, "desk_mood": 1.0}

    config = FeatureConfig(feature_set=FeatureSet.CUSTOM, custom_features=["desk_score"])
    pipeline = FeaturePipeline(config, registry_with(Wrong()))
    features = pipeline.extract_features("sig-1", create_sample_ohlcv(60), SIGNAL)
    assert features == {"desk_score": 0.0, "desk_mood": 0.0}
    assert not trained_on(db, pipeline, features)


@pytest.mark.parametrize("given", [7, np.float32(7), np.int64(7), True])
def test_c18_what_an_extractor_gives_as_another_kind_of_number_becomes_a_float(given: Any) -> None:
    class Whole(DeskScore):
        def extract(self, signal_data: dict[str, Any]) -> dict[str, float]:
            return {"desk_score": given, "desk_mood": given}

    config = FeatureConfig(feature_set=FeatureSet.CUSTOM, custom_features=["desk_score"])
    features = FeaturePipeline(config, registry_with(Whole())).extract_features(
        "sig-1", create_sample_ohlcv(60), SIGNAL
    )
    assert features == {"desk_score": float(given), "desk_mood": float(given)}
    assert {type(value) for value in features.values()} == {float}


def test_c23_vectors_of_another_configuration_are_not_mixed_in(db: FeatureDatabase) -> None:
    for number, lookbacks in enumerate([[5, 10, 20], [5, 10, 50], [5, 10, 50]]):
        pipeline = FeaturePipeline(FeatureConfig(technical_lookbacks=lookbacks))
        features = pipeline.extract_features(f"sig-{number}", create_sample_ohlcv(300), SIGNAL)
        db.store_feature_vector(pipeline.create_feature_vector(f"sig-{number}", features, 1.0, "2024-01-01T10:00:00"))
    X, _, names = db.get_training_data("2024-01-01", "2024-01-31")
    assert np.isfinite(X).all(), [name for name, column in zip(names, X.T, strict=True) if np.isnan(column).any()]
