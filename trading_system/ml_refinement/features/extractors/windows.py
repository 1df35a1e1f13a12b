"""Arithmetic over the newest bars of many rows at once.

Sums run along each row by `np.add.reduce` and nothing else: its order of summation depends on the row's width alone, so
that a row alone and the row in a batch agree to the last bit. BLAS and running sums do not have that property.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from trading_system.ml_refinement.features.extractors.batch import BarsBatch
from trading_system.ml_refinement.typing import BoolArray, FloatArray


def row_sum(values: FloatArray) -> FloatArray:
    """Sum along the last axis: shape (..., n) gives shape (...). NaN in, NaN out."""
    return cast(FloatArray, np.add.reduce(values, axis=-1))


def ratio(numerator: FloatArray, denominator: FloatArray, otherwise: FloatArray | float = 0.0) -> FloatArray:
    """numerator / denominator where the denominator is above 0, else `otherwise`; NaN stays NaN.

    Args:
        numerator: any shape.
        denominator: the same shape.
        otherwise: a number, or an array that broadcasts to that shape.
    """
    out = np.empty(denominator.shape)
    out[...] = otherwise
    np.divide(numerator, denominator, out=out, where=~(denominator <= 0))
    return out


def changes(close: FloatArray) -> FloatArray:
    """Change of each bar relative to the bar before along the last axis: shape (..., n) gives shape (..., n - 1)."""
    before = close[..., :-1]
    return (close[..., 1:] - before) / before


def deviations(values: FloatArray, first_missing: BoolArray | None = None) -> tuple[FloatArray, FloatArray | float]:
    """Distances from the row's mean, and how many values each row has.

    Args:
        values: shape (..., n).
        first_missing: shape (...): rows whose first value is left out: its distance is 0 and it is not counted.

    Returns:
        Distances, shape (..., n), and the counts, shape (...), or one number where no row lacks its first value.
    """
    width = values.shape[-1]
    if first_missing is None:
        return values - row_sum(values)[..., None] / width, float(width)
    values = values.copy()
    values[first_missing, 0] = 0.0
    count = width - first_missing.astype(np.float64)
    away = values - (row_sum(values) / count)[..., None]
    away[first_missing, 0] = 0.0
    return away, count


def sample_std(values: FloatArray, first_missing: BoolArray | None = None) -> FloatArray:
    """Standard deviation along the last axis with n - 1, in two passes: shape (..., n) gives shape (...).

    `first_missing` is that of `deviations`.
    """
    away, count = deviations(values, first_missing)
    return cast(FloatArray, np.sqrt(row_sum(away * away) / (count - 1)))


def sliding_sum(values: FloatArray, window: int) -> FloatArray:
    """Sums over every window along the row, each from its own values only, by doubling.

    A running sum would carry the rounding, and any NaN, of everything before the window.

    Args:
        values: shape (..., n).
        window: from 1 to n.

    Returns:
        Shape (..., n - window + 1), the newest window last.
    """
    total: FloatArray | None = None
    power, width, taken = values, 1, 0
    while True:
        if window & width:
            part = power[..., taken : taken + values.shape[-1] - window + 1]
            total = part if total is None else total + part
            taken += width
        if taken == window:
            return cast(FloatArray, total)
        power = power[..., :-width] + power[..., width:]
        width *= 2


def average_true_range(bars: BarsBatch, n_bars: int) -> FloatArray:
    """Mean true range of the newest `n_bars`, in price units, shape (n,); NaN for a row with fewer bars.

    True range is Wilder's (1978). The first bar of a history has no close before it, and its own range counts.
    """
    return bars.remember(("atr", n_bars), lambda: _average_true_range(bars, n_bars))


def _average_true_range(bars: BarsBatch, n_bars: int) -> FloatArray:
    high, low = bars.tail("high", n_bars), bars.tail("low", n_bars)
    before = bars.tail("close", n_bars + 1)[:, :-1]
    starts_here = bars.starting(n_bars)
    if starts_here is not None:
        before = before.copy()
        before[starts_here, 0] = low[starts_here, 0]
    return row_sum(np.maximum(high, before) - np.minimum(low, before)) / n_bars
