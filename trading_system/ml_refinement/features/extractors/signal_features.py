"""What the signal says of itself, as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np

from trading_system.ml_refinement.features.extractors.base_extractor import BaseFeatureExtractor, FeatureDefinition
from trading_system.ml_refinement.features.extractors.batch import SignalBatch
from trading_system.ml_refinement.features.extractors.inputs import request_of_metadata
from trading_system.ml_refinement.features.extractors.signal_metadata import SignalMetadata
from trading_system.ml_refinement.features.extractors.windows import ratio
from trading_system.ml_refinement.typing import FloatArray

__all__ = ["SignalMetadata", "SignalMetadataFeatures"]

_NUMBERS = (
    "technical_score",
    "news_score",
    "combined_score",
    "entry_price",
    "target_price",
    "stop_price",
    "position_size_pct",
)
_KINDS = ("conviction", "asset_class", "signal_type")

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
        said = dict(zip(SignalMetadata._fields, zip(*batch.metadata, strict=True), strict=True)) if len(batch) else {}
        numbers = np.array([_numbers(said.get(name, ())) for name in _NUMBERS], dtype=np.float64)
        kinds = list(zip(*(said.get(name, ()) for name in _KINDS), strict=True))
        place = {kind: at for at, kind in enumerate(dict.fromkeys(kinds))}
        flags = np.array([_flags(*kind) for kind in place], dtype=np.float64).reshape(-1, 7)
        out = np.empty((len(batch), 12))
        out[:, :3] = numbers[:3].T / 10
        entry, target, stop = numbers[3:6]
        unknown = (entry <= 0) | (target <= 0) | (stop <= 0)
        out[:, 6] = ratio(np.abs(target - entry), np.where(unknown, 0.0, np.abs(entry - stop)))
        out[:, 7] = numbers[6]
        told = flags.take([place[kind] for kind in kinds], axis=0) if kinds else flags
        out[:, 3:6], out[:, 8:] = told[:, :3], told[:, 3:]
        return out


def _numbers(column: tuple[float | None, ...]) -> Sequence[float | None]:
    """What is missing is 0."""
    if None not in column:
        return column
    return [0.0 if value is None else value for value in column]


@lru_cache(maxsize=1024)
def _flags(conviction: str | None, asset_class: str | None, signal_type: str | None) -> tuple[bool, ...]:
    level, asset, kind = ((text or "").lower() for text in (conviction, asset_class, signal_type))
    return (
        *(level == known for known in ("high", "medium", "low")),
        *(asset == known for known in ("equity", "crypto")),
        *(known in kind for known in ("breakout", "momentum")),
    )
