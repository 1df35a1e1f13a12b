"""RQ's own tools on our queue, with the very commands that the documents give."""

from __future__ import annotations

import json
import os
import pickle
import re
import shlex
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.waiting import wait_until
from worker.retraining.policy import RetrainReason
from worker.retraining.queue import QUEUE_NAME, RetrainQueue

PAGE = Path(__file__).parents[2] / "docs" / "console.md"
URL = "redis://127.0.0.1:6379/0"
#: A trainer whose job that follows training 0 is held, whose next one fails, and whose third goes on and on.
TRAINER = """
import sys, time
from worker.retraining.progress import JobProgress
from worker.retraining.queue import RETRAIN
from worker.retraining.rq_worker import TrainingFailed, work_until_stopped
from worker.settings.schema import load_settings
from worker.supervision.signals import stop_on_signals

def retrain(*, model_type, after, reason, requested_by=None):
    if after == 0:
        return {"status": "completed", "verdict": "hold", "reason": "40 of 100 samples"}
    if after == 1:
        raise TrainingFailed("one_class: all 120 trades lost")
    JobProgress()("folds", 1, 4)
    while True:
        time.sleep(1)

functions = {RETRAIN: retrain}
work_until_stopped(
    load_settings(), sys.argv[1], functions=functions, housekeeping=lambda: None, stop=stop_on_signals()
)
"""


def documented(tool: str) -> list[list[str]]:
    """The command lines of a tool in the page on the console, as they stand there."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", PAGE.read_text(), re.S | re.M)
    lines = [line for block in blocks for line in block.splitlines() if line.split()[:1] == [tool]]
    return [shlex.split(line, comments=True) for line in lines]


def runnable(command: list[str], url: str, *more: str) -> list[str]:
    """The same command with this interpreter and the test's server, as its console script would run it."""
    [script] = entry_points(group="console_scripts", name=command[0])
    start = (
        f"import sys; from {script.module} import {script.attr} as main; sys.argv[0] = {command[0]!r}; sys.exit(main())"
    )
    assert URL in command
    return [sys.executable, "-c", start, *(url if word == URL else word for word in command[1:]), *more]


@pytest.fixture
def jobs(client: redis.Redis, valkey_url: str) -> Iterator[list[str]]:
    """One job held, one failed, one running and one queued, in this order."""
    queue = RetrainQueue(client, timeout_s=3600)
    ids = [
        queue.enqueue(model_type="signal_quality", after=after, reason=RetrainReason.NEW_LABELS).job_id
        for after in range(4)
    ]
    process = subprocess.Popen([sys.executable, "-c", TRAINER, valkey_url])
    try:
        wait_until(lambda: b"folds" in (client.hget(f"rq:job:{ids[2]}", "meta") or b""))
        yield ids
    finally:
        process.kill()
        process.wait()


@contextmanager
def served(command: list[str]) -> Iterator[int]:
    """The port of the dashboard that the command starts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answers() -> bool:
        assert process.poll() is None, "the dashboard ended"
        try:
            return status(port, "favicon.ico") == 200
        except OSError:
            return False

    try:
        wait_until(answers)
        yield port
    finally:
        process.kill()
        process.wait()


def status(port: int, page: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}") as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def data(port: int, page: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}") as answer:
        return json.load(answer)


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (str(self.path), "w")


def test_the_dashboard_of_rq_shows_queue_jobs_results_failures_and_workers(
    client: redis.Redis, valkey_url: str, jobs: list[str], tmp_path: Path
) -> None:
    [command] = documented("rq-dashboard")
    held, failed, running, queued = jobs
    with served(runnable(command, valkey_url)) as port:
        registries = [f"{QUEUE_NAME}/{name}/8/asc/1" for name in ("queued", "started", "failed", "finished")]
        pages = ["", "0/view/queues", "0/view/workers", "0/view/jobs"]
        pages += [f"0/view/jobs/{place}" for place in registries] + [f"0/view/job/{job_id}" for job_id in jobs]
        assert {page: status(port, page) for page in pages} == dict.fromkeys(pages, 200)
        [queue] = data(port, "0/data/queues.json")["queues"]
        counts = [queue[f"{name}_job_registry_count"] for name in ("started", "failed", "finished")]
        assert (queue["name"], queue["count"], counts) == (QUEUE_NAME, 1, [1, 1, 1])
        listed = [data(port, f"0/data/jobs/{place}.json")["jobs"] for place in registries]
        assert [[job["id"] for job in some] for some in listed] == [[queued], [running], [failed], [held]]
        assert listed[2][0]["exc_info"].strip().endswith("TrainingFailed: one_class: all 120 trades lost")
        shown = data(port, f"0/data/job/{held}.json")
        assert shown["result"] == {"status": "completed", "verdict": "hold", "reason": "40 of 100 samples"}
        shown = data(port, f"0/data/job/{running}.json")
        assert json.loads(shown["metadata"]) == {"progress": {"stage": "folds", "done": 1, "total": 4}}
        [worker] = data(port, "0/data/workers.json")["workers"]
        assert (worker["state"], worker["current_job"]["job_id"]) == ("busy", running)

        bomb = pickle.dumps(Bomb(tmp_path / "boom"))
        client.hset(f"rq:job:{running}", mapping={"data": zlib.compress(bomb), "meta": bomb, "result": bomb})
        for page in (f"0/view/job/{running}", f"0/data/job/{running}.json", "0/data/workers.json"):
            status(port, page)
        assert not (tmp_path / "boom").exists()


def test_rq_info_shows_the_queue_and_the_trainer(valkey_url: str, jobs: list[str]) -> None:
    commands = documented("rq")
    assert any("--config" in command for command in commands)
    assert any("--config" not in command for command in commands)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RQ_")}
    for command in commands:
        ended = subprocess.run(runnable(command, valkey_url), capture_output=True, text=True, env=environment)
        assert ended.returncode == 0, ended.stderr
        assert re.search(rf"{QUEUE_NAME} .*1, 1 executing, 1 finished, 1 failed", ended.stdout), ended.stdout
        assert re.search(rf"trainer-.*: busy {QUEUE_NAME}\. jobs: 1 finished, 1 failed", ended.stdout), ended.stdout
