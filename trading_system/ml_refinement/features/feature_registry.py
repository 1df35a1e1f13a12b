"""Which extractors there are."""

from __future__ import annotations

import copy
from difflib import get_close_matches
from typing import ClassVar, Self

from trading_system.ml_refinement.config import FeatureConfig
from trading_system.ml_refinement.features.extractors.base_extractor import BaseFeatureExtractor
from trading_system.ml_refinement.features.extractors.market_features import MarketRegimeFeatures
from trading_system.ml_refinement.features.extractors.news_features import NewsFeatures
from trading_system.ml_refinement.features.extractors.provided_features import ProvidedFeatures
from trading_system.ml_refinement.features.extractors.signal_features import SignalMetadataFeatures
from trading_system.ml_refinement.features.extractors.technical_features import (
    MomentumFeatures,
    TrendFeatures,
    VolatilityFeatures,
)
from trading_system.ml_refinement.provided_limits import PROVIDED_FEATURES

#: What a frame of training rows has beside the features.
_OTHER_COLUMNS = ("signal_id", "r_multiple", "timestamp", "label_time")


class TakenNameError(ValueError):
    """A provided feature is called as something else already is; the message says as what."""


class UnknownFeatureError(KeyError):
    """No extractor and no feature has this name; the message lists the nearest ones."""

    def __init__(self, name: str, known: list[str]) -> None:
        near = get_close_matches(name, known, n=3)
        super().__init__(name)
        self.near = near
        self._text = f"no extractor or feature is called {name!r}" + (f"; near: {', '.join(near)}" if near else "")

    def __str__(self) -> str:
        return self._text


class FeatureRegistry:
    """Extractors by name, in the order of their registration; the product's own are there from the start."""

    DEFAULT_EXTRACTORS: ClassVar[list[type[BaseFeatureExtractor]]] = [
        TrendFeatures,
        MomentumFeatures,
        VolatilityFeatures,
        MarketRegimeFeatures,
        SignalMetadataFeatures,
        NewsFeatures,
    ]

    def __init__(self) -> None:
        self._extractors: dict[str, BaseFeatureExtractor] = {}
        self._register_defaults()

    def _register_defaults(self) -> None:
        for extractor in self.DEFAULT_EXTRACTORS:
            self.register(extractor())

    def register(self, extractor: BaseFeatureExtractor) -> None:
        """Add an extractor, or replace the one of the same name.

        Raises:
            ValueError: another extractor has a feature of the same name, or it names one twice.
        """
        names = extractor.feature_names
        others = {name for other in self.get_all() if other.name != extractor.name for name in other.feature_names}
        taken = sorted(others.intersection(names)) or sorted({name for name in names if names.count(name) > 1})
        if taken:
            raise ValueError(f"{extractor.name}: feature names already taken: {', '.join(taken)}")
        self._extractors[extractor.name] = extractor

    def with_provided(self, config: FeatureConfig) -> Self:
        """This registry, or where the configuration lists provided features, a copy that has them as its last family.

        Raises:
            TakenNameError: a listed name is that of a feature, of a family, or of a column beside them.
        """
        if not config.provided:
            return self
        others = [one.configured(config) for one in self.get_all() if one.name != PROVIDED_FEATURES]
        taken = {name: "feature" for one in others for name in one.feature_names}
        taken |= dict.fromkeys((PROVIDED_FEATURES, *(one.name for one in others)), "family of features")
        taken |= dict.fromkeys(_OTHER_COLUMNS, "column")
        for name in config.provided:
            if name in taken:
                raise TakenNameError(f"there is a {taken[name]} called {name!r} already; choose another name")
        other = copy.copy(self)
        other._extractors = {one.name: self._extractors[one.name] for one in others}
        other._extractors[PROVIDED_FEATURES] = ProvidedFeatures.of(config)
        return other

    def get(self, name: str) -> BaseFeatureExtractor:
        """The extractor of this name.

        Raises:
            UnknownFeatureError: a KeyError that lists near names.
        """
        if name not in self._extractors:
            raise UnknownFeatureError(name, list(self._extractors))
        return self._extractors[name]

    def get_all(self) -> list[BaseFeatureExtractor]:
        """All extractors."""
        return list(self._extractors.values())

    def get_by_category(self, category: str) -> list[BaseFeatureExtractor]:
        """The extractors of a category."""
        return [extractor for extractor in self.get_all() if extractor.category == category]

    def get_all_feature_names(self) -> list[str]:
        """The features of all extractors, in order."""
        return [name for extractor in self.get_all() for name in extractor.feature_names]

    def get_feature_count(self) -> int:
        """How many features all extractors give."""
        return len(self.get_all_feature_names())
