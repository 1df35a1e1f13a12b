"""Trend, momentum and volatility of a symbol's own bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Self

import numpy as np

from trading_system.ml_refinement.bars import Floats
from trading_system.ml_refinement.config import FeatureConfig
from trading_system.ml_refinement.features.extractors.base_extractor import FeatureDefinition, OHLCVExtractor
from trading_system.ml_refinement.features.extractors.batch import BarsBatch, SignalBatch
from trading_system.ml_refinement.features.extractors.windows import (
    average_true_range,
    changes,
    deviations,
    ratio,
    row_sum,
    sample_std,
    sliding_sum,
)

ATR_BARS = 14
#: A past volatility counts as below today's when it is lower by more than this share: less is rounding.
SAME_SHARE = 1e-9

_define = partial(FeatureDefinition, category="technical", dependencies=("close",))


def checked_windows(name: str, windows: Sequence[int], least: int) -> tuple[int, ...]:
    """The windows, when they are distinct whole numbers of at least `least` bars.

    Raises:
        ValueError: they are not; names the setting and the offender.
    """
    for window in windows:
        if isinstance(window, bool) or not isinstance(window, int) or window < least:
            raise ValueError(f"{name}: {window!r} is not a whole number of at least {least} bars")
    if len(set(windows)) < len(windows):
        raise ValueError(f"{name}: a window is given twice in {list(windows)}")
    return tuple(windows)


class TrendFeatures(OHLCVExtractor):
    """Where the price stands against its moving averages, and how straight it came there."""

    name = "trend_features"
    category = "technical"
    default_lookbacks = (5, 10, 20, 50, 200)
    slope_bars = 5
    fast_bars, slow_bars = 10, 50
    line_bars = 14
    count_bars = 10

    def __init__(self, lookbacks: Sequence[int] | None = None) -> None:
        """Moving averages over `lookbacks` bars; None leaves the choice to the configuration."""
        self._by_default = lookbacks is None
        self.lookbacks = checked_windows("lookbacks", lookbacks or self.default_lookbacks, 1)

    def configured(self, config: FeatureConfig) -> Self:
        """With the configuration's `technical_lookbacks`, where none were given."""
        return type(self)(config.technical_lookbacks) if self._by_default else self

    @cached_property
    def definitions(self) -> tuple[FeatureDefinition, ...]:
        """Two features a moving average, and four more."""
        averages: list[FeatureDefinition] = []
        for n in self.lookbacks:
            averages += [
                _define(f"price_vs_ma{n}", f"(close - MA{n}) / MA{n}", low=-1, high=n - 1, min_bars=n, lookback_bars=n),
                _define(
                    f"ma{n}_slope",
                    f"change of MA{n} over 5 bars, in ATR(14) a bar",
                    min_bars=max(n + self.slope_bars, ATR_BARS),
                    lookback_bars=max(n + self.slope_bars, ATR_BARS + 1),
                    dependencies=("high", "low", "close"),
                ),
            ]
        share = partial(_define, low=0, high=1)
        counted = partial(share, min_bars=self.count_bars, lookback_bars=self.count_bars)
        crossing = "price_vs_ma_fast_slow", "(MA10 - MA50) / MA50"
        straight = "trend_strength", "R² of a straight line through the last 14 closes; 0 when they are all the same"
        return (
            *averages,
            _define(*crossing, low=-1, high=4, min_bars=self.slow_bars, lookback_bars=self.slow_bars),
            share(*straight, min_bars=self.line_bars, lookback_bars=self.line_bars),
            counted("higher_highs", "share of the last 9 bars with a higher high", dependencies=("high",)),
            counted("lower_lows", "share of the last 9 bars with a lower low", dependencies=("low",)),
        )

    def compute(self, batch: SignalBatch) -> Floats:
        """Values of shape (n_signals, n_features)."""
        bars = batch.bars
        averages = 2 * len(self.lookbacks)
        out = np.empty((len(bars), averages + 4))
        out[:, 0:averages:2], out[:, 1:averages:2] = self._averages(bars)
        close = bars.tail("close", self.slow_bars)
        slow = row_sum(close) / self.slow_bars
        out[:, averages] = ratio(row_sum(close[:, -self.fast_bars :]) / self.fast_bars - slow, slow)
        out[:, averages + 1] = _straightness(bars.tail("close", self.line_bars))
        high, low = bars.tail("high", self.count_bars), bars.tail("low", self.count_bars)
        steps = self.count_bars - 1
        out[:, averages + 2] = np.add.reduce(high[:, 1:] > high[:, :-1], axis=1) / steps
        out[:, averages + 3] = np.add.reduce(low[:, 1:] < low[:, :-1], axis=1) / steps
        return out

    def _averages(self, bars: BarsBatch) -> tuple[Floats, Floats]:
        close = bars.tail("close", max(self.lookbacks) + self.slope_bars)
        width = close.shape[1]
        now, before = np.empty((2, len(bars), len(self.lookbacks)))
        for place, n in enumerate(self.lookbacks):
            np.add.reduce(close[:, width - n :], axis=1, out=now[:, place])
            np.add.reduce(close[:, width - n - self.slope_bars : -self.slope_bars], axis=1, out=before[:, place])
        now /= self.lookbacks
        before /= self.lookbacks
        step = self.slope_bars * average_true_range(bars, ATR_BARS)[:, None]
        return ratio(close[:, -1:] - now, now), ratio(now - before, np.where(before <= 0, 0.0, step))


