"""Extractors, registries and pipelines written to the specification's classes and nothing else."""

# ruff: noqa: RUF012, PD011 - classes as their users write them, and arrays of a batch
from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from trading_system.ml_refinement import FeatureConfig, FeatureSet
from trading_system.ml_refinement.bars import Bars
from trading_system.ml_refinement.features import FeaturePipeline, FeatureRegistry
from trading_system.ml_refinement.features.extractors import (
    BaseFeatureExtractor,
    FeatureRequest,
    OHLCVExtractor,
    SignalMetadata,
    SignalMetadataFeatures,
    TrendFeatures,
    VolatilityFeatures,
)

CUSTOM = FeatureSet.CUSTOM


def frame(n: int = 300, seed: int = 0, **columns) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0.0005, 0.01, n)))
    days = pd.date_range("2023-01-02", periods=n, freq="D", tz="UTC")
    ohlc = {"open": close, "high": close * 1.01, "low": close * 0.99, "close": close, "volume": np.full(n, 1e6)}
    return pd.DataFrame(ohlc | columns, index=days)


class Desk(BaseFeatureExtractor):
    """A field that signals have, and one that only this desk writes."""

    @property
    def name(self):
        return "desk"

    @property
    def feature_names(self):
        return ["double_score", "desk_rank", "has_news"]

    @property
    def category(self):
        return "signal"

    def extract(self, data):
        return {
            "double_score": data.get("technical_score", 0) * 2,
            "desk_rank": data.get("rank", -1),
            "has_news": 1 if "news_score" in data else 0,
        }


class VwapDistance(OHLCVExtractor):
    """A column of one's own, read with the base class's helper."""

    @property
    def name(self):
        return "vwap"

    @property
    def feature_names(self):
        return ["vwap_distance", "bars_seen"]

    def extract(self, ohlcv, current_idx=-1):
        close = self._safe_get(ohlcv["close"], current_idx)
        vwap = self._safe_get(ohlcv["vwap"], current_idx, close)
        return {"vwap_distance": (close - vwap) / vwap, "bars_seen": len(ohlcv)}


class Relative(OHLCVExtractor):
    """Of the category that the pipeline hands the benchmark to."""

    name = "relative"
    category = "market"
    feature_names = ["relative_strength"]

    def extract(self, ohlcv, current_idx=-1, benchmark_data=None):
        if benchmark_data is None:
            return {"relative_strength": 0.0}
        return {"relative_strength": ohlcv["close"].iloc[-1] / benchmark_data["close"].iloc[-1]}


def pipeline_with(*extractors: BaseFeatureExtractor) -> FeaturePipeline:
    registry = FeatureRegistry()
    for extractor in extractors:
        registry.register(extractor)
    names = [extractor.name for extractor in extractors]
    return FeaturePipeline(FeatureConfig(feature_set=CUSTOM, custom_features=names), registry)


def extracted(pipeline: FeaturePipeline, bars: pd.DataFrame, signal: dict, **more) -> dict[str, float]:
    return pipeline.extract_features("s1", ohlcv_data=bars, signal_metadata=signal, **more)


def test_an_extractor_reads_the_signal_with_defaults_and_keys_of_its_own() -> None:
    pipeline = pipeline_with(Desk())
    assert extracted(pipeline, frame(), {}) == {"double_score": 0.0, "desk_rank": -1.0, "has_news": 0.0}
    told = {"technical_score": 4.0, "rank": 3, "news_score": None}
    features = extracted(pipeline, frame(), told)
    assert features == {"double_score": 8.0, "desk_rank": 3.0, "has_news": 1.0}
    assert all(type(value) is float for value in features.values())


def test_an_extractor_that_writes_into_the_signal_changes_nothing_for_the_next() -> None:
    class Rude(Desk):
        name = "rude"
        feature_names = ["rude"]

        def extract(self, data):
            return {"rude": float(data.pop("technical_score"))}

    told = {"technical_score": 4.0}
    assert extracted(pipeline_with(Rude(), Desk()), frame(), told)["double_score"] == 8.0
    assert told == {"technical_score": 4.0}


def test_a_signal_that_came_as_an_event_has_only_the_keys_that_it_gave() -> None:
    bars = Bars.from_frame(frame())
    request = FeatureRequest("s1", int(bars.timestamp[-1]), SignalMetadata(technical_score=4.0), bars)
    batch = pipeline_with(Desk()).extract_batch([request, request._replace(metadata=SignalMetadata(news_score=1.0))])
    assert batch.failures == {}
    assert batch.values.tolist() == [[8.0, -1.0, 0.0], [0.0, -1.0, 1.0]]


def test_columns_of_ones_own_reach_the_extractor_and_what_came_later_does_not() -> None:
    bars = frame(vwap=np.linspace(90, 110, 300))
    pipeline = pipeline_with(VwapDistance())
    close, vwap = bars["close"].iloc[-1], bars["vwap"].iloc[-1]
    assert extracted(pipeline, bars, {}) == {"vwap_distance": (close - vwap) / vwap, "bars_seen": 300.0}
    early = extracted(pipeline, bars, {}, as_of=bars.index[199].to_pydatetime())
    assert early == extracted(pipeline, bars.iloc[:200], {})
    assert early["bars_seen"] == 200.0


def test_a_column_that_is_missing_makes_the_features_neutral_and_the_vector_incomplete() -> None:
    bars = Bars.from_frame(frame())
    request = FeatureRequest("s1", int(bars.timestamp[-1]), SignalMetadata(), bars)
    batch = pipeline_with(VwapDistance()).extract_batch([request])
    assert batch.complete.tolist() == [False]
    assert "vwap" in batch.failures["vwap"]


