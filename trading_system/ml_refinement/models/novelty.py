"""Is a signal unlike anything the model was trained on? A cheap measure; it flags, it never discards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from trading_system.ml_refinement.models.errors import ModelFileRefused
from trading_system.ml_refinement.typing import FloatArray

#: A single feature counts for at most this many squared scales in the mean, so that the mean speaks of many features.
_SQUARE_CAP = 25.0
_QUANTILE = 0.99
_MEAN_SLACK = 1.5
_LARGEST_SLACK = 2.0
_LARGEST_FLOOR = 8.0


@dataclass(frozen=True, slots=True)
class Novelty:
    """Distances from the training rows in robust scales (median, and half the 16-84 % range), shape (n_features,) each.

    A row is out of distribution where its mean squared distance over features, each capped, is beyond 1.5 times what
    99 % of training rows stay within, or where one feature lies further out than twice the farthest training row and
    8 scales. A missing value counts as its median.
    """

    centre: FloatArray
    scale: FloatArray
    mean_limit: float
    largest_limit: FloatArray

    def distance(self, X: FloatArray) -> FloatArray:
        """Largest ratio of a distance to its limit, shape (n,): above 1 is out of distribution."""
        z = np.abs(np.where(np.isnan(X), 0.0, (X - self.centre) / self.scale))
        mean = np.minimum(z**2, _SQUARE_CAP).mean(axis=1) / self.mean_limit
        return np.asarray(np.maximum(mean, (z / self.largest_limit).max(axis=1)), dtype=np.float64)

    def state(self) -> dict[str, Any]:
        """Plain values only; the inverse of `from_state`."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, n_features: int) -> Novelty:
        """Rebuild, checking shapes.

        Raises:
            ModelFileRefused: malformed.
        """
        novelty = cls(**state)
        for name in ("centre", "scale", "largest_limit"):
            if np.shape(getattr(novelty, name)) != (n_features,):
                raise ModelFileRefused(f"novelty {name} is malformed")
        return novelty


def fit_novelty(X: FloatArray) -> Novelty:
    """Limits from training rows, shape (n, n_features), NaN where missing."""
    filled = X.copy()
    filled[:, np.isnan(X).all(axis=0)] = 0.0
    low, centre, high = np.nanquantile(filled, [0.16, 0.5, 0.84], axis=0)
    half = (high - low) / 2.0
    spread = np.nanstd(filled, axis=0)
    scale = np.where(half > 0, half, np.where(spread > 0, spread, 1.0))
    z = np.abs(np.where(np.isnan(X), 0.0, (X - centre) / scale))
    mean = np.minimum(z**2, _SQUARE_CAP).mean(axis=1)
    return Novelty(
        centre=centre,
        scale=scale,
        mean_limit=max(float(np.quantile(mean, _QUANTILE)) * _MEAN_SLACK, 1e-9),
        largest_limit=np.maximum(z.max(axis=0) * _LARGEST_SLACK, _LARGEST_FLOOR),
    )
