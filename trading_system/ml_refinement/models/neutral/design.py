"""The columns that features become: lines, folds, and lines of each signal type apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler

from trading_system.ml_refinement.models.errors import ModelFileRefused
from trading_system.ml_refinement.models.neutral.rows import TrainingRows
from trading_system.ml_refinement.storage.times import DAY_US
from trading_system.ml_refinement.typing import BoolArray, FloatArray, IntArray, StringArray

SCALERS: Mapping[str, type[StandardScaler | MinMaxScaler | RobustScaler]] = {
    "standard": StandardScaler,
    "minmax": MinMaxScaler,
    "robust": RobustScaler,
}

#: Groups of columns, as the prior numbers them.
LINES, FOLDS, TYPES = range(3)
GROUPS = 3

#: A type has columns of its own from so many labels of either class on; the most frequent ones, at most so many.
MIN_PER_CLASS = 30
MOST_TYPES = 8
#: A feature is the signal's own where this share of its variance lies within days; a market's feature is not.
_OWN_SHARE = 0.05
_MIN_WITHIN_DAYS = 30
#: Below this spread of |z|, a feature has two values or fewer, and its fold is its line again.
_SMALLEST_FOLD = 0.05


@dataclass(frozen=True, slots=True)
class Design:
    """How features of shape (n, f) become columns; every array has shape (f,), `type_share` (types,).

    A missing value is the feature's median. z is the scaled feature, clipped, then of unit variance over the training
    rows. Its fold is `|z|` less its mean, of unit variance too; `fold` marks features that have one, `own` those with
    a column for each of `types`. Features that do not vary are all 0.
    """

    median: FloatArray
    centre: FloatArray
    scale: FloatArray
    clip: float
    mean: FloatArray
    spread: FloatArray
    fold_mean: FloatArray
    fold_spread: FloatArray
    fold: BoolArray
    own: BoolArray
    types: tuple[str, ...]
    type_share: FloatArray

    @classmethod
    def of(cls, rows: TrainingRows, *, scaling: str | None, clip: float) -> Design:
        """Learn it from training rows. `scaling` None leaves features unscaled and unclipped."""
        X = rows.X
        n_features = X.shape[1]
        median = column_medians(X)
        filled = np.where(np.isnan(X), median, X)
        centre, scale = _scaling(filled, scaling)
        clip = clip if scaling is not None else np.inf
        clipped = np.clip((filled - centre) / scale, -clip, clip)
        mean, spread = clipped.mean(axis=0), _positive(clipped.std(axis=0))
        z = (clipped - mean) / spread
        folded = np.abs(z)
        fold_mean, fold_spread = folded.mean(axis=0), folded.std(axis=0)
        types = frequent_types(rows)
        shares = np.array([np.mean(rows.signal_types == name) for name in types])
        fold = fold_spread > _SMALLEST_FOLD
        own = _own(z, rows) if types else np.zeros(n_features, dtype=bool)
        scales = (median, centre, scale, clip, mean, spread, fold_mean, _positive(fold_spread))
        return cls(*scales, fold, own, types, shares)

    def lines(self, X: FloatArray) -> FloatArray:
        """z of rows, shape of X."""
        missing = np.isnan(X)
        filled = np.where(missing, self.median, X) if missing.any() else X
        clipped = np.minimum(np.maximum((filled - self.centre) / self.scale, -self.clip), self.clip)
        return np.asarray((clipped - self.mean) / self.spread, dtype=np.float64)

    def type_numbers(self, signal_types: StringArray | None, n: int) -> IntArray:
        """The place of each row's type in `types`, shape (n,); -1 for every other type, and where none is told."""
        numbers = np.full(n, -1)
        if signal_types is not None:
            for number, name in enumerate(self.types):
                numbers[signal_types == name] = number
        return numbers

    def columns(self, X: FloatArray, signal_types: StringArray | None) -> FloatArray:
        """Lines, folds, for each type its own lines, and last the types themselves, shape (n, k)."""
        z = self.lines(X)
        number = self.type_numbers(signal_types, len(X))
        parts = [z, ((np.abs(z) - self.fold_mean) / self.fold_spread)[:, self.fold]]
        own = z[:, self.own]
        parts += [own * (number == place)[:, None] for place in range(len(self.types))]
        parts += [(number == place)[:, None] - share for place, share in enumerate(self.type_share.tolist())]
        return np.column_stack(parts)

    def groups(self) -> IntArray:
        """The group of each column, shape (k,)."""
        of_types = len(self.types) * (int(self.own.sum()) + 1)
        return np.repeat([LINES, FOLDS, TYPES], [len(self.median), int(self.fold.sum()), of_types])

    def state(self) -> dict[str, Any]:
        """Plain values only; the inverse of `from_state`."""
        return {item.name: getattr(self, item.name) for item in fields(self)} | {"types": list(self.types)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, n_features: int) -> Design:
        """Rebuild, checking shapes.

        Raises:
            ModelFileRefused: malformed.
        """
        design = cls(**{**state, "types": tuple(state["types"])})
        lengths = dict.fromkeys(("median", "centre", "scale", "mean", "spread", "fold_mean", "fold_spread"), n_features)
        for name, length in {**lengths, "type_share": len(design.types)}.items():
            array = getattr(design, name)
            if array.shape != (length,) or not np.isfinite(array).all():
                raise ModelFileRefused(f"the design's {name} is malformed")
        if (np.r_[design.scale, design.spread, design.fold_spread] <= 0).any():
            raise ModelFileRefused("the design's scales are malformed")
        for mask in (design.fold, design.own):
            if mask.shape != (n_features,) or mask.dtype.kind != "b":
                raise ModelFileRefused("the design's masks are malformed")
        return design


