"""Commands and console on a cluster of three primaries, with three shards and the store in PostgreSQL."""

from __future__ import annotations

import http.cookiejar
import json
import re
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import orjson
import pytest

from tests.support.cluster import Cluster
from tests.support.events import GROUP, START, bars, outcome, signal
from tests.support.postgres_server import needs_postgres
from tests.support.real_processes import REFINERY, Installation
from tests.support.servers import free_port
from tests.support.waiting import HANGS_AFTER_S, wait_until
from worker.client import RefineryClient
from worker.redis_server.connection import connect

pytestmark = needs_postgres
SHARDS = 3
PASSWORD = "of-the-operator-of-the-console"  # noqa: S105 - nobody's


@pytest.fixture
def refinery(state_dir: Path, cluster: Cluster, valkey_url: str, postgres_url: str) -> Installation:
    made = Installation(state_dir, cluster.url)
    made.environment |= {
        "REFINERY_ALLOW_PLAIN_REMOTE_REDIS": "true",
        "REFINERY_QUEUE_URL": valkey_url,
        "REFINERY_STORE_URL": postgres_url,
        "REFINERY_SHARDS": str(SHARDS),
        "REFINERY_CONSOLE_OPERATOR_PASSWORD": PASSWORD,
        "REFINERY_CONSOLE_SECRET": "0123456789abcdef0123456789abcdef",
        "REFINERY_CLAIM_IDLE_MS": "1000",
        "REFINERY_INPUT_RETENTION_HOURS": "1",
    }
    done = made.run("store", "upgrade")
    assert done.returncode == 0, done.stderr
    return made


@contextmanager
def running(refinery: Installation, *arguments: str, **more: str) -> Iterator[None]:
    """A process of the installation, which ends well when it is told to."""
    process = subprocess.Popen([*REFINERY, *arguments], env=refinery.environment | more, stderr=subprocess.PIPE)
    try:
        yield
    finally:
        process.terminate()
        said = process.communicate(timeout=HANGS_AFTER_S)[1].decode()
    assert process.returncode == 0, said
    assert "Traceback" not in said, said


def lines(numbers: range) -> bytes:
    events = [{"type": "signal.created", **signal(number)} for number in numbers]
    events += [{"type": "trade.closed", **outcome(number)} for number in numbers]
    return b"".join(orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE) for event in events)


def test_commands_and_console_do_all_of_their_work(refinery: Installation, cluster: Cluster) -> None:
    streams = [f"{{r{shard}}}.{name}" for shard in range(SHARDS) for name in ("signals.created", "trades.closed")]
    assert len({cluster.owner(stream).port for stream in streams}) == 3
    with running(refinery, "worker"):
        assert refinery.document("publish", "-") == {"published": 0, "refused": 0}
        sent = refinery.run("publish", "-", "--json", stdin=lines(range(40)))
        assert json.loads(sent.stdout) == {"published": 80, "refused": 0}, sent.stderr
        wait_until(lambda: refinery.document("status")["labelled"] == 40)
        status = refinery.document("status")
        assert [row["name"] for row in status["streams"]] == streams
        assert sum(row["length"] for row in status["streams"]) == 80
        assert all(row["length"] for row in status["streams"]), "a shard that nothing came to shows nothing"
        wait_until(lambda: refinery.document("status")["pending"] == 0)
        assert "redis+cluster://" in refinery.run("status").stdout.decode()
        _findings(refinery)
        _dead_letters(refinery)
        with RefineryClient(cluster.url, shards=SHARDS) as client:
            answered = {entry.score.signal_id for entry in client.scores(after="0", wait_s=0)}
        assert answered == {f"s-{number}" for number in range(40)}
        _console(refinery)
    assert refinery.document("status")["lag"] == 0


def _findings(refinery: Installation) -> None:
    """What doctor finds is what one server's installation has too."""
    found = json.loads(refinery.run("doctor", "--json").stdout)
    assert [
        one for one in found if one["verdict"] == "bad" and one["part"] != "store"
    ] == []  # the tests' own is not synced
    said = {one["part"]: one["says"] for one in found}
    assert "0 waiting, 0 pending" in said["redis"]
    assert "within" in said["clock"]
    assert "queue" in said


def _dead_letters(refinery: Installation) -> None:
    for number in (900, 901, 902):
        line = orjson.dumps({"type": "signal.created", **signal(number, bars=None)})
        assert refinery.run("publish", "-", stdin=line).returncode == 0
    wait_until(lambda: len(refinery.document("dead-letters", "list")) == 3)
    refinery.run("dead-letters", "show", "1")
    replayed = refinery.document("dead-letters", "replay", "--all")
    assert (len(replayed["sent"]), replayed["handled"], replayed["died"]) == (3, 3, 3)
    letters = refinery.document("dead-letters", "list")
    assert len(letters) == 3
    assert all(letter["replay_of"] for letter in letters)


