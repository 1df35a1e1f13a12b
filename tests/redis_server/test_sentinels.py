"""Redis behind sentinels: the primary is killed, stands still, or hands over, and every event has one effect."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.faults.invariants import judge
from tests.support.desk import pending, settings_for
from tests.support.events import GROUP, SCORES, SIGNALS, TRADES, outcome, signal
from tests.support.real_processes import Installation
from tests.support.sentinels import NAME, Watched
from tests.support.waiting import HANGS_AFTER_S, wait_until
from trading_system.ml_refinement.storage import FeatureDatabase
from worker.app import worker_consumer
from worker.client import RefineryClient
from worker.consumer.loop import Consumer
from worker.consumer.primary_watch import primary_changes
from worker.errors import TransientError
from worker.redis_client import _PrimaryPool, primary_of
from worker.redis_server.connection import connect
from worker.streams.errors import translated

_IN_ALL = 100


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    (tmp_path / "redis").mkdir()
    with Watched(tmp_path / "redis") as servers:
        yield servers


@pytest.fixture
def refinery(state_dir: Path, watched: Watched) -> Installation:
    """The command line over the sentinels."""
    made = Installation(state_dir, watched.url)
    made.environment["REFINERY_ALLOW_PLAIN_REMOTE_REDIS"] = "true"
    return made


class Producer(threading.Thread):
    """Sends signals and their outcomes, one after the other, until it has sent all but the first."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url

    def run(self) -> None:
        with RefineryClient(self._url, patience_s=HANGS_AFTER_S) as client:
            for number in range(1, _IN_ALL):
                send_both(client, number)
                time.sleep(0.1)  # so that the failover falls among them; how many come before it makes no difference


def send_both(client: RefineryClient, number: int) -> None:
    client.signal_created(**signal(number))
    client.trade_closed(**outcome(number))


def killed(watched: Watched) -> None:
    with watched.gone() as before:
        before.kill()
    before.start()


def stood_still(watched: Watched) -> None:
    """Its connections stay, and it comes back as what it was, until the sentinels tell it otherwise."""
    with watched.gone() as before:
        before.stand_still()
    before.go_on()


def handed_over(watched: Watched) -> None:
    watched.fail_over()


def handed_over_as_the_runbook_has_it(watched: Watched) -> None:
    watched.primary().client.client_pause(20_000, all=False)
    watched.fail_over()


@pytest.mark.parametrize("failover", [killed, stood_still, handed_over, handed_over_as_the_runbook_has_it])
def test_every_event_has_one_effect_whichever_way_the_primary_changes(
    failover: Callable[[Watched], None], watched: Watched, refinery: Installation
) -> None:
    first, producer = watched.primary(), Producer(watched.url)
    workers = [refinery.start("worker", "--slot", str(slot)) for slot in range(2)]
    try:
        with RefineryClient(watched.url) as client:
            send_both(client, 0)
        wait_until(lambda: first.client.exists(SCORES))
        producer.start()  # now that somebody works: all would be over before the failover where workers start slowly
        failover(watched)
        producer.join(HANGS_AFTER_S)
        now = watched.primary()
        assert now is not first
        if failover is not handed_over_as_the_runbook_has_it:  # what the old one alone had, producers send again
            with RefineryClient(watched.url) as client:
                for number in range(_IN_ALL):
                    send_both(client, number)
        wait_until(lambda: _handled(now.client), watched.told)
        wait_until(lambda: primary_changes(now.client, (SIGNALS, TRADES), GROUP) == 1, watched.told)
    finally:
        said = _ended(workers)
    labels: dict[str, set[float | None]] = {f"s-{number}": {1.5} for number in range(_IN_ALL)}
    must = [(stream, row[0].decode()) for stream in (SIGNALS, TRADES) for row in _rows(now.client, stream)]
    store = refinery.state_dir / "features.db"
    verdict = judge(store, now.client, must=must, labels=labels)
    # Those that the old primary alone had.
    verdict.other = [one for one in verdict.other if not one.endswith("is in the store and was never sent")]
    assert verdict.holds, (verdict, said)
    assert primary_changes(now.client, (SIGNALS, TRADES), GROUP) == 1
    assert "Redis has another primary now" in said
    with FeatureDatabase(store) as opened:
        assert opened.counts().dead_letters == 0


def test_a_worker_notes_its_primary_before_it_reads_anything(watched: Watched, state_dir: Path) -> None:
    """Else a failover right after its first batch is none that anybody counts."""
    settings = settings_for(state_dir, watched.url, allow_plain_remote_redis=True)
    with (
        connect(watched.url) as client,
        worker_consumer(settings, client, after_batch=lambda *_: None) as consumer,
    ):
        consumer._admit()
        watched.wait_for_replicas()
        watched.fail_over()
        wait_until(lambda: _admitted(consumer))
        assert primary_changes(client, (SIGNALS, TRADES), GROUP) == 1


