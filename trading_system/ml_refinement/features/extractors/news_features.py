"""The mood of the news about a symbol in the hours before its signal."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Self, cast

import numpy as np

from trading_system.ml_refinement.config import FeatureConfig
from trading_system.ml_refinement.features.extractors.base_extractor import BaseFeatureExtractor, FeatureDefinition
from trading_system.ml_refinement.features.extractors.batch import SignalBatch
from trading_system.ml_refinement.features.extractors.inputs import request_of_news
from trading_system.ml_refinement.features.extractors.news_item import NewsItem
from trading_system.ml_refinement.features.extractors.technical_features import checked_windows
from trading_system.ml_refinement.features.extractors.windows import ratio
from trading_system.ml_refinement.typing import FloatArray, IntArray

__all__ = ["NewsFeatures", "NewsItem"]

_HOUR_US = 3_600_000_000
_define = partial(FeatureDefinition, category="news", dependencies=("news",))


class NewsFeatures(BaseFeatureExtractor):
    """Features of the items published in (t - lookback, t], weighted by their relevance.

    Without any such item, or without relevance, each has its neutral value. The order of the items does not matter.
    """

    name = "news_features"
    category = "news"
    default_lookback_hours = lookback_hours = 48
    _by_default = True
    half_life_hours = 12.0

    def __init__(self, lookback_hours: int | None = None) -> None:
        """News of the last `lookback_hours`; None leaves the choice to the configuration."""
        self._by_default = lookback_hours is None
        hours = self.default_lookback_hours if lookback_hours is None else lookback_hours
        (self.lookback_hours,) = checked_windows("news_lookback_hours", [hours], 1)

    def configured(self, config: FeatureConfig) -> Self:
        """With the configuration's `news_lookback_hours`, where none was given."""
        if not self._by_default:
            return self
        (hours,) = checked_windows("news_lookback_hours", [config.news_lookback_hours], 1)
        return self._reshaped(lookback_hours=hours, _by_default=False)

    @cached_property
    def definitions(self) -> tuple[FeatureDefinition, ...]:
        """Eight features."""
        hours = self.lookback_hours
        share, mood = partial(_define, low=0, high=1), partial(_define, low=-1, high=1)
        return (
            share("news_any", f"1 when there was news in the last {hours} hours"),
            _define("news_count", "how many items", low=0),
            mood("news_sentiment", "mean sentiment, weighted by relevance"),
            mood(
                "news_sentiment_recent", f"the same, with half the weight every {self.half_life_hours:g} hours of age"
            ),
            share("news_dispersion", "standard deviation of the sentiment, weighted by relevance"),
            share("news_share_negative", "share of the relevance that is negative"),
            _define("news_trend", "sentiment of the window's late half minus its early half", low=-2, high=2),
            _define(
                "news_hours_since",
                "hours since the newest item; the whole window without one",
                low=0,
                high=hours,
                neutral=float(hours),
            ),
        )

    def extract(self, news: Sequence[NewsItem] | None, timestamp_us: int) -> dict[str, float]:  # type: ignore[override]
        """The features of the news as of an instant; items from later or too long ago do not count.

        Neutral where an item of before cannot be used.
        """
        return self._one(request_of_news(news, timestamp_us))

    def _extracted(self, batch: SignalBatch, index: int) -> dict[str, float]:
        request = batch.requests[index]
        return self.extract(request.news, request.timestamp_us)

    def compute(self, batch: SignalBatch) -> FloatArray:
        """Values of shape (n_signals, 8)."""
        n, window_us = len(batch), self.lookback_hours * _HOUR_US
        row, age_us, sentiment, relevance = self._items(batch)
        if not row.size:
            return np.repeat(self.neutral_values[None], n, axis=0)
        half_lives = age_us / (self.half_life_hours * _HOUR_US)
        table = np.empty((10, row.size))
        table[0] = 1.0
        table[1] = relevance
        np.multiply(relevance, 0.5**half_lives, out=table[2])
        np.multiply(relevance, 2 * age_us < window_us, out=table[3])
        np.subtract(relevance, table[3], out=table[4])
        np.multiply(table[1:5], sentiment, out=table[5:9])
        np.multiply(relevance, sentiment < 0, out=table[9])
        sums = _sums(row, table, n)
        count, all_of, below = sums[0], sums[1], sums[9]
        mood, recent, late_mood, early_mood = ratio(sums[5:9], sums[1:5])
        away = sentiment - mood[row]
        (spread,) = _sums(row, (relevance * away * away)[None], n)
        newest = np.full(n, window_us, dtype=np.int64)
        np.minimum.at(newest, row, age_us)
        out = np.empty((n, 8))
        out[:, 0] = count > 0
        out[:, 1] = count
        out[:, 2] = np.minimum(np.maximum(mood, -1.0), 1.0)
        out[:, 3] = np.minimum(np.maximum(recent, -1.0), 1.0)
        out[:, 4] = np.minimum(np.sqrt(ratio(spread, all_of)), 1.0)
        out[:, 5] = np.minimum(ratio(below, all_of), 1.0)
        out[:, 6] = np.where((sums[3] > 0) & (sums[4] > 0), np.clip(late_mood - early_mood, -2.0, 2.0), 0.0)
        out[:, 7] = newest / _HOUR_US
        return out

    def _items(self, batch: SignalBatch) -> tuple[IntArray, IntArray, FloatArray, FloatArray]:
        """Row, age, sentiment and relevance of every item that counts, in an order of its own within each row."""
        items = [item for request in batch.requests for item in request.news]
        row = np.repeat(np.arange(len(batch)), [len(request.news) for request in batch.requests])
        age_us = batch.timestamp_us[row] - np.array([item.published_us for item in items], dtype=np.int64)
        sentiment = np.array([item.sentiment for item in items], dtype=np.float64)
        relevance = np.array([item.relevance for item in items], dtype=np.float64)
        order = np.lexsort((relevance, sentiment, age_us, row))
        kept = order[(age_us[order] >= 0) & (age_us[order] < self.lookback_hours * _HOUR_US)]
        return row[kept], age_us[kept], sentiment[kept], relevance[kept]


def _sums(row: IntArray, table: FloatArray, n: int) -> FloatArray:
    """Sums of each line of the table over the items of each row, in the items' order: shape (len(table), n)."""
    bins = row + n * np.arange(len(table))[:, None]
    sums = np.bincount(bins.ravel(), table.ravel(), n * len(table)).reshape(len(table), n)
    return cast(FloatArray, sums)
