"""The served record: whose probability, whose base rate, of which signals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.learning_installation import NOW, LearningInstallation, fitted, learning_installation
from trading_system.ml_refinement.config import ModelMetadata, ModelType
from trading_system.ml_refinement.monitoring.served import SERVED_DAYS, read_served, served_figures
from trading_system.ml_refinement.storage.tables.scores import PredictionRow
from trading_system.ml_refinement.storage.times import DAY_US, utc_text
from trading_system.ml_refinement.validation import metrics
from trading_system.simulation.worlds import World, independent


@pytest.fixture(scope="module")
def world() -> World:
    return independent(600, np.random.default_rng(3))


def registered(installation: LearningInstallation, model_id: str, **train_metrics: float) -> str:
    """A model of which nothing but its figures is known."""
    metadata = ModelMetadata(
        model_id=model_id,
        model_type=ModelType.SIGNAL_QUALITY,
        version="1",
        created_at=utc_text(NOW),
        train_start_date="2000-01-01",
        train_end_date="2000-12-31",
        train_samples=0,
        validation_samples=0,
        train_metrics=train_metrics,
        validation_metrics={},
        feature_names=[],
        feature_importance={},
    )
    installation.db.models.register(metadata)
    return model_id


def serve(installation: LearningInstallation, rows: range, model_id: str, p: float = 0.5) -> None:
    logged = [PredictionRow(f"s{i:06d}", model_id, utc_text(NOW), p, 0.0, 0.0) for i in rows]
    installation.db.scores.log_predictions(logged)


def test_the_base_rate_beside_a_score_is_that_of_the_model_that_served_it(tmp_path: Path, world: World) -> None:
    installation = learning_installation(tmp_path, world)
    for rows, name, rate in ((range(500, 550), "old", 0.3), (range(550, 600), "new", 0.6)):
        serve(installation, rows, registered(installation, name, base_rate=rate), p=rate)
    # However many models were trained since.
    for number in range(520):
        registered(installation, f"later-{number}", base_rate=0.5)
    record = read_served(installation.db, train_window_days=252)
    assert record.base.tolist() == [0.3] * 50 + [0.6] * 50
    figures = served_figures(record)
    assert figures.excess == pytest.approx(0.0, abs=1e-12)
    assert figures.log_loss == pytest.approx(float(metrics.log_losses(record.won, record.base).mean()))


def test_a_model_that_tells_no_base_rate_is_no_evidence(tmp_path: Path, world: World) -> None:
    installation = learning_installation(tmp_path, world)
    serve(installation, range(500, 550), registered(installation, "silent"))
    serve(installation, range(550, 600), registered(installation, "told", base_rate=0.4))
    assert len(read_served(installation.db, train_window_days=252)) == 50


def test_what_was_served_earlier_than_the_newest_126_days_counts_no_more(tmp_path: Path, world: World) -> None:
    installation = learning_installation(tmp_path, world)
    serve(installation, range(600), registered(installation, "only", base_rate=0.4))
    record = read_served(installation.db, train_window_days=252)
    newest = world.entered_us.max()
    assert record.entered_us.min() > newest - SERVED_DAYS * DAY_US
    assert len(record) == int((world.entered_us > newest - SERVED_DAYS * DAY_US).sum()) < 600
    assert len(read_served(installation.db, train_window_days=252, days=None)) == 600
    some = read_served(installation.db, train_window_days=252, days=None, newest=10)
    assert some.signal_ids.tolist() == record.signal_ids.tolist()[-10:]


def test_the_record_of_one_model_ends_with_what_it_served_last(tmp_path: Path, world: World) -> None:
    installation = learning_installation(tmp_path, world)
    serve(installation, range(50), registered(installation, "retired", base_rate=0.4))
    serve(installation, range(300, 600), registered(installation, "serves", base_rate=0.4))
    record = read_served(installation.db, train_window_days=252, model_ids=["retired"])
    assert record.signal_ids.tolist() == [f"s{i:06d}" for i in range(50)]


def test_without_outcomes_there_is_no_figure(tmp_path: Path) -> None:
    installation = learning_installation(tmp_path)
    installation.registry.register(fitted())
    figures = served_figures(read_served(installation.db, train_window_days=252))
    assert (figures.rows, figures.worse) == (0, False)
    assert np.isnan([figures.log_loss, figures.excess, figures.auc, figures.calibration_error, figures.lift]).all()
