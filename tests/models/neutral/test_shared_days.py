"""Products with what open trades share taken out: against the model written down in full, and at the edges."""

from __future__ import annotations

import numpy as np
import pytest

from trading_system.ml_refinement.models.neutral.shared_days import MOST_DAYS, SharedDays, neutral_products
from trading_system.ml_refinement.storage.times import DAY_US

START = 15_000 * DAY_US


def trades(n: int, seed: int = 0, longest: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    entered = START + np.sort(rng.integers(0, n // 4, n)) * DAY_US + DAY_US // 2
    return entered, entered + rng.integers(1, longest + 1, n) * DAY_US


def shared_luck(entered: np.ndarray, known: np.ndarray, rng: np.random.Generator, size: float) -> np.ndarray:
    days = SharedDays.of(entered, known)
    return np.sqrt(size) * (days.incidence @ rng.standard_normal(days.incidence.shape[1]))


def test_the_products_are_those_of_the_model_written_down_in_full() -> None:
    rng = np.random.default_rng(1)
    entered, known = trades(160)
    D = rng.standard_normal((160, 5))
    y = D[:, 0] + rng.standard_normal(160) + shared_luck(entered, known, rng, 2.0)
    found = neutral_products(D, y, SharedDays.of(entered, known))
    assert found.share > 0
    B = SharedDays.of(entered, known).incidence.toarray()
    np.testing.assert_allclose((B**2).sum(axis=1), 1.0)
    inverse = np.linalg.inv(np.eye(160) + found.share * B @ B.T)
    ones = np.ones((160, 1))
    P = inverse - inverse @ ones @ ones.T @ inverse / (ones.T @ inverse @ ones)
    variance = y @ P @ y / 159
    np.testing.assert_allclose(found.columns, D.T @ P @ D / variance, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.target, D.T @ P @ y / variance, rtol=1e-9, atol=1e-9)
    mean = (ones.T @ inverse @ y) / (ones.T @ inverse @ ones)
    np.testing.assert_allclose(found.residual, inverse @ (y - mean.ravel()), rtol=1e-9, atol=1e-9)


def test_shared_luck_is_found_where_it_is_and_not_where_it_is_not() -> None:
    rng = np.random.default_rng(2)
    entered, known = trades(1200)
    D, own = rng.standard_normal((1200, 3)), rng.standard_normal(1200)
    days = SharedDays.of(entered, known)
    assert neutral_products(D, own, days).share == 0.0
    shared = neutral_products(D, own + shared_luck(entered, known, rng, 1.0), days)
    assert 0.5 <= shared.share <= 2.0


@pytest.mark.parametrize(
    ("entered", "known"),
    [
        ("one day", "that day"),
        ("one day", "another day"),
        ("years", "that day"),
        ("years", "decades later"),
    ],
)
def test_trades_at_the_edges_give_finite_products(entered: str, known: str) -> None:
    rng = np.random.default_rng(3)
    n = 120
    begun = np.full(n, START) if entered == "one day" else START + np.arange(n) * 9 * DAY_US
    closed = begun + {"that day": 0, "another day": DAY_US, "decades later": 9_000 * DAY_US}[known]
    D, y = rng.standard_normal((n, 4)), (rng.random(n) < 0.5).astype(float)
    days = SharedDays.of(begun, closed)
    assert days.incidence.shape[1] <= MOST_DAYS + 1
    found = neutral_products(D, y, days)
    assert np.isfinite(found.columns).all()
    assert np.isfinite(found.residual).all()
    assert np.linalg.eigvalsh(found.columns).min() > -1e-8
