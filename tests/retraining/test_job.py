"""Trainings end to end: noticed once, done once, given up when killed, and asked for again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import psutil
import pytest
import redis
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from tests.support.waiting import HANGS_AFTER_S, runs, wait_until
from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.features.pipeline import FeaturePipeline
from trading_system.ml_refinement.storage import FeatureDatabase, OutcomeRow, VectorRow
from trading_system.ml_refinement.storage.times import utc_text
from worker.errors import RefineryError
from worker.installation import open_store
from worker.retraining import job
from worker.retraining.history import training_history
from worker.retraining.job import housekeeping, retrain
from worker.retraining.policy import RetrainReason
from worker.retraining.queue import QUEUE_NAME, RETRAIN, connect_queue, pending_job
from worker.retraining.requests import enqueue, enqueue_if_due, reason_if_due, wait_for
from worker.settings.schema import Settings, load_settings

TYPE = ModelType.SIGNAL_QUALITY.value
JOB = "retrain-signal_quality-{}"
#: A trainer whose trainings, once they are entered, go no further while a file is there.
TRAINER = """
import sys, time
from pathlib import Path
from trading_system.ml_refinement.training import pipeline
from worker.retraining.job import run_trainer
from worker.settings.schema import load_settings

read_dataset, held = pipeline.read_dataset, Path(sys.argv[2])

def read_when_let_go(*arguments, **named):
    while held.exists():
        time.sleep(0.01)
    return read_dataset(*arguments, **named)

