"""Tuning: never on the gate's window, resumable, within its budget, and paid for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.learning_installation import (
    NOW,
    VERSION,
    LearningInstallation,
    dataset,
    fitted,
    learning_installation,
    narrow,
    quick,
)
from trading_system.ml_refinement.config import FeatureConfig, MLConfig, TrainingConfig
from trading_system.ml_refinement.models import SignalQualityModel
from trading_system.ml_refinement.models.errors import TooFewSamples
from trading_system.ml_refinement.storage.times import utc_text
from trading_system.ml_refinement.training import tuning
from trading_system.ml_refinement.training.dataset import Dataset
from trading_system.ml_refinement.training.pipeline import train
from trading_system.ml_refinement.training.recipes import recipe_of
from trading_system.ml_refinement.training.tuning import SPACES, Tuned, tune, tuning_rows
from trading_system.ml_refinement.typing import FloatArray
from trading_system.simulation.worlds import World, independent

pytest.importorskip("optuna")
CONFIG = quick(train_window_days=120)


@pytest.fixture(scope="module")
def world() -> World:
    return narrow(independent(620, np.random.default_rng(4), kind="linear", auc=0.7, per_day=2.0), 8)


def tuned(installation: LearningInstallation, data: Dataset, **budget: float) -> Tuned:
    journal = installation.directory / "tuning.log"
    return tune(installation.db, data, CONFIG, journal=journal, clock=lambda: NOW, **{"trials": 2, **budget})  # type: ignore[arg-type]


def test_what_is_tuned_on_had_closed_before_the_gates_evidence_begins(world: World) -> None:
    data = dataset(world)
    rows, begins = tuning_rows(data, CONFIG)
    assert len(rows) >= 100
    assert data.known_us[rows].max() < begins
    evidence = tuning.backtest.walk_forward(data, CONFIG, clock=lambda: NOW)
    assert begins <= data.entered_us[evidence.rows].min()
    assert not set(rows.tolist()) & set(evidence.rows.tolist())


def test_what_happens_in_the_gates_window_does_not_move_a_trial(tmp_path: Path, world: World) -> None:
    data = dataset(world)
    _, begins = tuning_rows(data, CONFIG)
    later = data.entered_us >= begins
    X, r = data.X.copy(), data.r.copy()
    X[later], r[later] = -X[later], -r[later]
    first = tuned(learning_installation(tmp_path / "a"), data)
    second = tuned(learning_installation(tmp_path / "b"), replace(data, X=X, r=r))
    assert first == second


def test_the_first_trial_is_the_recipe_as_configured_and_the_best_is_never_worse(tmp_path: Path, world: World) -> None:
    installation = learning_installation(tmp_path)
    found = tuned(installation, dataset(world))
    trials = sorted(installation.db.tuning.of_study(found.study), key=lambda trial: trial.number)
    assert trials[0].parameters["max_iter"] == CONFIG.training.hyperparameters["max_iter"]
    assert found.default_gain == trials[0].log_loss_gain
    assert found.best_gain == max(trial.log_loss_gain for trial in trials) >= found.default_gain
    assert all(set(trial.parameters) == set(SPACES["ensemble"]) for trial in trials)


def test_a_search_goes_on_where_it_was_and_is_not_begun_twice(tmp_path: Path, world: World) -> None:
    installation, data = learning_installation(tmp_path), dataset(world)
    assert tuned(installation, data, trials=1).new_trials == 1
    again = tuned(installation, data, trials=2)
    assert (again.trials, again.new_trials) == (2, 1)
    assert tuned(installation, data, trials=2).new_trials == 0
    assert installation.db.tuning.count() == 2


def test_no_trial_is_begun_after_its_time(tmp_path: Path, world: World) -> None:
    with pytest.raises(TooFewSamples, match="the time was over"):
        tuned(learning_installation(tmp_path), dataset(world), seconds=0.0)


def test_a_store_that_does_not_reach_back_far_enough_is_refused_by_name(tmp_path: Path, world: World) -> None:
    short = narrow(independent(300, np.random.default_rng(4)), 8)
    with pytest.raises(TooFewSamples, match="before the gate's window"):
        tuned(learning_installation(tmp_path), dataset(short))


def test_a_recipe_is_its_parameters_and_its_seed() -> None:
    plain = MLConfig()
    assert recipe_of(SignalQualityModel(), plain) == "ensemble"
    given: tuple[dict[str, int], ...] = ({}, {"max_iter": 41}, {"max_iter": 42}, {"random_state": 7})
    assert len({recipe_of(SignalQualityModel(**each), plain) for each in given}) == 4


@pytest.mark.parametrize(
    "config",
    [
        MLConfig(training=TrainingConfig(**{name: value}))
        for name, value in {
            "train_window_days": 126, "step_size_days": 7, "min_training_samples": 50, "max_features": 10,
            "feature_selection": False, "feature_importance_threshold": 0.05, "early_stopping": False,
        }.items()
    ]
    + [MLConfig(features=FeatureConfig(scale_features=False))]
    + [MLConfig(features=FeatureConfig(scaling_method="robust"))],
)  # fmt: skip
def test_whatever_shapes_a_model_makes_another_recipe_of_it(config: MLConfig) -> None:
    assert recipe_of(SignalQualityModel(), config) != "ensemble"


def test_what_does_not_shape_a_model_does_not() -> None:
    config = MLConfig(retrain_frequency_days=30, min_new_samples_for_retrain=50, ml_score_weight=0.5)
    assert recipe_of(SignalQualityModel(), config) == "ensemble"


def test_every_trial_is_paid_for_at_the_gate(tmp_path: Path, world: World) -> None:
    """Against a proven champion of another recipe the level is .05 over all that was tried."""
    installation = learning_installation(tmp_path, world)
    champion = fitted(columns=len(installation.feature_names))
    installation.registry.enter(champion, recipe="gradient_boosting")
    installation.registry.promote(champion.model_id, proven=True)
    with installation.db.atomic():
        installation.db.scores.log_predictions(
            _served(installation, champion.model_id, 0.45 + 0.3 * (world.truth - 0.45))
        )
    for number in range(8):
        installation.db.tuning.add(
            "s", number, at=utc_text(NOW), recipe="ensemble", parameters={}, log_loss_gain=0.0, window_digest=""
        )
    names, watermark = installation.feature_names, installation.db.counts().labels_total
    arguments = {"pipeline_names": names, "feature_version": VERSION, "label_watermark": watermark}
    result = train(installation.db, installation.registry, quick(), clock=lambda: NOW, run_id="r", **arguments)  # type: ignore[arg-type]
    assert result.verdict is not None
    assert result.verdict.rule == "new_recipe"
    assert "at level 0.0050" in result.reason, result.reason


def _served(installation: LearningInstallation, model_id: str, said: FloatArray) -> list[object]:
    from trading_system.ml_refinement.storage.tables.scores import PredictionRow

    ids = [
        row[0] for row in installation.db.connection.query("SELECT signal_id FROM feature_vectors ORDER BY signal_id")
    ]
    return [PredictionRow(name, model_id, utc_text(NOW), float(p), 0.0, 0.0) for name, p in zip(ids, said, strict=True)]
