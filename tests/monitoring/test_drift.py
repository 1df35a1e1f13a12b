"""Drift: silent where persistent features have not moved, loud where they have."""

from __future__ import annotations

import numpy as np
import pytest

from trading_system.ml_refinement.monitoring.drift import MIN_ROWS, column_drift, psi, shares, windows
from trading_system.ml_refinement.storage.times import DAY_US
from trading_system.ml_refinement.typing import FloatArray, TimeArray

DAYS = 315
PER_DAY = 4


def persistent(rng: np.random.Generator, features: int, half_life_days: float) -> tuple[FloatArray, TimeArray]:
    """Stationary market-level features that remember, a little noise of each signal's own, and the signals' times."""
    keep = 0.5 ** (1.0 / half_life_days)
    path = np.empty((DAYS, features))
    path[0] = rng.standard_normal(features)
    for day in range(1, DAYS):
        path[day] = keep * path[day - 1] + np.sqrt(1.0 - keep**2) * rng.standard_normal(features)
    stamps = np.repeat(np.arange(DAYS, dtype=np.int64) * DAY_US, PER_DAY)
    return np.repeat(path, PER_DAY, axis=0) + 0.2 * rng.standard_normal((DAYS * PER_DAY, features)), stamps


def flagged(X: FloatArray, stamps: TimeArray, shift: float = 0.0) -> float:
    recent = stamps >= (DAYS - 63) * DAY_US
    names = tuple(f"x{i}" for i in range(X.shape[1]))
    found = column_drift(names, X[~recent], stamps[~recent], X[recent] + shift)
    assert len(found) == X.shape[1]
    return float(np.mean([drift.drifted for drift in found]))


@pytest.mark.parametrize("half_life_days", [1.0, 5.0, 20.0, 60.0])
def test_persistent_features_that_have_not_drifted_are_seldom_flagged(half_life_days: float) -> None:
    X, stamps = persistent(np.random.default_rng(int(half_life_days)), 200, half_life_days)
    assert flagged(X, stamps) <= 0.20


def test_a_fixed_limit_would_have_flagged_most_of_them() -> None:
    X, stamps = persistent(np.random.default_rng(5), 100, 20.0)
    recent = stamps >= (DAYS - 63) * DAY_US
    names = tuple(f"x{i}" for i in range(100))
    found = column_drift(names, X[~recent], stamps[~recent], X[recent])
    assert np.mean([drift.psi > 0.25 for drift in found]) > 0.5


def test_features_that_moved_are_flagged() -> None:
    X, stamps = persistent(np.random.default_rng(3), 100, 1.0)
    assert flagged(X, stamps, shift=1.5) >= 0.95


def test_the_index_is_the_symmetric_divergence_of_the_shares() -> None:
    expected, found = np.array([0.5, 0.5]), np.array([0.25, 0.75])
    assert psi(expected, found) == pytest.approx(-0.25 * np.log(0.5) + 0.25 * np.log(1.5))
    assert psi(expected, expected) == 0.0


def test_shares_are_of_known_values_and_none_is_zero() -> None:
    found = shares(np.array([0.0, 1.0, np.nan, 1.0]), np.array([0.5, 5.0]))
    assert found == pytest.approx(np.array([1.5, 2.5, 0.5]) / 4.5)


def test_a_feature_that_goes_missing_is_named() -> None:
    X, stamps = persistent(np.random.default_rng(1), 2, 1.0)
    recent = stamps >= (DAYS - 63) * DAY_US
    now = X[recent].copy()
    now[: len(now) // 2, 1] = np.nan
    found = {drift.name: drift for drift in column_drift(("a", "b"), X[~recent], stamps[~recent], now)}
    assert (found["a"].gone, found["b"].gone) == (False, True)
    assert found["b"].missing == pytest.approx(0.5)


def test_constant_and_empty_columns_have_not_drifted() -> None:
    _, stamps = persistent(np.random.default_rng(1), 1, 1.0)
    recent = stamps >= (DAYS - 63) * DAY_US
    X = np.column_stack([np.ones(len(stamps)), np.full(len(stamps), np.nan)])
    assert not any(drift.drifted for drift in column_drift(("a", "b"), X[~recent], stamps[~recent], X[recent]))


@pytest.mark.parametrize("rows", [0, MIN_ROWS - 1])
def test_too_few_rows_say_nothing(rows: int) -> None:
    X, stamps = persistent(np.random.default_rng(1), 2, 1.0)
    assert column_drift(("a", "b"), X, stamps, X[:rows]) == []
    assert column_drift(("a", "b"), X[:rows], stamps[:rows], X) == []


def test_windows_overlap_by_two_thirds_and_leave_something_outside() -> None:
    stamps = np.arange(120, dtype=np.int64) * DAY_US
    found = windows(stamps, 60 * DAY_US)
    assert [int(np.flatnonzero(window)[0]) for window in found] == [0, 20, 40, 60]
    assert all(window.sum() == 60 for window in found)
    assert windows(stamps[:0], DAY_US) == []
