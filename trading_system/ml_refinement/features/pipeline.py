"""From signals to rows of numbers: the sets of features, and one computation for live, backfill and training."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
from loguru import logger

from trading_system.ml_refinement.bar_limits import PRICES
from trading_system.ml_refinement.config import FeatureConfig, FeatureSet, FeatureVector
from trading_system.ml_refinement.features.extractors.base_extractor import (
    BaseFeatureExtractor,
    ExtractedFeatures,
    FeatureDefinition,
)
from trading_system.ml_refinement.features.extractors.batch import FeatureRequest, SignalBatch
from trading_system.ml_refinement.features.extractors.inputs import request_from
from trading_system.ml_refinement.features.extractors.news_item import NewsItem
from trading_system.ml_refinement.features.extractors.provided_features import ProvidedFeatures
from trading_system.ml_refinement.features.extractors.signal_metadata import SignalMetadata
from trading_system.ml_refinement.features.feature_registry import FeatureRegistry, UnknownFeatureError
from trading_system.ml_refinement.features.scaling import FeatureScaler
from trading_system.ml_refinement.provided_limits import PROVIDED_FEATURES
from trading_system.ml_refinement.storage.times import Clock, utc_now, utc_text
from trading_system.ml_refinement.typing import BoolArray, FloatArray

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FeatureBatch", "FeaturePipeline", "FeatureRequest", "FeatureScaler", "NewsItem", "SignalMetadata"]

_SETS = {
    FeatureSet.MINIMAL: ("trend_features", "signal_metadata"),
    FeatureSet.STANDARD: ("trend_features", "momentum_features", "volatility_features", "signal_metadata"),
}
#: Fewer, and the calls cost more than what they compute; more, and the arrays fall out of the processor's cache.
_ROWS_AT_ONCE = 128
_COLUMNS = frozenset({*PRICES, "volume"})
_NOT_SHAPING = ("scale_features", "scaling_method", "provided", "provided_neutral")


@dataclass(frozen=True, slots=True)
class FeatureBatch:
    """Rows of features.

    `values` has shape (n_signals, n_features), all finite, columns as `FeaturePipeline.names`. Where `complete` is
    False an extractor failed, or something is wrong with what the signal was made from (`FeatureRequest.flaws`), and
    features are neutral: fit to be scored, not to be trained on. `failures` says, by extractor, on how many signals it
    failed, and how on the first; and the same by input ("bars", "benchmark", "metadata", "news", "features").
    """

    values: FloatArray
    complete: BoolArray
    failures: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Part:
    """An extractor and which of its columns are wanted."""

    extractor: BaseFeatureExtractor
    columns: list[int]

    @property
    def definitions(self) -> list[FeatureDefinition]:
        definitions = self.extractor.column_definitions
        return [definitions[column] for column in self.columns]

    def inputs(self, one: FeatureDefinition) -> tuple[str, ...]:
        return self.extractor.inputs(one)


class FeaturePipeline:
    """Runs the extractors of a set over batches of signals.

    Values are as the extractors give them, unscaled and unclipped: `scale_features` is for whoever fits a model, since
    scaling is fitted on training rows only, and the store keeps what was measured.

    Attributes:
        names: the features in the order of the columns.
        feature_version: changes when an extractor's version, or the configuration that shapes features, does.
        lookback_bars: bars back that any feature looks; those that look at all bars given are not counted.
        reads_bars: whether any feature is made from bars, of the symbol or of its benchmark.
    """

    def __init__(
        self, config: FeatureConfig | None = None, registry: FeatureRegistry | None = None, *, clock: Clock = utc_now
    ) -> None:
        """Choose the extractors and give them the configuration's windows.

        Raises:
            UnknownFeatureError: `custom_features` names what is not there; lists near names.
            TakenNameError: `provided` names a feature or a family that there is already.
            ValueError: a window is no window, or nothing is chosen.
        """
        self.config = config or FeatureConfig()
        self.registry = (registry or FeatureRegistry()).with_provided(self.config)
        self._clock = clock
        self._extractors = [extractor.configured(self.config) for extractor in self._get_extractors_for_set()]
        self._parts = [_part(extractor, self.config) for extractor in self._extractors]
        self.names: tuple[str, ...] = tuple(d.name for part in self._parts for d in part.definitions)
        self.feature_version = _version(self.config, self._parts)
        self._inputs = {_kind(name) for part in self._parts for one in part.definitions for name in part.inputs(one)}
        self.reads_bars = not self._inputs.isdisjoint(("bars", "benchmark"))
        self.lookback_bars = max(self._widths.values(), default=0)
        # A definition has one lookback for all its columns; what is truly read of each, the first batch shows.
        self._expected = self._widths

    def _get_extractors_for_set(self) -> list[BaseFeatureExtractor]:
        """The extractors of the configured set; a subclass may choose otherwise.

        Raises:
            UnknownFeatureError: one that is named is not registered.
            ValueError: a custom set is empty.
        """
        config, registry = self.config, self.registry
        if config.feature_set in _SETS:
            names = _SETS[config.feature_set]
            return [registry.get(name) for name in (*names, *([PROVIDED_FEATURES] if config.provided else []))]
        if config.feature_set == FeatureSet.EXTENDED:
            return [one for one in registry.get_all() if config.include_news_features or one.category != "news"]
        return _custom(config, registry)

    def get_feature_names(self) -> list[str]:
        """The features in the order of the columns."""
        return list(self.names)

    def get_feature_count(self) -> int:
        """How many features a row has."""
        return len(self.names)

    def definitions(self) -> tuple[FeatureDefinition, ...]:
        """The definitions in the order of the columns."""
        return tuple(definition for part in self._parts for definition in part.definitions)

    def extract_batch(self, requests: Sequence[FeatureRequest]) -> FeatureBatch:
        """The rows of many signals, each as of its own time and independent of the others.

        An extractor that raises, or gives a value that is not finite, makes that signal's row incomplete and nothing
        else.
        """
        values, errors = self._extracted(requests)
        complete = np.ones(len(requests), dtype=bool)
        for failed in errors.values():
            complete[list(failed)] = False
        return FeatureBatch(values, complete, {name: _told(failed, requests) for name, failed in errors.items()})

    def _extracted(self, requests: Sequence[FeatureRequest]) -> tuple[FloatArray, dict[str, dict[int, str]]]:
        """The rows, and by extractor or input, on which row it failed and how."""
        values = np.empty((len(requests), len(self.names)))
        errors: dict[str, dict[int, str]] = {}
        for start in range(0, len(requests), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            for name, failed in self._fill(values[rows], requests[rows]).items():
                errors.setdefault(name, {}).update({start + row: error for row, error in failed.items()})
        return values, errors

    def _fill(self, out: FloatArray, requests: Sequence[FeatureRequest]) -> dict[str, dict[int, str]]:
        """Write the rows of these signals, and say which extractor failed on which row, and how."""
        batch = SignalBatch(requests)
        for column, width in self._expected.items():
            batch.bars.expect(column, width)
        failures: dict[str, dict[int, str]] = {}
        for row, flaws in batch.flawed:
            for what, said in flaws.said.items():
                if what in self._inputs:
                    failures.setdefault(what, {})[row] = said
        place = 0
        for part in self._parts:
            block, errors = _evaluated(part.extractor, batch)
            wanted = len(part.columns)
            out[:, place : place + wanted] = block if wanted == block.shape[1] else block[:, part.columns]
            place += wanted
            if errors:
                failures[part.extractor.name] = errors
        asked = batch.bars.asked
        self._expected = {column: min(width, asked.get(column, width)) for column, width in self._widths.items()}
        return failures

    def extract_features(
        self,
        signal_id: str,
        ohlcv_data: pd.DataFrame,
        signal_metadata: Mapping[str, Any],
        benchmark_data: pd.DataFrame | None = None,
        *,
        as_of: datetime | None = None,
        news: Sequence[NewsItem] | None = (),
    ) -> ExtractedFeatures:
        """The features of one signal: `extract_batch` of one, as a dictionary of finite Python floats, unscaled.

        What cannot be used of them is taken out, the features made from it are neutral, and `incomplete` of the result
        says why: where the door for events would refuse. Nothing is trained on such a vector.

        Args:
            signal_id: for messages.
            ohlcv_data: bars of the symbol, as `Bars.from_frame` takes them; other columns are for one's own extractors.
            signal_metadata: fields of `SignalMetadata`, any of them missing, and whatever extractors of one's own read.
            benchmark_data: bars of the benchmark. Frames that have no times meet at their newest rows.
            as_of: the signal's time, naive means UTC; without it the close of the last bar.
            news: items about the symbol.

        Raises:
            BarsError: one of the frames has times and the other has none, or one has whole numbers of another unit.
        """
        request = request_from(signal_id, ohlcv_data, signal_metadata, benchmark_data, as_of=as_of, news=news)
        values, errors = self._extracted([request])
        reasons = "; ".join(f"{what}: {failed[0]}" for what, failed in errors.items())
        if reasons:
            logger.warning("features of {} are incomplete: {}", signal_id, reasons)
        features = dict(zip(self.names, values[0].tolist(), strict=True))
        if self.config.scale_features:
            features = self._scale_features(features)
        return ExtractedFeatures(features.items(), incomplete=reasons)

    def _scale_features(self, features: dict[str, float]) -> dict[str, float]:
        """For a subclass to scale what `extract_features` gives; here nothing is.

        Scaling is fitted on training rows and belongs to the model; the store holds what was measured.
        """
        return features

    def create_feature_vector(
        self, signal_id: str, features: dict[str, float], target: float | None = None, timestamp: str | None = None
    ) -> FeatureVector:
        """a vector for the store, of this pipeline's version, as complete as what it gave; without a timestamp: now."""
        won = None if target is None else int(target > 0)
        incomplete = features.incomplete if isinstance(features, ExtractedFeatures) else ""
        at = timestamp or utc_text(self._clock())
        return FeatureVector(signal_id, at, features, target, won, incomplete, self.feature_version)

    @cached_property
    def _widths(self) -> dict[str, int]:
        """How many bars of each column are read at most, so that each is gathered once."""
        widths: dict[str, int] = {}
        for definition in self.definitions():
            for column in _COLUMNS.intersection(definition.dependencies):
                widths[column] = max(widths.get(column, 0), definition.lookback_bars or 0)
        return widths


