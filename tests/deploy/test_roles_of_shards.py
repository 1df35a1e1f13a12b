"""Redis's users, as they are shipped, at the work of an installation with shards: on one server, and on a cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import orjson
import pytest

from tests.support.cluster import Cluster
from tests.support.composed import ROOT, install, ready, servers
from tests.support.events import outcome, signal
from tests.support.postgres_server import needs_postgres
from tests.support.real_processes import Installation
from tests.support.waiting import HANGS_AFTER_S, wait_until
from worker.client import RefineryClient

pytestmark = needs_postgres
EXAMPLE = ROOT / "deploy" / "redis" / "users.acl.example"
SHARDS = 3
#: Who looks at the servers for the tests, beside the shipped users.
TESTS = {"username": "tests", "password": "of-the-tests"}


@pytest.fixture(params=servers(), ids=lambda path: path.name)
def binary(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture
def refinery(state_dir: Path, postgres_url: str) -> Installation:
    made = Installation(state_dir, "")
    made.environment |= {
        "REFINERY_ALLOW_PLAIN_REMOTE_REDIS": "true",
        "REFINERY_STORE_URL": postgres_url,
        "REFINERY_SHARDS": str(SHARDS),
        "REFINERY_CLAIM_IDLE_MS": "1000",
        "REFINERY_INPUT_RETENTION_HOURS": "1",
    }
    return made


def test_every_user_does_its_work_on_one_server(binary: Path, refinery: Installation, tmp_path: Path) -> None:
    with ready(install(tmp_path), binary) as server:
        _work(refinery, {user: server.url(user) for user in ("consumer", "producer", "scores", "ops")})
        assert not server.errors() & {"NOPERM", "NOAUTH", "WRONGPASS"}, server.refused()


@pytest.fixture
def cluster(binary: Path, tmp_path: Path) -> Iterator[Cluster]:
    """Its servers have the users' file as it is shipped, with one user more."""
    users = tmp_path / "users.acl"
    users.write_text(f"{EXAMPLE.read_text()}user tests on >{TESTS['password']} allkeys allchannels +@all\n")
    (tmp_path / "cluster").mkdir()
    with Cluster(tmp_path / "cluster", binary=binary, settings={"aclfile": users}, signs_in=TESTS) as servers:
        yield servers


def test_every_user_does_its_work_on_a_cluster(cluster: Cluster, refinery: Installation, valkey_url: str) -> None:
    refinery.environment["REFINERY_QUEUE_URL"] = valkey_url
    users = ("consumer", "producer", "scores", "ops")
    _work(refinery, {user: cluster.url.replace("://", f"://{user}:{user.upper()}_PASSWORD@") for user in users})
    assert [line for member in cluster.members for line in member.ask("ACL", "LOG")] == []


def _work(refinery: Installation, urls: Mapping[str, str]) -> None:
    """Producers, worker, people and readers of scores, each by the address of their user."""
    refinery.environment["REFINERY_REDIS_URL"] = urls["consumer"]
    assert refinery.run("store", "upgrade").returncode == 0
    worker = refinery.start("worker")
    try:
        with RefineryClient(urls["producer"], shards=SHARDS) as client:
            for number in range(12):
                client.signal_created(**signal(number, bars=None if number == 7 else signal(number)["bars"]))
                client.trade_closed(**outcome(number))
        with RefineryClient(urls["producer"], shards=SHARDS, outbox=refinery.state_dir.parent / "outbox.db") as client:
            client.signal_created(**signal(12))
            assert client.flush() == 0
        line = orjson.dumps({"type": "signal.created", **signal(13)})
        sent = refinery.run("publish", "-", stdin=line, REFINERY_REDIS_URL=urls["producer"])
        assert sent.returncode == 0, sent.stderr
        wait_until(lambda: worker.poll() is not None or _status(refinery, urls["ops"])["signals"] == 13)
        assert worker.poll() is None
        wait_until(lambda: _status(refinery, urls["ops"])["pending"] == 0)
        assert _status(refinery, urls["ops"])["labelled"] == 11
        replayed = refinery.run("dead-letters", "replay", "--all", "--json", REFINERY_REDIS_URL=urls["ops"])
        assert json.loads(replayed.stdout)["died"] == 1, replayed.stderr
        findings = json.loads(refinery.run("doctor", "--json").stdout)
        assert [one for one in findings if one["verdict"] == "bad" and one["part"] != "store"] == []
        with RefineryClient(urls["scores"], shards=SHARDS) as client:
            scored = {entry.score.signal_id for entry in client.scores(after="0", wait_s=0)}
            assert scored == {f"s-{number}" for number in range(14) if number != 7}
            assert list(client.scores(wait_s=0)) == []
    finally:
        worker.terminate()
        said = worker.communicate(timeout=HANGS_AFTER_S)[1].decode()
    assert worker.returncode == 0, said
    assert "NOPERM" not in said
    assert not any(f"{user.upper()}_PASSWORD" in said for user in urls)


def _status(refinery: Installation, url: str) -> dict[str, int]:
    said: dict[str, int] = json.loads(refinery.run("status", "--json", REFINERY_REDIS_URL=url).stdout)
    return said
