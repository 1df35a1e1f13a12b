"""The models beside the one of signal quality: all trained in one run, each let through by its own rule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.learning_installation import NOW, dataset, learning_installation, narrow, quick
from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.models import RegimeClassifier, RiskPredictor
from trading_system.ml_refinement.storage.errors import StaleActivation
from trading_system.ml_refinement.storage.times import DAY_US
from trading_system.ml_refinement.training import auxiliary_models as companions
from trading_system.ml_refinement.training.auxiliary_models import Window, judge_regime, judge_risk
from trading_system.ml_refinement.training.verdicts import Decision, Serve
from trading_system.ml_refinement.validation.walk_forward import PurgedWalkForward, time_blocks
from trading_system.simulation.worlds import World, independent

MARKET = ("market_trend", "rally_strength", "volatility_regime")


def market_world(rows: int = 700, *, auc: float = 0.7) -> World:
    """A world of which three features are a market that turns every few weeks."""
    kind = "linear" if auc > 0.5 else "null"
    world = narrow(independent(rows, np.random.default_rng(0), kind=kind, auc=auc, per_day=1.5), 12)
    days, noise = (world.entered_us - world.entered_us[0]) / DAY_US, world.X[:, 7:10]
    turn = np.column_stack([np.sin(days / 20), np.sin(days / 20), 0.5 + 0.3 * np.cos(days / 33)])
    X = np.column_stack([world.X[:, :7], np.clip(0.6 * turn + 0.1 * noise, -1, 1), world.X[:, 10:]])
    return World(X, world.r, world.truth, world.entered_us, world.known_us)


def columns(world: World) -> list[str]:
    names = [f"x{i:02d}" for i in range(world.X.shape[1])]
    names[7:10] = MARKET
    return names


def test_one_training_fits_all_four_models_and_lets_each_through_by_its_own_rule(tmp_path: Path) -> None:
    world = market_world()
    installation = learning_installation(tmp_path / "installation", world, columns(world))
    result = installation.train()
    assert result.verdict.serve is Serve.PROVEN
    told = result.figures["companions"]
    assert set(told) == {"return_predictor", "risk_predictor", "regime_classifier"}
    for kind in ModelType:
        row = installation.db.models.active(kind.value)
        assert (row.run_id, row.feature_version, row.proven) == ("run-1", "bench-1", True), kind
        assert installation.registry.load(row.model_id).model_type is kind
        [entry] = installation.db.models.promotions(5, kind.value)
        assert (entry.action, entry.model_id, entry.run_id) == ("activate", row.model_id, "run-1")
    assert told["risk_predictor"]["figures"]["coverage"] == pytest.approx(0.1, abs=0.05)
    regime = told["regime_classifier"]["figures"]
    assert regime["accuracy"] > regime["commonest_accuracy"] + 0.2
    assert installation.db.models.active("risk_predictor").metadata.validation_samples > 100


def test_a_rejected_quality_model_takes_its_return_predictor_with_it_and_no_other(tmp_path: Path) -> None:
    world = market_world(auc=0.5)
    installation = learning_installation(tmp_path / "installation", world, columns(world))
    first = installation.train()
    told = first.figures["companions"]
    assert told["return_predictor"]["serve"] == first.verdict.serve.value != "proven"
    assert installation.db.models.active("return_predictor") is None or first.verdict.serve is Serve.PROVISIONAL
    assert installation.db.models.active("risk_predictor").proven
    assert installation.db.models.active("regime_classifier").proven


def test_an_auxiliary_model_changed_by_hand_meanwhile_stops_the_whole_run(tmp_path: Path) -> None:
    world = market_world(200)
    installation = learning_installation(tmp_path / "installation", world, columns(world))
    other = RiskPredictor(max_iter=3)
    other.fit(world.X, world.r, feature_names=columns(world))
    installation.registry.register(other)
    result = installation.train(
        quick(hyperparameters={"max_iter": 2}),
        progress=lambda stage, done, total: stage == "register" and installation.registry.activate(other.model_id),
    )
    assert result.reason.startswith(StaleActivation.__name__) or result.reason.startswith("stale_activation")
    assert [installation.db.models.active_id(kind.value) for kind in ModelType] == [None, None, None, other.model_id]


def windows(model: RiskPredictor | RegimeClassifier, rows: int = 300, *, spoil: float = 0.0) -> list[Window]:
    world = market_world(2 * rows)
    names = columns(world)
    model.fit(world.X[:rows], world.r[:rows], feature_names=names)
    X, entered = world.X[rows:].copy(), world.entered_us[rows:]
    if spoil and isinstance(model, RegimeClassifier):
        X[:, 7:9] *= -1.0
        model.predict = lambda asked: RegimeClassifier.predict(model, asked * np.where(np.arange(12) == 7, -9, 1))  # type: ignore[method-assign]
    block = time_blocks(entered, block_us=10 * DAY_US)
    train = world.X[:rows], world.entered_us[:rows], world.r[:rows]
    return [Window(model, *train, X, world.r[rows:] - spoil, entered, block)]


@pytest.mark.parametrize("proven", [True, False])
def test_risk_that_is_not_kept_is_rejected_whatever_serves(proven: bool) -> None:
    kept = judge_risk(windows(RiskPredictor(max_iter=20)), proven=proven)
    assert (kept.decision, kept.serve) == (Decision.PROMOTE, Serve.PROVEN)
    broken = judge_risk(windows(RiskPredictor(max_iter=20), spoil=3.0), proven=proven)
    assert (broken.decision, broken.serve) == (Decision.REJECT, Serve.NO)
    assert "ended below it" in broken.reason


def test_a_regime_told_worse_than_by_naming_the_commonest_is_rejected() -> None:
    assert judge_regime(windows(RegimeClassifier()), proven=False).decision is Decision.PROMOTE
    assert judge_regime(windows(RegimeClassifier(), spoil=1.0), proven=False).decision is Decision.REJECT


@pytest.mark.parametrize(("rows", "proven", "serve"), [(50, False, "provisional"), (50, True, "no"), (5, False, "no")])
def test_where_too_little_can_be_seen_a_proven_one_stays(rows: int, proven: bool, serve: str) -> None:
    [window] = windows(RiskPredictor(max_iter=5))
    few = replace(window, X=window.X[:rows], r=window.r[:rows], block=window.block[:rows])
    verdict = judge_risk([few], proven=proven)
    assert (verdict.decision, verdict.serve.value) == (Decision.HOLD, serve)
    assert judge_risk([], proven=False).serve is Serve.NO
    assert judge_regime([], proven=False).serve is Serve.NO


def test_no_window_is_predicted_by_what_was_not_known_before_it() -> None:
    data = dataset(market_world())
    walk = PurgedWalkForward(max_hold_us=10 * DAY_US, test_days=63, step_days=63)
    found = companions._forward(data, walk, lambda: RiskPredictor(max_iter=2, clock=lambda: NOW))
    assert len(found) >= 3
    for window in found:
        known = data.known_us[np.isin(data.entered_us, window.train_us)]
        assert known.max() < window.entered_us.min()
