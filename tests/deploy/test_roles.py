"""Every role of Redis's users at its work: the product's own code and processes, on the compose file's server."""

from __future__ import annotations

import http.cookiejar
import json
import os
import re
import signal as signals
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from tests.support.composed import Composed, free_port, install, ready, servers, start
from tests.support.events import GROUP, SCORES, SIGNALS, TRADES, outcome, signal
from tests.support.waiting import HANGS_AFTER_S, wait_until
from worker.client import RefineryClient
from worker.retraining.policy import RetrainReason
from worker.retraining.queue import QUEUE_NAME, RetrainQueue, connect_queue

REFUSALS = {"NOPERM", "NOAUTH", "WRONGPASS"}
QUICK = {"REFINERY_BLOCK_MS": "50", "REFINERY_CLAIM_IDLE_MS": "1000", "REFINERY_INPUT_RETENTION_HOURS": "1"}


@pytest.fixture(params=servers(), ids=lambda path: path.name)
def guarded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Composed]:
    """A server of its own for each test: what it refused is counted over its life."""
    with ready(install(tmp_path), request.param) as server:
        yield server
        log = tmp_path / "log"
        assert not server.errors() & REFUSALS, (server.refused(), log.read_text() if log.exists() else "")


class Service:
    """A service of the compose file as a process of this machine, and the commands beside it.

    Args:
        guarded: the server.
        name: worker, trainer or console.
        directory: for state and log, shared by the services of one installation.
    """

    def __init__(self, guarded: Composed, name: str, directory: Path) -> None:
        ports = {name: str(free_port()) for name in ("METRICS_PORT", "TRAINER_METRICS_PORT", "CONSOLE_PORT")}
        self.port = ports[{"worker": "METRICS_PORT", "trainer": "TRAINER_METRICS_PORT"}.get(name, "CONSOLE_PORT")]
        named = {f"REFINERY_{variable}": port for variable, port in ports.items()}
        self.environment = guarded.environment(name, directory / "var", **named, **QUICK)
        self.log = directory / "log"
        self._guarded, self._name = guarded, name
        self._command = guarded.services[name]["command"]

    def __enter__(self) -> Service:
        self.process = start(self._command, self.environment, self.log)
        wait_until(lambda: self.process.poll() is not None or self.healthy(), self.log.read_text)
        assert self.process.poll() is None, self.log.read_text()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        assert self.process.wait(HANGS_AFTER_S) == 0, self.log.read_text()

    def healthy(self) -> bool:
        """Whether the compose file's own check of the service passes, on the port used here."""
        kind, program, *rest = self._guarded.services[self._name]["healthcheck"]["test"]
        assert (kind, program) == ("CMD", "python")
        arguments = [re.sub(r":\d+/", f":{self.port}/", word) for word in rest]
        return subprocess.run([sys.executable, *arguments], capture_output=True, check=False).returncode == 0


