"""The specification's protected methods of the families, for subclasses: one figure of a series or a frame.

Each is the feature of that name with other windows, so that there is no second computation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trading_system.ml_refinement.bars import Bars
from trading_system.ml_refinement.features.extractors.base_extractor import OHLCVExtractor
from trading_system.ml_refinement.features.extractors.batch import BarsBatch
from trading_system.ml_refinement.features.extractors.windows import average_true_range

if TYPE_CHECKING:
    import pandas as pd


class _OfSeries(OHLCVExtractor):
    def _calculate_atr(self, ohlcv: pd.DataFrame, period: int) -> float:
        """Average true range in price units; 0 with fewer bars."""
        bars = _bars(ohlcv["close"], ohlcv["high"], ohlcv["low"])
        return float(np.nan_to_num(average_true_range(BarsBatch([bars], [len(bars)]), period)[0]))


class TrendOfSeries(_OfSeries):
    """Of the family of trends."""

    def _calculate_trend_strength(self, ohlcv: pd.DataFrame, period: int) -> float:
        return self._figure("trend_strength", _bars(ohlcv["close"]), line_bars=period)

    def _count_higher_highs(self, high: pd.Series[Any], lookback: int) -> float:
        return self._figure("higher_highs", _bars(high), count_bars=lookback)

    def _count_lower_lows(self, low: pd.Series[Any], lookback: int) -> float:
        return self._figure("lower_lows", _bars(low), count_bars=lookback)


class MomentumOfSeries(OHLCVExtractor):
    """Of the family of momentum; `_calculate_rsi` is 0 to 100."""

    def _calculate_rsi(self, close: pd.Series[Any], period: int) -> float:
        return 100 * self._figure("rsi_14", _bars(close), rsi_bars=period)

    def _calculate_divergence(self, ohlcv: pd.DataFrame, period: int) -> float:
        return self._figure("momentum_divergence", _bars(ohlcv["close"]), divergence_bars=period)

    def _calculate_acceleration(self, close: pd.Series[Any], period: int) -> float:
        return self._figure("acceleration", _bars(close), acceleration_bars=period)


class VolatilityOfSeries(_OfSeries):
    """Of the family of volatility."""

    def _vol_percentile(self, close: pd.Series[Any], short_period: int, long_period: int) -> float:
        return self._figure("volatility_percentile", _bars(close), window=short_period, year_bars=long_period)

    def _vol_trend(self, close: pd.Series[Any], period: int) -> float:
        return self._figure("volatility_trend", _bars(close), window=period)


class MarketOfSeries(OHLCVExtractor):
    """Of the family of the market's regime."""

    def _calculate_trend(self, close: pd.Series[Any], period: int) -> float:
        return self._figure("market_trend", _bars(close), trend_bars=period)

    def _calculate_breadth_proxy(self, close: pd.Series[Any], period: int) -> float:
        return self._figure("market_breadth", _bars(close), window=period)

    def _calculate_correlation_regime(
        self, symbol_close: pd.Series[Any], market_close: pd.Series[Any], period: int
    ) -> float:
        """Both aligned at their newest bar."""
        return self._figure("correlation_regime", _bars(symbol_close), _bars(market_close), window=period)

    def _calculate_vol_regime(self, close: pd.Series[Any], period: int) -> float:
        return self._figure("volatility_regime", _bars(close), window=period)

    def _calculate_drawdown(self, close: pd.Series[Any]) -> float:
        return self._figure("drawdown_depth", _bars(close))

    def _days_from_high(self, close: pd.Series[Any], lookback: int) -> float:
        return self._figure("days_from_high", _bars(close), year_bars=lookback)

    def _calculate_rally_strength(self, close: pd.Series[Any], period: int) -> float:
        return self._figure("rally_strength", _bars(close), window=period)


def _bars(close: pd.Series[Any], high: pd.Series[Any] | None = None, low: pd.Series[Any] | None = None) -> Bars:
    """Bars of these prices, the newest at time 0."""
    closes = close.to_numpy(dtype=np.float64)
    highs, lows = (closes if one is None else one.to_numpy(dtype=np.float64) for one in (high, low))
    return Bars(np.arange(1 - len(closes), 1), closes, highs, lows, closes, np.zeros(len(closes)))
