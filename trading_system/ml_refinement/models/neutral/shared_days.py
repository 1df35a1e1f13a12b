"""What trades that were open on the same days share, and sums of products with it taken out.

The model is `y = intercept + D b + B u + e`: `B[i, d] = 1 / sqrt(h_i)` on each of the `h_i` days that trade i was open,
`u ~ N(0, share * s2)` what each day brought, `e ~ N(0, s2)`. It needs entry and close times alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky, eigvalsh, solve_triangular
from scipy.sparse import csr_array

from trading_system.ml_refinement import robust
from trading_system.ml_refinement.storage.times import DAY_US
from trading_system.ml_refinement.typing import FloatArray, IntArray, TimeArray

#: Variances of a day beside that of a trade's own luck, of which the likeliest is taken.
SHARES = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
#: Longer histories are cut into so many equal stretches instead of days.
MOST_DAYS = 512


@dataclass(frozen=True, slots=True)
class SharedDays:
    """Which trades were open on which days: `incidence` is (n, days), `overlap` its own product, (days, days)."""

    incidence: csr_array
    overlap: FloatArray

    @classmethod
    def of(cls, entered_us: TimeArray, known_us: TimeArray) -> SharedDays:
        """Of n trades; both arrays have shape (n,). A trade that closed on its day of entry was open on that day.

        Days on which none was open are left out; a trade that was held strangely long counts with its last days alone.
        """
        last = known_us // DAY_US
        held = np.maximum(last - entered_us // DAY_US, 1)
        first = np.maximum(entered_us // DAY_US, last - int(robust.largest(held)))
        first, last = _consecutive(first, np.maximum(last, first + 1))
        stretch = -(-(int(last.max()) + 1) // MOST_DAYS)
        first, last = first // stretch, last // stretch
        held = np.maximum(last - first, 1)
        trade = np.repeat(np.arange(len(held)), held)
        within = np.arange(int(held.sum())) - np.repeat(np.cumsum(held) - held, held)
        weight = np.repeat(1.0 / np.sqrt(held), held)
        days = int((first + held).max())
        incidence = csr_array((weight, (trade, np.repeat(first, held) + within)), shape=(len(held), days))
        return cls(incidence, np.asarray((incidence.T @ incidence).toarray(), dtype=np.float64))


def _consecutive(first: IntArray, last: IntArray) -> tuple[IntArray, IntArray]:
    """Days `[first, last)` of n trades, numbered from 0 over those days alone on which any was open, both (n,)."""
    order = np.argsort(first, kind="stable")
    starts, at = np.unique(first[order], return_index=True)
    ends = np.maximum.accumulate(np.maximum.reduceat(last[order], at))
    begins = np.r_[True, starts[1:] > ends[:-1]]
    gap = np.where(begins, starts - np.r_[0, ends[:-1]], 0)
    before = np.cumsum(gap)[np.searchsorted(starts, first, side="right") - 1]
    return first - before, last - before


@dataclass(frozen=True, slots=True)
class NeutralProducts:
    """Products of columns with each other and the target, `D'PD` (k, k) and `D'Py` (k,), over the target's variance.

    `P` takes the intercept and what days share out. `share` is the likeliest of `SHARES`; `residual` is the target
    without its mean and its days, (n,).
    """

    columns: FloatArray
    target: FloatArray
    share: float
    residual: FloatArray


def neutral_products(D: FloatArray, y: FloatArray, days: SharedDays | None) -> NeutralProducts:
    """Products of D (n, k) and y (n,), not constant; without `days` only the intercept is taken out."""
    n = len(y)
    Z = np.column_stack([np.ones(n), y, D])
    products = Z.T @ Z
    share, shared, factor = 0.0, None, None
    if days is not None:
        shared = np.asarray(days.incidence.T @ Z)
        share, factor = _likeliest(products[:2, :2], shared[:, :2], days.overlap, n)
        if factor is not None:
            half = solve_triangular(factor, shared, lower=True)
            products = products - half.T @ half
    centred = products[1:, 1:] - np.outer(products[1:, 0], products[0, 1:]) / products[0, 0]
    residual = y - products[0, 1] / products[0, 0]
    if days is not None and factor is not None:
        residual = residual - _taken_out(days, factor, residual)
    variance = centred[0, 0] / max(n - 1, 1)
    return NeutralProducts(centred[1:, 1:] / variance, centred[1:, 0] / variance, share, residual)


def _likeliest(
    products: FloatArray, shared: FloatArray, overlap: FloatArray, n: int
) -> tuple[float, FloatArray | None]:
    """The share of the largest profile likelihood, and the factor of the days' precision with it.

    `products` are those of intercept and target (2, 2), `shared` their products with the days (days, 2).
    """
    spread = np.maximum(eigvalsh(overlap), 0.0)
    best, found = -np.inf, (0.0, None)
    for share in SHARES:
        factor, inner = None, products
        if share > 0:
            factor = cholesky(np.eye(len(overlap)) / share + overlap, lower=True)
            half = solve_triangular(factor, shared, lower=True)
            inner = products - half.T @ half
        left = inner[1, 1] - inner[0, 1] ** 2 / inner[0, 0]
        if not (left > 0 and inner[0, 0] > 0):
            continue
        likelihood = -0.5 * ((n - 1) * np.log(left) + np.log1p(share * spread).sum() + np.log(inner[0, 0]))
        if likelihood > best + 1e-9:
            best, found = likelihood, (share, factor)
    return found


def _taken_out(days: SharedDays, factor: FloatArray, residual: FloatArray) -> FloatArray:
    half = solve_triangular(factor, days.incidence.T @ residual, lower=True)
    return np.asarray(days.incidence @ solve_triangular(factor, half, lower=True, trans="T"), dtype=np.float64)