class Browser:
    """An operator's, who has signed in."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
        self._shown = ""
        self.page("/login")
        self.page("/login", password=PASSWORD)

    def page(self, path: str, **form: str) -> str:
        """What a page shows, or what comes of its form."""
        token = re.search(r'name="csrf_token" value="([^"]+)"', self._shown) if form else None
        data = urllib.parse.urlencode(form | {"csrf_token": token[1]}).encode() if token else None
        wanted = urllib.request.Request(self._address + path, data=data, headers={"Origin": self._address})  # noqa: S310 - our own process
        with self._opener.open(wanted, timeout=HANGS_AFTER_S) as answer:
            self._shown = answer.read().decode()
        return self._shown


def _console(refinery: Installation) -> None:
    port = free_port()
    with running(refinery, "console", REFINERY_CONSOLE_PORT=str(port)):
        address = f"http://127.0.0.1:{port}"
        wait_until(lambda: _answers(address))
        browser = Browser(address)
        overview = browser.page("/")
        assert re.search(r"worker.{0,400}pending", overview, re.S), overview
        for path in ("/models", "/monitoring", "/signals", "/signals/s-1", "/jobs", "/dead-letters"):
            browser.page(path)
        before = {letter["id"] for letter in refinery.document("dead-letters", "list")}
        browser.page("/dead-letters/replay", id=str(min(before)))
        wait_until(lambda: {letter["id"] for letter in refinery.document("dead-letters", "list")} != before)
        wait_until(lambda: len(refinery.document("dead-letters", "list")) == 3)
        other = Browser(address)
        other.page("/logout", sign="out")
        assert "password" in other.page("/")


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/login", timeout=HANGS_AFTER_S):  # noqa: S310 - our own process
            return True
    except OSError:
        return False


def test_metrics_adoption_training_and_care_of_a_worker(refinery: Installation, cluster: Cluster) -> None:
    port, url = free_port(), cluster.url
    with running(refinery, "worker", REFINERY_METRICS_PORT=str(port)), running(refinery, "trainer"):
        assert refinery.run("publish", "-", stdin=lines(range(20))).returncode == 0
        wait_until(lambda: refinery.document("status")["labelled"] == 20)
        told = _metrics(port)
        assert told["refinery_redis_up"] == told["refinery_store_up"] == 1
        assert told["refinery_market_data_contents"] == 1
        assert told["refinery_scores_length"] == 20
        assert told["refinery_redis_failovers_total"] == 0
        assert sum(value for name, value in told.items() if name.startswith("refinery_stream_length")) == 40
        assert refinery.run("retrain", "--wait").returncode == 0
        with connect(url) as client:
            assert client.eval("return redis.call('GET', KEYS[1])", 1, f"refinery:owner:{GROUP}@{{r2}}.signals.created")
    done = refinery.run("adopt")
    assert done.returncode == 0, done.stderr


def test_a_gateway_and_an_import_reach_every_shard(refinery: Installation, cluster: Cluster, tmp_path: Path) -> None:
    place = tmp_path / "gateway"
    events = [orjson.dumps({"type": "signal.created", **signal(number)}) for number in range(30)]
    with running(refinery, "gateway", REFINERY_GATEWAY__SOCKET=str(place)):
        wait_until(place.exists)
        with socket.socket(socket.AF_UNIX) as producer:
            producer.settimeout(HANGS_AFTER_S)
            producer.connect(str(place))
            producer.sendall(b"".join(event + b"\n" for event in events))
            producer.shutdown(socket.SHUT_WR)
            answers = [json.loads(line) for line in producer.makefile("rb")]
    assert [answer["status"] for answer in answers] == ["accepted"] * 30
    refinery.environment["REFINERY_MARKET_DATA_DIR"] = str(_market(tmp_path / "market"))
    past = tmp_path / "past.csv"
    rows = [f"t-{at},{START + timedelta(hours=at):%FT%TZ},{START + timedelta(days=3 + at):%FT%TZ}" for at in range(40)]
    past.write_text("\n".join(["signal_id,timestamp,closed_at,symbol,asset_class,signal_type,r_multiple"] + [
        f"{row},ACME,equity,breakout,{at % 5 - 1.5}" for at, row in enumerate(rows)
    ]))  # fmt: skip
    with running(refinery, "worker"):
        told = refinery.document("import", str(past))
        assert (told["signals"]["applied"], told["trades"]["applied"], told["refused"]) == (40, 40, 0)
        again = refinery.document("import", str(past))
        assert (again["signals"]["known"], again["trades"]["known"], again["signals"]["sent"]) == (40, 40, 0)
        wait_until(lambda: refinery.document("status")["pending"] == 0)
        status = refinery.document("status")
    assert (status["labelled"], status["lag"]) == (40, 0)
    assert sum(row["length"] for row in status["streams"]) == 30 + 40 + 40
    assert all(row["length"] for row in status["streams"]), "a shard that nothing came to shows nothing"


def _market(directory: Path) -> Path:
    directory.mkdir()
    columns = bars(700, end=START)
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    (directory / "ACME.csv").write_text("\n".join(lines) + "\n")
    return directory


def _metrics(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=HANGS_AFTER_S) as answer:
        rows = [line.rpartition(" ") for line in answer.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in rows}
