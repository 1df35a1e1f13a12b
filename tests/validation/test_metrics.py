"""Figures: each against another definition, a known value, or what chance does."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from trading_system.ml_refinement.validation import metrics


def test_clustered_auc_is_the_auc_and_its_error_is_delongs_without_clusters() -> None:
    rng = np.random.default_rng(0)
    won = rng.random(500) < 0.4
    score = won + 2.0 * rng.standard_normal(500)
    estimate = metrics.clustered_auc(won, score, np.arange(500))
    assert estimate.value == pytest.approx(roc_auc_score(won, score), abs=1e-12)
    beaten = (score[won][:, None] > score[~won]).astype(float)
    delong = math.sqrt(beaten.mean(axis=1).var(ddof=1) / won.sum() + beaten.mean(axis=0).var(ddof=1) / (~won).sum())
    assert estimate.error == pytest.approx(delong, rel=0.01)


def test_ties_count_half() -> None:
    won = np.array([True, False, True, False])
    assert metrics.clustered_auc(won, np.zeros(4), np.arange(4)).value == 0.5


def test_rows_that_share_their_luck_widen_the_interval() -> None:
    rng = np.random.default_rng(1)
    luck = np.repeat(rng.standard_normal(20), 50)
    won, score = luck + 0.1 * rng.standard_normal(1000) > 0, np.repeat(rng.standard_normal(20), 50)
    alone = metrics.clustered_auc(won, score, np.arange(1000))
    together = metrics.clustered_auc(won, score, np.repeat(np.arange(20), 50))
    assert together.error > 4 * alone.error


def test_the_clustered_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(300):
        cluster = np.repeat(np.arange(15), 20)
        won = 0.8 * np.repeat(rng.standard_normal(15), 20) + rng.standard_normal(300) > 0
        score = np.repeat(rng.standard_normal(15), 20) + rng.standard_normal(300)
        low, high = metrics.clustered_auc(won, score, cluster).interval()
        held += low <= 0.5 <= high
    assert held / 300 > 0.90


def test_a_base_rate_that_follows_past_outcomes_does_not_lower_the_auc_within_windows() -> None:
    rng = np.random.default_rng(3)
    pooled, within = [], []
    for _ in range(60):
        won, window = rng.random(480) < 0.45, np.repeat(np.arange(12), 40)
        base = np.array([won[: w * 40].mean() if w else 0.45 for w in window])
        pooled.append(metrics.clustered_auc(won, base, window).value)
        within.append(metrics.clustered_auc(won, base, window, window).value)
    assert np.mean(pooled) < 0.49
    assert within == [0.5] * 60


def test_windows_without_a_loss_or_a_win_are_passed_over() -> None:
    won = np.array([True, True, True, False, True, False])
    score = np.array([0.1, 0.2, 0.9, 0.1, 0.8, 0.2])
    estimate = metrics.clustered_auc(won, score, np.arange(6), np.array([0, 0, 1, 1, 2, 2]))
    assert estimate.value == 1.0


def test_what_cannot_be_computed_is_nan_and_never_significant() -> None:
    wins = np.ones(5, dtype=bool)
    estimate = metrics.clustered_auc(wins, np.arange(5.0), np.arange(5))
    assert math.isnan(estimate.value)
    assert not estimate.above(0.5, 0.4)
    assert math.isnan(metrics.auc(wins, np.arange(5.0)))
    assert math.isnan(metrics.clustered_mean(np.empty(0), np.empty(0)).value)
    assert metrics.clustered_mean(np.ones(3), np.zeros(3)).interval() == (-math.inf, math.inf)


def test_log_loss_and_brier_of_a_known_case() -> None:
    won, p = np.array([True, False]), np.array([0.8, 0.4])
    assert metrics.log_losses(won, p) == pytest.approx([-math.log(0.8), -math.log(0.6)])
    assert metrics.brier(won, p) == pytest.approx((0.04 + 0.16) / 2)
    assert np.isfinite(metrics.log_losses(won, np.array([0.0, 1.0]))).all()


def test_a_calibrated_probability_shows_the_error_that_chance_gives_it() -> None:
    rng = np.random.default_rng(4)
    seen, expected = [], []
    for _ in range(200):
        p = rng.uniform(0.2, 0.7, 400)
        error, chance = metrics.calibration_error(rng.random(400) < p, p)
        seen.append(error)
        expected.append(chance)
    assert np.mean(seen) == pytest.approx(np.mean(expected), rel=0.08)


def test_a_probability_that_is_off_by_a_tenth_has_that_calibration_error() -> None:
    p = np.linspace(0.3, 0.6, 100_000)
    won = np.random.default_rng(5).random(100_000) < p - 0.1
    assert metrics.calibration_error(won, p)[0] == pytest.approx(0.1, abs=0.005)


def test_the_top_share_takes_the_best_rows_and_splits_ties() -> None:
    r, score = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.1, 0.9, 0.5, 0.5])
    assert metrics.top_mean(r, score, share=0.25) == 2.0
    assert metrics.top_mean(r, score, share=0.5) == pytest.approx((2.0 + 3.5) / 2)
    assert metrics.top_mean(r, np.zeros(4), share=0.1) == 2.5


def test_lift_is_the_top_fifth_less_the_bottom_fifth_with_ties_in_part() -> None:
    r, score = np.arange(10.0), np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    alone = np.arange(10)
    assert metrics.clustered_lift(r, score, alone).value == pytest.approx(8.5 - 0.5)
    assert metrics.clustered_lift(r, np.zeros(10), alone).value == pytest.approx(0.0)
    assert math.isnan(metrics.clustered_lift(r[:4], score[:4], alone[:4]).value)
    assert metrics.clustered_lift(r, score, np.zeros(10, dtype=np.int64)).freedom == 0


def test_the_interval_of_the_lift_holds_the_truth_about_as_often_as_it_says() -> None:
    held = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        r = np.repeat(rng.standard_normal(60), 8) + rng.standard_normal(480)
        low, high = metrics.clustered_lift(r, rng.random(480), np.repeat(np.arange(60), 8)).interval()
        held += low <= 0.0 <= high
    assert 180 <= held <= 199


def test_lift_by_decile_rises_with_a_score_that_is_the_outcome() -> None:
    r = np.random.default_rng(6).standard_normal(200)
    deciles = metrics.by_decile(r, r)
    assert (np.diff(deciles) > 0).all()
    assert np.isnan(metrics.by_decile(r[:5], r[:5])).all()


def test_the_information_coefficient_is_a_rank_correlation() -> None:
    r = np.arange(10.0)
    assert metrics.information_coefficient(r, np.exp(r)) == pytest.approx(1.0)
    assert math.isnan(metrics.information_coefficient(r, np.ones(10)))


def test_reliability_bins_hold_equal_numbers() -> None:
    p = np.random.default_rng(7).random(100)
    assert metrics.reliability(p > 0.5, p)[:, 2].tolist() == [10.0] * 10


def test_conditional_gain_is_the_likelihood_of_who_won_given_how_many_did() -> None:
    rng = np.random.default_rng(20)
    logit, won = rng.standard_normal(6), np.array([True, False, True, False, False, True])
    odds = np.exp(logit)
    sets = [math.prod(odds[list(chosen)]) for chosen in combinations(range(6), 3)]
    expected = math.log(math.prod(odds[won]) / sum(sets)) - math.log(1 / len(sets))
    assert metrics.conditional_gain(won, logit, np.zeros(6, dtype=int)) == pytest.approx(expected / 6)


def test_conditional_gain_does_not_see_what_a_stratum_shares_and_strata_of_one_class_say_nothing() -> None:
    rng = np.random.default_rng(21)
    stratum = np.repeat(np.arange(8), 25)
    won, logit = rng.random(200) < 0.5, rng.standard_normal(200)
    gain = metrics.conditional_gain(won, logit, stratum)
    assert metrics.conditional_gain(won, logit + 30.0 * stratum, stratum) == pytest.approx(gain)
    alone = np.append(won, [True] * 5), np.append(logit, np.arange(5.0)), np.append(stratum, [99] * 5)
    assert metrics.conditional_gain(*alone) == pytest.approx(gain * 200 / 205)
    assert metrics.conditional_gain(won, np.repeat(rng.standard_normal(8), 25), stratum) == pytest.approx(
        0.0, abs=1e-12
    )


def test_conditional_gain_is_highest_on_average_where_the_odds_are_the_true_ones() -> None:
    rng = np.random.default_rng(22)
    logit, stratum = rng.standard_normal(6_000), np.repeat(np.arange(120), 50)
    won = rng.random(6_000) < 1 / (1 + np.exp(-logit))
    gains = [metrics.conditional_gain(won, slope * logit, stratum) for slope in (0.0, 0.5, 1.0, 2.0)]
    assert np.argmax(gains) == 2
    assert gains[0] == pytest.approx(0.0, abs=1e-12)
    assert math.isnan(metrics.conditional_gain(won[:0], logit[:0], stratum[:0]))
