"""Whatever the server answers: the worker waits, says what has to be put right, and goes on by itself."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from tests.support.desk import desk, pending, scored, send, settings_for
from tests.support.events import SIGNALS, signal
from tests.support.real_processes import Installation
from tests.support.servers import ServerOf
from tests.support.waiting import HANGS_AFTER_S, wait_until
from worker.client import RefineryClient
from worker.observability.state_collector import StateCollector
from worker.observability.status import read_status
from worker.redis_server.connection import connect
from worker.redis_server.embedded import EmbeddedServer
from worker.run.worker import _Care

_REDIS = shutil.which("redis-server")


@pytest.fixture(scope="module", params=["valkey", "redis 7"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    directory = tmp_path_factory.mktemp("server")
    if request.param == "valkey":
        with EmbeddedServer(directory, join=False) as started:
            yield started
    elif _REDIS is None:
        pytest.skip("there is no redis-server on the path")
    else:
        with ServerOf(directory, binary=Path(_REDIS)) as started:
            yield started


@pytest.fixture
def admin(server: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
        client.execute_command("ACL", "SETUSER", "desk", "reset", "on", ">secret", "~*", "&*", "+@all")
        yield client


@pytest.fixture
def url(server: EmbeddedServer) -> str:
    return server.url.replace("unix://", "unix://desk:secret@")


def _blocked(client: redis.Redis) -> Any:
    """The worker's connection while it waits for events."""
    found: list[Any] = []

    def waits() -> bool:
        found[:] = [one for one in client.client_list() if one["cmd"] == "xreadgroup" and "b" in one["flags"]]
        return bool(found)

    wait_until(waits)
    return found[0]


def _unblock(client: redis.Redis) -> None:
    client.client_unblock(int(_blocked(client)["id"]), error=True)


def _demote(client: redis.Redis) -> None:
    _blocked(client)
    client.execute_command("REPLICAOF", "127.0.0.1", "1")


def _rotate(client: redis.Redis) -> None:
    client.execute_command("ACL", "SETUSER", "desk", "resetpass", ">another")
    client.execute_command("CLIENT", "KILL", "USER", "desk")


def _acl(*rules: str) -> Callable[[redis.Redis], Any]:
    return lambda client: client.execute_command("ACL", "SETUSER", "desk", *rules)


def _replace_stream(client: redis.Redis) -> None:
    client.delete(SIGNALS)
    client.set(SIGNALS, "no stream")


