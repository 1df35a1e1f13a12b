"""Single extractors: the specification's own tests, and the corrections to it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from trading_system.ml_refinement import FeatureConfig
from trading_system.ml_refinement.bars import Bars
from trading_system.ml_refinement.features.checks import sample_bars
from trading_system.ml_refinement.features.extractors import (
    FeatureRequest,
    MarketRegimeFeatures,
    MomentumFeatures,
    NewsFeatures,
    NewsItem,
    OHLCVExtractor,
    SignalBatch,
    SignalMetadata,
    SignalMetadataFeatures,
    TrendFeatures,
    VolatilityFeatures,
)
from trading_system.ml_refinement.storage.times import DAY_US


def frame_of(close: list[float] | np.ndarray) -> pd.DataFrame:
    close = np.asarray(close, dtype=float)
    return pd.DataFrame({"open": close, "high": close * 1.01, "low": close * 0.99, "close": close, "volume": 1000})


def test_an_uptrend_stands_above_its_averages() -> None:
    ohlcv = pd.DataFrame(
        {"open": [100] * 250, "high": [101] * 250, "low": [99] * 250, "close": range(100, 350), "volume": [1000] * 250}
    )
    features = TrendFeatures().extract(ohlcv)
    assert features["price_vs_ma20"] == pytest.approx((349 - 339.5) / 339.5)
    assert features["trend_strength"] == pytest.approx(1.0)
    assert features["higher_highs"] == 0.0
    assert all(type(value) is float for value in features.values())


def test_relative_strength_by_hand() -> None:
    moves = [1.0, -1.0, 2.0, 0.0, 3.0, -2.0, 1.0, 1.0, -1.0, 2.0, 0.0, -3.0, 1.0, 1.0]
    features = MomentumFeatures().extract(frame_of(100 + np.cumsum([0.0, *moves])))
    assert features["rsi_14"] == pytest.approx(12 / 19)
    assert features["rsi_deviation"] == pytest.approx((100 * 12 / 19 - 50) / 50)


@pytest.mark.parametrize(
    ("close", "rsi"),
    [
        (range(100, 130), 1.0),
        (range(130, 100, -1), 0.0),
        ([100.0] * 30, 0.5),
        (range(100, 114), 0.5),
    ],
    ids=["no losses: 100", "no gains: 0", "no moves: 50", "too short: 50"],
)
def test_relative_strength_at_its_ends(close: list[float], rsi: float) -> None:
    assert MomentumFeatures().extract(frame_of(list(close)))["rsi_14"] == rsi


@pytest.mark.parametrize(
    "extractor", [TrendFeatures(), MomentumFeatures(), VolatilityFeatures(), MarketRegimeFeatures()]
)
def test_an_earlier_bar_as_the_current_one_sees_nothing_later(extractor: OHLCVExtractor) -> None:
    frame = sample_bars(1).to_frame()
    for at in (0, 1, 3, 13, 14, 100, 299):
        expected = extractor.extract(frame.iloc[: at + 1])
        assert extractor.extract(frame, at) == expected
        assert extractor.extract(frame, at - 300) == expected
    for outside in (300, -301):
        with pytest.raises(IndexError):
            extractor.extract(frame, outside)


def test_without_bars_everything_is_neutral() -> None:
    for extractor in (TrendFeatures(), MomentumFeatures(), VolatilityFeatures(), MarketRegimeFeatures()):
        features = extractor.extract(frame_of([]))
        assert features == {one.name: one.neutral for one in extractor.definitions}


def test_market_features_are_those_of_the_benchmark_as_of_the_bar() -> None:
    symbol, benchmark = sample_bars(1).to_frame(), sample_bars(2).to_frame()
    own = MarketRegimeFeatures().extract(benchmark, 200)
    other = MarketRegimeFeatures().extract(symbol, 200, benchmark_data=benchmark)
    assert {**own, "correlation_regime": 0} == {**other, "correlation_regime": 0}
    assert own["correlation_regime"] == 0.5
    assert -0.9 < other["correlation_regime"] < 0.9


def test_a_series_goes_with_itself_by_time_not_by_position() -> None:
    bars = sample_bars(1)
    whole = bars.to_frame()
    shorter = bars.tail(60).to_frame()
    assert MarketRegimeFeatures().extract(whole, benchmark_data=shorter)["correlation_regime"] == pytest.approx(1.0)
    late = bars.first(290).to_frame()
    assert MarketRegimeFeatures().extract(whole, benchmark_data=late)["correlation_regime"] == pytest.approx(1.0)
    every_other = bars.to_frame().iloc[::2]
    assert MarketRegimeFeatures().extract(whole, benchmark_data=every_other)["correlation_regime"] == pytest.approx(1.0)


def test_a_benchmark_on_another_calendar_does_not_disturb_the_rows_beside_it() -> None:
    bars, market = sample_bars(1), sample_bars(2)
    odd = Bars.from_frame(market.to_frame().iloc[::2])
    now = int(bars.timestamp[-1])
    requests = [FeatureRequest("s", now, SignalMetadata(), bars, one) for one in (market, odd, None, odd, market)]
    column = MarketRegimeFeatures().evaluate(SignalBatch(requests))[:, 2]
    assert column[0] == column[4] != column[1] == column[3]
    assert column[2] == 0.5


def test_days_from_high_counts_bars_whatever_the_index() -> None:
    close = [100.0] * 30 + [150.0] + [120.0] * 9
    by_position = MarketRegimeFeatures().extract(frame_of(close))
    moved = MarketRegimeFeatures().extract(frame_of(close).set_axis(range(500, 540)))
    dated = MarketRegimeFeatures().extract(frame_of(close).set_axis(pd.date_range("2024-01-01", periods=40)))
    assert by_position == moved == dated
    assert by_position["days_from_high"] == 9 / 40
    assert by_position["drawdown_depth"] == pytest.approx(-0.2)


def test_the_drawdown_remembers_all_bars_given() -> None:
    close = [500.0] + [100.0] * 9_999
    assert MarketRegimeFeatures().extract(frame_of(close))["drawdown_depth"] == pytest.approx(-0.8)


def test_the_percentile_counts_defined_windows_only() -> None:
    random = np.random.default_rng(5)
    moves = np.concatenate((random.normal(0, 0.01, 252 - 20), random.normal(0, 0.05, 20)))
    close = 100 * np.cumprod(1 + moves)
    rolling = pd.Series(close).pct_change().rolling(20).std().dropna()
    expected = (rolling < rolling.iloc[-1]).sum() / 232
    assert VolatilityFeatures().extract(frame_of(close))["volatility_percentile"] == pytest.approx(expected)
    assert expected > 0.9


def test_the_configuration_chooses_the_windows_unless_the_constructor_did() -> None:
    config = FeatureConfig(technical_lookbacks=[7, 70], market_regime_window=9, volatility_window=11)
    assert TrendFeatures().configured(config).feature_names[:4] == [
        "price_vs_ma7",
        "ma7_slope",
        "price_vs_ma70",
        "ma70_slope",
    ]
    assert MomentumFeatures().configured(config).feature_names[0:2] == ["roc_7", "rsi_14"]
    assert VolatilityFeatures().configured(config).window == 11
    assert MarketRegimeFeatures().configured(config).window == 9
    assert NewsFeatures().configured(FeatureConfig(news_lookback_hours=6)).lookback_hours == 6
    assert TrendFeatures([3]).configured(config).lookbacks == [3]


@pytest.mark.parametrize("lookbacks", [[], [0], [-5], [5, 5], [2.5], [True]])
def test_windows_that_are_none_are_refused(lookbacks: list[int]) -> None:
    with pytest.raises(ValueError, match="technical_lookbacks"):
        TrendFeatures(lookbacks)
    with pytest.raises(ValueError, match="volatility_window"):
        VolatilityFeatures().configured(FeatureConfig(volatility_window=1))


def test_metadata_as_specified() -> None:
    signal = {"technical_score": 8.0, "conviction": "HIGH", "entry_price": 100, "target_price": 110, "stop_price": 95}
    features = SignalMetadataFeatures().extract(signal)
    assert features["technical_score"] == 0.8
    assert features["conviction_high"] == 1.0
    assert features["risk_reward_ratio"] == 2.0
    assert SignalMetadataFeatures().validate_output(features)


def test_metadata_that_is_missing_is_neutral() -> None:
    names = SignalMetadata.__slots__
    assert SignalMetadataFeatures().extract(dict.fromkeys(names)) == SignalMetadataFeatures().extract({})
    assert set(SignalMetadataFeatures().extract({}).values()) == {0.0}


@pytest.mark.parametrize(
    "bad",
    [{"technical_score": "8"}, {"conviction": 3}, {"entry_price": True}, {"technical_score": float("nan")}],
)
def test_metadata_is_not_coerced(bad: dict[str, object]) -> None:
    features = SignalMetadataFeatures().extract({**bad, "news_score": 5})
    assert features == {**SignalMetadataFeatures().extract({}), "news_score": 0.5}
    assert next(iter(bad)) in features.incomplete


HOUR = 3_600_000_000
NOW = 20_000 * DAY_US


def test_news_counts_inside_the_window_only_and_its_edges_are_exact() -> None:
    def count(*published: int) -> float:
        return NewsFeatures().extract([NewsItem(us, 0.5) for us in published], NOW)["news_count"]

    assert count(NOW) == 1
    assert count(NOW + 1) == 0
    assert count(NOW - 48 * HOUR) == 0
    assert count(NOW - 48 * HOUR + 1) == 1


def test_news_from_the_future_changes_nothing() -> None:
    past = [NewsItem(NOW - HOUR, 0.4, 0.5), NewsItem(NOW - 30 * HOUR, -0.2)]
    future = [NewsItem(NOW + 1, -1.0), NewsItem(NOW + HOUR, float("nan"))]
    assert NewsFeatures().extract([*future, *past], NOW) == NewsFeatures().extract(past[::-1], NOW)


def test_news_by_hand() -> None:
    items = [NewsItem(NOW - 12 * HOUR, 0.6, 1.0), NewsItem(NOW - 36 * HOUR, -0.4, 0.5), NewsItem(NOW, 0.9, 0.0)]
    features = NewsFeatures().extract(items, NOW)
    assert features["news_any"] == 1.0
    assert features["news_count"] == 3.0
    assert features["news_sentiment"] == pytest.approx((0.6 - 0.2) / 1.5)
    assert features["news_sentiment_recent"] == pytest.approx((0.6 / 2 - 0.4 * 0.5 / 8) / (1 / 2 + 0.5 / 8))
    assert features["news_share_negative"] == pytest.approx(1 / 3)
    assert features["news_trend"] == pytest.approx(0.6 + 0.4)
    assert features["news_hours_since"] == 0.0
    assert features["news_dispersion"] == pytest.approx(np.sqrt((0.3333333**2 + 0.5 * 0.6666667**2) / 1.5), rel=1e-6)


def test_news_that_is_no_number_is_neutral_and_said() -> None:
    features = NewsFeatures().extract([NewsItem(NOW - HOUR, 0.5), NewsItem(NOW, float("nan"))], NOW)
    assert features == NewsFeatures().extract([], NOW)
    assert features.incomplete == "news: sentiment of item 1 is nan, not from -1 to 1"
