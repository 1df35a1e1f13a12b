"""Trend, momentum and volatility of a symbol's own bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Self

import numpy as np

from trading_system.ml_refinement.config import FeatureConfig
from trading_system.ml_refinement.features.extractors.base_extractor import FeatureDefinition
from trading_system.ml_refinement.features.extractors.batch import BarsBatch, SignalBatch
from trading_system.ml_refinement.features.extractors.of_series import (
    MomentumOfSeries,
    TrendOfSeries,
    VolatilityOfSeries,
)
from trading_system.ml_refinement.features.extractors.windows import (
    average_true_range,
    deviations,
    ratio,
    row_sum,
    sliding_sum,
)
from trading_system.ml_refinement.typing import FloatArray, IntArray

ATR_BARS = 14
#: Arrays of more rows than this, a year wide, fall out of the processor's cache between two operations.
_YEARS_AT_ONCE = 64
#: A past volatility counts as below today's when it is lower by more than this share: less is rounding.
SAME_SHARE = 1e-9
#: A volatility below this share of the size of the changes themselves is rounding, and counts as none.
ROUNDING_SHARE = 1e-6

_define = partial(FeatureDefinition, category="technical", dependencies=("close",))


def checked_windows(name: str, windows: Sequence[int], least: int) -> list[int]:
    """The windows, when they are distinct whole numbers of at least `least` bars.

    Raises:
        ValueError: they are not; names the setting and the offender.
    """
    for window in windows:
        if isinstance(window, bool) or not isinstance(window, int) or window < least:
            raise ValueError(f"{name}: {window!r} is not a whole number of at least {least} bars")
    if len(set(windows)) < len(windows):
        raise ValueError(f"{name}: a window is given twice in {list(windows)}")
    return list(windows)


class TrendFeatures(TrendOfSeries):
    """Where the price stands against its moving averages, and how straight it came there."""

    name = "trend_features"
    category = "technical"
    default_lookbacks = (5, 10, 20, 50, 200)
    slope_bars = 5
    _by_default = False
    fast_bars, slow_bars = 10, 50
    line_bars = 14
    count_bars = 10

    def __init__(self, lookbacks: Sequence[int] | None = None) -> None:
        """Moving averages over `lookbacks` bars; None leaves the choice to the configuration."""
        self._by_default = lookbacks is None
        given = self.default_lookbacks if lookbacks is None else lookbacks
        if not given:
            raise ValueError("technical_lookbacks: at least one moving average is needed")
        self.lookbacks = checked_windows("technical_lookbacks", given, 1)

    def configured(self, config: FeatureConfig) -> Self:
        """With the configuration's `technical_lookbacks`, where none were given."""
        if not self._by_default:
            return self
        windows = checked_windows("technical_lookbacks", config.technical_lookbacks, 1)
        return self._reshaped(lookbacks=windows, _by_default=False)

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

    @cached_property
    def _spans(self) -> FloatArray:
        return np.array(self.lookbacks, dtype=np.float64)

    @cached_property
    def _steps(self) -> IntArray:
        """Columns of the newest 5 bars, then for each lookback of the 5 that its average has lost within 5 bars."""
        newest = max(self.lookbacks) + self.slope_bars - 1
        return np.array([[newest - back - bar for bar in range(self.slope_bars)] for back in (0, *self.lookbacks)])

    def compute(self, batch: SignalBatch) -> FloatArray:
        """Values of shape (n_signals, n_features)."""
        bars = batch.bars
        averages = 2 * len(self.lookbacks)
        numerator, denominator = np.empty((2, len(bars), averages + 4))
        self._averages(bars, numerator[:, :averages], denominator[:, :averages])
        close = bars.tail("close", self.slow_bars)
        slow = row_sum(close) / self.slow_bars
        numerator[:, averages] = row_sum(close[:, -self.fast_bars :]) / self.fast_bars - slow
        denominator[:, averages] = slow
        numerator[:, averages + 1], denominator[:, averages + 1] = _straightness(bars.tail("close", self.line_bars))
        high, low = bars.tail("high", self.count_bars), bars.tail("low", self.count_bars)
        counted = np.empty((len(bars), 2, self.count_bars - 1), dtype=bool)
        np.greater(high[:, 1:], high[:, :-1], out=counted[:, 0])
        np.less(low[:, 1:], low[:, :-1], out=counted[:, 1])
        numerator[:, averages + 2 :] = np.add.reduce(counted, axis=-1)
        denominator[:, averages + 2 :] = self.count_bars - 1
        out = ratio(numerator, denominator)
        np.minimum(out[:, averages + 1], 1.0, out=out[:, averages + 1])
        return out

    def _averages(self, bars: BarsBatch, numerator: FloatArray, denominator: FloatArray) -> None:
        """Fill in what the features of the averages are ratios of."""
        close = bars.tail("close", max(self.lookbacks) + self.slope_bars)
        width = close.shape[1]
        average = denominator[:, ::2]
        for place, n in enumerate(self.lookbacks):
            np.add.reduce(close[:, width - n :], axis=1, out=average[:, place])
        average /= self._spans
        np.subtract(close[:, -1:], average, out=numerator[:, ::2])
        fives = row_sum(close.take(self._steps, axis=1))
        np.subtract(fives[:, :1], fives[:, 1:], out=numerator[:, 1::2])
        np.multiply(
            average_true_range(bars, ATR_BARS)[:, None], self.slope_bars * self._spans, out=denominator[:, 1::2]
        )


