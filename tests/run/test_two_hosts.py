"""Two hosts that share PostgreSQL, Redis and settings, and nothing else; one is cut off without a word, and joined."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.faults.invariants import judge
from tests.support.desk import pending, send
from tests.support.events import GROUP, SIGNALS, TRADES, outcome, signal
from tests.support.hosts import SERVERS, Hosts, hosts_are_allowed
from tests.support.postgres_server import PostgresServer, needs_postgres
from tests.support.processes import until
from tests.support.real_processes import QUIET, REFINERY
from tests.support.servers import free_port
from tests.support.waiting import HANGS_AFTER_S, wait_until
from trading_system.ml_refinement.storage import FeatureDatabase, StoreUnavailable
from worker.redis_server.binary import find_server

pytestmark = [
    needs_postgres,
    pytest.mark.sqlite_file,
    pytest.mark.skipif(not hosts_are_allowed(), reason="network namespaces are not allowed here"),
]


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with Hosts("one", "other") as both:
        yield both


@pytest.fixture
def store_url(hosts: Hosts) -> Iterator[str]:
    """A store on a server that both hosts reach."""
    port = free_port()
    with PostgresServer(f"listen_addresses = '{SERVERS}'", "fsync = off", port=port) as server:
        with (server.data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all samenet trust\n")
        server.run_sql("SELECT pg_reload_conf()")
        url = f"postgresql://refinery@{SERVERS}:{port}/refinery"
        with closing(FeatureDatabase(url)) as store:
            store.upgrade()
        yield url


@pytest.fixture
def redis_url(hosts: Hosts, tmp_path: Path) -> Iterator[str]:
    """A server that both hosts reach."""
    port = free_port()
    command = [str(find_server()), "--bind", SERVERS, "--port", str(port), "--protected-mode", "no", "--save", ""]
    process = subprocess.Popen([*command, "--dir", str(tmp_path)], stdout=subprocess.DEVNULL)
    url = f"redis://{SERVERS}:{port}"
    with redis.Redis.from_url(url) as client:
        until(client.ping)
    yield url
    process.kill()
    process.wait()


class Worker:
    """`refinery worker` on a host, with a state directory that no other host sees."""

    def __init__(self, hosts: Hosts, name: str, store_url: str, redis_url: str, directory: Path) -> None:
        self.name = name
        self._log = directory / f"{name}.log"
        environment = {
            **os.environ,
            **QUIET,
            "REFINERY_STATE_DIR": str(directory / name),
            "REFINERY_REDIS_URL": redis_url,
            "REFINERY_STORE_URL": store_url,
            "REFINERY_ALLOW_PLAIN_REMOTE_REDIS": "true",
            "REFINERY_ALLOW_PLAIN_REMOTE_STORE": "true",
            "REFINERY_CLAIM_IDLE_MS": "3000",
            "REFINERY_BATCH_SIZE": "4",
        }
        with self._log.open("wb") as log:
            self._process = hosts.start(name, [*REFINERY, "worker"], env=environment, stderr=log)

    def said(self) -> str:
        return self._log.read_text()

    def end(self) -> None:
        self._process.terminate()
        assert self._process.wait(HANGS_AFTER_S) == 0, self.said()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def test_a_host_that_is_cut_off_costs_nothing_and_goes_on_when_it_is_back(
    hosts: Hosts, store_url: str, redis_url: str, tmp_path: Path
) -> None:
    client = redis.Redis.from_url(redis_url)
    one, other = (Worker(hosts, name, store_url, redis_url, tmp_path) for name in ("one", "other"))
    sent = 0

    def send_more(count: int) -> None:
        nonlocal sent
        for number in range(sent, sent + count):
            send(client, SIGNALS, signal(number))
            send(client, TRADES, outcome(number))
        sent += count

    def handled() -> bool:
        with closing(FeatureDatabase(store_url)) as store:
            return store.counts().labelled == sent and pending(client) == 0

    try:
        wait_until(lambda: "is ready" in one.said() and "is ready" in other.said())
        wait_until(lambda: client.exists(SIGNALS, TRADES) == 2)  # made with their groups
        for _ in range(100):  # until the one that will be cut off has something in hand
            send_more(4)
            if _held_by(client, "one-0"):
                break
        hosts.cut_off("one")
        send_more(40)
        wait_until(handled, lambda: one.said() + other.said())
        wait_until(lambda: "paused, nothing is lost" in one.said())
        hosts.join("one")
        wait_until(lambda: "resumed after" in one.said(), one.said)
        other.end()
        send_more(10)
        wait_until(handled, one.said)
        one.end()
    finally:
        one.kill()
        other.kill()
    must = [(stream, row[0].decode()) for stream in (SIGNALS, TRADES) for row in _rows(client, stream)]
    labels: dict[str, set[float | None]] = {f"s-{number}": {1.5} for number in range(sent)}
    verdict = judge(store_url, client, must=must, labels=labels)
    assert verdict.holds, verdict


def test_the_lock_of_a_host_that_is_cut_off_is_let_go_of(hosts: Hosts, store_url: str, tmp_path: Path) -> None:
    """It is held by the server, which hears nothing of its holder, and by itself would ask after two hours."""
    holder = hosts.start("one", [sys.executable, "-c", _HOLD, store_url], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with closing(FeatureDatabase(store_url)) as store:
            with pytest.raises(StoreUnavailable):
                store.marks.put("mine", 1)
            hosts.cut_off("one")
            wait_until(lambda: _written(store))
            assert store.marks.get("theirs") is None
    finally:
        holder.kill()
        holder.wait()


_HOLD = """
import sys, time
from trading_system.ml_refinement.storage import FeatureDatabase
from trading_system.ml_refinement.storage.postgres import connection
connection._IDLE_WRITER_MS = 0  # whose time would be up too
store = FeatureDatabase(sys.argv[1])
with store.atomic():
    store.marks.put("theirs", 1)
    print("held", flush=True)
    time.sleep(3600)
"""


def _written(store: FeatureDatabase) -> bool:
    try:
        store.marks.put("mine", 1)
    except StoreUnavailable:
        return False
    return True


def _held_by(client: redis.Redis, consumer: str) -> bool:
    held: Any = client.xpending_range(SIGNALS, GROUP, "-", "+", 1, consumername=consumer)
    return bool(held)


def _rows(client: redis.Redis, stream: str) -> list[Any]:
    rows: Any = client.xrange(stream)
    return list(rows)
