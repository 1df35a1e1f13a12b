"""A desk lived through in order of time, and what is said of it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.desk_figures import auc_within, of_calibration, of_proof, of_ranking, slope, upper_half
from benchmarks.lockstep import Life, Look, lived
from trading_system.ml_refinement.config import MLConfig, TrainingConfig
from trading_system.ml_refinement.models.calibration import to_logit
from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.storage.times import DAY_US
from trading_system.ml_refinement.training import backtest
from trading_system.simulation import learning_experiments as parts
from trading_system.simulation.desks import DESK, SMALL_DESK, DeskWorld, drawn
from trading_system.simulation.remembered_fits import RememberedFits
from trading_system.simulation.worlds import START_US

BRIEF = replace(SMALL_DESK, days=170, holds=(1, 5), market_features=2, symbol_features=2, own_features=4)
QUICKLY = MLConfig(training=TrainingConfig(hyperparameters={"max_iter": 8}))


@pytest.fixture(scope="module")
def brief() -> DeskWorld:
    return drawn(BRIEF, np.random.default_rng(1))


@pytest.fixture(scope="module")
def life(brief: DeskWorld, tmp_path_factory: pytest.TempPathFactory) -> tuple[Life, Path]:
    directory = tmp_path_factory.mktemp("desk")
    return lived(brief, directory, config=QUICKLY), directory


def looked(day: int, *, proven: bool, verdict: str = "reject") -> Look:
    return Look(day, verdict, "skill", "", 500, "m", proven)


def said(look: Look) -> tuple[str, str]:
    """The verdict and its reason without the ids of models, which are drawn anew each time."""
    return look.verdict, re.sub("signal_quality_[^ ]+", "the champion", look.reason)


def test_signals_are_scored_by_what_served_at_their_entry_and_logged_so(
    brief: DeskWorld, life: tuple[Life, Path]
) -> None:
    told, directory = life
    first = told.looks[0].day
    assert np.isnan(told.quality[brief.day < first]).all()
    assert not np.isnan(told.quality[brief.day >= first]).any()
    with FeatureDatabase(directory / "features.db") as db:
        record = db.scores.served_history()
        assert db.counts().labels_total == (brief.known_us < START_US + BRIEF.days * DAY_US).sum()
    place = [int(signal_id[1:]) for signal_id in record.signal_id]
    assert np.array_equal(told.quality[place], record.quality_score)
    assert np.array_equal(brief.r[place], record.r)
    served = np.flatnonzero(~np.isnan(told.quality) & (brief.known_us < START_US + BRIEF.days * DAY_US))
    assert place == served.tolist()


def test_what_is_served_knows_nothing_of_trades_that_have_not_closed(
    brief: DeskWorld, life: tuple[Life, Path], tmp_path: Path
) -> None:
    day = 84
    ahead = brief.known_us >= START_US + day * DAY_US
    other = lived(replace(brief, r=np.where(ahead, -brief.r, brief.r)), tmp_path, config=QUICKLY)
    until = np.searchsorted(brief.day, day + 21)
    assert np.array_equal(other.quality[:until], life[0].quality[:until], equal_nan=True)
    assert not np.array_equal(other.quality[until:], life[0].quality[until:])


def test_neither_remembered_fits_nor_models_left_out_beside_it_change_what_is_served(
    brief: DeskWorld, life: tuple[Life, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RememberedFits, "__call__", lambda _, *given, **named: backtest.fit_on(*given, **named))
    plain = lived(brief, tmp_path, config=QUICKLY, auxiliary=True)
    assert np.array_equal(plain.quality, life[0].quality, equal_nan=True)
    assert [said(look) for look in plain.looks] == [said(look) for look in life[0].looks]


def test_looks_at_noise_are_those_of_a_desk_until_something_is_proven(tmp_path: Path) -> None:
    world = parts.as_desk(parts.noise_or_edge("clustered .65", 330, np.random.default_rng(2)))
    looks = lived(world, tmp_path).looks
    told = parts.of_looks_at(world, 330)["proven_21"]
    first = told.index(1.0)
    assert [look.verdict == "promote" for look in looks[: first + 1]] == [False] * first + [True]


def test_whoever_knows_the_truth_reaches_all_of_it_and_whoever_says_one_thing_nothing() -> None:
    world = drawn(replace(DESK, days=900), np.random.default_rng(3))
    perfect, dumb = of_ranking(world, world.truth), of_ranking(world, np.full(len(world.r), np.nan))
    assert (perfect["share"], perfect["share_on_outcomes"]) == (pytest.approx(1.0), pytest.approx(1.0))
    assert perfect["uplift"] == perfect["truth_uplift"] > 4 * perfect["uplift_error"]
    assert (dumb["share"], dumb["auc"], dumb["uplift"]) == (0.0, 0.5, pytest.approx(0.0))
    backwards = of_ranking(world, 1.0 - world.truth)
    assert backwards["share"] == pytest.approx(-1.0)


def test_a_ranking_between_windows_counts_for_nothing() -> None:
    rng = np.random.default_rng(4)
    window = np.repeat(np.arange(10), 50)
    won = (rng.random(500) < 0.2 + 0.06 * window).astype(float)
    assert auc_within(won, window + 0.0, window) == 0.5
    pairs = [auc_within(won[window == w], np.arange(50.0), window[window == w]) for w in range(10)]
    assert min(pairs) <= auc_within(won, np.tile(np.arange(50.0), 10), window) <= max(pairs)


def test_the_upper_half_of_a_week_is_compared_with_that_week() -> None:
    r, week = np.array([1.0, 3.0, 5.0, 7.0]), np.array([0, 0, 1, 1])
    assert upper_half(r, np.array([0.1, 0.9, 0.8, 0.2]), week) == (pytest.approx(0.0), pytest.approx(1.0))
    assert upper_half(r, np.array([0.1, 0.9, 0.2, 0.8]), week)[0] == 1.0
    assert upper_half(r, np.full(4, 0.5), week) == (0.0, 0.0)


def test_a_proof_is_dated_from_the_edges_beginning_and_its_end_from_the_edges_death() -> None:
    days = (90, 111, 132, 153, 174, 195, 216)
    proven = (False, True, False, True, True, True, False)
    looks = [looked(day, proven=is_proven) for day, is_proven in zip(days, proven, strict=True)]
    assert of_proof(looks, 100, 170) == {
        "proven_before": 0.0,
        "first_proof": 11.0,
        "lost": [1.0],
        "ended_in_time": 1.0,
        "notice": 46.0,
        "proven_after": [],
    }
    never = of_proof(looks[:-1], 0, 160)
    assert (never["ended_in_time"], "notice" in never) == (0.0, False)
    assert "first_proof" not in of_proof(looks[:1], 0, 170)
    assert of_proof([*looks, looked(400, proven=True)], 0, 170)["proven_after"] == [1.0]


def test_probabilities_that_are_the_truth_are_calibrated_with_a_slope_of_one() -> None:
    world = drawn(replace(DESK, days=1100), np.random.default_rng(3))
    right = of_calibration(world, world.truth)
    assert max(right["error"]) < 1e-12
    assert right["error_quarter"] == [float(quarter) for quarter in range(13)]
    assert right["slope_quarter"] == [6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0]
    assert np.mean(right["slope"]) == pytest.approx(1.0, abs=0.25)
    off = of_calibration(world, np.clip(world.truth + 0.1, 0.0, 1.0))
    assert np.mean(off["error"]) == pytest.approx(0.1, abs=0.001)
    rng = np.random.default_rng(0)
    logit = rng.standard_normal(40_000)
    won = (rng.random(40_000) < 1.0 / (1.0 + np.exp(-0.5 * logit))).astype(float)
    assert slope(won, logit) == pytest.approx(0.5, abs=0.05)
    assert to_logit(np.array([0.5]))[0] == 0.0