class MomentumFeatures(MomentumOfSeries):
    """How far and how evenly the price has moved."""

    name = "momentum_features"
    category = "technical"
    default_lookbacks = (5, 10, 20, 50)
    longest_lookback = 50
    _by_default = False
    rsi_bars = 14
    divergence_bars = 14
    acceleration_bars = 10

    def __init__(self, lookbacks: Sequence[int] | None = None) -> None:
        """Rates of change over `lookbacks` bars; None leaves the choice to the configuration."""
        self._by_default = lookbacks is None
        self.lookbacks = checked_windows(
            "technical_lookbacks", self.default_lookbacks if lookbacks is None else lookbacks, 1
        )

    def configured(self, config: FeatureConfig) -> Self:
        """With those of the configuration's `technical_lookbacks` that are 50 bars or less, where none were given."""
        within = [n for n in config.technical_lookbacks if n <= self.longest_lookback]
        if not self._by_default:
            return self
        return self._reshaped(lookbacks=checked_windows("technical_lookbacks", within, 1), _by_default=False)

    @cached_property
    def definitions(self) -> tuple[FeatureDefinition, ...]:
        """One feature a lookback, and four more."""

        def over(
            n: int, name: str, meaning: str, low: float = -math.inf, high: float = math.inf, neutral: float = 0.0
        ) -> FeatureDefinition:
            return _define(name, meaning, low=low, high=high, neutral=neutral, min_bars=n, lookback_bars=n)

        return (
            *(over(n + 1, f"roc_{n}", f"change of the close over {n} bars, relative", low=-1) for n in self.lookbacks),
            over(self.rsi_bars + 1, "rsi_14", "RSI over 14 changes with simple means (Cutler's), as 0 to 1", 0, 1, 0.5),
            over(self.rsi_bars + 1, "rsi_deviation", "RSI's distance from 50, in 50", -1, 1),
            over(
                2 * self.divergence_bars,
                "momentum_divergence",
                "change of the 14-bar rate over 13 bars, where it contradicts the price's",
            ),
            over(2 * self.acceleration_bars + 1, "acceleration", "change of the 10-bar rate of change over 10 bars"),
        )

    def compute(self, batch: SignalBatch) -> FloatArray:
        """Values of shape (n_signals, n_features)."""
        rates = len(self.lookbacks)
        reach = (self.rsi_bars, 2 * self.divergence_bars - 1, 2 * self.acceleration_bars)
        close = batch.bars.tail("close", max(*self.lookbacks, *reach) + 1)
        numerator, denominator = np.empty((2, len(batch), rates + 4))
        denominator[:, :rates] = close.take([close.shape[1] - 1 - n for n in self.lookbacks], axis=1)
        np.subtract(close[:, -1:], denominator[:, :rates], out=numerator[:, :rates])
        moves = close[:, -self.rsi_bars :] - close[:, -1 - self.rsi_bars : -1]
        gained, moved = row_sum(np.maximum(moves, 0.0)), row_sum(np.abs(moves))
        numerator[:, rates], denominator[:, rates] = gained, moved
        numerator[:, rates + 1], denominator[:, rates + 1] = 2 * gained - moved, moved
        denominator[:, rates + 2 :] = 1.0
        numerator[:, rates + 2] = _divergence(close, self.divergence_bars)
        n = self.acceleration_bars
        numerator[:, rates + 3] = _change(close, 1, n) - _change(close, 1 + n, n)
        return ratio(numerator, denominator, self.neutral_values)