def frequent_types(rows: TrainingRows) -> tuple[str, ...]:
    """Types with `MIN_PER_CLASS` labels of either class, by name; none where all rows are of one."""
    if rows.signal_types is None:
        return ()
    names, number = np.unique(rows.signal_types, return_inverse=True)
    if len(names) < 2:
        return ()
    wins = np.bincount(number, weights=rows.won, minlength=len(names))
    count = np.bincount(number, minlength=len(names))
    enough = np.flatnonzero(np.minimum(wins, count - wins) >= MIN_PER_CLASS)
    most = enough[np.argsort(-count[enough], kind="stable")][:MOST_TYPES]
    return tuple(str(names[place]) for place in sorted(most.tolist()))


def column_medians(X: FloatArray) -> FloatArray:
    """Median of the known values of each column of X (n, n_features), shape (n_features,); 0 where there are none."""
    known = ~np.isnan(X)
    medians = np.zeros(X.shape[1])
    some = known.any(axis=0)
    medians[some] = np.nanmedian(X[:, some], axis=0)
    return medians


def _scaling(filled: FloatArray, scaling: str | None) -> tuple[FloatArray, FloatArray]:
    if scaling is None:
        return np.zeros(filled.shape[1]), np.ones(filled.shape[1])
    scaler = SCALERS[scaling]().fit(filled)
    if scaling == "minmax":
        return scaler.data_min_, _positive(scaler.data_range_)
    return (scaler.mean_ if scaling == "standard" else scaler.center_), _positive(scaler.scale_)


def _own(z: FloatArray, rows: TrainingRows) -> BoolArray:
    """Which features vary within a day of entry; all of them where days are not known, or hold one signal each."""
    if rows.entered_us is None:
        return np.ones(z.shape[1], dtype=bool)
    days, day = np.unique(rows.entered_us // DAY_US, return_inverse=True)
    freedom = len(z) - len(days)
    if freedom < _MIN_WITHIN_DAYS:
        return np.ones(z.shape[1], dtype=bool)
    count = np.bincount(day)
    squares = count @ (np.column_stack([np.bincount(day, weights=column) for column in z.T]) / count[:, None]) ** 2
    within = ((z**2).sum(axis=0) - squares) / freedom
    return np.asarray(within > _OWN_SHARE * z.var(axis=0), dtype=bool)


def _positive(x: FloatArray) -> FloatArray:
    return np.where(x > 1e-12, x, 1.0)
