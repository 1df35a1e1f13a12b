"""The same numbers as TA-Lib's, where the definitions are the same.

Where they differ:

- RSI and ATR: TA-Lib smooths as Wilder did, so every value depends on all bars before it. Wilder starts from the simple
  mean of the first 14, which is ours at every bar: the two agree over the first window, so TA-Lib is given just that.
- ATR's first bar: TA-Lib needs a close before it; ours takes the range of a history's first bar.
- STDDEV divides by n, ours by n - 1: a factor.
- ROC and RSI are in percent there, shares here.
"""

from __future__ import annotations

import numpy as np
import pytest
import talib

from tests.support import real_bars
from trading_system.ml_refinement import FeatureConfig, FeatureSet
from trading_system.ml_refinement.bars import Bars
from trading_system.ml_refinement.features.pipeline import FeaturePipeline, FeatureRequest, SignalMetadata

pytestmark = pytest.mark.parametrize("symbol", real_bars.SYMBOLS)


def ours(symbol: str) -> tuple[Bars, Bars, dict[str, np.ndarray]]:
    frame, index = real_bars.stock(symbol), real_bars.index()
    bars, benchmark = Bars.from_frame(frame), Bars.from_frame(index[index.index.isin(frame.index)])
    assert (bars.timestamp == benchmark.timestamp).all()
    pipeline = FeaturePipeline(FeatureConfig(feature_set=FeatureSet.EXTENDED))
    requests = [FeatureRequest(str(us), int(us), SignalMetadata(), bars, benchmark) for us in bars.timestamp]
    return bars, benchmark, dict(zip(pipeline.names, pipeline.extract_batch(requests).values.T, strict=True))


def expect_equal(values: np.ndarray, expected: np.ndarray, first: int) -> None:
    assert np.isfinite(expected[first:]).all()
    np.testing.assert_allclose(values[first:], expected[first:], rtol=1e-9, atol=1e-12)


def test_rate_of_change(symbol: str) -> None:
    bars, _, features = ours(symbol)
    for n in (5, 10, 20, 50):
        expect_equal(features[f"roc_{n}"], talib.ROC(bars.close, n) / 100, n)


def test_distance_from_moving_averages(symbol: str) -> None:
    bars, _, features = ours(symbol)
    for n in (5, 10, 20, 50, 200):
        expect_equal(features[f"price_vs_ma{n}"], bars.close / talib.SMA(bars.close, n) - 1, n - 1)


def test_relative_strength_over_its_first_window(symbol: str) -> None:
    bars, _, features = ours(symbol)
    expected = np.full(len(bars), np.nan)
    for at in range(14, len(bars)):
        expected[at] = talib.RSI(bars.close[at - 14 : at + 1], 14)[-1] / 100
    expect_equal(features["rsi_14"], expected, 14)


def test_average_true_range_over_its_first_window(symbol: str) -> None:
    bars, _, features = ours(symbol)
    expected = np.full(len(bars), np.nan)
    for at in range(14, len(bars)):
        window = slice(at - 14, at + 1)
        expected[at] = talib.ATR(bars.high[window], bars.low[window], bars.close[window], 14)[-1]
    expect_equal(features["atr_ratio"] * bars.close, expected, 14)


def test_average_true_range_is_the_simple_mean_of_true_ranges(symbol: str) -> None:
    bars, _, features = ours(symbol)
    ranges = talib.TRANGE(bars.high, bars.low, bars.close)
    expect_equal(features["atr_ratio"][1:] * bars.close[1:], talib.SMA(ranges[1:], 14), 13)


def test_trend_of_volatility_from_standard_deviations(symbol: str) -> None:
    bars, _, features = ours(symbol)
    moves = talib.ROCP(bars.close, 1)[1:]
    deviation = talib.STDDEV(moves * 1e3, 20) / 1e3  # scaled up: TA-Lib takes a variance below 1e-8 for none
    expected = np.full(len(bars), np.nan)
    expected[20 + 20 :] = deviation[39:] / deviation[20:-19] - 1
    expect_equal(features["volatility_trend"], expected, 40)


def test_correlation_of_changes(symbol: str) -> None:
    bars, benchmark, features = ours(symbol)
    expected = talib.CORREL(talib.ROCP(bars.close, 1)[1:], talib.ROCP(benchmark.close, 1)[1:], 20)
    expect_equal(features["correlation_regime"][1:], expected, 19)


def test_straightness_is_the_squared_correlation_with_time(symbol: str) -> None:
    bars, _, features = ours(symbol)
    expected = talib.CORREL(bars.close, np.arange(len(bars), dtype=float), 14) ** 2
    np.testing.assert_allclose(features["trend_strength"][13:], expected[13:], rtol=1e-7, atol=1e-9)


def test_bars_since_the_high(symbol: str) -> None:
    _, benchmark, features = ours(symbol)
    since = np.arange(len(benchmark)) - talib.MAXINDEX(benchmark.close, 252)
    expect_equal(features["days_from_high"], since / 252, 251)
