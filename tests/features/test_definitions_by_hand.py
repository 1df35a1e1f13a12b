# ruff: noqa: PD011  the values of a FeatureBatch are an array
"""Every feature equals its slow, obvious definition: real bars, every cut of three series, to 1e-9 relative."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.support import real_bars, slow_definitions as slow
from trading_system.ml_refinement import FeatureConfig, FeatureSet
from trading_system.ml_refinement.bars import Bars
from trading_system.ml_refinement.features.extractors import (
    MarketRegimeFeatures,
    MomentumFeatures,
    NewsFeatures,
    TrendFeatures,
    VolatilityFeatures,
)
from trading_system.ml_refinement.features.pipeline import FeaturePipeline, FeatureRequest, NewsItem, SignalMetadata

RELATIVE = 1e-9
#: What is mathematically 0 (an open at the close before) comes out as a rounding of 1e-14 either way.
ROUNDING = 1e-13

SIGNAL = {"technical_score": 7.5, "conviction": "High", "entry_price": 100, "target_price": 112.5, "stop_price": 95.0}
SIGNAL |= {"asset_class": "equity", "signal_type": "donchian_breakout", "news_score": None, "position_size_pct": 2}


def news_for(bars: pd.DataFrame) -> pd.DataFrame:
    """Items at odd hours around the bars, some days with none."""
    random = np.random.default_rng(len(bars))
    times = bars.index[random.integers(0, len(bars), 2 * len(bars))]
    late = pd.to_timedelta(random.integers(-86_400, 86_400, len(times)), unit="s")
    moods, weights = random.uniform(-1, 1, len(times)), random.choice([0.0, 0.3, 1.0], len(times))
    return pd.DataFrame({"published": times + late, "sentiment": moods, "relevance": weights})


def items_of(news: pd.DataFrame) -> tuple[NewsItem, ...]:
    times = pd.DatetimeIndex(news["published"]).as_unit("us").asi8
    return tuple(map(NewsItem, times.tolist(), news["sentiment"], news["relevance"]))


def expect_equal(features: dict[str, float], expected: dict[str, float], where: object) -> None:
    assert list(features) == list(expected)
    np.testing.assert_allclose(list(features.values()), list(expected.values()), RELATIVE, ROUNDING, err_msg=str(where))


@pytest.mark.parametrize("symbol", real_bars.SYMBOLS)
def test_every_feature_equals_its_slow_definition_at_every_cut(symbol: str) -> None:
    frame, index = real_bars.stock(symbol), real_bars.index()
    index = index[index.index >= frame.index[0] - pd.Timedelta(days=120)]
    bars, benchmark, news = Bars.from_frame(frame), Bars.from_frame(index), news_for(frame)
    items = items_of(news)
    pipeline = FeaturePipeline(FeatureConfig(feature_set=FeatureSet.EXTENDED))
    metadata = SignalMetadata.from_mapping(SIGNAL)
    requests = [
        FeatureRequest(str(us), int(us), metadata, bars, None if at % 7 == 0 else benchmark, items)
        for at, us in enumerate(bars.timestamp)
    ]
    batch = pipeline.extract_batch(requests)
    assert batch.complete.all(), batch.failures
    for at, when in enumerate(frame.index):
        market = None if at % 7 == 0 else index[index.index <= when]
        expected = slow.extended(frame.iloc[: at + 1], market, SIGNAL, news, when)
        expect_equal(dict(zip(pipeline.names, batch.values[at], strict=True)), expected, (symbol, when))


@pytest.mark.parametrize("cut", [3, 14, 15, 19, 21, 33, 34, 66, 67, 251, 252, 285, 329])
def test_other_windows_are_honoured(cut: int) -> None:
    frame, index = real_bars.stock("IBM").iloc[: cut + 1], real_bars.index()
    index = index[index.index <= frame.index[-1]]
    expect_equal(TrendFeatures([3, 33]).extract(frame), slow.trend(frame, (3, 33)), cut)
    expect_equal(MomentumFeatures([1, 66]).extract(frame), slow.momentum(frame, (1, 66)), cut)
    expect_equal(VolatilityFeatures(33).extract(frame), slow.volatility(frame, 33), cut)
    got = MarketRegimeFeatures(33).extract(frame, benchmark_data=index)
    expected = slow.market(frame, index, 33)
    expect_equal(got, {name: expected[name] for name in got}, cut)


@pytest.mark.parametrize("day", range(0, 300, 37))
def test_a_benchmark_of_another_calendar_is_aligned_by_time(day: int) -> None:
    daily = real_bars.index().iloc[900 + day : 1230 + day]
    local = daily.tz_convert("America/New_York")
    every_day = local.reindex(pd.date_range(local.index[0], local.index[-1], freq="D"), method="ffill").tz_convert(
        "UTC"
    )
    wobble = 1 + 0.01 * np.sin(np.arange(len(every_day)) * 1.7)
    crypto = every_day.mul(pd.Series(wobble, every_day.index), axis=0)
    common = crypto.index.intersection(daily.index)
    assert 40 < len(common) < len(crypto)
    got = MarketRegimeFeatures().extract(crypto, benchmark_data=daily)["correlation_regime"]
    expected = slow.correlation(crypto, daily[daily.index <= crypto.index[-1]], 20)
    assert got == pytest.approx(expected, rel=RELATIVE)
    assert got != 0.5


def test_a_benchmark_without_common_times_is_neutral() -> None:
    frame, index = real_bars.stock("MSFT"), real_bars.index()
    moved = index.set_axis(index.index + pd.Timedelta(hours=1))
    assert MarketRegimeFeatures().extract(frame, benchmark_data=moved)["correlation_regime"] == 0.5


@pytest.mark.parametrize("hours", [1, 6, 48, 240])
def test_other_news_windows_are_honoured(hours: int) -> None:
    frame = real_bars.stock("AAPL")
    news = news_for(frame)
    for when in frame.index[::29]:
        got = NewsFeatures(hours).extract(items_of(news), round(when.timestamp() * 1e6))
        expect_equal(got, slow.news(news, when, hours), when)
