"""Drift: how far the newest signals lie from those before them, in the measure that those before set themselves.

A fixed limit on the population stability index flags most persistent features that have not drifted at all: a market's
own quarters differ that much. So each feature's limit comes from its own past.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trading_system.ml_refinement.storage.times import DAY_US
from trading_system.ml_refinement.typing import BoolArray, FloatArray, TimeArray

WINDOW_DAYS = 63
#: A feature has drifted where its index is above this multiple of the largest among the reference's own windows.
MARGIN = 1.25
#: More features than this share drifted, and it is an alarm. Without drift, persistent features stay below it.
DRIFTED_SHARE = 0.3
#: So many windows begin in the length of one, so that the reference's worst is not missed between two.
_OVERLAP = 3
_BINS = 10
#: With fewer rows, or fewer windows, nothing is said.
MIN_ROWS = 40
_MIN_WINDOWS = 3
#: An index below this is nobody's business, whatever the past was like.
_FLOOR = 0.1


@dataclass(frozen=True, slots=True)
class FeatureDrift:
    """One column: its index against the reference, the limit, and the shares of missing values."""

    name: str
    psi: float
    limit: float
    missing: float
    missing_before: float

    @property
    def drifted(self) -> bool:
        """Beyond what the reference's own windows showed."""
        return self.psi > self.limit

    @property
    def gone(self) -> bool:
        """Missing far more often than before."""
        return self.missing > max(0.05, 2.0 * self.missing_before)


def psi(expected: FloatArray, found: FloatArray) -> float:
    """Population stability index of shares over the same bins, both (bins,) and above 0: their symmetric divergence."""
    return float(((found - expected) * np.log(found / expected)).sum())


def shares(values: FloatArray, edges: FloatArray) -> FloatArray:
    """Shares of known values between the edges, shape (edges + 1,), half a row added to each: none is 0."""
    known = values[~np.isnan(values)]
    counts = np.bincount(np.searchsorted(edges, known, side="left"), minlength=len(edges) + 1)
    return np.asarray((counts + 0.5) / (len(known) + 0.5 * (len(edges) + 1)), dtype=np.float64)


def column_drift(
    names: tuple[str, ...],
    reference: FloatArray,
    reference_us: TimeArray,
    recent: FloatArray,
    *,
    window_us: int = WINDOW_DAYS * DAY_US,
) -> list[FeatureDrift]:
    """Each column of the recent rows against the reference, farthest beyond its limit first.

    The limit is 1.25 times the largest index that a window of the reference shows against the rest of it. A window is
    compared with what lies outside it, as the recent rows are.

    Args:
        names: of the columns.
        reference: rows before, shape (n, f), NaN where missing.
        reference_us: when each was known, shape (n,).
        recent: the newest rows, shape (m, f).
        window_us: the span of the recent rows, and of each window of the reference.

    Returns:
        Empty where either side has fewer than 40 rows, or the reference fewer than three windows to go by.
    """
    inside = windows(reference_us, window_us)
    if min(len(reference), len(recent)) < MIN_ROWS or len(inside) < _MIN_WINDOWS:
        return []
    found = []
    for column, name in enumerate(names):
        before, now = reference[:, column], recent[:, column]
        found.append(_one(name, before, now, inside))
    return sorted(found, key=lambda drift: drift.limit - drift.psi)


def _one(name: str, before: FloatArray, now: FloatArray, inside: list[BoolArray]) -> FeatureDrift:
    missing = float(np.isnan(now).mean()), float(np.isnan(before).mean())
    known = before[~np.isnan(before)]
    if not len(known):
        return FeatureDrift(name, 0.0, _FLOOR, *missing)
    edges = np.unique(np.quantile(known, np.linspace(0.0, 1.0, _BINS + 1)[1:-1]))
    own = [psi(shares(before[~window], edges), shares(before[window], edges)) for window in inside]
    limit = max(_FLOOR, MARGIN * max(own))
    return FeatureDrift(name, psi(shares(before, edges), shares(now, edges)), limit, *missing)


def windows(stamps_us: TimeArray, window_us: int) -> list[BoolArray]:
    """Which of n rows lie in each window: masks of shape (n,), one every third of its length.

    Windows with few rows, and those with all of them, are left out.

    Args:
        stamps_us: when each row was, shape (n,), in any order.
        window_us: length of a window.
    """
    if not len(stamps_us):
        return []
    first, last = int(stamps_us.min()), int(stamps_us.max())
    starts = range(first, max(first + 1, last - window_us + DAY_US + 1), max(1, window_us // _OVERLAP))
    inside = [(stamps_us >= start) & (stamps_us < start + window_us) for start in starts]
    return [window for window in inside if MIN_ROWS // 2 <= window.sum() < len(window)]
