"""A primary of a cluster is gone under load, its replica takes over, and every event has one effect."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.faults.invariants import entries_of, judge
from tests.support.cluster import Cluster, Member
from tests.support.desk import settings_for
from tests.support.events import GROUP, outcome, signal
from tests.support.real_processes import Installation
from tests.support.waiting import HANGS_AFTER_S, wait_until
from trading_system.ml_refinement.storage import FeatureDatabase
from worker.app import worker_consumer
from worker.client import RefineryClient
from worker.consumer.primary_watch import primary_changes
from worker.errors import TransientError
from worker.observability.state_collector import StateCollector
from worker.redis_server.binary import find_server
from worker.redis_server.connection import connect
from worker.streams.state import stream_states

pytestmark = pytest.mark.sqlite_file
CREATED, CLOSED, SCORES = "{r0}.signals.created", "{r0}.trades.closed", "{r0}.signals.scored"
_SERVERS = {
    path.name: path for path in (find_server(), Path(shutil.which("redis-server") or find_server())) if path.exists()
}


@contextmanager
def replicated(directory: Path, binary: Path) -> Iterator[Cluster]:
    directory.mkdir()
    with Cluster(directory, binary=binary, with_replicas=True, settings={"cluster-node-timeout": 1_000}) as servers:
        yield servers


@pytest.fixture(params=_SERVERS.values(), ids=_SERVERS.keys())
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    with replicated(tmp_path / "cluster", request.param) as servers:
        yield servers


def killed(primary: Member, _: Member) -> None:
    primary.kill()


def stood_still(primary: Member, _: Member) -> None:
    """Its connections stay, and it comes back as what it was, until the others tell it otherwise."""
    primary.stand_still()


def handed_over(_: Member, replica: Member) -> None:
    replica.ask("CLUSTER", "FAILOVER")


class Producer(threading.Thread):
    """Sends a signal and its outcome again and again until it is told to stop, and keeps what it was told they are."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self.stop = threading.Event()
        self.sent = 0
        self.acknowledged: list[tuple[str, str]] = []

    def run(self) -> None:
        with RefineryClient(self._url, patience_s=HANGS_AFTER_S) as client:
            while not self.stop.is_set():
                self.acknowledged += send_both(client, self.sent)
                self.sent += 1
                time.sleep(0.01)


def send_both(client: RefineryClient, number: int) -> list[tuple[str, str]]:
    created, closed = client.signal_created(**signal(number)), client.trade_closed(**outcome(number))
    return [(CREATED, str(created)), (CLOSED, str(closed))]


@pytest.mark.parametrize("failover", [killed, stood_still, handed_over])
def test_every_event_has_one_effect_whichever_way_the_primary_changes(
    failover: Callable[[Member, Member], None], cluster: Cluster, state_dir: Path, valkey_url: str
) -> None:
    refinery = Installation(state_dir, cluster.url)
    refinery.environment |= {"REFINERY_ALLOW_PLAIN_REMOTE_REDIS": "true", "REFINERY_QUEUE_URL": valkey_url}
    producer = Producer(cluster.url)
    primary = cluster.owner(CREATED)
    replica = cluster.replica_of(primary)
    worker = refinery.start("worker")
    try:
        producer.start()
        wait_until(lambda: primary.client.exists(SCORES))
        kept = list(producer.acknowledged)
        wait_until(lambda: replica.has_all_of(primary))
        failover(primary, replica)
        assert cluster.wait_for_another_than(primary, CREATED) is replica
        at_failover = producer.sent
        wait_until(lambda: producer.sent > at_failover + 20)
        producer.stop.set()
        producer.join(HANGS_AFTER_S)
        primary.go_on() if failover is stood_still else None
        with connect(cluster.url) as client:
            assert set(kept) <= set(entries_of(client)), "the replica had these"
            # What it had not, producers send again.
            with RefineryClient(cluster.url) as again:
                for number in range(producer.sent):
                    send_both(again, number)
            wait_until(lambda: _handled(client))
            wait_until(lambda: primary_changes(client, (CREATED, CLOSED), GROUP) == 1)
            must = entries_of(client)
            labels: dict[str, set[float | None]] = {f"s-{number}": {1.5} for number in range(producer.sent)}
            found = {one["part"]: one for one in json.loads(refinery.run("doctor", "--json").stdout)}
            assert "3 servers with all slots" in found["cluster"]["says"]
            store = refinery.state_dir / "features.db"
            verdict = judge(store, client, must=must, may=producer.acknowledged, labels=labels)
        assert worker.poll() is None, "the worker ended"
    finally:
        worker.terminate()
        said = worker.communicate(timeout=HANGS_AFTER_S)[1].decode()
    assert worker.returncode == 0, said
    assert verdict.holds, (verdict, said)
    assert "Redis has another primary now" in said
    with FeatureDatabase(store) as opened:
        counts = opened.counts()
        assert (counts.signals, counts.outcomes, counts.dead_letters) == (producer.sent, producer.sent, 0)


def _handled(client: redis.Redis) -> bool:
    try:
        return all(not one.pending and one.lag == 0 for one in stream_states(client, (CREATED, CLOSED), GROUP))
    except TransientError:
        return False


def test_a_slot_that_is_moved_is_no_failover_and_one_that_a_replica_takes_over_is(
    tmp_path: Path, valkey_url: str
) -> None:
    with replicated(tmp_path / "cluster", find_server()) as cluster:
        settings = settings_for(tmp_path / "state", cluster.url, queue_url=valkey_url, allow_plain_remote_redis=True)
        with (
            connect(cluster.url) as client,
            worker_consumer(settings, client, after_batch=lambda *_: None) as consumer,
        ):
            consumer._admit()
            source = cluster.owner(CREATED)
            target = next(member for member in cluster.members if member is not source)
            cluster.begin_to_move(CREATED, target)
            cluster.end_to_move(CREATED, target)
            wait_until(lambda: _admitted(consumer) and client.server_of(CREATED).endswith(f":{target.port}"))  # type: ignore[attr-defined]
            assert primary_changes(client, (CREATED, CLOSED), GROUP) == 0
            replica = cluster.replica_of(target)
            wait_until(lambda: replica.has_all_of(target))
            target.kill()
            cluster.wait_for_another_than(target, CREATED)
            wait_until(lambda: _admitted(consumer))
            assert primary_changes(client, (CREATED, CLOSED), GROUP) == 1
            with closing(StateCollector(settings, cluster.url)) as collector:
                told = {sample.name: sample.value for family in collector.collect() for sample in family.samples}
            assert told["refinery_redis_failovers_total"] == 1


def _admitted(consumer: Any) -> bool:
    """Whether the consumer may read; the failover is a pause."""
    try:
        consumer._admit()
    except TransientError:
        consumer._reader.drop_connections()
        return False
    return True
