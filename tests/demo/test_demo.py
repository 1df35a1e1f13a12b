"""The whole demo on the first sixteen months: real server, worker, trainer, store; and the law of the lockstep."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import psutil
import pytest

from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.storage import FeatureDatabase
from trading_system.simulation.market_data import load_stocks
from trading_system.simulation.timeline import Moment, timeline_of
from worker.demo import run as demo
from worker.demo.summary import Summary
from worker.settings.schema import Settings, load_settings

UNTIL = "2001-06-29"
#: The first job comes with fewer samples than a training needs.
PACE, SAMPLES = 25, 40
ENVIRONMENT = {
    "REFINERY_METRICS_PORT": "0",
    "REFINERY_TRAINER_METRICS_PORT": "0",
    "REFINERY_ML__MIN_NEW_SAMPLES_FOR_RETRAIN": str(PACE),
    "REFINERY_ML__TRAINING__MIN_TRAINING_SAMPLES": str(SAMPLES),
}


@dataclass(frozen=True)
class Shown:
    """What a short demo left."""

    summary: Summary
    processes_at_report: int
    settings: Settings
    timeline: list[Moment]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    seen: list[int] = []
    with pytest.MonkeyPatch.context() as environment:
        for name, value in ENVIRONMENT.items():
            environment.setenv(name, value)
        settings = load_settings(state_dir=tmp_path_factory.mktemp("state") / "var")
        summary = demo.run(
            settings,
            threading.Event(),
            keep_running=False,
            until=UNTIL,
            report=lambda _: seen.append(demo_processes(settings)),
        )
    timeline = [moment for moment in timeline_of(load_stocks()) if moment.instant[:10] <= UNTIL]
    return Shown(summary, seen[0], settings, timeline)


@pytest.fixture
def store(shown: Shown) -> Iterator[FeatureDatabase]:
    with FeatureDatabase(shown.settings.state_dir / "demo" / "features.db") as db:
        yield db


def demo_processes(settings: Settings) -> int:
    """How many processes of ours work in the demo's place."""
    found = 0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            words = [*process.cmdline(), process.environ().get("REFINERY_STATE_DIR", "")]
            found += any(str(settings.state_dir) in word for word in words)
    return found


def due_watermarks(timeline: list[Moment]) -> list[int]:
    """How many labels there were when a training was due, reckoned from the timeline alone."""
    labels, marks = 0, [0]
    for moment in timeline:
        labels += len(moment.outcomes)
        if labels - marks[-1] >= PACE:
            marks.append(labels)
    return marks[1:]


def test_nothing_is_lost_and_nothing_doubled(shown: Shown) -> None:
    summary = shown.summary
    assert (summary.lost, summary.duplicated, summary.dead_letters) == (0, 0, 0)
    assert summary.signals == sum(len(moment.signals) for moment in shown.timeline)
    assert summary.outcomes == summary.labelled == sum(len(moment.outcomes) for moment in shown.timeline)
    assert summary.scored + summary.cold_start == summary.signals
    assert 0 < summary.cold_start < summary.signals


def test_every_training_that_was_due_came_at_its_moment(shown: Shown, store: FeatureDatabase) -> None:
    runs = [run for run in reversed(store.runs.recent()) if run.model_type == ModelType.SIGNAL_QUALITY]
    assert [run.label_watermark for run in runs] == due_watermarks(shown.timeline)
    summary = shown.summary
    assert [run.reason for run in runs if run.model_id is None] == [f"{runs[0].label_watermark} of {SAMPLES} samples"]
    assert (summary.retrainings, summary.too_few_samples) == (len(runs) - 1, 1)
    assert summary.retrainings >= 2
    assert summary.promoted + summary.provisional + summary.not_serving + summary.failures == summary.retrainings


def test_every_score_comes_from_a_model_that_knew_only_the_past(shown: Shown, store: FeatureDatabase) -> None:
    marks = due_watermarks(shown.timeline)
    labels = judged = 0
    for moment in shown.timeline:
        for signal in moment.signals:
            for logged in store.scores.of_signal(signal["signal_id"]):
                model = store.models.get(logged.prediction.model_id)
                assert model is not None
                run = store.runs.get(model.run_id or "")
                assert run is not None
                assert run.label_watermark in marks
                assert run.label_watermark <= labels
                judged += logged.prediction.role == "champion"  # the shadow is judged too, and is not served
        labels += len(moment.outcomes)
    assert judged == shown.summary.scored > 0


def test_the_summary_comes_while_everything_is_up_and_then_everything_ends(shown: Shown) -> None:
    assert shown.processes_at_report >= 3
    assert demo_processes(shown.settings) == 0


def test_the_state_of_the_installation_is_left_alone(shown: Shown) -> None:
    assert sorted(path.name for path in shown.settings.state_dir.iterdir()) == ["demo", "demo.lock"]
