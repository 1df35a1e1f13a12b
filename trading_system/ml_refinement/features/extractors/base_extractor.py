"""What an extractor is: definitions of its features, and one computation over a batch of signals."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from trading_system.ml_refinement.bars import Bars
from trading_system.ml_refinement.config import FeatureConfig
from trading_system.ml_refinement.features.extractors.batch import FeatureRequest, SignalBatch
from trading_system.ml_refinement.features.extractors.signal_metadata import SignalMetadata
from trading_system.ml_refinement.typing import FloatArray, IntArray

if TYPE_CHECKING:
    import pandas as pd


class FeatureError(ValueError):
    """An extractor gave something that is no feature value: a wrong shape, or a number that is not finite."""


@dataclass(frozen=True, slots=True)
class FeatureDefinition:
    """What one feature means and what its values can be.

    With fewer than `min_bars` bars its value is `neutral`. It depends on the newest `lookback_bars` bars at most, or on
    all bars given where that is None. `dependencies` name its inputs: bar columns, "benchmark", "news", or fields of
    the signal's metadata.
    """

    name: str
    meaning: str
    category: str = "general"
    low: float = -math.inf
    high: float = math.inf
    neutral: float = 0.0
    min_bars: int = 0
    lookback_bars: int | None = 0
    dependencies: tuple[str, ...] = ()


class BaseFeatureExtractor(ABC):
    """A family of features.

    A subclass has a `name` and either `definitions` and `compute` (whole batches, fast) or `feature_names` and
    `extract` (one signal, as plain as can be): each pair is derived from the other. Raise `version` when values change:
    it is part of the feature version, so that old and new values are never mixed.
    """

    version: int = 1

    @property
    @abstractmethod
    def name(self) -> str:
        """Unique among registered extractors."""

    @property
    def category(self) -> str:
        """`technical`, `market`, `signal`, `news`, or one's own."""
        return "general"

    @property
    def definitions(self) -> tuple[FeatureDefinition, ...]:
        """The features in the order of their columns.

        Raises:
            TypeError: the subclass declares neither these nor `feature_names`.
        """
        if type(self).feature_names is BaseFeatureExtractor.feature_names:
            raise TypeError(f"{type(self).__name__} declares neither definitions nor feature_names")
        return tuple(FeatureDefinition(n, n, self.category, lookback_bars=None) for n in self.feature_names)

    @property
    def feature_names(self) -> list[str]:
        """Names in the order of the columns."""
        return [definition.name for definition in self.definitions]

    def configured(self, config: FeatureConfig) -> Self:  # noqa: ARG002  for those that have windows
        """This extractor with the windows of `config`, where its constructor was not given any."""
        return self

    @abstractmethod
    def extract(self, data: Any) -> dict[str, float]:
        """The features of one signal.

        Raises:
            FeatureError: a value is not finite.
        """

    def compute(self, batch: SignalBatch) -> FloatArray:
        """Values of shape (n_signals, n_features), each row from its own signal only.

        Where a signal has fewer than `min_bars` bars any value may stand, the caller puts the neutral one. Otherwise
        NaN is no value of a feature: what can be missing has a neutral value to stand for it.

        Raises:
            FeatureError: `extract`, from which this is derived, gave other names than `feature_names`.
        """
        return self._by_extract(batch, [metadata._asdict() for metadata in batch.metadata])

    def history_lengths(self, batch: SignalBatch) -> IntArray:
        """How many bars each signal has of those that `min_bars` counts, shape (n_signals,)."""
        return batch.bars.lengths

    def shortest_history(self, batch: SignalBatch) -> int:
        """The least of `history_lengths`."""
        return batch.bars.shortest

    def evaluate(self, batch: SignalBatch) -> FloatArray:
        """`compute`, with the neutral value wherever the history is too short: shape (n_signals, n_features).

        What is not finite stays as it is, for the caller to find.

        Raises:
            FeatureError: the result has another shape than (n_signals, n_features).
        """
        with np.errstate(all="ignore"):  # what is not finite is found by looking at the result
            values = np.asarray(self.compute(batch), dtype=np.float64)
        neutral, min_bars, longest = self._limits
        if values.shape != (len(batch), neutral.size):
            raise FeatureError(f"{self.name} gave shape {values.shape}, not {(len(batch), neutral.size)}")
        if longest and self.shortest_history(batch) < longest:
            lengths = self.history_lengths(batch)
            values = np.where(lengths[:, None] < min_bars, neutral, values)
        return values

    def validate_output(self, features: Mapping[str, float]) -> bool:
        """Are these exactly this extractor's features, and all finite?"""
        return set(features) == set(self.feature_names) and all(map(math.isfinite, features.values()))

    @property
    def neutral_values(self) -> FloatArray:
        """What stands for features that could not be computed, shape (n_features,)."""
        return self._limits[0]

    @cached_property
    def _limits(self) -> tuple[FloatArray, IntArray, int]:
        definitions = self.definitions
        neutral = np.array([definition.neutral for definition in definitions], dtype=np.float64)
        min_bars = np.array([definition.min_bars for definition in definitions], dtype=np.int64)
        return neutral, min_bars, int(min_bars.max(initial=0))

    def _one(self, request: FeatureRequest) -> dict[str, float]:
        row = self.evaluate(SignalBatch([request]))[0]
        if not np.isfinite(row).all():
            bad = self.feature_names[int(np.isfinite(row).argmin())]
            raise FeatureError(f"{self.name} gave a value that is not finite: {bad}")
        return dict(zip(self.feature_names, row.tolist(), strict=True))

    def _by_extract(self, batch: SignalBatch, rows: list[Any]) -> FloatArray:
        names = self.feature_names
        values = np.empty((len(batch), len(names)))
        for out, data in zip(values, rows, strict=True):
            features = self.extract(data)
            if set(features) != set(names):
                raise FeatureError(f"{self.name} gave {sorted(features)}, not {sorted(names)}")
            out[:] = [features[name] for name in names]
        return values


