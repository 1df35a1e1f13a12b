"""One look: alarms that should ring and alarms that should not, what may be asked for, and what is stored."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from tests.support.learning_installation import NOW, VERSION, LearningInstallation, fitted, learning_installation, quick
from trading_system.ml_refinement.evaluation.comparison import compare
from trading_system.ml_refinement.models import SignalQualityModel
from trading_system.ml_refinement.monitoring.checks import Report, may_request, run_checks
from trading_system.ml_refinement.monitoring.liveness import LearningHealth, learning_alarms
from trading_system.ml_refinement.monitoring.served import worse_than_base_rate
from trading_system.ml_refinement.storage.tables.outcomes import OutcomeRow
from trading_system.ml_refinement.storage.times import DAY_US, text_from_us
from trading_system.ml_refinement.validation.evidence import Evidence
from trading_system.simulation.worlds import World, independent

HEALTHY = LearningHealth(
    outcomes_grown=0,
    labels_grown=True,
    waiting_outcomes=0,
    labels_unlearned=10,
    min_new_labels=20,
    failed_in_a_row=0,
    quiet_days=3.0,
    longest_hold_days=10.0,
    days_since_training=2.0,
    frequency_days=7,
)


def seen(installation: LearningInstallation) -> Report:
    arguments = {"names": installation.feature_names, "feature_version": VERSION, "registry": installation.registry}
    return run_checks(installation.db, quick(), clock=lambda: NOW, **arguments)  # type: ignore[arg-type]


def moved(world: World, columns: int) -> World:
    """The newest 63 days of the first columns, three standard deviations further up."""
    X = world.X.copy()
    X[world.entered_us > world.entered_us.max() - 63 * DAY_US, :columns] += 3.0
    return World(X, world.r, world.truth, world.entered_us, world.known_us)


@pytest.fixture(scope="module")
def world() -> World:
    return independent(1300, np.random.default_rng(2))


def test_a_store_without_drift_rings_no_alarm_and_the_report_is_stored(tmp_path: Path, world: World) -> None:
    installation = learning_installation(tmp_path, world)
    report = seen(installation)
    assert [alarm.name for alarm in report.alarms if alarm.name != "nothing_is_learned"] == []
    stored = installation.db.monitoring.last()
    assert stored is not None
    assert (stored.figures["features"], stored.model_id, stored.requested) == (60, None, None)
    assert [feature["name"] for feature in stored.features] == [drift.name for drift in report.features]


def test_features_that_moved_ring_and_may_be_cured_by_a_training(tmp_path: Path, world: World) -> None:
    report = seen(learning_installation(tmp_path, moved(world, 30)))
    assert "features_drifted" in {alarm.name for alarm in report.alarms}
    assert report.curable
    assert report.figures["features_drifted"] >= 30
    assert {drift.name for drift in report.features[:30]} == {f"x{i:02d}" for i in range(30)}


def serving(installation: LearningInstallation, model: SignalQualityModel) -> None:
    installation.registry.register(model)
    installation.registry.activate(model.model_id)


def test_scores_are_those_of_one_model_and_drift_with_what_it_reads(tmp_path: Path, world: World) -> None:
    six = World(world.X[:, :6], world.r, world.truth, world.entered_us, world.known_us)
    still, drifted = learning_installation(tmp_path / "a", six), learning_installation(tmp_path / "b", moved(six, 1))
    assert "score_psi" not in seen(still).figures
    for installation in (still, drifted):
        serving(installation, fitted(rows=2000))
    assert "scores_drifted" not in {alarm.name for alarm in seen(still).alarms}
    assert "scores_drifted" in {alarm.name for alarm in seen(drifted).alarms}


def test_a_champion_that_says_the_base_rate_does_not_drift(tmp_path: Path, world: World) -> None:
    six = World(world.X[:, :6], world.r, world.truth, world.entered_us, world.known_us)
    installation = learning_installation(tmp_path, moved(six, 1))
    serving(installation, fitted(rows=60))
    report = seen(installation)
    assert report.figures["score_psi"] < 0.01


def test_an_empty_store_rings_no_alarm(tmp_path: Path) -> None:
    assert seen(learning_installation(tmp_path)).alarms == ()


def test_labels_in_plenty_that_nothing_learns_from_ring(tmp_path: Path, world: World) -> None:
    installation = learning_installation(tmp_path, world)
    assert "nothing_is_learned" in {alarm.name for alarm in seen(installation).alarms}
    installation.train()
    assert "nothing_is_learned" not in {alarm.name for alarm in seen(installation).alarms}


def test_outcomes_that_find_no_signal_ring_until_a_label_arrives(tmp_path: Path, world: World) -> None:
    installation = learning_installation(tmp_path, world)
    seen(installation)
    closed = text_from_us(int(world.known_us.max()))
    installation.db.outcomes.record([OutcomeRow(f"lost-{n}", 0, closed, 1.0, None, None, f"e-{n}") for n in range(25)])
    assert "labels_do_not_arrive" in {alarm.name for alarm in seen(installation).alarms}
    assert "labels_do_not_arrive" in {alarm.name for alarm in seen(installation).alarms}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"outcomes_grown": 20, "labels_grown": False}, "labels_do_not_arrive"),
        ({"quiet_days": 31.0}, "no_trade_closes"),
        ({"failed_in_a_row": 3}, "trainings_fail"),
        ({"labels_unlearned": 100}, "nothing_is_learned"),
        ({"days_since_training": 28.1}, "nothing_is_learned"),
    ],
)
def test_each_way_of_not_being_alive_has_its_alarm(changes: dict[str, float], name: str) -> None:
    values = {field: getattr(HEALTHY, field) for field in LearningHealth.__slots__}
    assert [found for found, _ in learning_alarms(LearningHealth(**(values | changes)))] == [name]
    assert learning_alarms(HEALTHY) == []


def test_a_request_needs_new_labels_a_pause_and_budget() -> None:
    now = datetime(2026, 1, 2, 12, tzinfo=UTC)
    hours = lambda n: now - timedelta(hours=n)  # noqa: E731
    asked = {"requested": [], "last_training": hours(48), "new_labels": 10, "min_new_labels": 20, "now": now}
    assert may_request(**asked)
    assert not may_request(**asked | {"new_labels": 4})
    assert not may_request(**asked | {"last_training": hours(5)})
    assert not may_request(**asked | {"requested": [hours(5)]})
    assert may_request(**asked | {"requested": [hours(7)]})
    assert not may_request(**asked | {"requested": [hours(7), hours(14)]})
    assert may_request(**asked | {"requested": [hours(25), hours(26)]})


def served(p_of_truth: float, rows: int = 400) -> Evidence:
    rng = np.random.default_rng(4)
    won = rng.random(rows) < 0.45
    stamps = np.arange(rows, dtype=np.int64) * DAY_US // 4
    p = np.where(won, p_of_truth, 1.0 - p_of_truth)
    return Evidence(won, p, np.full(rows, 0.45), stamps, np.zeros(rows, dtype=np.int64), 10 * DAY_US)


def test_serving_worse_than_the_base_rate_is_seen_beyond_doubt_only() -> None:
    assert worse_than_base_rate(served(0.3))[0] is True
    assert worse_than_base_rate(served(0.6))[0] is False
    assert worse_than_base_rate(served(0.3, rows=80))[0] is False
    base = served(0.5)
    same = Evidence(base.won, base.base.copy(), base.base, base.entered_us, base.window, base.block_us)
    assert worse_than_base_rate(same)[0] is False


def test_two_models_are_compared_on_the_same_signals() -> None:
    rng = np.random.default_rng(1)
    r = np.where(rng.random(600) < 0.5, 1.4, -1.0)
    cluster = np.arange(600, dtype=np.int64) // 20
    knows = np.where(r > 0, 0.6, 0.4)
    found = compare(("a", "b"), r, (np.full(600, 0.5), knows), cluster)
    assert found.margin > 0 < found.margin_low
    assert found.words == "better beyond chance: b"
    assert compare(("b", "a"), r, (knows, np.full(600, 0.5)), cluster).words == "better beyond chance: b"
    assert compare(("a", "b"), r, (knows, knows), cluster).words == "no difference beyond chance"
    empty = np.empty(0)
    assert compare(("a", "b"), empty, (empty, empty), cluster[:0]).rows == 0
