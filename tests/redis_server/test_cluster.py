"""A cluster of Redis: shards lie on its servers, slots move while events flow, and every event has one effect."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.cluster import Cluster
from tests.support.desk import Desk, desk, settings_for
from tests.support.events import GROUP, outcome, signal
from tests.support.postgres_server import needs_postgres
from tests.support.waiting import HANGS_AFTER_S, join, wait_until
from trading_system.ml_refinement.storage import FeatureDatabase
from worker.client import RefineryClient
from worker.errors import ConfigurationError, TransientError
from worker.installation import streams_of
from worker.observability.checks.cluster import look_at_cluster
from worker.observability.doctor import examine
from worker.observability.status import read_status
from worker.redis_server.connection import connect
from worker.settings.schema import Settings, load_settings
from worker.streams.errors import translated
from worker.streams.preflight import check_server
from worker.streams.state import stream_states

pytestmark = pytest.mark.sqlite_file
IN_ALL = 60


@pytest.fixture
def settings(tmp_path: Path, cluster: Cluster, valkey_url: str) -> Settings:
    return settings_for(tmp_path / "state", cluster.url, queue_url=valkey_url, allow_plain_remote_redis=True)


@contextmanager
def at_work(*workers: Desk) -> Iterator[None]:
    """Workers that run while the block does, and were not ended by anything."""
    stop = threading.Event()
    threads = [threading.Thread(target=one.consumer.run, args=(stop,)) for one in workers]
    for thread in threads:
        thread.start()
    yield
    assert all(thread.is_alive() for thread in threads), "a worker ended"
    stop.set()
    for thread in threads:
        join(thread)


@contextmanager
def sending(settings: Settings, *, pause_s: float = 0.02) -> Iterator[None]:
    """Signals and outcomes sent one after the other while the block runs, and all of them in the end."""

    def send() -> None:
        with RefineryClient(settings.redis_url or "", shards=settings.shards, patience_s=HANGS_AFTER_S) as client:
            for number in range(IN_ALL):
                client.signal_created(**signal(number))
                client.trade_closed(**outcome(number))
                time.sleep(pause_s)

    thread = threading.Thread(target=send)
    thread.start()
    yield
    join(thread)


def wait_until_handled(worker: Desk) -> None:
    streams = streams_of(worker.settings).inputs

    def is_handled() -> bool:
        try:
            return all(not one.pending and one.lag == 0 for one in stream_states(worker.client, streams, GROUP))
        except TransientError:
            return False

    wait_until(is_handled)


def assert_one_effect(settings: Settings) -> None:
    with FeatureDatabase(settings.store_place) as store:
        counts = store.counts()
        assert (counts.signals, counts.outcomes, counts.labelled) == (IN_ALL, IN_ALL, IN_ALL)
        assert (counts.dead_letters, counts.waiting_outcomes) == (0, 0)
    with RefineryClient(settings.redis_url or "", shards=settings.shards) as client:
        answered = [entry.score.signal_id for entry in client.scores(after="0", wait_s=0)]
    assert set(answered) == {f"s-{number}" for number in range(IN_ALL)}


def test_one_shard_on_a_cluster(settings: Settings, cluster: Cluster) -> None:
    with desk(settings) as worker, at_work(worker), sending(settings, pause_s=0):
        pass
    with desk(settings) as worker:
        with at_work(worker):
            wait_until_handled(worker)
        status = read_status(settings, worker.store, worker.client)
        assert [state.name for state in status.streams] == ["{r0}.signals.created", "{r0}.trades.closed"]
        assert status.redis == f"redis+cluster://{cluster.url.partition('://')[2]}"
        check_server(worker.client, streams_of(settings).inputs)
    assert_one_effect(settings)
    assert [found.says for found in examine(settings) if found.part == "redis" and found.verdict != "ok"] == []


def test_a_slot_that_moves_while_events_flow_loses_nothing_and_ends_no_worker(
    settings: Settings, cluster: Cluster
) -> None:
    key = "{r0}.signals.created"
    with desk(settings) as worker, at_work(worker):
        with sending(settings):
            for _ in range(3):
                target = next(member for member in cluster.members if member is not cluster.owner(key))
                cluster.begin_to_move(key, target)
                time.sleep(0.2)
                cluster.move_keys(key, target, most=2)  # what needs keys of both is tried again
                time.sleep(0.2)
                cluster.end_to_move(key, target)
                assert cluster.owner(key) is target
                time.sleep(0.2)
        wait_until_handled(worker)
    assert_one_effect(settings)


@pytest.fixture
def sharded(settings: Settings, postgres_url: str) -> Settings:
    store = FeatureDatabase(postgres_url)
    store.upgrade(shards=4)
    store.close()
    return settings.model_copy(update={"store_url": postgres_url, "shards": 4})


@needs_postgres
def test_shards_lie_on_several_servers_and_move(sharded: Settings, cluster: Cluster) -> None:
    keys = [f"{{r{shard}}}.signals.created" for shard in range(4)]
    assert len({cluster.owner(key).port for key in keys}) > 1
    other = sharded.model_copy(update={"consumer_slot": 1})
    with desk(sharded) as one, desk(other) as two, at_work(one, two):
        with sending(sharded):
            for key in keys:
                target = next(member for member in cluster.members if member is not cluster.owner(key))
                cluster.begin_to_move(key, target)
                time.sleep(0.1)
                cluster.end_to_move(key, target)
        wait_until_handled(one)
    assert_one_effect(sharded)


def test_a_server_that_is_killed_is_waited_for(settings: Settings, cluster: Cluster) -> None:
    with desk(settings) as worker, at_work(worker):
        with sending(settings):
            time.sleep(0.3)
            owner = cluster.owner("{r0}.signals.created")
            owner.kill()
            time.sleep(1.0)
            owner.start()
        wait_until_handled(worker)
    assert_one_effect(settings)


def test_a_cluster_that_is_away_is_an_error_with_its_cause() -> None:
    said = pytest.raises(TransientError, match="no server of the cluster can be asked")
    with connect("redis+cluster://127.0.0.1:1") as client, said, translated():
        client.ping()


def test_the_plain_address_of_a_cluster_says_what_to_write(cluster: Cluster) -> None:
    key = "signals.created"
    other = next(member for member in cluster.members if member is not cluster.owner(key))
    said = pytest.raises(TransientError, match=r"redis\+cluster://host:6379")
    with connect(f"redis://127.0.0.1:{other.port}") as client, said, translated():
        client.xadd(key, {"data": b"{}"})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "REFINERY_QUEUE_URL is needed beside a cluster"),
        ({"queue_url": "redis+cluster://127.0.0.1"}, "REFINERY_QUEUE_URL must be of no cluster"),
        ({"redis_url": "redis+cluster://127.0.0.1/0"}, "a cluster has no databases"),
        ({"redis_url": "redis+cluster://127.0.0.1:99999"}, "must name servers as host:port"),
        ({"redis_url": "redis+cluster://"}, "must name servers as host:port"),
        ({"allow_plain_remote_redis": False}, "must be rediss"),
    ],
)
def test_what_a_cluster_needs_is_said(given: dict[str, Any], said: str) -> None:
    usual = {"redis_url": "redis+cluster://127.0.0.1:6379,[::1]:6380", "allow_plain_remote_redis": True}
    with pytest.raises(ConfigurationError, match=said):
        load_settings(**usual | given)


def test_replies_that_are_too_large_are_given_up_on_a_cluster_too(cluster: Cluster) -> None:
    with connect(cluster.url) as client:
        client.set("{r0}.large", b"x" * 70_000_000)
        with pytest.raises(redis.ConnectionError, match="more than"):
            client.get("{r0}.large")
        assert client.strlen("{r0}.large") == 70_000_000


def test_what_one_server_of_a_cluster_can_say_is_said_while_another_is_gone(cluster: Cluster) -> None:
    with connect(cluster.url) as client:
        for number in range(30):
            client.set(str(number), number)
        assert client.dbsize() == 30, "of all of them together"
        gone = next(one for one in cluster.members if one.port == client.get_primaries()[0].port)  # type: ignore[attr-defined]
        gone.kill()
        assert client.ping()
        assert client.time()
        assert client.info("replication")["role"] == "master"  # type: ignore[index]
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert len(client.cluster_nodes()) == 3  # type: ignore[arg-type]


def test_doctor_says_which_slots_and_shards_have_no_server(settings: Settings, cluster: Cluster) -> None:
    assert _of_cluster(settings) == ("warn", "3 servers with all slots, without a replica: ")
    owner = cluster.owner("{r0}.signals.created")
    owner.kill()
    wait_until(lambda: _of_cluster(settings)[0] == "bad")
    assert re.search(rf"5,46\d of 16,384 slots are not served \(127.0.0.1:{owner.port}\): ", _of_cluster(settings)[1])
    [found] = [one for one in examine(settings) if one.part == "cluster"]
    assert found.says.endswith("shard 0 waits")


def _of_cluster(settings: Settings) -> tuple[str, str]:
    """Verdict, and what is found but for the servers that have no replica or the shards that wait."""
    [found] = look_at_cluster(settings)
    return found.verdict, found.says[: found.says.rindex(": ") + 2]


def test_a_connection_that_another_thread_waits_on_is_left_to_it(cluster: Cluster) -> None:
    with connect(cluster.url) as client:
        read: list[Any] = []
        key = "{r0}.list"
        waiting = threading.Thread(target=lambda: read.append(client.blpop([key], timeout=60)))
        waiting.start()
        owner = cluster.owner(key)
        wait_until(lambda: owner.told("clients")["blocked_clients"] == 1)
        client.connection_pool.disconnect(inuse_connections=False)
        client.rpush(key, "x")
        join(waiting)
        assert read == [(key.encode(), b"x")]


@pytest.mark.parametrize(
    ("user", "said"),
    [("nobody:wrong@", "it refuses user or password"), ("narrow:narrow@", "lacks a right")],
)
def test_a_user_that_a_cluster_refuses_is_told_why(cluster: Cluster, user: str, said: str) -> None:
    for member in cluster.members:
        member.ask("ACL", "SETUSER", "narrow", "on", ">narrow", "-@all", "+@connection", "+xadd", "~*")
    url = cluster.url.replace("://", f"://{user}")
    with connect(url) as client, pytest.raises(TransientError, match=said), translated():
        client.ping()