class VolatilityFeatures(VolatilityOfSeries):
    """How much the price moves, against its own past."""

    name = "volatility_features"
    category = "technical"
    default_window = window = 20
    year_bars = 252
    _by_default = True

    def __init__(self, window: int | None = None) -> None:
        """Volatility over `window` bars; None leaves the choice to the configuration."""
        self._by_default = window is None
        (self.window,) = checked_windows("volatility_window", [self.default_window if window is None else window], 2)

    def configured(self, config: FeatureConfig) -> Self:
        """With the configuration's `volatility_window`, where none was given."""
        if not self._by_default:
            return self
        (window,) = checked_windows("volatility_window", [config.volatility_window], 2)
        return self._reshaped(window=window, _by_default=False)

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

    def compute(self, batch: SignalBatch) -> FloatArray:
        """Values of shape (n_signals, n_features)."""
        bars, n = batch.bars, self.window
        numerator, denominator = np.empty((2, len(batch), 6))
        close = bars.tail("close", self.year_bars + n)
        spans = bars.tail("high", n) - bars.tail("low", n)
        newest, before = close[:, -1], close[:, -2]
        numerator[:, 0], denominator[:, 0] = average_true_range(bars, ATR_BARS), newest
        self._against_past(close, bars, numerator[:, 1:3], denominator[:, 1:3])
        numerator[:, 3], denominator[:, 3] = spans[:, -1], row_sum(spans) / n
        numerator[:, 4], denominator[:, 4] = bars.tail("open", 1)[:, 0] - before, before
        numerator[:, 5], denominator[:, 5] = spans[:, -1], newest
        return ratio(numerator, denominator, self.neutral_values)

    def _against_past(self, close: FloatArray, bars: BarsBatch, numerator: FloatArray, denominator: FloatArray) -> None:
        """Fill in what the percentile and the trend of volatility are ratios of."""
        for start in range(0, len(bars), _YEARS_AT_ONCE):
            rows = slice(start, start + _YEARS_AT_ONCE)
            self._past_of(close[rows], bars.lengths[rows], numerator[rows], denominator[rows])

    def _past_of(self, close: FloatArray, lengths: IntArray, numerator: FloatArray, denominator: FloatArray) -> None:
        n, year = self.window, close.shape[1]
        spread, squares = (part.reshape(-1, year)[:, : year - n] for part in _spreads(close, n))
        windows = np.minimum(np.maximum(lengths - n, 1), self.year_bars)
        below = spread < spread[:, -1:] * (1 - 2 * SAME_SHARE)
        lower = np.add.reduce(below.view(np.uint8), axis=1, dtype=np.uint16)
        found: IntArray | int = year - n
        if not np.isfinite(np.add.reduce(spread, axis=None)):
            found = np.add.reduce(~np.isnan(spread), axis=1)  # fewer: a bar is no number, and the value is none either
        numerator[:, 0], denominator[:, 0] = np.where(found == windows, lower, np.nan), windows
        two = slice(-n, None, n - 1)
        before, now = np.sqrt(np.where(spread[:, two] <= ROUNDING_SHARE**2 * squares[:, two], 0.0, spread[:, two])).T
        numerator[:, 1], denominator[:, 1] = now - before, before


def _spreads(close: FloatArray, n: int) -> tuple[FloatArray, FloatArray]:
    """Of the changes within every `n` + 1 closes: the sum of squares about their mean, and of their squares.

    The rows are taken for one long one, which is two or three times as quick; what comes of a row's end and the next
    one's beginning is not to be read. Shape (rows, bars) gives (rows * bars,) twice, each at the window's first close.
    """
    prices = np.ascontiguousarray(close).reshape(-1)
    powers = np.empty((2, prices.size - 1))
    np.subtract(prices[1:], prices[:-1], out=powers[0])
    np.divide(powers[0], prices[:-1], out=powers[0])
    np.multiply(powers[0], powers[0], out=powers[1])
    both = np.zeros((2, prices.size))
    both[:, : prices.size - n] = sliding_sum(powers, n)
    spread = both[0] * both[0]
    spread /= n
    return np.subtract(both[1], spread, out=spread), both[1]


def _straightness(close: FloatArray) -> tuple[FloatArray, FloatArray]:
    """What R² is the ratio of."""
    away, _ = deviations(close - close[:, -1:])
    n = close.shape[1]
    steps = np.arange(n) - (n - 1) / 2
    along = row_sum(away * steps)
    return along * along, row_sum(away * away) * (n * (n * n - 1) / 12)


def _change(close: FloatArray, back: int, n_bars: int) -> FloatArray:
    """Relative change over `n_bars` up to the bar `back` from the end, 1 being the newest."""
    past = close[:, -back - n_bars]
    return (close[:, -back] - past) / past


def _divergence(close: FloatArray, n: int) -> FloatArray:
    turn = _change(close, 1, n) - _change(close, n, n)
    return np.where(turn * _change(close, 1, n - 1) >= 0, 0.0, turn)
