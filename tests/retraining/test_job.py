"""Trainings end to end: noticed once, done once, given up when killed, and asked for again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from rq import Queue
from rq.job import Job
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer

from tests.support.labels import label
from tests.support.waiting import HANGS_AFTER_S, runs, wait_until
from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.storage import FeatureDatabase
from trading_system.ml_refinement.training import backtest
from worker.errors import ConfigurationError, RefineryError
from worker.installation import open_store
from worker.retraining import job
from worker.retraining.history import training_history
from worker.retraining.job import housekeeping, retrain
from worker.retraining.lease import training_lease
from worker.retraining.policy import RetrainReason
from worker.retraining.queue import QUEUE_NAME, RETRAIN, RetrainQueue, pending_job
from worker.retraining.requests import enqueue, enqueue_if_due, reason_if_due, wait_for
from worker.settings.schema import Settings, load_settings

TYPE = ModelType.SIGNAL_QUALITY.value
JOB = "retrain-signal_quality-{}"
#: A trainer whose trainings, once they are entered, go no further while a file is there, and then do as they are told.
TRAINER = """
import os, sys, time
from pathlib import Path
from trading_system.ml_refinement.training import pipeline
from worker.retraining.job import run_trainer
from worker.settings.schema import load_settings
from worker.supervision.signals import stop_on_signals

read_dataset, held = pipeline.read_dataset, Path(sys.argv[2])

def read_when_let_go(*arguments, **named):
    while held.exists():
        time.sleep(0.01)
    exec(sys.argv[3])
    return read_dataset(*arguments, **named)

pipeline.read_dataset = read_when_let_go
run_trainer(load_settings(), sys.argv[1], stop_on_signals())
"""


@pytest.fixture
def settings(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("REFINERY_STATE_DIR", str(state_dir))
    monkeypatch.setenv("REFINERY_ML__MIN_NEW_SAMPLES_FOR_RETRAIN", "50")
    return load_settings()


@pytest.fixture
def defaults(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings as they are when nobody sets any."""
    monkeypatch.delenv("REFINERY_ML__MIN_NEW_SAMPLES_FOR_RETRAIN")
    return load_settings()


@contextmanager
def trainer(url: str, held: Path = Path("/nowhere"), *, does: str = "") -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", TRAINER, url, str(held), does])
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
    label(store, settings, 49)
    assert enqueue_if_due(settings, store, client) is None
    label(store, settings, 1, first=49)
    assert enqueue_if_due(settings, store, client) == JOB.format(0)
    assert pending_job(client) == "queued"


def test_each_twenty_labels_make_one_job_and_those_with_too_few_samples_train_nothing(
    defaults: Settings, store: FeatureDatabase, client: redis.Redis, valkey_url: str
) -> None:
    jobs = []
    with trainer(valkey_url):
        for labels in range(0, 100, 10):
            label(store, defaults, 9, first=labels)
            before = enqueue_if_due(defaults, store, client)
            label(store, defaults, 1, first=labels + 9)
            job_id = enqueue_if_due(defaults, store, client)
            assert before is None
            assert (job_id is None) == (labels % 20 == 0)
            if job_id is not None:
                jobs.append(job_id)
                assert wait_for(defaults, store, client, job_id, untaken_s=HANGS_AFTER_S) is not None
                wait_until(lambda: pending_job(client) is None)
    queue = RetrainQueue(client, timeout_s=60)
    said = [queue.result(job_id) or {} for job_id in jobs]
    held, last = said[:4], said[4:]
    words = [f"{samples} of 100 samples" for samples in (20, 40, 60, 80)]
    assert held == [
        {"run_id": job_id, "status": "completed", "verdict": "hold", "serves": None, "model_id": None, "reason": reason}
        for job_id, reason in zip(jobs, words, strict=False)
    ]
    assert [each["model_id"] is not None for each in last] == [True]
    found = store.runs.recent()[::-1]
    assert [run.label_watermark for run in found] == [20, 40, 60, 80, 100]
    assert [(run.status, run.verdict, run.reason) for run in found[:4]] == [("completed", "hold", w) for w in words]
    looked_after = [report.figures["labelled"] for report in store.monitoring.recent(10) if report.cause == "training"]
    assert looked_after == [100]
    # By one who read the store before the first of them.
    late = queue.enqueue(model_type=TYPE, after=0, reason=RetrainReason.NEW_LABELS)
    assert (late.job_id, late.new, waiting(client)) == (jobs[0], False, [])