class MomentumFeatures(OHLCVExtractor):
    """How far and how evenly the price has moved."""

    name = "momentum_features"
    category = "technical"
    default_lookbacks = (5, 10, 20, 50)
    longest_lookback = 50
    rsi_bars = 14
    divergence_bars = 14
    acceleration_bars = 10

    def __init__(self, lookbacks: Sequence[int] | None = None) -> None:
        """Rates of change over `lookbacks` bars; None leaves the choice to the configuration."""
        self._by_default = lookbacks is None
        self.lookbacks = checked_windows("lookbacks", self.default_lookbacks if lookbacks is None else lookbacks, 1)

    def configured(self, config: FeatureConfig) -> Self:
        """With those of the configuration's `technical_lookbacks` that are 50 bars or less, where none were given."""
        within = [n for n in config.technical_lookbacks if n <= self.longest_lookback]
        return type(self)(within) if self._by_default else self

    @cached_property
    def definitions(self) -> tuple[FeatureDefinition, ...]:
        """One feature a lookback, and four more."""

        def over(n: int, name: str, meaning: str, low: float = -math.inf, high: float = math.inf, neutral: float = 0.0):  # type: ignore[no-untyped-def]
            return _define(name, meaning, low=low, high=high, neutral=neutral, min_bars=n, lookback_bars=n)

        return (
            *(over(n + 1, f"roc_{n}", f"change of the close over {n} bars, relative", low=-1) for n in self.lookbacks),
            over(15, "rsi_14", "RSI over 14 changes with simple means (Cutler's), as 0 to 1", 0, 1, 0.5),
            over(15, "rsi_deviation", "RSI's distance from 50, in 50", -1, 1),
            over(28, "momentum_divergence", "change of the 14-bar rate over 13 bars, where it contradicts the price's"),
            over(21, "acceleration", "change of the 10-bar rate of change over 10 bars"),
        )

    def compute(self, batch: SignalBatch) -> Floats:
        """Values of shape (n_signals, n_features)."""
        rates = len(self.lookbacks)
        close = batch.bars.tail("close", max(*self.lookbacks, 0, 27) + 1)
        out = np.empty((len(batch), rates + 4))
        past = close[:, [-1 - n for n in self.lookbacks]]
        out[:, :rates] = ratio(close[:, -1:] - past, past)
        rsi = _relative_strength(close[:, -1 - self.rsi_bars :])
        out[:, rates] = rsi
        out[:, rates + 1] = 2 * rsi - 1
        out[:, rates + 2] = _divergence(close, self.divergence_bars)
        n = self.acceleration_bars
        out[:, rates + 3] = _change(close, 1, n) - _change(close, 1 + n, n)
        return out


