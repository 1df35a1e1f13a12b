"""The two priors: what they find, what they leave out, and that they give the same bits."""

from __future__ import annotations

import numpy as np

from trading_system.ml_refinement.models.neutral.shrinkage import SparsePrior, ridge_weights, sparse_weights

PRIOR = SparsePrior((9.0, 19.0, 19.0), 0.005)


def products(n: int, true: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    D = rng.standard_normal((n, len(true)))
    y = D @ true + 0.5 * rng.standard_normal(n)
    return D.T @ D / 0.25, D.T @ y / 0.25, np.zeros(len(true), dtype=np.int64)


def test_the_sparse_prior_finds_the_few_that_matter_and_all_but_drops_the_rest() -> None:
    true = np.zeros(80)
    true[[5, 40]] = 0.12, -0.1
    A, h, group = products(1500, true)
    found = sparse_weights(A, h, group, PRIOR)
    np.testing.assert_allclose(found[[5, 40]], true[[5, 40]], atol=0.04)
    assert np.abs(np.delete(found, [5, 40])).sum() < 0.05
    least_squares = np.linalg.solve(A, h)
    assert np.abs(np.delete(least_squares, [5, 40])).sum() > 0.5


def test_the_ridge_shrinks_noise_to_nearly_nothing_and_keeps_many_small_weights() -> None:
    A, h, group = products(1500, np.zeros(80))
    assert np.abs(ridge_weights(A, h, group, groups=3)).max() < 0.01
    many = 0.05 * np.random.default_rng(1).standard_normal(80)
    A, h, group = products(1500, many)
    assert np.corrcoef(ridge_weights(A, h, group, groups=3), many)[0, 1] > 0.9


def test_columns_that_are_equal_or_nothing_are_borne() -> None:
    A, h, group = products(400, np.r_[0.2, np.zeros(9)])
    repeated = np.r_[np.arange(10), 0, 0]
    A, h, group = A[np.ix_(repeated, repeated)], h[repeated], group[repeated]
    A[-1], A[:, -1], h[-1] = 0.0, 0.0, 0.0
    for found in (sparse_weights(A, h, group, PRIOR), ridge_weights(A, h, group, groups=3)):
        assert np.isfinite(found).all()
        assert found[0] + found[10] > 0.1
        assert found[-1] == 0.0


def test_the_same_products_give_the_same_bits() -> None:
    A, h, group = products(300, np.r_[0.1, np.zeros(50)])
    group = np.arange(51) % 3
    for _ in range(2):
        np.testing.assert_array_equal(sparse_weights(A, h, group, PRIOR), sparse_weights(A.copy(), h, group, PRIOR))
        np.testing.assert_array_equal(ridge_weights(A, h, group, groups=3), ridge_weights(A.copy(), h, group, groups=3))