def test_the_first_label_after_the_days_makes_a_job_also_before_any_training(
    defaults: Settings, store: FeatureDatabase, client: redis.Redis
) -> None:
    label(store, defaults, 1)
    assert enqueue_if_due(defaults, store, client) is None
    store._connection.run("UPDATE ml_schema_migrations SET applied_at = '2026-01-01T00:00:00.000000Z'")
    assert reason_if_due(defaults, store) is RetrainReason.SCHEDULE
    assert enqueue_if_due(defaults, store, client) == JOB.format(0)
    retrain(defaults, model_type=TYPE, after=0, reason="schedule")
    assert store.runs.get(JOB.format(0)).reason == "1 of 100 samples"  # type: ignore[union-attr]
    label(store, defaults, 1, first=1)
    assert reason_if_due(defaults, store) is None
    store._connection.run("UPDATE training_runs SET started_at = '2026-01-01T00:00:00.000000Z'")
    assert reason_if_due(defaults, store) is RetrainReason.SCHEDULE


def test_a_store_whose_age_nobody_can_read_waits_for_its_labels(settings: Settings, store: FeatureDatabase) -> None:
    label(store, settings, 49)
    store._connection.run("UPDATE ml_schema_migrations SET applied_at = 'a while ago'")
    assert reason_if_due(settings, store) is None
    label(store, settings, 1, first=49)
    assert reason_if_due(settings, store) is RetrainReason.NEW_LABELS


def test_a_backlog_makes_one_job_at_a_time(
    defaults: Settings, store: FeatureDatabase, client: redis.Redis, valkey_url: str, tmp_path: Path
) -> None:
    held = tmp_path / "held"
    held.touch()
    with trainer(valkey_url, held):
        for batch in range(4):
            label(store, defaults, 24, first=24 * batch)
            enqueue_if_due(defaults, store, client)
            assert len(waiting(client)) <= 1
            wait_until(lambda: running(store))
        assert waiting(client) == [JOB.format(store.runs.last(TYPE).token).encode()]  # type: ignore[union-attr]
        held.unlink()
        wait_until(lambda: len(store.runs.recent()) == 2 and not running(store) and pending_job(client) is None)
        assert enqueue_if_due(defaults, store, client) is None
    assert [run.label_watermark for run in store.runs.recent()] == [96, 24]


FENCED = """
from worker.installation import open_store
open_store(load_settings()).runs.start("newer", "signal_quality", {}, label_watermark=150)
"""


#: What a training does, how its run's message begins, and what the last line of the failed job has.
WAYS_TO_FAIL = (
    ("", "one_class: all 120 trades won", "TrainingFailed: one_class: all 120 trades won"),
    (FENCED, "stale_activation: ", "TrainingFailed: stale_activation: "),
    ("raise OSError(28, 'no space')", "disk_full: ", "TrainingFailed: disk_full: "),
    ("raise MemoryError('no memory')", "unexpected: no memory", "MemoryError: no memory"),
    ("while True: time.sleep(0.01)", "unexpected: Task exceeded", "TrainingTimedOut: Task exceeded"),
    ("os.kill(os.getpid(), 9)", "killed: ", "Work-horse terminated unexpectedly; waitpid returned 9"),
    ("os._exit(3)", "killed: ", "Work-horse terminated unexpectedly; waitpid returned 768"),
)


def test_a_failed_training_is_a_failed_job_with_its_reason_and_does_not_block_the_next(
    settings: Settings, store: FeatureDatabase, client: redis.Redis, valkey_url: str, tmp_path: Path
) -> None:
    hasty, told = load_settings(training_timeout_s=10), tmp_path / "told"
    label(store, settings, 120, win_rate=1.0)
    queue = RetrainQueue(client, timeout_s=60)
    registry = FailedJobRegistry(QUEUE_NAME, connection=client, serializer=JSONSerializer)
    failed = []
    with trainer(valkey_url, does=f"exec(Path({str(told)!r}).read_text())"):
        for does, reason, told_by_rq in WAYS_TO_FAIL:
            told.write_text(does)
            job_id = enqueue(hasty if "while" in does else settings, store, client)
            run = wait_for(settings, store, client, job_id, untaken_s=HANGS_AFTER_S)
            wait_until(lambda job_id=job_id: job_id in registry.get_job_ids(cleanup=False))
            assert run is not None
            assert (run.status, (run.error_message or "")[: len(reason)]) == ("failed", reason)
            assert told_by_rq in (queue.failure(job_id) or "")
            failed.append(job_id)
            if len(failed) == 1:
                label(store, settings, 30, first=120)
        told.write_text("")
        label(store, settings, 50, first=150)
        due = enqueue_if_due(settings, store, client)
        assert due is not None
        assert due not in failed
        following = wait_for(settings, store, client, due, untaken_s=HANGS_AFTER_S)
        assert following is not None
        assert following.status == "completed"
    for job_id in failed:
        job = Job.fetch(job_id, connection=client, serializer=JSONSerializer)
        assert (job.get_status(), job.retries_left, len(job.results())) == ("failed", None, 1)


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
        next_job, queue = JOB.format(run.token), RetrainQueue(client, timeout_s=60)
        wait_until(lambda: queue.state(next_job) is not None)
        again = wait_for(settings, store, client, next_job, untaken_s=HANGS_AFTER_S)
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
    [execution] = client.zrange(f"rq:wip:{QUEUE_NAME}", 0, -1)
    client.zadd(f"rq:wip:{QUEUE_NAME}", {execution: 1})  # as when its heartbeat has lapsed
    queue = RetrainQueue(client, timeout_s=60)
    with trainer(valkey_url):
        wait_until(lambda: len(store.runs.recent()) == 2 and not running(store))
        wait_until(lambda: queue.state(job_id) == "failed")
    assert "AbandonedJobError" in (queue.failure(job_id) or "")
    killed, last = store.runs.get(job_id), store.runs.last(TYPE)
    assert killed is not None
    assert killed.status == "failed"
    assert last is not None
    assert last.status == "completed"