def _custom(config: FeatureConfig, registry: FeatureRegistry) -> list[BaseFeatureExtractor]:
    """The extractors that are named, and those of single features that are; in the registry's order."""
    shaped = [extractor.configured(config) for extractor in registry.get_all()]
    known = [name for extractor in shaped for name in (extractor.name, *extractor.feature_names)]
    for name in config.custom_features:
        if name == PROVIDED_FEATURES and name not in known:
            raise ValueError(f"custom_features: {name} is asked for, and provided lists none")
        if name not in known:
            raise UnknownFeatureError(name, known)
    chosen = [one for one in shaped if not {one.name, *one.feature_names}.isdisjoint(config.custom_features)]
    news = next((one for one in chosen if one.category == "news" and not config.include_news_features), None)
    if news is not None:
        asked = _part(news, config).definitions[0].name
        raise ValueError(f"custom_features: {asked} is asked for and include_news_features is off")
    if not chosen:
        raise ValueError("custom_features: names no extractor and no feature, and feature_set is custom")
    return chosen


def _part(extractor: BaseFeatureExtractor, config: FeatureConfig) -> _Part:
    """The columns of an extractor: all of them, or the named ones where a custom set names some and not the whole."""
    names = extractor.feature_names
    every = list(range(len(names)))
    if config.feature_set != FeatureSet.CUSTOM or extractor.name in config.custom_features:
        return _Part(extractor, every)
    return _Part(extractor, [at for at in every if names[at] in config.custom_features] or every)


