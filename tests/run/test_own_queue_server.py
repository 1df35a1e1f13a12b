"""The queue of trainings on a server of its own: events never wait for it, and everybody says when it is away."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from typer.testing import CliRunner

from tests.support.desk import desk, scored, send, settings_for
from tests.support.events import SIGNALS, TRADES, outcome, signal
from tests.support.labels import label
from tests.support.real_processes import Installation
from tests.support.servers import Replicated
from tests.support.waiting import HANGS_AFTER_S, wait_until
from worker.cli.main import cli
from worker.console.application import create_app
from worker.console.overview import Process, verdict
from worker.errors import ConfigurationError
from worker.installation import open_store
from worker.observability import doctor
from worker.retraining.queue import QUEUE_NAME
from worker.retraining.requests import retrain_now
from worker.run import worker as run
from worker.settings.masking import masker
from worker.settings.schema import Settings, load_settings

QUEUE = f"rq:queue:{QUEUE_NAME}"


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Replicated]:
    server = Replicated(tmp_path / "queue")
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def settings(tmp_path: Path, valkey_url: str, queue: Replicated) -> Settings:
    return settings_for(tmp_path / "var", valkey_url, queue_url=f"unix://{queue.socket}")


def refinery(settings: Settings) -> Installation:
    installation = Installation(settings.state_dir, settings.redis_url or "")
    installation.environment["REFINERY_QUEUE_URL"] = settings.queue_url or ""
    return installation


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.communicate(timeout=HANGS_AFTER_S)


def test_the_worker_handles_events_while_the_queue_is_killed_and_asks_when_it_is_back(
    settings: Settings, queue: Replicated, valkey: redis.Redis
) -> None:
    with open_store(settings) as store:
        label(store, settings, 120)
    queue.kill()
    worker = refinery(settings).start("worker")
    try:
        send(valkey, SIGNALS, signal(1))
        send(valkey, TRADES, outcome(1))
        wait_until(lambda: scored(valkey))
        with open_store(settings) as store:
            wait_until(lambda: store.counts().labelled == 121)
        queue.start()
        wait_until(lambda: queue.client.llen(QUEUE) == 1)
        send(valkey, SIGNALS, signal(2))
        wait_until(lambda: len(scored(valkey)) == 2)
    finally:
        stop(worker)
    assert valkey.keys("rq:*") == []
    assert queue.client.xlen(SIGNALS) == 0


def test_a_training_is_asked_for_and_done_over_the_server_of_the_queue(
    settings: Settings, queue: Replicated, valkey: redis.Redis
) -> None:
    open_store(settings).close()
    trainer = refinery(settings).start("trainer")
    try:
        wait_until(lambda: queue.client.keys("rq:worker:*"))
        assert retrain_now(settings, wait=True)["status"] == "completed"
    finally:
        stop(trainer)
    assert valkey.keys("rq:*") == []


def test_status_doctor_and_console_say_which_server_is_away(settings: Settings, queue: Replicated) -> None:
    with desk(settings) as worker:
        send(worker.client, SIGNALS, signal(1))
        worker.drain()
    page = create_app(settings, settings.redis_url or "").test_client()

    def told() -> tuple[list[str], str, int, str]:
        bad = [finding.part for finding in doctor.examine(settings) if finding.verdict == "bad"]
        environment = {"REFINERY_STATE_DIR": str(settings.state_dir), "REFINERY_REDIS_URL": settings.redis_url}
        environment["REFINERY_QUEUE_URL"] = settings.queue_url
        said = CliRunner().invoke(cli, ["status", "--json"], env=environment)
        answer = page.get("/")
        return bad, json.loads(said.stdout)["queue"], answer.status_code, answer.get_data(as_text=True)

    bad, shown, status, words = told()
    assert (bad, shown, status) == ([], f"unix://{queue.socket}", 200)
    assert "queue of trainings does not answer" not in words
    queue.kill()
    bad, shown, status, words = told()
    assert (bad, status) == (["queue"], 200)
    assert shown.startswith(f"unix://{queue.socket} (")
    assert page.get("/jobs").status_code == 200
    seen = page.application.extensions["refinery"].overview()
    tone, _, words = verdict(replace(seen, processes=(Process("w", "worker", 0.0, ""),)))
    assert tone == "warn"
    assert f"queue of trainings does not answer: unix://{queue.socket}" in words


def test_a_server_that_answers_slowly_is_left_alone_for_a_while(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    now = [100.0]

    def slow(*_: object) -> None:
        asked.append(now[0])
        now[0] += 10

    monkeypatch.setattr(run, "enqueue_if_due", slow)
    monkeypatch.setattr(run.time, "monotonic", lambda: now[0])
    trigger = run._RetrainingTrigger(settings, settings.redis_url or "")
    labelled = run.BatchResult(labelled=1)
    with open_store(settings) as store:
        for _ in range(80):
            trigger(store, labelled)
            now[0] += 1
    assert asked == [100.0, 170.0]


@pytest.mark.parametrize("url", ["redis://:hunter22@far.example:6379", "http://:hunter22@far.example", "redis://"])
def test_its_address_is_held_to_the_rules_of_the_other_and_shown_without_its_password(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFINERY_QUEUE_URL", url)
    with pytest.raises(ConfigurationError, match="REFINERY_QUEUE_URL") as refused:
        load_settings()
    assert "hunter22" not in str(refused.value)
    monkeypatch.setenv("REFINERY_QUEUE_URL", "rediss://:hunter%2F2@far.example:6379/1")
    told = load_settings()
    assert told.masked_queue_url == "rediss://***@far.example:6379/1"
    assert "hunter" not in repr(told)
    assert masker(told.redis_url, told.queue_url)("AUTH hunter/2 or hunter%2F2") == "AUTH *** or ***"