def test_a_training_that_nobody_swept_is_given_up_before_the_next_one(
    settings: Settings, store: FeatureDatabase
) -> None:
    store.runs.start(JOB.format(0), TYPE, {}, label_watermark=0)
    newest = store.runs.last(TYPE)
    assert newest is not None
    retrain(settings, model_type=TYPE, after=newest.token, reason="test")
    killed = store.runs.get(JOB.format(0))
    assert killed is not None
    assert (killed.status, "ended without a word" in (killed.error_message or "")) == ("failed", True)


def test_a_training_that_lives_is_not_given_up(settings: Settings, store: FeatureDatabase, client: redis.Redis) -> None:
    with training_lease(settings, store, first=job.sweep):
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


@pytest.mark.sqlite_file
def test_a_training_that_was_asked_for_by_another_installation_is_not_done_here(
    settings: Settings, store: FeatureDatabase, client: redis.Redis, valkey_url: str, tmp_path: Path
) -> None:
    label(store, settings, 150)
    other = settings.model_copy(update={"state_dir": tmp_path / "other"})
    with open_store(other) as theirs:
        label(theirs, other, 150)
        job_id = enqueue(other, theirs, client)
    queue = RetrainQueue(client, timeout_s=60)
    with trainer(valkey_url):
        wait_until(lambda: queue.state(job_id) == "failed")
    assert f"another installation than that of {settings.state_dir}" in (queue.failure(job_id) or "")
    assert store.runs.recent() == []
    client.hset(Job.key_for(job_id), "ended_at", "2026-01-01T00:00:00.000000Z")
    with open_store(other) as theirs:
        again = enqueue(other, theirs, client)
    assert again != job_id
    assert waiting(client) == [again.encode()]


@pytest.mark.sqlite_file
def test_a_trainer_without_a_store_makes_none_and_does_no_training(settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match="there is no store"):
        retrain(settings, model_type=TYPE, after=0, reason="test")
    assert not settings.store_path.exists()


@pytest.mark.sqlite_file
@pytest.mark.parametrize("replaced", [False, True])
def test_a_store_that_is_lost_under_a_training_gets_no_model_file_and_the_training_is_done_again(
    replaced: bool, settings: Settings, store: FeatureDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    label(store, settings, 150)
    store.close()
    here = settings.state_dir
    walk_forward = backtest.walk_forward

    def lose(*arguments: Any, **named: Any) -> Any:
        for path in here.glob("features.db*"):
            path.rename(tmp_path / path.name)
        if replaced:
            shutil.copyfile(tmp_path / "features.db", here / "features.db")
        return walk_forward(*arguments, **named)

    monkeypatch.setattr(backtest, "walk_forward", lose)
    with pytest.raises(RefineryError, match=r"came to nothing: .* was removed, moved or replaced"):
        retrain(settings, model_type=TYPE, after=0, reason="test")
    assert list(settings.models_dir.iterdir()) == []
    monkeypatch.undo()
    for path in tmp_path.glob("features.db*"):
        path.replace(here / path.name)
    with open_store(settings) as back:
        job.sweep(back)
        lost = back.runs.last(TYPE)
        assert lost is not None
        assert lost.status == "failed"
        assert retrain(settings, model_type=TYPE, after=lost.token, reason="test")["status"] == "completed"