class OHLCVExtractor(BaseFeatureExtractor):
    """A family of features of the symbol's bars. `compute` reads `batch.bars.tail(column, n_bars)`."""

    def extract(self, ohlcv: pd.DataFrame, current_idx: int = -1) -> dict[str, float]:
        """The features as of bar `current_idx`; later bars are cut off first.

        Args:
            ohlcv: columns open, high, low, close, volume, where open and close may lie outside low and high; times as
                `Bars.from_frame` takes them.
            current_idx: position of the current bar, negative from the end.

        Raises:
            BarsError: the bars break a rule.
            IndexError: there is no such bar.
            FeatureError: a value is not finite.
        """
        return self._one(request_at(ohlcv, current_idx))

    def compute(self, batch: SignalBatch) -> FloatArray:
        """Values of shape (n_signals, n_features).

        Raises:
            TypeError: the subclass has neither this nor `extract`.
            FeatureError: its `extract` gave other names than `feature_names`.
        """
        if type(self).extract is OHLCVExtractor.extract:
            raise TypeError(f"{type(self).__name__} has neither compute nor extract")
        return self._by_extract(batch, [batch.bars.row(index).to_frame() for index in range(len(batch))])


def request_at(ohlcv: pd.DataFrame, current_idx: int, benchmark: pd.DataFrame | None = None) -> FeatureRequest:
    """A request without metadata, as of the bar at a position of a frame.

    Raises:
        BarsError: the bars break a rule.
        IndexError: there is no such bar (-1 of an empty frame is allowed: a history of no bars).
    """
    # A single family is looked at with frames that no market gives: the specification's closes at 349, its high is 101.
    bars = Bars.from_frame(ohlcv, enclosed=False)
    position = current_idx + len(bars) if current_idx < 0 else current_idx
    if not 0 <= position < len(bars) and (len(bars) or current_idx != -1):
        raise IndexError(f"bar {current_idx} of {len(bars)}")
    market = None if benchmark is None else Bars.from_frame(benchmark, enclosed=False)
    cut = bars.first(position + 1)
    return FeatureRequest("", int(cut.timestamp[-1]) if len(cut) else 0, SignalMetadata(), cut, market)
