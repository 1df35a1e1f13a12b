# ruff: noqa: PD011  the values of a FeatureBatch are an array
"""The pipeline: sets, names, versions, failures; and the scaler."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from loguru import logger

from trading_system.ml_refinement import FeatureConfig, FeatureSet
from trading_system.ml_refinement.bars import Bars
from trading_system.ml_refinement.features import (
    FeaturePipeline,
    FeatureRegistry,
    FeatureRequest,
    FeatureScaler,
    UnknownFeatureError,
)
from trading_system.ml_refinement.features.checks import sample_bars
from trading_system.ml_refinement.features.extractors import (
    FeatureDefinition,
    OHLCVExtractor,
    SignalBatch,
    TrendFeatures,
)
from trading_system.ml_refinement.features.pipeline import NewsItem, SignalMetadata
from trading_system.ml_refinement.storage.times import DAY_US

SAID = {"technical_score": 5.0}
EXTENDED = FeatureConfig(feature_set=FeatureSet.EXTENDED)


def custom(*names: str) -> FeatureConfig:
    return FeatureConfig(feature_set=FeatureSet.CUSTOM, custom_features=list(names))


def request(bars: Bars | None = None, **changes: object) -> FeatureRequest:
    bars = sample_bars(1) if bars is None else bars
    now = int(bars.timestamp[-1]) if len(bars) else 0
    return FeatureRequest("sig-1", now, SignalMetadata(technical_score=5.0), bars)._replace(**changes)


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    sink = logger.add(lambda message: logging.getLogger("test").warning(message), level="WARNING")
    yield caplog
    logger.remove(sink)


def test_standard_features_of_a_sample_are_floats() -> None:
    pipeline = FeaturePipeline(FeatureConfig(feature_set=FeatureSet.STANDARD))
    signal = {"technical_score": 7.5, "conviction": "HIGH"}
    features = pipeline.extract_features("test", sample_bars(1, 100).to_frame(), signal)
    assert list(features) == pipeline.get_feature_names()
    assert pipeline.get_feature_count() == len(features) == 40
    assert all(type(value) is float and math.isfinite(value) for value in features.values())


def test_the_sets_hold_what_is_specified() -> None:
    def extractors(config: FeatureConfig) -> list[str]:
        return list(dict.fromkeys(one.category for one in FeaturePipeline(config).definitions()))

    minimal = FeaturePipeline(FeatureConfig(feature_set=FeatureSet.MINIMAL))
    assert minimal.names[:2] == ("price_vs_ma5", "ma5_slope")
    assert len(minimal.names) == 14 + 12
    assert extractors(FeatureConfig()) == ["technical", "signal"]
    assert extractors(EXTENDED) == ["technical", "market", "signal", "news"]
    assert extractors(replace(EXTENDED, include_news_features=False)) == ["technical", "market", "signal"]
    assert FeaturePipeline().names == FeaturePipeline(FeatureConfig(include_news_features=False)).names


def test_custom_takes_extractors_and_single_features_in_a_stable_order() -> None:
    pipeline = FeaturePipeline(custom("rsi_14", "volatility_features", "ma20_slope", "rsi_14"))
    assert pipeline.names[:2] == ("ma20_slope", "rsi_14")
    assert len(pipeline.names) == 8
    whole = FeaturePipeline(EXTENDED)
    values = dict(zip(whole.names, whole.extract_batch([request()]).values[0], strict=True))
    assert pipeline.extract_batch([request()]).values[0].tolist() == [values[name] for name in pipeline.names]
    assert (
        FeaturePipeline(custom("rsi_14", "acceleration")).names
        == FeaturePipeline(custom("acceleration", "rsi_14")).names
    )


@pytest.mark.parametrize(("name", "near"), [("rsi14", "rsi_14"), ("trend_feature", "trend_features"), ("zzz", None)])
def test_an_unknown_name_is_an_error_that_lists_the_near_ones(name: str, near: str | None) -> None:
    with pytest.raises(UnknownFeatureError, match=name) as caught:
        FeaturePipeline(custom("rsi_14", name))
    assert (near in str(caught.value)) if near else ("near" not in str(caught.value))
    with pytest.raises(KeyError, match=name):
        FeatureRegistry().get(name)


def test_custom_names_that_cannot_be_had_are_refused() -> None:
    with pytest.raises(ValueError, match="names no extractor"):
        FeaturePipeline(custom())
    with pytest.raises(ValueError, match="include_news_features"):
        FeaturePipeline(replace(custom("news_count"), include_news_features=False))


def test_the_registry_lists_and_replaces_and_keeps_names_apart() -> None:
    registry = FeatureRegistry()
    assert [one.name for one in registry.get_by_category("technical")] == [
        "trend_features",
        "momentum_features",
        "volatility_features",
    ]
    assert registry.get_feature_count() == len(registry.get_all_feature_names()) == 55
    registry.register(TrendFeatures([3]))
    assert registry.get("trend_features").feature_names[0] == "price_vs_ma3"
    assert FeaturePipeline(registry=registry).names[0] == "price_vs_ma3"
    with pytest.raises(ValueError, match="rsi_14"):
        registry.register(Broken("rsi_14"))


def test_the_feature_version_changes_with_what_shapes_the_features_and_with_nothing_else() -> None:
    base = FeaturePipeline().feature_version
    assert base.startswith("standard-")
    assert FeaturePipeline().feature_version == base
    assert FeaturePipeline(FeatureConfig(scale_features=False, scaling_method="robust")).feature_version == base
    changed = [
        FeatureConfig(technical_lookbacks=[5, 10]),
        FeatureConfig(market_regime_window=21),
        FeatureConfig(volatility_window=21),
        FeatureConfig(news_lookback_hours=24),
        FeatureConfig(include_news_features=False),
        EXTENDED,
    ]
    versions = {FeaturePipeline(config).feature_version for config in changed}
    assert len(versions | {base}) == len(changed) + 1


def test_the_feature_version_changes_with_an_extractors_version() -> None:
    class Newer(TrendFeatures):
        version = 2

    registry = FeatureRegistry()
    registry.register(Newer())
    assert FeaturePipeline(registry=registry).feature_version != FeaturePipeline().feature_version


class Broken(OHLCVExtractor):
    """Fails on signals whose id says how."""

    name = "broken"

    def __init__(self, feature: str = "broken_value") -> None:
        self.definitions = (FeatureDefinition(feature, "x", neutral=0.25, lookback_bars=1),)

    definitions = ()

    def compute(self, batch: SignalBatch) -> np.ndarray:
        if any(one.signal_id == "raises" for one in batch.requests):
            raise RuntimeError("no such thing")
        values = {"nan": np.nan, "infinite": np.inf}
        return np.array([[values.get(one.signal_id, 1.0)] for one in batch.requests])


def test_an_extractor_that_fails_makes_its_own_signal_incomplete_and_no_other() -> None:
    registry = FeatureRegistry()
    registry.register(Broken())
    pipeline = FeaturePipeline(EXTENDED, registry)
    requests = [request(signal_id=name) for name in ("a", "nan", "b", "raises", "infinite", "c")]
    batch = pipeline.extract_batch(requests)
    assert batch.complete.tolist() == [True, False, True, False, False, True]
    assert batch.values[:, pipeline.names.index("broken_value")].tolist() == [1, 0.25, 1, 0.25, 0.25, 1]
    assert list(batch.failures) == ["broken"]
    assert batch.failures["broken"].startswith("3 of 6 signals, first nan:")
    for row, one in enumerate(requests):
        alone = pipeline.extract_batch([one])
        assert np.array_equal(alone.values[0], batch.values[row])
        assert alone.complete[0] == batch.complete[row]


def test_failures_are_found_in_every_part_of_a_large_batch() -> None:
    registry = FeatureRegistry()
    registry.register(Broken())
    bad = {3, 64, 130, 199}
    requests = [request(signal_id="raises" if at in bad else str(at)) for at in range(200)]
    batch = FeaturePipeline(custom("broken", "rsi_14"), registry).extract_batch(requests)
    assert set(np.flatnonzero(~batch.complete).tolist()) == bad
    assert batch.failures["broken"] == "4 of 200 signals, first raises: RuntimeError: no such thing"


@pytest.mark.parametrize("column", ["open", "high", "low", "close"])
@pytest.mark.parametrize("back", [1, 5, 9])
def test_a_price_that_is_no_number_makes_the_vector_incomplete_and_stays_finite(column: str, back: int) -> None:
    bars = sample_bars(1)
    values = getattr(bars, column).copy()
    values[-back] = np.nan
    batch = FeaturePipeline(EXTENDED).extract_batch([request(replace(bars, **{column: values})), request()])
    assert np.isfinite(batch.values).all()
    unread = column == "open" and back > 1
    assert batch.complete.tolist() == [unread, True]


@pytest.mark.parametrize("back", [30, 100, 200, 271])
def test_an_old_close_that_is_no_number_is_not_overlooked(back: int) -> None:
    bars = sample_bars(1)
    close = bars.close.copy()
    close[-back] = np.nan
    assert not FeaturePipeline().extract_batch([request(replace(bars, close=close))]).complete[0]


def test_bars_and_news_after_the_signal_are_cut_off() -> None:
    bars, benchmark = sample_bars(1), sample_bars(2)
    at = int(bars.timestamp[200])
    news = (NewsItem(at, 0.5), NewsItem(at + 1, -1.0))
    pipeline = FeaturePipeline(EXTENDED)
    whole = pipeline.extract_batch([request(bars, timestamp_us=at, benchmark=benchmark, news=news)])
    cut = pipeline.extract_batch([request(bars.first(201), benchmark=benchmark.first(201), news=news[:1])])
    assert np.array_equal(whole.values, cut.values)
    features = pipeline.extract_features(
        "s",
        bars.to_frame(),
        {"technical_score": 5.0},
        benchmark.to_frame(),
        as_of=bars.to_frame().index[200],
        news=news,
    )
    assert list(features.values()) == whole.values[0].tolist()


def test_ten_thousand_bars_and_none_at_all_go_through_one_batch() -> None:
    batch = FeaturePipeline(EXTENDED).extract_batch([request(sample_bars(1, 10_000)), request(Bars.empty()), request()])
    assert batch.complete.all()
    assert batch.values.shape == (3, 55)
    assert FeaturePipeline(EXTENDED).extract_batch([]).values.shape == (0, 55)


@pytest.mark.parametrize(
    ("code", "spoil"),
    [
        ("unsorted", lambda frame: frame.iloc[::-1]),
        ("unsorted", lambda frame: pd.concat([frame, frame.iloc[-1:]])),
        ("high_below_low", lambda frame: frame.assign(high=frame["low"] * 0.9)),
        ("price_not_positive", lambda frame: frame.assign(low=0.0)),
        ("not_a_number", lambda frame: frame.assign(close=np.nan)),
        ("missing_column", lambda frame: frame.drop(columns="high")),
    ],
)
def test_frames_that_break_a_rule_make_the_vector_incomplete_and_say_which(code: str, spoil: object) -> None:
    pipeline, sound = FeaturePipeline(EXTENDED), sample_bars(1).to_frame()
    frame = spoil(sound)
    for what, arguments in {"bars": (frame, SAID), "benchmark": (sound, SAID, frame)}.items():
        features = pipeline.extract_features("s", *arguments)
        assert features.incomplete.startswith(f"{what}: {code}: ")
        assert pipeline.create_feature_vector("s", features).incomplete == features.incomplete
    assert pipeline.extract_features("s", sound, SAID).incomplete == ""


def test_a_failure_of_a_single_signal_is_said(warnings: pytest.LogCaptureFixture) -> None:
    features = FeaturePipeline().extract_features("s-1", sample_bars(1).to_frame(), {"technical_score": math.inf})
    assert features["technical_score"] == 0.0
    assert "features of s-1 are incomplete: metadata: technical_score is inf" in warnings.text


def test_values_are_neither_scaled_nor_clipped() -> None:
    signal = {"entry_price": 100.0, "target_price": 200.0, "stop_price": 99.5}
    features = FeaturePipeline().extract_features("s", sample_bars(1).to_frame(), signal)
    assert features["risk_reward_ratio"] == 200.0


def test_a_vector_knows_its_time_and_a_loss_of_zero() -> None:
    pipeline = FeaturePipeline(clock=lambda: datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=UTC))
    assert pipeline.create_feature_vector("s", {}).timestamp == "2024-01-02T03:04:05.000006Z"
    assert pipeline.create_feature_vector("s", {}, timestamp="2024-01-01").timestamp == "2024-01-01"
    wins = [pipeline.create_feature_vector("s", {}, target).target_binary for target in (None, -1.0, 0.0, 2.5)]
    assert wins == [None, 0, 0, 1]


def test_the_lookback_is_the_longest_window() -> None:
    assert FeaturePipeline().lookback_bars == 272
    assert FeaturePipeline(FeatureConfig(feature_set=FeatureSet.MINIMAL)).lookback_bars == 205
    assert FeaturePipeline(custom("gap_size")).lookback_bars == 2


def test_a_shared_benchmark_is_looked_at_once() -> None:
    bars, benchmark = sample_bars(1), sample_bars(2)
    requests = [request(bars, benchmark=benchmark, timestamp_us=int(us)) for us in bars.timestamp[100:110]]
    batch = SignalBatch([*requests, *requests, request(timestamp_us=5 * DAY_US)])
    market, place = batch.markets
    assert len(market) == 11
    assert place.tolist() == [*range(10), *range(10), 10]


def test_scaler_as_specified() -> None:
    scaler = FeatureScaler(method="standard")
    scaler.fit({"feature1": [1.0, 2.0, 3.0, 4.0, 5.0], "feature2": [10.0, 20.0, 30.0, 40.0, 50.0]})
    assert scaler.transform({"feature1": 3.0, "feature2": 30.0}) == {"feature1": 0.0, "feature2": 0.0}
    assert scaler.transform({"feature2": 50.0, "other": 7.0}) == {"feature2": pytest.approx(math.sqrt(2)), "other": 7.0}


@pytest.mark.parametrize(
    ("method", "expected"),
    [("standard", [-1.0, 1.0]), ("minmax", [0.0, 1.0]), ("robust", [-1.0, 1.0])],
)
def test_each_method_scales_and_a_constant_is_only_shifted(method: str, expected: list[float]) -> None:
    rows = FeatureScaler(method).fit_transform({"a": [-4.0, 0.0], "still": [0.0, 0.0]})
    assert [row["a"] for row in rows] == pytest.approx(expected)
    assert [row["still"] for row in rows] == [0.0, 0.0]


def test_an_unfitted_scaler_changes_nothing_and_nonsense_is_refused() -> None:
    assert FeatureScaler().transform({"a": 5.0}) == {"a": 5.0}
    with pytest.raises(ValueError, match="scaling_method"):
        FeatureScaler("log")
    for bad in ({}, {"a": [1.0], "b": [1.0, 2.0]}, {"a": [1.0, math.inf]}):
        with pytest.raises(ValueError):  # noqa: PT011  scikit-learn's own words for some
            FeatureScaler().fit(bad)


def test_a_row_does_not_depend_on_what_the_pipeline_computed_before() -> None:
    wanted = request(sample_bars(3, 320))
    fresh = FeaturePipeline(EXTENDED).extract_batch([wanted]).values
    used = FeaturePipeline(EXTENDED)
    for bars in (sample_bars(1, 900), sample_bars(2, 12), Bars.empty()):
        used.extract_batch([request(bars)])
        assert used.extract_batch([wanted]).values.tobytes() == fresh.tobytes()
