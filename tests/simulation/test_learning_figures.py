"""The figures learning has to reach, on a few worlds each; `make bench-learning` measures them on many."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from tests.support.learning_installation import learning_installation
from trading_system.ml_refinement.config import MLConfig
from trading_system.ml_refinement.training.promotion import judge
from trading_system.simulation import bayes_limit, learning_experiments as parts, worlds
from trading_system.simulation.remembered_fits import RememberedFits
from trading_system.simulation.seeds import Case, generator

AS_FIRST = {"recipe": "ensemble", "champion": None}


def measured(part: str, measure: object, *cases: Case) -> dict[str, float]:
    """The mean of each figure over cases."""
    figures = [measure(case, generator(part, case)) for case in cases]
    return {name: float(np.mean([one[name] for one in figures])) for name in figures[0]}


@pytest.mark.parametrize(("kind", "at_least"), [("linear", 0.65), ("mixed", 0.35)])
def test_it_ranks_better_than_the_specifications_recipe_and_is_right_about_itself(kind: str, at_least: float) -> None:
    figures = measured("test", parts.of_one_fit, *((kind, 0.7, 400, k) for k in range(1)))
    assert figures["served"] > at_least
    assert figures["served"] > figures["specification"]
    assert figures["calibration_error"] < 0.05


@pytest.mark.parametrize(("n", "at_most"), [(150, 0.010), (400, 0.005)])
def test_where_there_is_nothing_to_learn_it_says_the_base_rate(n: int, at_most: float) -> None:
    figures = measured("test", parts.of_one_fit, *(("null", 0.5, n, k) for k in range(3)))
    assert 0.0 <= figures["log_loss_excess"] < at_most


def test_a_year_of_looks_at_noise_proves_nothing_and_an_edge_is_proven() -> None:
    days = 365 + 112
    noise = parts.as_desk(parts.noise_or_edge("independent 252", days, generator("test", ("looks", 0))))
    figures = parts.of_looks_at(noise, days)
    assert (figures["years_7"], figures["years_21"]) == ([0.0], [0.0])
    assert not sum(figures["proven_7"] + figures["proven_21"])
    assert figures["folds"] > 5 * figures["fits"]
    edge = parts.as_desk(parts.noise_or_edge("independent .70", 200, generator("test", ("looks", 1))))
    assert sum(parts.of_looks_at(edge, 200)["proven_7"])


def test_what_is_measured_is_what_a_training_in_a_store_puts_before_the_gate(tmp_path: Path) -> None:
    world = parts.noise_or_edge("independent 252", 340, np.random.default_rng(3))
    fit, config = RememberedFits(), MLConfig()
    last = int(world.known_us.max())
    for ago in (0, 21):
        now_us = last - ago * worlds.DAY_US
        told = judge(parts.evidence(parts.dataset(world, known_by_us=now_us), config, fit), **AS_FIRST)
    assert fit.asked > fit.fitted
    installation = learning_installation(tmp_path / "installation", world)
    trained = installation.train(config, clock=lambda: datetime.fromtimestamp(now_us / 1e6, UTC)).verdict
    assert (trained.decision, trained.figures) == (told.decision, pytest.approx(told.figures))


def test_skill_is_proven_where_there_is_skill() -> None:
    figures = parts.of_one_retraining(("independent .70", 0), generator("test", ("independent .70", 0)))
    assert figures["promoted"] == 1.0
    assert 0.60 < figures["auc"] < 0.75


def test_the_canary_sings_unpurged_and_is_silent_purged() -> None:
    figures = parts.of_the_canary((3,), generator("canary", (3,)))
    assert figures["unpurged"] >= 0.62
    assert figures["unpurged_holds"] == 0.0
    assert figures["purged_holds"] == 1.0


def test_no_schedule_violates_the_purge() -> None:
    figures = parts.of_schedules((0,), generator("test", (0,)), schedules=200)
    assert figures["folds"] > 1_000
    assert figures["violations"] == 0


def test_persistent_features_without_drift_are_mostly_left_in_peace_and_moved_ones_are_found() -> None:
    figures = measured("test", parts.of_drift, *((k,) for k in range(10)))
    assert figures["flagged"] <= 0.20
    assert figures["fixed"] > 0.70
    assert figures["moved"] > 0.90


def test_the_worlds_are_what_they_say() -> None:
    rng = np.random.default_rng(0)
    truth, score = rng.random(60), np.round(rng.random(60), 1)
    pairs = [(i, j) for i in range(60) for j in range(60) if i != j]
    weight = np.array([truth[i] * (1.0 - truth[j]) for i, j in pairs])
    beats = np.array([(score[i] > score[j]) + 0.5 * (score[i] == score[j]) for i, j in pairs])
    assert worlds.expected_auc(truth, score) == pytest.approx(float((weight * beats).sum() / weight.sum()))
    for kind in ("linear", "mixed"):
        world = worlds.independent(20_000, rng, kind=kind, auc=0.7)
        assert worlds.bayes_auc(world.truth) == pytest.approx(0.7, abs=0.01)
        assert (world.r > 0).mean() == pytest.approx(worlds.BASE_RATE, abs=0.015)


def test_who_knows_the_family_ranks_better_than_who_does_not() -> None:
    figures = measured("test", parts.of_the_limit, ("linear", 0.7, 400, 0), ("linear", 0.6, 150, 1))
    assert figures["served"] < figures["limit"] < 1.0
    rng = generator("test", ("limit", 0))
    X = worlds.features(3_000, rng)
    won = rng.random(3_000) < 1.0 / (1.0 + np.exp(-1.5 * (X[:, 7] * X[:, 30])))
    scores = bayes_limit.limit_scores("mixed", 0.7, X[:1000], won[:1000], X[1000:], rng, sweeps=700)
    assert np.corrcoef(scores, X[1000:, 7] * X[1000:, 30])[0, 1] > 0.8
