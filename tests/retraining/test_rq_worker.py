"""The trainer process: runs what is allowed, dies with its parent, survives what happens to Redis."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from rq import Queue, Repeat, Retry
from rq.job import Job
from rq.serializers import JSONSerializer

from tests.support.waiting import HANGS_AFTER_S, answers, runs, wait_until
from worker.redis_server.embedded import EmbeddedServer
from worker.retraining.queue import QUEUE_NAME, RetrainQueue, connect_queue, pending_job
from worker.retraining.rq_worker import TrainerWorker
from worker.supervision.service_manager import ServiceManager

TRAINER = """
import os, sys, time
from pathlib import Path
from worker.retraining import rq_worker
from worker.retraining.rq_worker import work_until_stopped
from worker.settings.schema import load_settings
from worker.supervision.signals import stop_on_signals

def note(name):
    (Path(sys.argv[2]) / name).write_text(str(os.getpid()))

def done(word):
    note("done")
    return {"word": word}

def swallows():
    try:
        while True:
            time.sleep(0.01)
    except Exception:
        note("swallowed")
    return {}

def waits_for(path):
    note("began")
    while not Path(path).exists():
        time.sleep(0.01)
    note("ended")
    return {}

kept = []
def keep():
    kept.append(1)
    note(f"kept-{len(kept)}")

rq_worker._WORKER_TTL_S = 10**6  # RQ's look into its queue ends by itself never, so that what ends it is the signal
settings = load_settings(shutdown_grace_s=int(sys.argv[3]))
def fails():
    raise ValueError("no good")

def niceness():
    import os
    return {"nice": os.nice(0)}

