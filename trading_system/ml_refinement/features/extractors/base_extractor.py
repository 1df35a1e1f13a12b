"""What an extractor is: definitions of its features, and one computation over a batch of signals."""

from __future__ import annotations

import copy
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from trading_system.ml_refinement.bar_limits import PRICES
from trading_system.ml_refinement.bars import Bars, frame_at
from trading_system.ml_refinement.config import FeatureConfig
from trading_system.ml_refinement.features.extractors.batch import FeatureRequest, SignalBatch
from trading_system.ml_refinement.features.extractors.inputs import request_at
from trading_system.ml_refinement.features.extractors.signal_metadata import SignalMetadata
from trading_system.ml_refinement.typing import FloatArray, IntArray

if TYPE_CHECKING:
    import pandas as pd


_Limits = tuple[FloatArray, IntArray, int]
_PAIR = "extract", "compute"


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


class ExtractedFeatures(dict[str, float]):
    """The features of one signal by name.

    Attributes:
        incomplete: what was wrong with the data they were made from, where neutral values stand for it; empty where
            nothing was. Such a vector may be scored, and is not to be trained on.
    """

    def __init__(self, values: Iterable[tuple[str, float]] = (), *, incomplete: str = "") -> None:
        super().__init__(values)
        self.incomplete = incomplete