def test_trainings_go_on_at_the_new_primary_and_console_and_doctor_say_which_it_is(
    watched: Watched, refinery: Installation
) -> None:
    worker, trainer = refinery.start("worker"), refinery.start("trainer")
    try:
        wait_until(lambda: _has(watched.primary().client, "rq:worker:*"))
        assert refinery.document("retrain", "--wait")["status"] == "completed"
        before = watched.primary()
        killed(watched)
        wait_until(lambda: _has(watched.primary().client, "rq:workers:*"))
        wait_until(lambda: refinery.run("retrain", "--wait").returncode == 0)
        assert watched.primary() is not before
        watched.wait_for_replicas()
        # Sentinels see a replica that is back later than it follows.
        wait_until(lambda: _sentinels_are(refinery)["verdict"] == "ok", lambda: _sentinels_are(refinery))
        assert f"127.0.0.1:{watched.primary().port}" in _sentinels_are(refinery)["says"]
    finally:
        said = _ended([worker, trainer])
    assert "Traceback" not in said, said


def _sentinels_are(refinery: Installation) -> dict[str, str]:
    """What doctor says of them."""
    found: list[dict[str, str]] = json.loads(refinery.run("doctor", "--json").stdout)
    return next(one for one in found if one["part"] == "sentinels")


def test_a_connection_to_a_server_that_is_the_primary_no_more_is_left_also_for_reads(watched: Watched) -> None:
    """As behind a line that is cut: nobody tells the old primary, and it goes on answering who is connected to it."""
    old, other = watched.servers
    with connect(watched.url) as client:
        client.set("who", "old")
        watched.wait_for_replicas()
        other.lead()
        other.client.set("who", "new")
        for sentinel in watched.clients():
            sentinel.sentinel_remove(NAME)
            sentinel.sentinel_monitor(NAME, "127.0.0.1", other.port, 2)
        pool: Any = client.connection_pool
        assert isinstance(pool, _PrimaryPool)
        pool._ask_at = float("inf")
        assert client.get("who") == b"old", "the old one has closed the connection, so this shows nothing"
        pool._ask_at = 0.0
        assert client.get("who") == b"new"
        assert primary_of(client, "who") == f"127.0.0.1:{other.port}"
        assert old.client.get("who") == b"old"


def test_a_demoted_primary_that_keeps_its_connections_is_away_and_is_left(watched: Watched) -> None:
    old, other = watched.servers
    with connect(watched.url) as client:
        client.set("who", "old")
        watched.wait_for_replicas()
        for sentinel in watched.clients():
            sentinel.sentinel_remove(NAME)
            sentinel.sentinel_monitor(NAME, "127.0.0.1", other.port, 2)
        other.lead()
        old.client.replicaof("127.0.0.1", str(other.port))
        pool: Any = client.connection_pool
        pool._ask_at = float("inf")
        with pytest.raises(TransientError, match="the server is a replica"), translated():
            client.set("who", "lost")
        assert client.set("who", "new")
        assert other.client.get("who") == b"new"


def test_sentinels_that_are_away_do_not_stop_who_is_connected_and_are_waited_for(watched: Watched) -> None:
    with connect(watched.url) as client:
        client.set("who", "old")
        watched.end_sentinels()
        pool: Any = client.connection_pool
        pool._ask_at = 0.0
        assert client.get("who") == b"old"
    with connect(watched.url) as client, pytest.raises(TransientError, match="failover is under way"), translated():
        client.ping()


def test_a_name_that_no_sentinel_knows_is_told(watched: Watched) -> None:
    unknown = "no sentinel names a primary 'other'"
    with (
        connect(watched.url.replace(NAME, "other")) as client,
        pytest.raises(TransientError, match=unknown),
        translated(),
    ):
        client.ping()


def test_servers_and_sentinels_have_passwords_of_their_own(tmp_path: Path) -> None:
    with Watched(tmp_path, password="of-servers", sentinel_password="of-sentinels") as watched:  # noqa: S106 - nobody's
        client = connect(watched.url)
        assert client.set("a", 1)
        for url in (
            watched.url.replace("of-servers", "wrong"),
            watched.url.replace("of-sentinels", "wrong"),
            watched.url.partition("?")[0],
        ):
            with connect(url) as refused, pytest.raises(TransientError) as error, translated():
                refused.ping()
            assert "of-s" not in str(error.value)


def _handled(client: redis.Redis) -> bool:
    try:
        groups: Any = {stream: client.xinfo_groups(stream) for stream in (SIGNALS, TRADES)}
        last = {stream: client.xinfo_stream(stream)["last-generated-id"] for stream in groups}  # type: ignore[index]
        return not pending(client) and all(groups[stream][0]["last-delivered-id"] == last[stream] for stream in groups)
    except (redis.ResponseError, IndexError):  # no worker has made the group yet
        return False


def _rows(client: redis.Redis, stream: str) -> list[Any]:
    rows: Any = client.xrange(stream)
    return list(rows)


def _admitted(consumer: Consumer) -> bool:
    """Whether the consumer may read; the failover is a pause."""
    try:
        consumer._admit()
    except TransientError:
        return False
    return True


def _has(client: redis.Redis, pattern: str) -> bool:
    return bool(client.keys(pattern))


def _ended(processes: list[Any]) -> str:
    said = ""
    for process in processes:
        process.terminate()
    for process in processes:
        said += process.communicate(timeout=HANGS_AFTER_S)[1].decode()
        assert process.returncode == 0, said
    return said
