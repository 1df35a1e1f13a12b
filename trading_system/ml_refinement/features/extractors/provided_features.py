"""What only the desk knows of a signal: numbers that it sends with it, as features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any, Self

import numpy as np

from trading_system.ml_refinement.config import FeatureConfig
from trading_system.ml_refinement.features.extractors.base_extractor import BaseFeatureExtractor, FeatureDefinition
from trading_system.ml_refinement.features.extractors.batch import SignalBatch
from trading_system.ml_refinement.features.extractors.inputs import request_of_provided
from trading_system.ml_refinement.provided_limits import PROVIDED_FEATURES
from trading_system.ml_refinement.typing import FloatArray


class ProvidedFeatures(BaseFeatureExtractor):
    """The named numbers of a signal's `features`, in the order of the names; each neutral where it is missing.

    A missing number is no fault, as a missing score is none: the vector is complete, and is trained on.
    """

    name = PROVIDED_FEATURES
    category = "signal"

    def __init__(self, names: Sequence[str] = (), neutral: Mapping[str, float] | None = None) -> None:
        """These names, at least one; `neutral` has what stands for a missing number where that is not 0."""
        given = neutral or {}
        self._neutral = {name: float(given.get(name, 0.0)) for name in names}

    @classmethod
    def of(cls, config: FeatureConfig) -> Self:
        """Those that the configuration lists."""
        return cls(config.provided, config.provided_neutral)

    @property
    def shape(self) -> list[tuple[str, float]]:
        """Names and neutral values, in order: what makes values comparable."""
        return list(self._neutral.items())

    @cached_property
    def definitions(self) -> tuple[FeatureDefinition, ...]:
        """A feature a name."""
        return tuple(
            FeatureDefinition(
                name,
                f"`features.{name}` of the signal, as the desk sent it; {neutral:g} where it is missing",
                category=self.category,
                neutral=neutral,
                dependencies=("features",),
            )
            for name, neutral in self._neutral.items()
        )

    def extract(self, signal_data: Mapping[str, Any]) -> dict[str, float]:
        """The features of one signal.

        Args:
            signal_data: has `features`, a mapping of numbers by name, or has not. A number that an event could not
                bring (NaN, text) counts as missing.
        """
        return self._one(request_of_provided(signal_data))

    def compute(self, batch: SignalBatch) -> FloatArray:
        """Values of shape (n_signals, n_names)."""
        pick, neutral = itemgetter(*self._neutral), self._neutral
        nothing = pick(neutral)
        told = [nothing if not one.provided else pick({**neutral, **one.provided}) for one in batch.requests]
        return np.array(told, dtype=np.float64).reshape(-1, len(neutral))