def refinery(environment: dict[str, str], *arguments: str, fails: bool = False, stdin: bytes = b"") -> bytes:
    """What a command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "worker", *arguments], env=environment, input=stdin, capture_output=True, check=False
    )
    assert fails or done.returncode == 0, done.stderr.decode()
    return done.stdout


def as_user(guarded: Composed, user: str, environment: dict[str, str]) -> dict[str, str]:
    return environment | {"REFINERY_REDIS_URL": guarded.url(user)}


def document(environment: dict[str, str], *arguments: str, fails: bool = False) -> Any:
    return json.loads(refinery(environment, *arguments, "--json", fails=fails))


def count(guarded: Composed, stream: str) -> int:
    with guarded.client("ops") as ops:
        return int(ops.xlen(stream))


def test_a_producer_publishes_with_the_client_with_an_outbox_and_from_the_command_line(
    guarded: Composed, tmp_path: Path
) -> None:
    with RefineryClient(guarded.url("producer")) as client:
        assert client.signal_created(**signal(1))
        assert client.trade_closed(**outcome(1))
    with RefineryClient(guarded.url("producer"), outbox=tmp_path / "outbox.db") as client:
        client.signal_created(**signal(2))
        assert client.flush() == 0
    environment = {
        **os.environ,
        "REFINERY_REDIS_URL": guarded.url("producer"),
        "REFINERY_STATE_DIR": str(tmp_path / "p"),
    }
    line = orjson.dumps({"type": "signal.created", **signal(3)})
    assert b"1 event published" in refinery(environment, "publish", "-", stdin=line)
    with redis.Redis.from_url(guarded.url("producer"), protocol=3, client_name="desk") as newest:
        assert newest.xadd(SIGNALS, {"data": orjson.dumps(signal(4))})
    assert (count(guarded, SIGNALS), count(guarded, TRADES)) == (4, 1)


def test_a_reader_of_scores_reads_forwards_and_backwards_alone_and_in_a_group(
    guarded: Composed, tmp_path: Path
) -> None:
    with Service(guarded, "worker", tmp_path):
        with RefineryClient(guarded.url("producer")) as client:
            for number in range(3):
                client.signal_created(**signal(number))
        wait_until(lambda: count(guarded, SCORES) == 3)
    scores: Any = guarded.client("scores")
    [first, _, last] = [orjson.loads(fields[b"data"])["signal_id"] for _, fields in scores.xrange(SCORES)]
    assert orjson.loads(scores.xrevrange(SCORES, count=1)[0][1][b"data"])["signal_id"] == last == "s-2"
    [[_, read]] = scores.xread({SCORES: "0"}, block=1000)
    assert len(read) == scores.xlen(SCORES) == 3
    scores.xgroup_create(SCORES, "desk", "0")
    [[_, mine]] = scores.xreadgroup("desk", "one", {SCORES: ">"}, count=2)
    assert orjson.loads(mine[0][1][b"data"])["signal_id"] == first == "s-0"
    assert scores.xpending(SCORES, "desk")["pending"] == 2
    assert len(scores.xpending_range(SCORES, "desk", "-", "+", 10)) == 2
    assert scores.xautoclaim(SCORES, "desk", "two", 0)[1]
    assert scores.xclaim(SCORES, "desk", "one", 0, [mine[1][0]])
    assert scores.xack(SCORES, "desk", *(number for number, _ in mine)) == 2
    assert scores.xinfo_stream(SCORES)["length"] == 3
    assert scores.xinfo_groups(SCORES)[0]["pending"] == 0
    assert scores.xinfo_consumers(SCORES, "desk")
    scores.xgroup_delconsumer(SCORES, "desk", "two")
    scores.xgroup_setid(SCORES, "desk", "0")
    scores.xgroup_destroy(SCORES, "desk")


def test_worker_trainer_console_and_ops_do_all_of_their_work(guarded: Composed, tmp_path: Path) -> None:
    with Service(guarded, "worker", tmp_path) as worker, RefineryClient(guarded.url("producer")) as producer:
        people = as_user(guarded, "ops", worker.environment)
        for number in range(130):
            producer.signal_created(**signal(number, bars=None if number == 7 else signal(number)["bars"]))
            producer.trade_closed(**outcome(number, r_multiple=1.5 if number % 3 else -1.0))
        guarded.client("producer").xadd(TRADES, {"data": b"not an event"})
        wait_until(lambda: document(people, "status")["labelled"] == 129, worker.log.read_text)
        assert refinery(people, "status")
        _dead_letters(guarded, people)
        _training(guarded, worker, people, tmp_path)
        _console(guarded, tmp_path)
        refinery(worker.environment, "doctor", fails=True)
    _taken_over(guarded, tmp_path)
    assert "NOPERM" not in worker.log.read_text()
    assert all(guarded.password(user) not in worker.log.read_text() for user in ("consumer", "ops", "producer"))


def _dead_letters(guarded: Composed, people: dict[str, str]) -> None:
    """Ops look at what was dead-lettered and replay it."""
    by_reason = {letter["reason"]: letter["id"] for letter in document(people, "dead-letters", "list")}
    assert by_reason.keys() == {"no_market_data", "bad_json"}, by_reason
    refinery(people, "dead-letters", "show", str(by_reason["bad_json"]))
    replayed = document(people, "dead-letters", "replay", "--all")
    assert (len(replayed["sent"]), replayed["handled"], replayed["died"]) == (2, 2, 2)
    [again, other] = document(people, "dead-letters", "list")
    refinery(people, "dead-letters", "discard", str(again["id"]), "--reason", "seen")
    assert {again["replay_of"], other["replay_of"]} == set(by_reason.values())


def _training(guarded: Composed, worker: Service, people: dict[str, str], directory: Path) -> None:
    """A training is run and watched, by the commands of others than us too."""
    with Service(guarded, "trainer", directory) as trainer:
        wait_until(
            lambda: (document(people, "status")["last_training"] or {"status": "running"})["status"] != "running"
        )
        refinery(worker.environment, "retrain", "--wait", fails=True)
        told = rq_info(guarded, "ops")
        assert "refinery-retrain" in told
        assert "1 workers" in told
        assert "trainer-" in rq_info(guarded, "ops", "--by-queue", "-R") + told
        assert "refinery-retrain" in rq_info(guarded, "consumer")
        with urllib.request.urlopen(f"http://127.0.0.1:{trainer.port}/metrics", timeout=HANGS_AFTER_S) as answer:
            assert b"refinery_redis_up 1.0" in answer.read()


def test_ops_see_a_job_whose_trainer_is_gone_with_the_command_of_rq(guarded: Composed) -> None:
    client = connect_queue(guarded.url("consumer"))
    asked = RetrainQueue(client, timeout_s=60).enqueue(
        model_type="signal_quality", after=0, reason=RetrainReason.MANUAL
    )
    client.lrem(f"rq:queue:{QUEUE_NAME}", 0, asked.job_id)
    client.hset(f"rq:job:{asked.job_id}", "status", "started")
    client.zadd(f"rq:wip:{QUEUE_NAME}", {f"{asked.job_id}:gone": 1})
    client.zadd(f"rq:finished:{QUEUE_NAME}", {"forgotten": 1})
    client.sadd("rq:workers", "rq:worker:gone")
    client.sadd(f"rq:workers:{QUEUE_NAME}", "rq:worker:gone")
    assert re.search(r"0 finished, 1 failed", rq_info(guarded, "ops"))
    assert client.scard("rq:workers") == 0


def rq_info(guarded: Composed, user: str, *arguments: str) -> str:
    """What RQ's own command prints."""
    program = "import sys; from rq.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "info", "-u", guarded.url(user), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def _console(guarded: Composed, directory: Path) -> None:
    """An operator signs in, looks at every page, and replays a dead letter."""
    with Service(guarded, "console", directory) as console:
        address = f"http://127.0.0.1:{console.port}"
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))

        def page(path: str, **form: str) -> str:
            token = re.search(r'name="csrf_token" value="([^"]+)"', shown[-1]) if form else None
            data = urllib.parse.urlencode(form | {"csrf_token": token[1]}).encode() if token else None
            wanted = urllib.request.Request(address + path, data=data, headers={"Origin": address})  # noqa: S310 - our own process
            with browser.open(wanted, timeout=HANGS_AFTER_S) as answer:
                shown.append(answer.read().decode())
            return shown[-1]

        shown: list[str] = []
        page("/login")
        page("/login", password=console.environment["REFINERY_CONSOLE_OPERATOR_PASSWORD"])
        for path in (
            "/",
            "/models",
            "/monitoring",
            "/signals",
            "/jobs",
            "/jobs/rq/0/view/jobs",
            "/jobs/rq/0/view/workers",
        ):
            page(path)
        for data in ("queues", "workers"):
            assert json.loads(page(f"/jobs/rq/0/data/{data}.json"))
        assert json.loads(page("/jobs/rq/0/data/jobs/refinery-retrain/finished/8/dsc/1.json"))
        [letter] = document(console.environment, "dead-letters", "list")
        page("/dead-letters")
        page("/dead-letters/replay", id=str(letter["id"]))
        assert [row["id"] for row in document(console.environment, "dead-letters", "list")] != [letter["id"]]


def _taken_over(guarded: Composed, directory: Path) -> None:
    """What a consumer took that is gone is handled by the next one; killed hard, a worker comes back to its own."""
    with guarded.client("consumer") as gone:
        for number in (200, 201):
            gone.xadd(SIGNALS, {"data": orjson.dumps(signal(number))})
        taken: Any = gone.xreadgroup(GROUP, "gone", {SIGNALS: ">"})
        assert len(taken[0][1]) >= 2
    stopped = Service(guarded, "worker", directory)
    stopped.process = start(["worker"], stopped.environment, stopped.log)
    wait_until(stopped.healthy)
    os.kill(stopped.process.pid, signals.SIGKILL)
    stopped.process.wait(HANGS_AFTER_S)
    with Service(guarded, "worker", directory) as worker:
        people = as_user(guarded, "ops", worker.environment)
        wait_until(lambda: {"s-200", "s-201"} <= scored_ids(guarded))
        wait_until(lambda: document(people, "status")["pending"] == 0)


def scored_ids(guarded: Composed) -> set[str]:
    with guarded.client("scores") as scores:
        rows: Any = scores.xrange(SCORES)
        return {orjson.loads(fields[b"data"])["signal_id"] for _, fields in rows}