FAULTS = {
    "a right is missing": (_acl("-xreadgroup"), _acl("+xreadgroup"), "lacks a right"),
    "a right of scripts is missing": (_acl("-eval"), _acl("+eval"), "lacks a right"),
    "a stream may not be touched": (_acl("resetkeys", "~nothing"), _acl("allkeys"), "lacks a right"),
    "the password was changed": (_rotate, _acl("resetpass", ">secret"), "refuses user or password"),
    "the stream is something else": (_replace_stream, lambda c: c.delete(SIGNALS), "holds something else"),
    "the server is demoted": (_demote, lambda c: c.execute_command("REPLICAOF", "NO", "ONE"), "is a replica"),
    "somebody unblocks the read": (_unblock, lambda _: None, "UNBLOCKED"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_worker_outlives_what_the_server_answers_and_says_what_to_put_right(
    fault: str, tmp_path: Path, url: str, admin: redis.Redis, errors_logged: list[str]
) -> None:
    break_it, heal, cause = FAULTS[fault]
    stop = threading.Event()
    with desk(settings_for(tmp_path, url, block_ms=1000)) as worker:
        worker.consumer._claim_every_s = 0.05
        thread = threading.Thread(target=worker.consumer.run, args=(stop,), name="consumer")
        thread.start()
        try:
            send(admin, SIGNALS, signal(1))
            wait_until(lambda: len(scored(admin)) == 1)
            break_it(admin)
            wait_until(lambda: not thread.is_alive() or any(cause in line for line in errors_logged))
            assert thread.is_alive()
            heal(admin)
            send(admin, SIGNALS, signal(2))
            wait_until(lambda: not thread.is_alive() or (len(scored(admin)) == 2 and not pending(admin)))
        finally:
            stop.set()
            thread.join(HANGS_AFTER_S)
        assert worker.store.counts().signals == 2
        assert worker.store.counts().dead_letters == 0


def test_a_replica_is_not_up_for_who_has_to_write_and_status_says_so(
    tmp_path: Path, url: str, admin: redis.Redis
) -> None:
    settings = settings_for(tmp_path, url)
    with desk(settings) as worker:
        collector = StateCollector(settings, url)
        assert collector.redis_answers()
        admin.execute_command("REPLICAOF", "127.0.0.1", "1")
        try:
            assert not collector.redis_answers()
            assert "a replica, which takes no writes" in read_status(settings, worker.store, worker.client).redis
        finally:
            admin.execute_command("REPLICAOF", "NO", "ONE")
        assert collector.redis_answers()
        _rotate(admin)
        assert not collector.redis_answers()
        assert "refuses user or password" in read_status(settings, worker.store, worker.client).redis
        collector.close()


def test_an_outbox_connects_anew_after_a_refusal_and_says_why_it_keeps_its_events(
    tmp_path: Path, url: str, admin: redis.Redis
) -> None:
    with RefineryClient(url, outbox=tmp_path / "outbox.db") as client:
        fields = {name: value for name, value in signal(1).items() if name != "bars"}
        client.signal_created(**fields)
        assert client.trouble is None
        connection = admin.client_list()
        admin.execute_command("REPLICAOF", "127.0.0.1", "1")
        try:
            client.signal_created(**fields | {"signal_id": "s-2"})
            assert "is a replica" in (client.trouble or "")
        finally:
            admin.execute_command("REPLICAOF", "NO", "ONE")
        assert client.flush() == 0
        assert client.trouble is None
        assert {one["id"] for one in admin.client_list()} - {one["id"] for one in connection}
    assert admin.xlen(SIGNALS) == 2


def test_tidying_up_that_is_not_allowed_stops_nobody(
    tmp_path: Path, url: str, admin: redis.Redis, warnings_logged: list[str]
) -> None:
    with desk(settings_for(tmp_path, url)) as worker, connect(url) as client:
        worker.drain()
        admin.execute_command("ACL", "SETUSER", "desk", "-xinfo|consumers")
        _Care(worker.settings, client)()
        assert [("cannot be tidied up" in line, "lacks a right" in line) for line in warnings_logged] == [(True, True)]


def test_a_full_server_is_trimmed_first_and_the_worker_goes_on_by_itself(
    tmp_path: Path, url: str, admin: redis.Redis
) -> None:
    """Settling and making the group are refused then; trimming what was handled and is old enough is not."""
    old = int(time.time() * 1000) - 2 * 3600 * 1000
    for number in range(40):
        admin.xadd(SIGNALS, {"data": orjson.dumps(signal(number))}, id=f"{old + number}-0")
    with desk(settings_for(tmp_path / "var", url)) as worker:
        worker.drain()
    send(admin, SIGNALS, signal(50))
    memory: Any = admin.info("memory")
    admin.config_set("maxmemory", memory["used_memory"] - 100_000)
    installation = Installation(tmp_path / "var", url)
    installation.environment["REFINERY_INPUT_RETENTION_HOURS"] = "1"
    process = installation.start("worker")
    try:
        wait_until(lambda: process.poll() is not None or len(scored(admin)) == 41)
        assert process.poll() is None
        wait_until(lambda: not pending(admin))
        assert admin.xlen(SIGNALS) == 1
    finally:
        process.terminate()
        process.wait(HANGS_AFTER_S)
        admin.config_set("maxmemory", "0")