pipeline.read_dataset = read_when_let_go
run_trainer(load_settings(), sys.argv[1])
"""


@pytest.fixture
def settings(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("REFINERY_STATE_DIR", str(state_dir))
    monkeypatch.setenv("REFINERY_ML__MIN_NEW_SAMPLES_FOR_RETRAIN", "50")
    return load_settings()


@pytest.fixture
def store(settings: Settings) -> Iterator[FeatureDatabase]:
    with open_store(settings) as store:
        yield store


@pytest.fixture
def client(valkey_url: str) -> Iterator[redis.Redis]:
    with connect_queue(valkey_url) as client:
        yield client


def label(store: FeatureDatabase, settings: Settings, count: int, *, first: int = 0) -> None:
    """Stores `count` signals of noise, one every six hours, each closed two days later."""
    pipeline = FeaturePipeline(settings.to_ml_config().features)
    rng = np.random.default_rng(first)
    start = datetime(2025, 1, 1, tzinfo=UTC)
    rows, outcomes = [], []
    for number in range(first, first + count):
        at = start + timedelta(hours=6 * number)
        rows.append(
            VectorRow(
                signal_id=f"s{number}",
                timestamp=utc_text(at),
                symbol="A",
                asset_class="equity",
                signal_type="breakout",
                conviction=None,
                feature_version=pipeline.feature_version,
                complete=True,
                event_hash=number.to_bytes(16, "big"),
                entry_id=f"{number}-0",
            )
        )
        closed_at = utc_text(at + timedelta(days=2))
        outcomes.append(OutcomeRow(f"s{number}", 0, closed_at, 1.5 if rng.random() < 0.45 else -1.0))
    with store.atomic():
        store.vectors.insert_new(rows, pipeline.names, rng.normal(size=(count, len(pipeline.names))))
        store.outcomes.record(outcomes)


@contextmanager
def trainer(url: str, held: Path = Path("/nowhere")) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", TRAINER, url, str(held)])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def running(store: FeatureDatabase) -> bool:
    last = store.runs.last(TYPE)
    return last is not None and last.status == "running"


def child_of(process: subprocess.Popen[bytes]) -> int:
    return psutil.Process(process.pid).children()[0].pid


def waiting(client: redis.Redis) -> list[bytes]:
    return client.lrange(f"rq:queue:{QUEUE_NAME}", 0, -1)


def test_nothing_is_asked_for_before_there_are_enough_labels(
    settings: Settings, store: FeatureDatabase, client: redis.Redis
) -> None:
    label(store, settings, 99)
    assert enqueue_if_due(settings, store, client) is None
    label(store, settings, 1, first=99)
    assert enqueue_if_due(settings, store, client) == JOB.format(0)
    assert pending_job(client) == "queued"


def test_eight_workers_that_notice_make_one_job(
    settings: Settings, store: FeatureDatabase, client: redis.Redis, valkey_url: str
) -> None:
    label(store, settings, 100)

    def notice(_: int) -> str | None:
        with open_store(settings) as own, connect_queue(valkey_url) as client:
            return [enqueue_if_due(settings, own, client) for _ in range(5)][-1]

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(notice, range(8))) == {JOB.format(0)}
    assert waiting(client) == [JOB.format(0).encode()]


def test_a_server_that_is_away_is_no_error_for_the_one_who_notices(settings: Settings, store: FeatureDatabase) -> None:
    label(store, settings, 100)
    with connect_queue("unix:///nowhere/valkey.sock") as away:
        assert enqueue_if_due(settings, store, away) is None


def test_a_training_is_done_once_and_the_next_waits_for_new_labels(
    settings: Settings, store: FeatureDatabase, client: redis.Redis, valkey_url: str
) -> None:
    label(store, settings, 200)
    job_id = enqueue_if_due(settings, store, client)
    assert job_id is not None
    with trainer(valkey_url), trainer(valkey_url):
        run = wait_for(settings, store, client, job_id, untaken_s=HANGS_AFTER_S)
        assert run is not None
        assert (run.status, run.label_watermark, run.run_id) == ("completed", 200, job_id)
        assert store.models.get(run.model_id or "") is not None
        told = Job.fetch(job_id, connection=client, serializer=JSONSerializer).get_meta()
        assert told["progress"] == {"stage": "register", "done": 0, "total": 1}
        assert enqueue_if_due(settings, store, client) is None
        label(store, settings, 50, first=200)
        second = enqueue_if_due(settings, store, client)
        assert second == JOB.format(run.token)
        again = wait_for(settings, store, client, second, untaken_s=HANGS_AFTER_S)
        assert again is not None
        assert again.label_watermark == 250
        wait_until(lambda: pending_job(client) is None)
    assert len(store.runs.recent()) == 2


def test_a_job_that_rq_runs_twice_trains_once(
    settings: Settings, store: FeatureDatabase, client: redis.Redis, valkey_url: str
) -> None:
    label(store, settings, 150)
    queue = Queue(QUEUE_NAME, connection=client, serializer=JSONSerializer)
    arguments = {"model_type": TYPE, "after": 0, "reason": "new_labels"}
    jobs = [queue.enqueue_call(RETRAIN, kwargs=arguments) for _ in range(3)]
    with trainer(valkey_url), trainer(valkey_url):
        wait_until(lambda: all(job.get_status() == "finished" for job in jobs))
    statuses = sorted((job.return_value() or {})["status"] for job in jobs)
    assert statuses == ["completed", "skipped", "skipped"]
    assert len(store.runs.recent()) == 1


def test_a_killed_training_leaves_the_champion_and_is_asked_for_again(
    settings: Settings, store: FeatureDatabase, client: redis.Redis, valkey_url: str, tmp_path: Path
) -> None:
    label(store, settings, 200)
    first, held = enqueue(settings, store, client), tmp_path / "held"
    with trainer(valkey_url, held) as process:
        assert wait_for(settings, store, client, first, untaken_s=HANGS_AFTER_S) is not None
        champion = store.models.active_id(TYPE)
        held.touch()
        label(store, settings, 50, first=200)
        killed = enqueue_if_due(settings, store, client)
        assert killed is not None
        wait_until(lambda: running(store))
        os.kill(child_of(process), signal.SIGKILL)
        wait_until(lambda: not running(store))
        held.unlink()
        run = store.runs.get(killed)
        assert run is not None
        assert run.status == "failed"
        assert (run.error_message or "").startswith("killed")
        assert store.models.active_id(TYPE) == champion
        again = wait_for(settings, store, client, JOB.format(run.token), untaken_s=HANGS_AFTER_S)
        assert again is not None
        assert again.status == "completed"


def test_a_training_whose_trainer_was_killed_is_given_up_by_the_next_one(
    settings: Settings, store: FeatureDatabase, client: redis.Redis, valkey_url: str, tmp_path: Path
) -> None:
    label(store, settings, 200)
    job_id, held = enqueue(settings, store, client), tmp_path / "held"
    held.touch()
    with trainer(valkey_url, held) as process:
        wait_until(lambda: running(store))
        child = child_of(process)
        process.kill()
    wait_until(lambda: not runs(child))
    assert running(store)
    with trainer(valkey_url):
        wait_until(lambda: len(store.runs.recent()) == 2 and not running(store))
    killed, last = store.runs.get(job_id), store.runs.last(TYPE)
    assert killed is not None
    assert killed.status == "failed"
    assert last is not None
    assert last.status == "completed"


def test_a_training_that_lives_is_not_given_up(settings: Settings, store: FeatureDatabase, client: redis.Redis) -> None:
    with job.training_lock(settings.training_lock_path):
        store.runs.start(JOB.format(0), TYPE, {}, label_watermark=0)
        housekeeping(settings, client)
        assert running(store)
    housekeeping(settings, client)
    assert not running(store)


def test_half_written_files_of_killed_trainings_do_not_pile_up(
    settings: Settings, store: FeatureDatabase, client: redis.Redis
) -> None:
    settings.models_dir.mkdir()
    left, fresh, model = (settings.models_dir / name for name in (".a.skops.7.tmp", ".b.skops.8.tmp", "a.skops"))
    for path in (left, fresh, model):
        path.write_bytes(b"half")
    for path in (left, model):
        os.utime(path, (0, time.time() - 7200))
    housekeeping(settings, client)
    assert (left.exists(), fresh.exists(), model.exists()) == (False, True, True)


def test_a_training_of_someone_else_is_not_given_up(
    settings: Settings, store: FeatureDatabase, client: redis.Redis
) -> None:
    store.runs.start("a-notebook", TYPE, {}, label_watermark=0)
    housekeeping(settings, client)
    assert running(store)


def test_a_killed_training_does_not_use_up_its_labels_until_it_was_killed_three_times(
    settings: Settings, store: FeatureDatabase
) -> None:
    label(store, settings, 120)
    for token in range(3):
        assert reason_if_due(settings, store) is RetrainReason.NEW_LABELS
        assert training_history(store, TYPE).newest == token
        store.runs.start(JOB.format(token), TYPE, {}, label_watermark=120)
        assert reason_if_due(settings, store) is None
        job.sweep(store)
    assert reason_if_due(settings, store) is None
    label(store, settings, 50, first=120)
    assert reason_if_due(settings, store) is RetrainReason.NEW_LABELS


def test_a_failed_training_uses_up_its_labels(settings: Settings, store: FeatureDatabase) -> None:
    label(store, settings, 120)
    store.runs.start(JOB.format(0), TYPE, {}, label_watermark=120)
    store.runs.finish(JOB.format(0), "failed", error_message="one_class: all trades were losses")
    assert reason_if_due(settings, store) is None


def test_waiting_for_a_job_that_nobody_takes_ends(
    settings: Settings, store: FeatureDatabase, client: redis.Redis
) -> None:
    job_id = enqueue(settings, store, client)
    assert wait_for(settings, store, client, job_id, untaken_s=0.3) is None


def test_a_model_that_is_not_trained_here_is_refused(settings: Settings) -> None:
    with pytest.raises(RefineryError, match="no training of"):
        retrain(settings, model_type="risk_predictor", after=0, reason="manual")
