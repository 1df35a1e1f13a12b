"""What the signal says of itself, as numbers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np

from trading_system.ml_refinement.features.extractors.base_extractor import BaseFeatureExtractor, FeatureDefinition
from trading_system.ml_refinement.features.extractors.batch import SignalBatch
from trading_system.ml_refinement.features.extractors.inputs import request_of_metadata
from trading_system.ml_refinement.features.extractors.signal_metadata import SignalMetadata
from trading_system.ml_refinement.typing import FloatArray

__all__ = ["SignalMetadata", "SignalMetadataFeatures"]

_define = partial(FeatureDefinition, category="signal", low=0)


class SignalMetadataFeatures(BaseFeatureExtractor):
    """Scores, conviction, reward against risk, size, and what kind of signal it is. What is missing is 0."""

    name = "signal_metadata"
    category = "signal"

    @cached_property
    def definitions(self) -> tuple[FeatureDefinition, ...]:
        """Twelve features."""
        share = partial(_define, high=1)
        prices = ("entry_price", "target_price", "stop_price")
        return (
            *(
                share(name, f"the signal's {name.replace('_', ' ')} / 10", dependencies=(name,))
                for name in ("technical_score", "news_score", "combined_score")
            ),
            *(
                share(f"conviction_{level}", f"1 when conviction is {level}", dependencies=("conviction",))
                for level in ("high", "medium", "low")
            ),
            _define("risk_reward_ratio", "|target - entry| / |entry - stop|; 0 without risk", dependencies=prices),
            _define("position_size", "size of the position in percent", dependencies=("position_size_pct",)),
            *(
                share(f"is_{kind}", f"1 when the asset class is {kind}", dependencies=("asset_class",))
                for kind in ("equity", "crypto")
            ),
            *(
                share(f"is_{kind}", f"1 when the signal type contains {kind}", dependencies=("signal_type",))
                for kind in ("breakout", "momentum")
            ),
        )

    def extract(self, signal_data: Mapping[str, Any]) -> dict[str, float]:
        """The features of one signal's metadata.

        Args:
            signal_data: the fields of `SignalMetadata`; missing ones and None are allowed. One that cannot be meant
                (text where a number belongs, a score of 11) counts as missing.
        """
        return self._one(request_of_metadata(signal_data))

    def compute(self, batch: SignalBatch) -> FloatArray:
        """Values of shape (n_signals, 12)."""
        # Of the few numbers of a signal Python makes a row sooner than numpy makes twelve columns.
        return np.array([_row(one) for one in batch.metadata], dtype=np.float64).reshape(-1, 12)


def _row(one: SignalMetadata) -> tuple[float, ...]:
    high, medium, low, *kinds = _flags(one.conviction, one.asset_class, one.signal_type)
    entry, target, stop = one.entry_price or 0.0, one.target_price or 0.0, one.stop_price or 0.0
    unknown = entry <= 0 or target <= 0 or stop <= 0
    risk = 0.0 if unknown else abs(entry - stop)
    return (
        (one.technical_score or 0.0) / 10,
        (one.news_score or 0.0) / 10,
        (one.combined_score or 0.0) / 10,
        high,
        medium,
        low,
        0.0 if risk <= 0 else abs(target - entry) / risk,
        one.position_size_pct or 0.0,
        *kinds,
    )


@lru_cache(maxsize=1024)
def _flags(conviction: str | None, asset_class: str | None, signal_type: str | None) -> tuple[float, ...]:
    level, asset, kind = ((text or "").lower() for text in (conviction, asset_class, signal_type))
    flags = (
        *(level == known for known in ("high", "medium", "low")),
        *(asset == known for known in ("equity", "crypto")),
        *(known in kind for known in ("breakout", "momentum")),
    )
    return tuple(map(float, flags))