class BaseFeatureExtractor(ABC):
    """A family of features.

    A subclass has a `name` and either `definitions` and `compute` (whole batches, fast) or `feature_names` and
    `extract` (one signal, as plain as can be): each pair is derived from the other. A subclass of a family that has a
    `compute` may have an `extract` or `feature_names` of its own, and these count. Raise `version` when values change:
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
        return tuple(map(self._plain, self.feature_names))

    @property
    def feature_names(self) -> list[str]:
        """Names in the order of the columns."""
        return [definition.name for definition in self.definitions]

    @cached_property
    def column_definitions(self) -> tuple[FeatureDefinition, ...]:
        """The definitions of `feature_names` in their order: the declared ones, and plain ones for other names."""
        declared = {definition.name: definition for definition in self.definitions}
        return tuple(declared.get(name) or self._plain(name) for name in self.feature_names)

    def configured(self, config: FeatureConfig) -> Self:  # noqa: ARG002  for those that have windows
        """This extractor with the windows of `config`, where its constructor was not given any."""
        return self

    def _reshaped(self, **windows: Any) -> Self:
        """A copy with other windows; what was derived of the old ones is forgotten."""
        other = copy.copy(self)
        for name in [name for name in vars(other) if isinstance(getattr(type(other), name, None), cached_property)]:
            del other.__dict__[name]
        for name, window in windows.items():
            setattr(other, name, window)
        return other

    @abstractmethod
    def extract(self, data: Any) -> dict[str, float]:
        """The features of one signal; neutral where what was given cannot be used (see `ExtractedFeatures`)."""

    def compute(self, batch: SignalBatch) -> FloatArray:
        """Values of shape (n_signals, n_features), each row from its own signal only.

        Where a signal has fewer than `min_bars` bars any value may stand, the caller puts the neutral one. Otherwise
        NaN is no value of a feature: what can be missing has a neutral value to stand for it.

        Raises:
            FeatureError: `extract`, from which this is derived, gave other names than `feature_names`.
        """
        return self._by_extract(batch)

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
        if self.by_hand:
            return self._with_neutral(batch, self._by_extract, self.column_definitions, self._limits)
        return self._with_neutral(batch, self.compute, self.column_definitions, self._limits)

    def _with_neutral(
        self,
        batch: SignalBatch,
        compute: Callable[[SignalBatch], FloatArray],
        definitions: tuple[FeatureDefinition, ...],
        limits: _Limits,
    ) -> FloatArray:
        with np.errstate(all="ignore"):  # what is not finite is found by looking at the result
            values = np.asarray(compute(batch), dtype=np.float64)
        neutral, min_bars, longest = limits
        if values.shape != (len(batch), neutral.size):
            raise FeatureError(f"{self.name} gave shape {values.shape}, not {(len(batch), neutral.size)}")
        if longest and self.shortest_history(batch) < longest:
            lengths = self.history_lengths(batch)
            values = np.where(lengths[:, None] < min_bars, neutral, values)
        if batch.flawed:
            values = values.copy()
            for row, flaws in batch.flawed:
                made_of = [flaws.reach(self.inputs(one), one.lookback_bars) for one in definitions]
                values[row] = np.where(made_of, neutral, values[row])
        return values

    def inputs(self, one: FeatureDefinition) -> tuple[str, ...]:
        """What a feature reads: bar columns, "benchmark", "news", fields of the signal; all it may, if it is silent."""
        return one.dependencies or self._undeclared

    @property
    def _undeclared(self) -> tuple[str, ...]:
        by_extract = self.by_hand or type(self).compute is BaseFeatureExtractor.compute
        return ("metadata",) if by_extract else (*PRICES, "volume", "benchmark", "metadata", "news")

    def validate_output(self, features: Mapping[str, float]) -> bool:
        """Are these exactly this extractor's features, and all finite?"""
        return set(features) == set(self.feature_names) and all(map(math.isfinite, features.values()))

    @property
    def neutral_values(self) -> FloatArray:
        """What stands for features that could not be computed, shape (n_features,)."""
        return self._limits[0]

    @cached_property
    def _limits(self) -> _Limits:
        return _limits(self.column_definitions)

    @cached_property
    def by_hand(self) -> bool:
        """Is it `extract` that counts: does it come from a class nearer to this one than `compute` does?"""
        classes = type(self).__mro__
        extract, compute = (next(at for at, one in enumerate(classes) if name in vars(one)) for name in _PAIR)
        return extract < compute

    def _plain(self, name: str) -> FeatureDefinition:
        return FeatureDefinition(name, name, self.category, lookback_bars=None)

    def _one(self, request: FeatureRequest) -> ExtractedFeatures:
        """What the family computes of one signal: also where a subclass has an `extract` that asks for it."""
        definitions = self.definitions
        limits = _limits(definitions)
        row = self._with_neutral(SignalBatch([request]), self.compute, definitions, limits)[0]
        names = [definition.name for definition in definitions]
        wrong = [f"{name}: {said}" for name, said in request.flaws.said.items()] if request.flaws else []
        if not np.isfinite(row).all():
            wrong.append(f"{names[int(np.isfinite(row).argmin())]} is not finite")
            row = limits[0]
        return ExtractedFeatures(zip(names, row.tolist(), strict=True), incomplete="; ".join(wrong))

    def _extracted(self, batch: SignalBatch, index: int) -> dict[str, float]:
        """`extract` of one signal of a batch."""
        return self.extract(batch.requests[index].signal())

    def _by_extract(self, batch: SignalBatch) -> FloatArray:
        names = self.feature_names
        values = np.empty((len(batch), len(names)))
        for index, out in enumerate(values):
            features = self._extracted(batch, index)
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
                `Bars.from_frame` takes them. What cannot be used of it, or all of it, gives neutral values.
            current_idx: position of the current bar, negative from the end.

        Raises:
            BarsError: the frame's times are whole numbers of another unit than microseconds.
            IndexError: there is no such bar in a frame that has bars.
        """
        return self._one(request_at(ohlcv, current_idx))

    @property
    def _undeclared(self) -> tuple[str, ...]:
        return (*PRICES, "volume", *(["benchmark"] if self.category == "market" else []))

    def compute(self, batch: SignalBatch) -> FloatArray:
        """Values of shape (n_signals, n_features).

        Raises:
            TypeError: the subclass has neither this nor `extract`.
            FeatureError: its `extract` gave other names than `feature_names`.
        """
        if type(self).extract is OHLCVExtractor.extract:
            raise TypeError(f"{type(self).__name__} has neither compute nor extract")
        return self._by_extract(batch)

    def _extracted(self, batch: SignalBatch, index: int) -> dict[str, float]:
        """`extract` of the frame that was given, with all of its columns, or of one made of the bars, as of the signal.

        An extractor of the category `market` that takes `benchmark_data` gets the benchmark's, where there is one.
        """
        request = batch.requests[index]
        ohlcv = _frame(request, "ohlcv")
        frame = batch.bars.row(index).to_frame() if ohlcv is None else ohlcv
        if request.benchmark is None or self.category != "market" or not _takes_benchmark(type(self)):
            return self.extract(frame)
        benchmark = _frame(request, "benchmark")
        if benchmark is None:
            benchmark = request.benchmark.as_of(request.timestamp_us).to_frame()
        return self.extract(frame, benchmark_data=benchmark)  # type: ignore[call-arg]

    def _figure(self, name: str, bars: Bars, market: Bars | None = None, **windows: Any) -> float:
        """A declared feature as of the newest bar, with these windows; its neutral value where it has none."""
        shaped = self._reshaped(**windows)
        definitions = shaped.definitions
        batch = SignalBatch([FeatureRequest("", 0, SignalMetadata(), bars, market)])
        values = shaped._with_neutral(batch, shaped.compute, definitions, _limits(definitions))[0]
        at = next(at for at, definition in enumerate(definitions) if definition.name == name)
        return float(values[at]) if math.isfinite(values[at]) else definitions[at].neutral

    def _safe_get(self, series: pd.Series[Any], idx: int, default: float = 0.0) -> float:
        """The value at a position as a float; `default` where there is none or it is missing."""
        import pandas as pd  # whoever has a series has loaded it

        try:
            value = series.iloc[idx]
        except (IndexError, KeyError):
            return default
        return default if pd.isna(value) else float(value)


def _frame(request: FeatureRequest, name: Literal["ohlcv", "benchmark"]) -> pd.DataFrame | None:
    """The frame that was given, without what came after the signal."""
    frame: pd.DataFrame | None = None if request.given is None else getattr(request.given, name)
    return None if frame is None else frame_at(frame, request.timestamp_us)


@cache
def _takes_benchmark(extractor: type[OHLCVExtractor]) -> bool:
    taken = inspect.signature(extractor.extract).parameters
    return "benchmark_data" in taken or any(one.kind is one.VAR_KEYWORD for one in taken.values())


def _limits(definitions: tuple[FeatureDefinition, ...]) -> _Limits:
    """Neutral values and bars needed, shape (n_features,) each, and the most bars that are needed."""
    neutral = np.array([definition.neutral for definition in definitions], dtype=np.float64)
    min_bars = np.array([definition.min_bars for definition in definitions], dtype=np.int64)
    return neutral, min_bars, int(min_bars.max(initial=0))
