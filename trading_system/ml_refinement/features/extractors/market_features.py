"""The regime of the market: the benchmark's bars where there are any, else the symbol's own."""

from __future__ import annotations

import math
from functools import cached_property, partial
from typing import TYPE_CHECKING, Self

import numpy as np

from trading_system.ml_refinement.config import FeatureConfig
from trading_system.ml_refinement.features.extractors.base_extractor import FeatureDefinition
from trading_system.ml_refinement.features.extractors.batch import BarsBatch, SignalBatch
from trading_system.ml_refinement.features.extractors.inputs import request_at
from trading_system.ml_refinement.features.extractors.of_series import MarketOfSeries
from trading_system.ml_refinement.features.extractors.technical_features import checked_windows
from trading_system.ml_refinement.features.extractors.windows import (
    changes,
    deviations,
    ratio,
    row_sum,
    sample_std,
)
from trading_system.ml_refinement.typing import BoolArray, FloatArray, IntArray, TimeArray

if TYPE_CHECKING:
    import pandas as pd

UNCORRELATED = 0.5  # what the specification calls neutral

_define = partial(FeatureDefinition, category="market", dependencies=("close", "benchmark"))


class MarketRegimeFeatures(MarketOfSeries):
    """Trend, breadth, volatility and drawdown of the market, and how the symbol goes with it.

    Everything but the correlation is a matter of the market alone and computed once for each distinct market history.
    """

    name = "market_regime"
    category = "market"
    default_window = window = 20
    _by_default = True
    trend_bars = 50
    year_bars = 252

    def __init__(self, window: int | None = None) -> None:
        """Regimes over `window` bars; None leaves the choice to the configuration."""
        self._by_default = window is None
        (self.window,) = checked_windows("market_regime_window", [self.default_window if window is None else window], 2)

    def configured(self, config: FeatureConfig) -> Self:
        """With the configuration's `market_regime_window`, where none was given."""
        if not self._by_default:
            return self
        (window,) = checked_windows("market_regime_window", [config.market_regime_window], 2)
        return self._reshaped(window=window, _by_default=False)

    @property
    def calendar_bars(self) -> int:
        """How far back the correlation looks for common times: four windows, for calendars that differ."""
        return 4 * self.window + 1

    @cached_property
    def definitions(self) -> tuple[FeatureDefinition, ...]:
        """Seven features."""
        n = self.window
        share = partial(_define, low=0, high=1)
        return (
            _define(
                "market_trend",
                "distance from MA50 in 50-bar volatilities, clipped",
                low=-1,
                high=1,
                min_bars=self.trend_bars,
                lookback_bars=self.trend_bars + 1,
            ),
            share("market_breadth", f"share of rising bars in {n}", neutral=0.5, min_bars=n, lookback_bars=n + 1),
            _define(
                "correlation_regime",
                f"correlation with the benchmark of the last {n} changes between common close times",
                low=-1,
                high=1,
                neutral=UNCORRELATED,
                min_bars=n,
                lookback_bars=self.calendar_bars,
            ),
            share(
                "volatility_regime",
                f"half of {n}-bar volatility / that of the {n} bars before, at most 1",
                neutral=0.5,
                min_bars=2 * n,
                lookback_bars=2 * n + 1,
            ),
            _define(
                "drawdown_depth",
                "close against the highest close of all bars given, relative",
                low=-1,
                high=0,
                min_bars=1,
                lookback_bars=None,
            ),
            share(
                "days_from_high",
                "bars since the highest close of 252 bars (the first, if several), as a share of them",
                min_bars=1,
                lookback_bars=self.year_bars,
            ),
            _define(
                "rally_strength",
                f"change over {n - 1} bars in {n}-bar volatilities, clipped",
                low=-1,
                high=1,
                min_bars=n,
                lookback_bars=n + 1,
            ),
        )

    def extract(
        self, ohlcv: pd.DataFrame, current_idx: int = -1, benchmark_data: pd.DataFrame | None = None
    ) -> dict[str, float]:
        """As `OHLCVExtractor.extract`; the benchmark is cut to the time of the current bar.

        Frames that have no times meet at their newest rows.

        Raises:
            BarsError: one of the frames has times and the other has none, or one has whole numbers of another unit.
            IndexError: there is no such bar in a frame that has bars.
        """
        return self._one(request_at(ohlcv, current_idx, benchmark_data))

    def history_lengths(self, batch: SignalBatch) -> IntArray:
        """Bars of each signal's market, shape (n_signals,)."""
        market, place = batch.markets
        return market.lengths[place]

    def shortest_history(self, batch: SignalBatch) -> int:
        """The least of `history_lengths`."""
        return batch.markets[0].shortest

    def compute(self, batch: SignalBatch) -> FloatArray:
        """Values of shape (n_signals, n_features)."""
        market, place = batch.markets
        out = self._of_market(market)[place]
        out[:, 2] = self._correlation(batch)
        return out

    def _of_market(self, market: BarsBatch) -> FloatArray:
        n, steps = self.window, self.trend_bars
        close = market.tail("close", max(steps, 2 * n) + 1)
        moves, now = changes(close), close[:, -1]
        average = row_sum(close[:, -steps:]) / steps
        before, volatility = sample_std(moves[:, -2 * n :].reshape(-1, 2, n), self._first_missing(market)).T
        start = close[:, -n]
        numerator, denominator = np.empty((2, len(market), 7))
        numerator[:, 0] = now - average
        denominator[:, 0] = average * sample_std(moves[:, -steps:], market.starting(steps)) * math.sqrt(steps)
        numerator[:, 1], denominator[:, 1] = np.add.reduce(moves[:, -n:] > 0, axis=1), n
        numerator[:, 2], denominator[:, 2] = 0, 1
        numerator[:, 3], denominator[:, 3] = volatility, 2 * before
        self._from_high(market, numerator[:, 4:6], denominator[:, 4:6])
        numerator[:, 6], denominator[:, 6] = (now - start) / start, volatility * math.sqrt(n)
        out = ratio(numerator, denominator, self.neutral_values)
        return np.minimum(np.maximum(out, -1.0), 1.0)

    def _first_missing(self, market: BarsBatch) -> BoolArray | None:
        """Where the first change of each of two windows has no bar before it, if anywhere."""
        if market.shortest > 2 * self.window:
            return None
        return np.equal(market.lengths[:, None], (2 * self.window, self.window))

    def _from_high(self, market: BarsBatch, numerator: FloatArray, denominator: FloatArray) -> None:
        """Fill in what the drawdown and the days from the high are ratios of."""
        every = market.history("close")
        if market.shortest < every.shape[1]:
            every = np.where(market.missing(every.shape[1]), -np.inf, every)
        peak = np.maximum.reduce(every, axis=1)
        year = every[:, -self.year_bars :]
        numerator[:, 0], denominator[:, 0] = every[:, -1] - peak, peak
        numerator[:, 1] = year.shape[1] - 1 - year.argmax(axis=1)
        denominator[:, 1] = np.minimum(market.lengths, self.year_bars)

    def _correlation(self, batch: SignalBatch) -> FloatArray:
        benchmarked = batch.has_benchmark
        if not benchmarked.any():
            return np.full(len(batch), UNCORRELATED)
        closes, count = self._common_closes(batch)
        first_missing = None
        if count.min() <= self.window:
            first_missing = np.broadcast_to(count == self.window, closes.shape[:2])
        away, _ = deviations(changes(closes), first_missing)
        own, market = np.sqrt(row_sum(away * away))
        correlation = ratio(row_sum(away[0] * away[1]), own * market, UNCORRELATED)
        known = benchmarked & (count >= self.window)
        return np.where(known, np.minimum(np.maximum(correlation, -1.0), 1.0), UNCORRELATED)

    def _common_closes(self, batch: SignalBatch) -> tuple[FloatArray, IntArray]:
        """The newest window + 1 closes at common times, (2, n_signals, window + 1), and how many there are of them."""
        n, (market, place) = self.window + 1, batch.markets
        closes = np.empty((2, len(batch), n))
        closes[0], closes[1] = batch.bars.tail("close", n), market.tail("close", n)[place]
        count = np.full(len(batch), n)
        apart = np.flatnonzero((batch.bars.times(n, 0) != market.times(n, 1)[place]).any(axis=1))
        if apart.size:
            reach, beside = self.calendar_bars, place[apart]
            times, market_times = batch.bars.times(reach, 0)[apart], market.times(reach, 1)[beside]
            at_own, at_market, count[apart] = _newest_common(times, market_times, n)
            closes[0, apart] = np.take_along_axis(batch.bars.tail("close", reach)[apart], at_own, axis=1)
            closes[1, apart] = np.take_along_axis(market.tail("close", reach)[beside], at_market, axis=1)
        return closes, count


def _newest_common(left: TimeArray, right: TimeArray, wanted: int) -> tuple[IntArray, IntArray, IntArray]:
    """Row by row, the positions of the newest `wanted` times that both have, right-aligned, and their number.

    Each row of each side is distinct; where there are fewer than `wanted`, position 0 fills the left.
    """
    order = np.argsort(np.hstack((left, right)), axis=1, kind="stable")
    times = np.take_along_axis(np.hstack((left, right)), order, axis=1)
    common = times[:, 1:] == times[:, :-1]
    rank = np.cumsum(common[:, ::-1], axis=1)[:, ::-1]
    row, at = (common & (rank <= wanted)).nonzero()
    slot = wanted - rank[row, at]
    at_left, at_right = np.zeros((2, len(left), wanted), dtype=np.int64)
    at_left[row, slot] = order[row, at]
    at_right[row, slot] = order[row, at + 1] - left.shape[1]
    return at_left, at_right, np.minimum(rank[:, 0], wanted)
