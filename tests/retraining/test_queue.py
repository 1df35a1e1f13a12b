"""The queue of trainings: one job for each, JSON only."""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from pkgutil import resolve_name
from urllib.parse import unquote, urlsplit

import pytest
import redis
import rq.serializers
from rq import Queue, Worker
from rq.exceptions import DeserializationError
from rq.executions import Execution
from rq.job import Job

from worker.retraining.history import TrainingHistory
from worker.retraining.policy import RetrainReason, RetrainRule, due
from worker.retraining.queue import QUEUE_NAME, RETRAIN, RetrainQueue, connect_queue, pending_job

NOW = datetime(2026, 3, 1, tzinfo=UTC)
RULE = RetrainRule(enabled=True, min_new_labels=20, frequency_days=7)

ASK = """
import sys
from worker.retraining.queue import RetrainQueue, connect_queue, pending_job
from worker.retraining.policy import RetrainReason
sys.stdin.readline()
queue = RetrainQueue(connect_queue(sys.argv[1]), timeout_s=60)
asked = queue.enqueue(model_type="signal_quality", after=7, reason=RetrainReason.NEW_LABELS)
print(asked.job_id, asked.new)
"""


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return open, (str(self.path), "w")  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("labels", "history", "now", "expected"),
    [
        (19, TrainingHistory(), NOW, None),
        (20, TrainingHistory(), NOW, RetrainReason.NEW_LABELS),
        (39, TrainingHistory(1, 20, NOW, samples_found=20), NOW, None),
        (40, TrainingHistory(1, 20, NOW, samples_found=20), NOW, RetrainReason.NEW_LABELS),
        (21, TrainingHistory(1, 20, NOW, samples_found=20), NOW + timedelta(days=7), RetrainReason.SCHEDULE),
        (119, TrainingHistory(1, 100, NOW), NOW, None),
        (120, TrainingHistory(1, 100, NOW), NOW, RetrainReason.NEW_LABELS),
        (101, TrainingHistory(1, 100, NOW), NOW + timedelta(days=7), RetrainReason.SCHEDULE),
        (101, TrainingHistory(1, 100, NOW), NOW + timedelta(days=7, microseconds=-1), None),
        (100, TrainingHistory(1, 100, NOW), NOW + timedelta(days=700), None),
        (101, TrainingHistory(1, 100, NOW), NOW - timedelta(days=700), None),
        (101, TrainingHistory(1, 100, None), NOW, None),
        (1, TrainingHistory(store_made_at=NOW), NOW + timedelta(days=7), RetrainReason.SCHEDULE),
        (1, TrainingHistory(store_made_at=NOW), NOW + timedelta(days=7, microseconds=-1), None),
        (0, TrainingHistory(store_made_at=NOW), NOW + timedelta(days=700), None),
        (21, TrainingHistory(1, 20, NOW, store_made_at=NOW - timedelta(days=700)), NOW, None),
        (120, TrainingHistory(3, 0, None), NOW, RetrainReason.NEW_LABELS),
    ],
)
def test_a_training_is_due_by_new_labels_or_by_time_and_never_without_a_new_one(
    labels: int, history: TrainingHistory, now: datetime, expected: RetrainReason | None
) -> None:
    assert due(RULE, replace(history, labels_total=labels), now=now) is expected


def test_nothing_is_due_where_learning_is_off() -> None:
    off = RetrainRule(enabled=False, min_new_labels=1, frequency_days=1)
    assert due(off, TrainingHistory(labels_total=1000), now=NOW) is None


@pytest.fixture
def queue(client: redis.Redis) -> RetrainQueue:
    return RetrainQueue(client, timeout_s=60)


def ask(queue: RetrainQueue, after: int = 7) -> tuple[str, bool]:
    asked = queue.enqueue(model_type="signal_quality", after=after, reason=RetrainReason.NEW_LABELS)
    return asked.job_id, asked.new


def waiting(client: redis.Redis) -> list[bytes]:
    return client.lrange(f"rq:queue:{QUEUE_NAME}", 0, -1)