functions = {f.__name__: f for f in (done, waits_for, swallows, fails, niceness)}
work_until_stopped(settings, sys.argv[1], functions=functions, housekeeping=keep, stop=stop_on_signals())
note("stopped")
"""


#: A file that nobody makes.
NEVER = "/nowhere/go"


@contextmanager
def trainer(url: str, notes: Path, *, grace_s: int = 3600) -> Iterator[subprocess.Popen[str]]:
    notes.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINER, url, str(notes), str(grace_s)], stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def put(client: redis.Redis, function: str, *arguments: Any, **options: Any) -> Job:
    queue = Queue(QUEUE_NAME, connection=client, serializer=JSONSerializer)
    return queue.enqueue_call(function, args=arguments, **{"timeout": 3600, **options})


def ended(job: Job) -> bool:
    return job.get_status() in {"finished", "failed", "stopped"}


def test_an_allowed_function_runs_and_its_result_can_be_read(
    client: redis.Redis, valkey_url: str, tmp_path: Path
) -> None:
    job = put(client, "done", "yes")
    queue = RetrainQueue(client, timeout_s=60)
    with trainer(valkey_url, tmp_path):
        wait_until(lambda: ended(job))
        assert queue.result(job.id) == {"word": "yes"}
        wait_until(lambda: pending_job(client) is None)


@pytest.mark.parametrize(("setting", "nice"), [(None, 10), ("3", 3), ("0", 0)])
def test_a_training_gives_way_to_others_and_the_trainer_itself_does_not(
    client: redis.Redis,
    valkey_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    setting: str | None,
    nice: int,
) -> None:
    if setting is not None:
        monkeypatch.setenv("REFINERY_TRAINING_NICE", setting)
    job = put(client, "niceness")
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    with trainer(valkey_url, tmp_path) as process:
        wait_until(lambda: ended(job))
        assert RetrainQueue(client, timeout_s=60).result(job.id) == {"nice": min(19, ours + nice)}
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == ours


def test_what_is_not_allowed_does_not_run_and_the_trainer_goes_on(
    client: redis.Redis, valkey_url: str, tmp_path: Path
) -> None:
    boom = tmp_path / "boom"
    job = put(client, "os.system", f"touch {boom}")
    by_method = put(client, "format", "x")
    by_method._instance = "{0}"
    by_method._data = JSONSerializer.dumps(["format", "{0}", ["x"], {}])
    by_method.save()
    called_back = put(client, "done", "yes")
    client.hset(called_back.key, mapping={"success_callback_name": "os.abort", "failure_callback_name": "os.abort"})
    with trainer(valkey_url, tmp_path):
        wait_until(lambda: ended(called_back))
        assert job.get_status() == "failed"
        assert "does not run 'os.system'" in (job.latest_result().exc_string or "")  # type: ignore[union-attr]
        assert by_method.get_status() == "failed"
        assert called_back.get_status() == "finished"
    assert not boom.exists()


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("field", ["data", "meta", "result"])
def test_a_planted_pickle_does_not_run(client: redis.Redis, valkey_url: str, tmp_path: Path, field: str) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "boom"))
    job = put(client, "done", "yes")
    client.hset(job.key, field, zlib.compress(bomb) if field == "data" else bomb)
    with trainer(valkey_url, tmp_path):
        wait_until(lambda: ended(job))
        after = put(client, "done", "yes")
        wait_until(lambda: ended(after))
        assert after.get_status() == "finished"
    assert not (tmp_path / "boom").exists()
    if field == "data":
        assert job.get_status() == "failed"


def test_a_killed_child_fails_the_job_and_is_looked_after_at_once(
    client: redis.Redis, valkey_url: str, tmp_path: Path
) -> None:
    job = put(client, "waits_for", NEVER)
    with trainer(valkey_url, tmp_path):
        wait_until((tmp_path / "began").exists)
        before = len(list(tmp_path.glob("kept-*")))
        os.kill(int((tmp_path / "began").read_text()), signal.SIGKILL)
        wait_until(lambda: ended(job))
        assert job.get_status() == "failed"
        assert len(list(tmp_path.glob("kept-*"))) > before
        after = put(client, "done", "yes")
        wait_until(lambda: ended(after))


def test_what_fails_is_not_run_again_by_rq_and_what_is_done_is_not_repeated(
    client: redis.Redis, valkey_url: str, tmp_path: Path
) -> None:
    job, killed = put(client, "fails", retry=Retry(max=3)), put(client, "waits_for", NEVER, retry=Retry(max=3))
    repeated = put(client, "done", "yes", repeat=Repeat(times=3))
    with trainer(valkey_url, tmp_path):
        wait_until((tmp_path / "began").exists)
        os.kill(int((tmp_path / "began").read_text()), signal.SIGKILL)
        wait_until(lambda: ended(repeated) and pending_job(client) is None)
    assert [each.get_status() for each in (job, killed, repeated)] == ["failed", "failed", "finished"]
    assert [len(each.results()) for each in (job, killed, repeated)] == [1, 1, 1]
    assert RetrainQueue(client, timeout_s=60).failure(job.id) == "ValueError: no good"
    assert RetrainQueue(client, timeout_s=60).failure(repeated.id) is None


def test_the_child_dies_with_a_killed_trainer(client: redis.Redis, valkey_url: str, tmp_path: Path) -> None:
    put(client, "waits_for", NEVER)
    with trainer(valkey_url, tmp_path) as process:
        wait_until((tmp_path / "began").exists)
        child = int((tmp_path / "began").read_text())
        assert runs(child)
        process.kill()
        wait_until(lambda: not runs(child))


def test_a_timeout_is_not_swallowed_by_a_broad_handler(client: redis.Redis, valkey_url: str, tmp_path: Path) -> None:
    job = put(client, "swallows", timeout=1)
    with trainer(valkey_url, tmp_path):
        wait_until(lambda: ended(job))
    assert job.get_status() == "failed"
    assert "TrainingTimedOut" in (job.latest_result().exc_string or "")  # type: ignore[union-attr]
    assert not (tmp_path / "swallowed").exists()


def test_sigterm_lets_the_training_end_and_takes_no_other(client: redis.Redis, valkey_url: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    first, second = put(client, "waits_for", str(go)), put(client, "waits_for", str(go))
    with trainer(valkey_url, tmp_path) as process:
        wait_until((tmp_path / "began").exists)
        process.terminate()
        go.touch()
        assert process.wait(HANGS_AFTER_S) == 0
    assert first.get_status() == "finished"
    assert second.get_status() == "queued"
    assert (tmp_path / "stopped").exists()


def test_sigterm_ends_a_training_that_outlasts_the_grace(client: redis.Redis, valkey_url: str, tmp_path: Path) -> None:
    job = put(client, "waits_for", NEVER)
    with trainer(valkey_url, tmp_path, grace_s=1) as process:
        wait_until((tmp_path / "began").exists)
        process.terminate()
        assert process.wait(HANGS_AFTER_S) == 0
    assert job.get_status() == "failed"
    assert not (tmp_path / "ended").exists()


def test_an_idle_trainer_stops_at_once(valkey_url: str, client: redis.Redis, tmp_path: Path) -> None:
    with trainer(valkey_url, tmp_path) as process:
        wait_until(lambda: any("b" in one["flags"] for one in client.client_list()))  # blocked: it waits for a job
        process.terminate()
        assert process.wait(HANGS_AFTER_S) == 0


def test_the_trainer_survives_a_restart_of_the_server(tmp_path: Path) -> None:
    with (
        EmbeddedServer(tmp_path / "valkey") as server,
        connect_queue(server.url, retries=True) as client,
        trainer(server.url, tmp_path / "notes"),
    ):
        wait_until((tmp_path / "notes" / "kept-1").exists)
        first = server.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: server.pid not in (first, None) and answers(client))
        job = put(client, "done", "yes")
        wait_until(lambda: ended(job))
        assert job.get_status() == "finished"


def test_a_trainer_that_lacks_a_right_says_so_and_goes_on_when_it_has_it(
    client: redis.Redis, valkey_url: str, tmp_path: Path
) -> None:
    client.execute_command(
        "ACL", "SETUSER", "trainer", "reset", "on", ">secret", "~*", "&*", "+@all", "-lmove", "-blmove"
    )
    try:
        with trainer(valkey_url.replace("unix://", "unix://trainer:secret@"), tmp_path) as process:
            assert process.stderr is not None
            said = next(line for line in process.stderr if "lacks a right" in line or "Traceback" in line)
            assert "trying again" in said
            client.execute_command("ACL", "SETUSER", "trainer", "+@all")
            job = put(client, "done", "yes")
            wait_until(lambda: ended(job))
            assert job.get_status() == "finished"
    finally:
        client.execute_command("ACL", "DELUSER", "trainer")


def worker_of(
    client: redis.Redis, *, housekeeping: Callable[[], None] = lambda: None, stopping: threading.Event | None = None
) -> TrainerWorker:
    return TrainerWorker(
        client,
        queue_name=QUEUE_NAME,
        functions={},
        housekeeping=housekeeping,
        shutdown_grace_s=1,
        nice=0,
        stopping=stopping or threading.Event(),
        service=ServiceManager({}),
    )


def test_a_trainer_killed_while_it_cleans_up_does_not_keep_the_next_one_from_it_for_long(client: redis.Redis) -> None:
    worker = worker_of(client)
    [queue] = worker.queues
    assert queue.acquire_maintenance_lock()
    assert not queue.acquire_maintenance_lock()
    assert 0 < client.ttl(queue.registry_cleaning_key) <= 60  # type: ignore[operator]


def test_a_trainer_that_was_told_to_stop_before_it_listened_does_not_begin(client: redis.Redis) -> None:
    stopping = threading.Event()
    worker = worker_of(client, housekeeping=stopping.set, stopping=stopping)
    stopping.set()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert worker.work(logging_level=None) is False
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def heard(client: redis.Redis) -> Iterator[tuple[TrainerWorker, list[bytes], list[BaseException]]]:
    """A worker whose thread hears commands, what it heard, and what that thread ended with."""
    raised: list[BaseException] = []
    before, threading.excepthook = threading.excepthook, lambda told: raised.append(told.exc_value)  # type: ignore[arg-type, return-value]
    worker = worker_of(client)
    commands: list[bytes] = []
    worker.handle_payload = lambda message: commands.append(message["data"])  # type: ignore[method-assign]
    worker.subscribe()
    try:
        yield worker, commands, raised
    finally:
        worker.hear_no_more()
        threading.excepthook = before


@pytest.mark.parametrize(
    "error", [TypeError("no socket"), redis.TimeoutError("late"), redis.ConnectionError("gone")], ids=repr
)
def test_a_trainer_hears_commands_again_whatever_broke_the_connection(
    client: redis.Redis, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    with heard(client) as (worker, commands, raised):
        thread: Any = worker.pubsub_thread
        errors = iter([error])
        listen = thread.pubsub.get_message

        def broken_once(**options: Any) -> Any:
            for one in errors:
                raise one
            return listen(**options)

        monkeypatch.setattr(thread.pubsub, "get_message", broken_once)
        for word in (b"wake", b"again"):
            client.publish(worker.pubsub_channel_name, word)
            wait_until(lambda: word in commands or not thread.is_alive())  # noqa: B023 - asked at once
        assert commands == [b"wake", b"again"]
        assert thread.is_alive()
        assert raised == []


def test_a_loop_that_redis_ended_leaves_no_thread_behind_that_hears_commands(client: redis.Redis) -> None:
    with heard(client) as (worker, _, raised):
        thread: Any = worker.pubsub_thread
        worker.hear_no_more()
        client.connection_pool.disconnect()
        thread.join(HANGS_AFTER_S)
        assert not thread.is_alive()
        assert raised == []