class VolatilityFeatures(OHLCVExtractor):
    """How much the price moves, against its own past."""

    name = "volatility_features"
    category = "technical"
    default_window = 20
    year_bars = 252

    def __init__(self, window: int | None = None) -> None:
        """Volatility over `window` bars; None leaves the choice to the configuration."""
        self._by_default = window is None
        (self.window,) = checked_windows("window", [self.default_window if window is None else window], 2)

    def configured(self, config: FeatureConfig) -> Self:
        """With the configuration's `volatility_window`, where none was given."""
        return type(self)(config.volatility_window) if self._by_default else self

    @cached_property
    def definitions(self) -> tuple[FeatureDefinition, ...]:
        """Six features."""
        n = self.window
        reach = {"min_bars": max(self.year_bars, n + 1), "lookback_bars": self.year_bars + n}
        above_0 = partial(_define, low=0)
        ranges = ("high", "low")
        return (
            above_0("atr_ratio", "ATR(14) / close", min_bars=14, lookback_bars=15, dependencies=(*ranges, "close")),
            above_0(
                "volatility_percentile",
                f"share of the last 252 {n}-bar volatilities that were lower than today's",
                high=1,
                neutral=0.5,
                **reach,
            ),
            _define(
                "volatility_trend",
                f"{n}-bar volatility against that of {n - 1} bars before, relative change",
                low=-1,
                min_bars=2 * n,
                lookback_bars=2 * n,
            ),
            above_0(
                "range_ratio",
                f"range of the bar / mean range of {n} bars",
                high=n,
                neutral=1.0,
                min_bars=n,
                lookback_bars=n,
                dependencies=ranges,
            ),
            _define(
                "gap_size",
                "(open - close before) / close before",
                low=-1,
                min_bars=2,
                lookback_bars=2,
                dependencies=("open", "close"),
            ),
            above_0(
                "intraday_volatility",
                "(high - low) / close",
                min_bars=1,
                lookback_bars=1,
                dependencies=(*ranges, "close"),
            ),
        )

    def compute(self, batch: SignalBatch) -> Floats:
        """Values of shape (n_signals, n_features)."""
        bars, n = batch.bars, self.window
        out = np.empty((len(batch), 6))
        close = bars.tail("close", self.year_bars + n)
        moves = changes(close)
        spans = bars.tail("high", n) - bars.tail("low", n)
        out[:, 0] = ratio(average_true_range(bars, ATR_BARS), close[:, -1])
        out[:, 1] = self._percentile(moves, bars)
        now, before = sample_std(np.stack((moves[:, -n:], moves[:, 1 - 2 * n : 1 - n])))
        out[:, 2] = ratio(now - before, before)
        out[:, 3] = ratio(spans[:, -1], row_sum(spans) / n, 1.0)
        out[:, 4] = ratio(bars.tail("open", 1)[:, -1] - close[:, -2], close[:, -2])
        out[:, 5] = ratio(spans[:, -1], close[:, -1])
        return out

    def _percentile(self, moves: Floats, bars: BarsBatch) -> Floats:
        n = self.window
        sums = sliding_sum(moves, n)
        spread = sliding_sum(moves * moves, n) - sums * sums / n
        lower = spread < spread[:, -1:] * (1 - 2 * SAME_SHARE)
        expected = np.clip(bars.lengths - n, 1, self.year_bars)
        found = np.add.reduce(~np.isnan(spread), axis=1)  # fewer: a bar is no number, and the value is none either
        return np.where(found == expected, np.add.reduce(lower, axis=1) / expected, np.nan)


def _straightness(close: Floats) -> Floats:
    away, _ = deviations(close - close[:, -1:])
    n = close.shape[1]
    steps = np.arange(n) - (n - 1) / 2
    along = row_sum(away * steps)
    return np.minimum(ratio(along * along, row_sum(away * away) * float(steps @ steps)), 1.0)


def _relative_strength(close: Floats) -> Floats:
    moves = close[:, 1:] - close[:, :-1]
    gained, lost = row_sum(np.maximum(moves, 0.0)), -row_sum(np.minimum(moves, 0.0))
    return ratio(gained, gained + lost, 0.5)


def _change(close: Floats, back: int, n_bars: int) -> Floats:
    """Relative change over `n_bars` up to the bar `back` from the end, 1 being the newest."""
    past = close[:, -back - n_bars]
    return (close[:, -back] - past) / past


def _divergence(close: Floats, n: int) -> Floats:
    turn = _change(close, 1, n) - _change(close, n, n)
    return np.where(turn * _change(close, 1, n - 1) >= 0, 0.0, turn)