def test_eight_threads_that_notice_make_one_job(client: redis.Redis, valkey_url: str) -> None:
    barrier = threading.Barrier(8)

    def notice(_: int) -> tuple[str, bool]:
        with connect_queue(valkey_url) as own:
            queue = RetrainQueue(own, timeout_s=60)
            barrier.wait()
            return ask(queue)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(notice, range(8)))
    assert len({job_id for job_id, _ in answers}) == 1
    assert sum(new for _, new in answers) == 1
    assert len(waiting(client)) == 1


def test_processes_that_notice_make_one_job(client: redis.Redis, valkey_url: str) -> None:
    command = [sys.executable, "-c", ASK, valkey_url]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate("go\n")[0].strip() for process in processes]
    assert sorted(said) == ["retrain-signal_quality-7 False"] * 3 + ["retrain-signal_quality-7 True"]
    assert len(waiting(client)) == 1


def test_the_next_training_is_another_job(client: redis.Redis, queue: RetrainQueue) -> None:
    assert ask(queue, 7) == ("retrain-signal_quality-7", True)
    assert ask(queue, 8) == ("retrain-signal_quality-8", True)
    assert len(waiting(client)) == 2


@contextmanager
def lossy_proxy(target: str, directory: Path, word: bytes) -> Iterator[str]:
    """Forwards to the server, and drops the connection in place of the first reply to a request with `word`."""
    path = directory / "proxy.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    lost = threading.Event()

    def serve(inside: socket.socket) -> None:
        with inside, socket.socket(socket.AF_UNIX) as outside:
            outside.connect(target)
            while request := inside.recv(65536):
                outside.sendall(request)
                reply = outside.recv(65536)
                if word in request and not lost.is_set():
                    lost.set()
                    return
                inside.sendall(reply)

    def accept() -> None:
        while True:
            try:
                inside, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(inside,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"unix://{path}"
    assert lost.is_set()
    listener.close()


@pytest.mark.parametrize("retries", [False, True])
def test_a_lost_reply_makes_no_second_job(client: redis.Redis, valkey_url: str, tmp_path: Path, retries: bool) -> None:
    with connect_queue(valkey_url) as warm:
        ask(RetrainQueue(warm, timeout_s=60), 1)  # the script is loaded, so that the next request is the one that adds
    server = unquote(urlsplit(valkey_url).path)
    with lossy_proxy(server, tmp_path, b"EVALSHA") as url, connect_queue(url, retries=retries) as unlucky:
        queue = RetrainQueue(unlucky, timeout_s=60)
        if not retries:
            with pytest.raises(redis.RedisError):
                ask(queue)
        assert ask(queue) == ("retrain-signal_quality-7", False)
    assert waiting(client).count(b"retrain-signal_quality-7") == 1


def test_whether_a_training_waits_is_read_without_changing_anything(client: redis.Redis, queue: RetrainQueue) -> None:
    assert pending_job(client) is None
    job_id, _ = ask(queue)
    assert pending_job(client) == "queued"
    assert queue.state(job_id) == "queued"
    client.lmove(f"rq:queue:{QUEUE_NAME}", f"rq:queue:{QUEUE_NAME}:intermediate")
    assert pending_job(client) == "queued"
    now = datetime.now(UTC).timestamp()
    client.zadd(f"rq:wip:{QUEUE_NAME}", {f"{job_id}:x": now + 3600})
    client.lpop(f"rq:queue:{QUEUE_NAME}:intermediate")
    assert pending_job(client) == "started"
    client.zadd(f"rq:wip:{QUEUE_NAME}", {f"{job_id}:x": now - 1})
    assert pending_job(client) is None
    assert client.zcard(f"rq:wip:{QUEUE_NAME}") == 1
    assert queue.state("retrain-signal_quality-99") is None
    assert queue.result(job_id) is None


def test_a_job_that_was_over_before_it_began_gets_successors_with_growing_pauses(
    client: redis.Redis, queue: RetrainQueue
) -> None:
    job_id, _ = ask(queue)
    seen = [job_id]
    for minutes in (1, 5, 30, 120):
        client.delete(f"rq:queue:{QUEUE_NAME}")
        fail(client, job_id, ago=timedelta(minutes=minutes / 2))
        assert ask(queue) == (job_id, False)
        fail(client, job_id, ago=timedelta(minutes=minutes, seconds=5))
        job_id, new = ask(queue)
        assert new
        seen.append(job_id)
    assert len(set(seen)) == 5
    fail(client, job_id, ago=timedelta(days=1))
    assert ask(queue) == (job_id, False)


def fail(client: redis.Redis, job_id: str, *, ago: timedelta) -> None:
    ended = (datetime.now(UTC) - ago).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    client.hset(f"rq:job:{job_id}", mapping={"status": "failed", "ended_at": ended})


def test_nothing_in_this_process_unpickles_what_rq_reads(
    client: redis.Redis, queue: RetrainQueue, tmp_path: Path
) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "boom"))
    job_id, _ = ask(queue)
    client.hset(f"rq:job:{job_id}", mapping={"data": zlib.compress(bomb), "meta": bomb, "result": bomb})
    # As RQ's own code reads: with no serializer named.
    job = Job.fetch(job_id, connection=client)
    with pytest.raises(DeserializationError):
        _ = job.args
    with pytest.raises(UnicodeDecodeError):
        job.get_meta()
    assert job._result is None or isinstance(job._result, str)
    assert Execution(id="x", job_id=job_id, connection=client).job.meta == {"unserialized": bomb}
    Worker.all(connection=client)
    assert Queue(QUEUE_NAME, connection=client).fetch_job(job_id) is not None
    assert queue.result(job_id) is None
    assert not (tmp_path / "boom").exists()
    assert rq.serializers.resolve_serializer("pickle") is rq.serializers.JSONSerializer
    assert rq.serializers.resolve_serializer(None) is rq.serializers.JSONSerializer


