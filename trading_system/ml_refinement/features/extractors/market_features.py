"""The regime of the market: the benchmark's bars where there are any, else the symbol's own."""

from __future__ import annotations

from functools import cached_property, partial
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trading_system.ml_refinement.bars import Floats, Instants
from trading_system.ml_refinement.config import FeatureConfig
from trading_system.ml_refinement.features.extractors.base_extractor import (
    FeatureDefinition,
    OHLCVExtractor,
    request_at,
)
from trading_system.ml_refinement.features.extractors.batch import BarsBatch, SignalBatch
from trading_system.ml_refinement.features.extractors.technical_features import checked_windows
from trading_system.ml_refinement.features.extractors.windows import (
    changes,
    deviations,
    ratio,
    row_sum,
    sample_std,
)

UNCORRELATED = 0.5  # what the specification calls neutral

_define = partial(FeatureDefinition, category="market", dependencies=("close", "benchmark"))


class MarketRegimeFeatures(OHLCVExtractor):
    """Trend, breadth, volatility and drawdown of the market, and how the symbol goes with it.

    Everything but the correlation is a matter of the market alone and computed once for each distinct market history.
    """

    name = "market_regime"
    category = "market"
    default_window = 20
    trend_bars = 50
    year_bars = 252

    def __init__(self, window: int | None = None) -> None:
        """Regimes over `window` bars; None leaves the choice to the configuration."""
        self._by_default = window is None
        (self.window,) = checked_windows("window", [self.default_window if window is None else window], 2)

    def configured(self, config: FeatureConfig) -> Self:
        """With the configuration's `market_regime_window`, where none was given."""
        return type(self)(config.market_regime_window) if self._by_default else self

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
        """As `OHLCVExtractor.extract`; the benchmark is cut to the time of the current bar."""
        return self._one(request_at(ohlcv, current_idx, benchmark_data))

    def history_lengths(self, batch: SignalBatch) -> NDArray[np.int64]:
        """Bars of the market."""
        return batch.market.lengths[batch.market_row]

    def compute(self, batch: SignalBatch) -> Floats:
        """Values of shape (n_signals, n_features)."""
        out = self._of_market(batch.market)[batch.market_row]
        out[:, 2] = self._correlation(batch)
        return out

    def _of_market(self, market: BarsBatch) -> Floats:
        n, lengths = self.window, market.lengths
        close = market.tail("close", max(self.trend_bars, 2 * n) + 1)
        moves, now = changes(close), close[:, -1]
        trend_vol = sample_std(moves[:, -self.trend_bars :], lengths == self.trend_bars)
        average = row_sum(close[:, -self.trend_bars :]) / self.trend_bars
        volatility = sample_std(moves[:, -n:], lengths == n)
        before = sample_std(moves[:, -2 * n : -n], lengths == 2 * n)
        start = close[:, -n]
        out = np.empty((len(market), 7))
        out[:, 0] = ratio(now - average, average * trend_vol * np.sqrt(self.trend_bars))
        out[:, 1] = np.add.reduce(moves[:, -n:] > 0, axis=1) / n
        out[:, 3] = np.minimum(ratio(volatility, 2 * before, 0.5), 1.0)
        out[:, 4], out[:, 5] = self._from_high(market)
        out[:, 6] = ratio((now - start) / start, volatility * np.sqrt(n))
        out[:, [0, 6]] = np.clip(out[:, [0, 6]], -1.0, 1.0)
        return out

    def _from_high(self, market: BarsBatch) -> tuple[Floats, Floats]:
        every, lengths = market.history("close"), market.lengths
        if lengths.size and lengths.min() < every.shape[1]:
            every = np.where(market.missing(every.shape[1]), -np.inf, every)
        peak = np.maximum.reduce(every, axis=1)
        year = every[:, -self.year_bars :]
        span = np.maximum(np.minimum(lengths, self.year_bars), 1)
        return (every[:, -1] - peak) / peak, (year.shape[1] - 1 - year.argmax(axis=1)) / span

    def _correlation(self, batch: SignalBatch) -> Floats:
        out = np.full(len(batch), UNCORRELATED)
        rows = batch.has_benchmark.nonzero()[0]
        if not rows.size:
            return out
        own, market, count = self._common_closes(batch, rows)
        first_missing = count == self.window
        own_away, _ = deviations(changes(own), first_missing)
        market_away, _ = deviations(changes(market), first_missing)
        size = np.sqrt(row_sum(own_away * own_away)) * np.sqrt(row_sum(market_away * market_away))
        correlation = np.clip(ratio(row_sum(own_away * market_away), size, UNCORRELATED), -1.0, 1.0)
        out[rows] = np.where(count < self.window, UNCORRELATED, correlation)
        return out

    def _common_closes(self, batch: SignalBatch, rows: NDArray[np.int64]) -> tuple[Floats, Floats, NDArray[np.int64]]:
        """The newest window + 1 closes of symbol and market at common times, and how many there are of them."""
        wanted, reach = self.window + 1, self.calendar_bars
        place = batch.market_row[rows]
        early = 2 * np.arange(reach, dtype=np.int64) - 2**62  # padding that meets neither a time nor another padding
        own_times = batch.bars.times(reach, early)[rows]
        market_times = batch.market.times(reach, early + 1)[place]
        own = batch.bars.tail("close", reach)[rows]
        market = batch.market.tail("close", reach)[place]
        left, right = own[:, -wanted:].copy(), market[:, -wanted:].copy()
        count = np.full(rows.size, wanted)
        apart = (own_times[:, -wanted:] != market_times[:, -wanted:]).any(axis=1).nonzero()[0]
        if apart.size:
            at_own, at_market, count[apart] = _newest_common(own_times[apart], market_times[apart], wanted)
            left[apart] = np.take_along_axis(own[apart], at_own, axis=1)
            right[apart] = np.take_along_axis(market[apart], at_market, axis=1)
        return left, right, count


def _newest_common(
    left: Instants, right: Instants, wanted: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
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