def test_a_market_extractor_gets_the_benchmark_as_of_the_signal() -> None:
    bars, spy = frame(seed=1), frame(400, seed=2)
    pipeline = pipeline_with(Relative())
    expected = bars["close"].iloc[-1] / spy["close"].iloc[299]
    assert extracted(pipeline, bars, {}, benchmark_data=spy)["relative_strength"] == pytest.approx(expected)
    assert extracted(pipeline, bars, {})["relative_strength"] == 0.0

    one, market = Bars.from_frame(bars), Bars.from_frame(spy)
    request = FeatureRequest("s1", int(one.timestamp[-1]), SignalMetadata(), one, market)
    assert pipeline.extract_batch([request]).values[0, 0] == pytest.approx(expected)


def test_a_value_is_read_safely_from_a_series() -> None:
    read = VwapDistance()._safe_get
    series = pd.Series([1, 2, np.nan])
    assert read(series, 1) == 2.0
    assert type(read(series, 1)) is float
    assert (read(series, 2), read(series, 2, 7.0), read(series, 9), read(series, -9, 5.0)) == (0.0, 7.0, 0.0, 5.0)
    assert read(pd.Series([pd.NA], dtype="Int64"), 0, 3.0) == 3.0


def test_a_family_that_is_extended_by_extract_gives_both() -> None:
    class More(TrendFeatures):
        @property
        def feature_names(self):
            return [*super().feature_names, "twice_strength"]

        def extract(self, ohlcv, current_idx=-1):
            features = super().extract(ohlcv, current_idx)
            features["twice_strength"] = 2 * features["trend_strength"]
            return features

    bars = frame()
    plain, more = TrendFeatures().extract(bars), More().extract(bars)
    assert more == plain | {"twice_strength": 2 * plain["trend_strength"]}
    registry = FeatureRegistry()
    registry.register(More())
    pipeline = FeaturePipeline(FeatureConfig(feature_set=FeatureSet.MINIMAL), registry)
    features = extracted(pipeline, bars, {"technical_score": 5.0})
    assert features["twice_strength"] == pytest.approx(more["twice_strength"])
    assert features["technical_score"] == 0.5
    assert pipeline.feature_version != FeaturePipeline(FeatureConfig(feature_set=FeatureSet.MINIMAL)).feature_version


def test_a_family_that_is_overridden_with_the_same_names_is_the_one_that_counts() -> None:
    class Halved(SignalMetadataFeatures):
        def __init__(self, share=0.5):
            self.share = share

        def extract(self, signal_data):
            return {name: self.share * value for name, value in super().extract(signal_data).items()}

    class Calm(VolatilityFeatures):
        def __init__(self, floor):
            self.floor = floor

        def extract(self, ohlcv, current_idx=-1):
            return {name: max(value, self.floor) for name, value in super().extract(ohlcv, current_idx).items()}

    registry = FeatureRegistry()
    registry.register(Halved())
    registry.register(Calm(0.2))
    own = FeaturePipeline(FeatureConfig(volatility_window=10), registry)
    standard = FeaturePipeline(FeatureConfig(volatility_window=10))
    ours, theirs = (extracted(one, frame(), {"technical_score": 8.0}) for one in (own, standard))
    assert own.get_feature_names() == standard.get_feature_names()
    assert (ours["technical_score"], theirs["technical_score"]) == (0.4, 0.8)
    assert ours["atr_ratio"] == 0.2
    assert ours["volatility_trend"] == max(theirs["volatility_trend"], 0.2)
    assert own.feature_version != standard.feature_version


def test_registries_and_pipelines_are_subclassed_where_the_specification_has_something_to_override() -> None:
    class OwnRegistry(FeatureRegistry):
        DEFAULT_EXTRACTORS = [*FeatureRegistry.DEFAULT_EXTRACTORS, Desk]

    class OwnPipeline(FeaturePipeline):
        def _get_extractors_for_set(self):
            return [self.registry.get("desk"), self.registry.get("volatility_features")]

    registry = OwnRegistry()
    assert registry.get("desk").category == "signal"
    assert registry.get_by_category("signal")[-1].name == "desk"
    pipeline = OwnPipeline(FeatureConfig(volatility_window=10), registry)
    assert pipeline.get_feature_names() == [*Desk().feature_names, *VolatilityFeatures().feature_names]
    assert [one.name for one in pipeline._extractors] == ["desk", "volatility_features"]
    assert pipeline.get_feature_count() == len(extracted(pipeline, frame(), {"rank": 1})) == 9


def test_a_custom_set_may_be_named_after_it_was_made() -> None:
    config = FeatureConfig(feature_set=CUSTOM)
    with pytest.raises(ValueError, match="custom_features"):
        FeaturePipeline(config)
    config.custom_features = ["trend_features"]
    assert FeaturePipeline(config).get_feature_names() == TrendFeatures().feature_names
    config.custom_features.append("trend_featurs")
    with pytest.raises(KeyError, match="near: trend_features"):
        FeaturePipeline(config)


def test_settings_are_assigned_after_the_fact() -> None:
    config = FeatureConfig()
    config.feature_set = "minimal"
    config.technical_lookbacks = [5, 10]
    names = FeaturePipeline(config).get_feature_names()
    assert names[:4] == ["price_vs_ma5", "ma5_slope", "price_vs_ma10", "ma10_slope"]
    assert "rsi_14" not in names
    assert TrendFeatures([5, 10]).lookbacks == [5, 10]
    assert TrendFeatures().lookbacks == [5, 10, 20, 50, 200]