def _version(config: FeatureConfig, parts: list[_Part]) -> str:
    shape = {name: value for name, value in asdict(config).items() if name not in _NOT_SHAPING}
    if config.provided:  # so that versions of before there were any stay as they are
        shape["provided"] = ProvidedFeatures.of(config).shape
    extractors = [[*_identity(part.extractor), [d.name for d in part.definitions]] for part in parts]
    digest = sha256(json.dumps([shape, extractors], sort_keys=True).encode()).hexdigest()
    return f"{FeatureSet(config.feature_set).value}-{digest[:8]}"


def _identity(extractor: BaseFeatureExtractor) -> list[Any]:
    """What tells values of an extractor from those of another one; those written by hand are seldom numbered."""
    own = type(extractor)
    return [extractor.name, extractor.version, *([f"{own.__module__}.{own.__qualname__}"] if extractor.by_hand else [])]


def _evaluated(extractor: BaseFeatureExtractor, batch: SignalBatch) -> tuple[FloatArray, dict[int, str]]:
    """The block of values with neutral rows where the extractor failed, and by row how."""
    try:
        values = extractor.evaluate(batch)
    except Exception as error:  # noqa: BLE001  whatever an extractor raises is its failure, not the batch's
        if len(batch) == 1:
            return extractor.neutral_values[None], {0: f"{type(error).__name__}: {error}"}
        return _one_by_one(extractor, batch)
    if math.isfinite(np.add.reduce(values, axis=None)):  # one that is not makes the sum not finite
        return values, {}
    finite = np.isfinite(values)
    if finite.all():
        return values, {}
    bad = np.flatnonzero(~finite.all(axis=1)).tolist()
    names = extractor.feature_names
    errors = {row: f"{names[int(finite[row].argmin())]} is not finite" for row in bad}
    values = values.copy()
    values[bad] = extractor.neutral_values
    return values, errors


def _one_by_one(extractor: BaseFeatureExtractor, batch: SignalBatch) -> tuple[FloatArray, dict[int, str]]:
    """So that a signal an extractor stumbles over takes no other signal with it."""
    single = [_evaluated(extractor, SignalBatch([request])) for request in batch.requests]
    errors = {row: message[0] for row, (_, message) in enumerate(single) if message}
    return np.concatenate([block for block, _ in single]), errors


def _kind(name: str) -> str:
    """Which of a request's inputs a feature that reads this depends on."""
    if name in _COLUMNS:
        return "bars"
    return name if name in ("benchmark", "news", "features") else "metadata"


def _told(errors: Mapping[int, str], requests: Sequence[FeatureRequest]) -> str:
    first = min(errors)
    return f"{len(errors)} of {len(requests)} signals, first {requests[first].signal_id}: {errors[first]}"
