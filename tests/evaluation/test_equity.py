"""The equity of following scores: sums by hand, intervals that hold what they should, and no peeking."""

from __future__ import annotations

import numpy as np
import pytest

from trading_system.ml_refinement.evaluation.equity import (
    block_bootstrap,
    drawdown,
    equity,
    highest_so_far,
    mean_interval,
    tied_at_the_edge,
)

NO_CLUSTERS = np.arange(5, dtype=np.int64)


def test_the_curve_is_in_order_of_closing_and_after_costs() -> None:
    r = np.array([1.0, -1.0, 2.0, -1.0, 0.5])
    closes = np.array([50, 10, 30, 20, 40], dtype=np.int64)
    found = equity("all", r, np.ones(5), closes, NO_CLUSTERS, cost_r=0.1)
    assert found.curve == pytest.approx(np.cumsum([-1.1, -1.1, 1.9, 0.4, 0.9]))
    assert found.closes_us.tolist() == [10, 20, 30, 40, 50]
    assert found.total == pytest.approx(1.0)
    assert found.drawdown == pytest.approx(2.2)
    assert found.expectancy.value == pytest.approx(0.2)


def test_sizes_weigh_results_and_costs_and_nothing_is_taken_at_size_0() -> None:
    r, size = np.array([1.0, -1.0, 2.0, -1.0, 0.5]), np.array([2.0, 1.0, 0.0, 0.0, 1.0])
    found = equity("sized", r, size, NO_CLUSTERS, NO_CLUSTERS, cost_r=0.1)
    assert found.trades == 3
    assert found.total == pytest.approx(2 * 0.9 - 1.1 + 0.4)
    assert found.expectancy.value == pytest.approx(found.total / 4.0)


def test_nothing_taken_makes_nothing() -> None:
    found = equity("none", np.ones(5), np.zeros(5), NO_CLUSTERS, NO_CLUSTERS, cost_r=0.0)
    assert (found.trades, found.total, found.drawdown) == (0, 0.0, 0.0)
    assert np.isnan(found.expectancy.value)


def test_the_drawdown_counts_from_the_start() -> None:
    assert drawdown(np.array([-3.0, 1.0, 0.0])) == 3.0
    assert drawdown(np.array([1.0, 2.0])) == 0.0
    assert drawdown(np.empty(0)) == 0.0


def test_both_bootstraps_are_one_and_clusters_widen_them() -> None:
    rng = np.random.default_rng(0)
    shared = np.repeat(rng.standard_normal(60), 10)
    values = shared + 0.3 * rng.standard_normal(600)
    cluster = np.repeat(np.arange(60, dtype=np.int64), 10)
    fast = mean_interval(values, cluster)
    slow = block_bootstrap(cluster, lambda rows: float(values[rows].mean()))
    assert fast.value == pytest.approx(slow.value)
    assert (fast.low, fast.high) == pytest.approx((slow.low, slow.high), abs=0.05)
    alone = mean_interval(values, np.arange(600, dtype=np.int64))
    assert fast.high - fast.low > 2.0 * (alone.high - alone.low)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    held = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        values = np.repeat(rng.standard_normal(40), 5) + rng.standard_normal(200)
        found = mean_interval(values, np.repeat(np.arange(40, dtype=np.int64), 5))
        held += found.low <= 0.0 <= found.high
    assert 178 <= held <= 198


def test_one_block_bounds_nothing() -> None:
    found = mean_interval(np.ones(5), np.zeros(5, dtype=np.int64))
    assert (found.value, found.low, found.high) == (1.0, -np.inf, np.inf)


def test_the_highest_third_is_of_earlier_windows_alone() -> None:
    window = np.repeat(np.arange(4, dtype=np.int64), 30)
    score = np.random.default_rng(1).random(120)
    chosen = highest_so_far(score, window, share=1.0 / 3.0)
    assert not chosen[:30].any()
    for cut in (30, 60, 90):
        moved = score.copy()
        moved[cut:] = 1.0 - moved[cut:]
        again = highest_so_far(moved, window, share=1.0 / 3.0)
        assert np.array_equal(again[:cut], chosen[:cut])
    assert 0.15 < chosen[30:].mean() < 0.55


def test_ties_at_the_edge_of_the_highest_third_are_counted() -> None:
    window = np.array([0] * 9 + [1] * 4, dtype=np.int64)
    score = np.array([0.4] * 5 + [0.6] * 4 + [0.7, 0.6, 0.6, 0.5])
    assert highest_so_far(score, window, share=1.0 / 3.0).sum() == 1
    assert tied_at_the_edge(score, window, share=1.0 / 3.0) == 2
    apart = np.random.default_rng(1).random(len(score))
    assert tied_at_the_edge(apart, window, share=1.0 / 3.0) == 0