def test_a_job_in_redis_is_plain_json(client: redis.Redis, queue: RetrainQueue) -> None:
    job_id, _ = ask(queue)
    data = zlib.decompress(client.hget(f"rq:job:{job_id}", "data"))
    arguments = '{"model_type": "signal_quality", "after": 7, "reason": "new_labels", "requested_by": "schedule"}'
    assert data.decode() == f'["{RETRAIN}", null, [], {arguments}]'


def test_jobs_that_an_earlier_release_queued_are_known_by_their_name() -> None:
    """The name is on the wire: a queue may hold jobs from before an upgrade."""
    assert RETRAIN == "worker.retraining.job.retrain"
    assert callable(resolve_name("worker.retraining.job:retrain"))


@pytest.mark.parametrize(
    "field", ["created_at", "enqueued_at", "status", "timeout", "meta", "result_ttl", "all", "string"]
)
def test_garbage_under_the_next_trainings_id_does_not_keep_it_from_being_asked_for(
    valkey: redis.Redis, valkey_url: str, field: str
) -> None:
    with connect_queue(valkey_url) as client:
        queue = RetrainQueue(client, timeout_s=60)
        arguments = {"model_type": "signal_quality", "after": 7, "reason": RetrainReason.MANUAL}
        asked = queue.enqueue(**arguments)  # type: ignore[arg-type]
        key, whole = f"rq:job:{asked.job_id}", valkey.hgetall(f"rq:job:{asked.job_id}")
        valkey.flushall()
        if field == "string":
            valkey.set(key, "no hash")
        else:
            names = whole if field == "all" else [field.encode()]  # type: ignore[union-attr]
            valkey.hset(key, mapping={**whole, **dict.fromkeys(names, b"\xff garbage")})  # type: ignore[dict-item]
        assert queue.failure(asked.job_id) is None
        again = queue.enqueue(**arguments)  # type: ignore[arg-type]
        assert (again.job_id, again.new) == (asked.job_id, True)
        assert pending_job(client) == "queued"
        assert not queue.enqueue(**arguments).new  # type: ignore[arg-type]


def test_a_job_that_says_it_waits_and_is_in_no_queue_is_asked_for_again(valkey: redis.Redis, valkey_url: str) -> None:
    with connect_queue(valkey_url) as client:
        queue = RetrainQueue(client, timeout_s=60)
        first = queue.enqueue(model_type="signal_quality", after=7, reason=RetrainReason.MANUAL)
        valkey.delete(f"rq:queue:{QUEUE_NAME}")
        again = queue.enqueue(model_type="signal_quality", after=7, reason=RetrainReason.MANUAL)
        assert (again.job_id, again.new) == (first.job_id, True)
        assert valkey.llen(f"rq:queue:{QUEUE_NAME}") == 1
