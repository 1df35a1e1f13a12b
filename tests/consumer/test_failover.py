"""A standby takes over from the store's primary: what the primary alone had acknowledged is read and handled again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis

from tests.support.desk import desk, pending, send, settings_for
from tests.support.events import GROUP, SIGNALS, TRADES, outcome, signal
from tests.support.postgres_server import PostgresServer, needs_postgres
from tests.support.waiting import wait_until
from trading_system.ml_refinement.storage import FeatureDatabase
from worker.consumer.failover import failovers, note_handled
from worker.streams.entries import Entry
from worker.streams.maintenance import set_back

pytestmark = [needs_postgres, pytest.mark.sqlite_file]  # one engine, and two servers of their own


@pytest.fixture
def primary() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


def test_what_an_asynchronous_failover_lost_is_handled_again(
    primary: PostgresServer, tmp_path: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = Path(str(primary.directory) + "-address")
    address.symlink_to(primary.directory)
    monkeypatch.setenv("REFINERY_STORE_URL", f"postgresql://refinery@/refinery?host={address}&schema=failover")
    settings = settings_for(tmp_path / "state", valkey_url)
    store = FeatureDatabase(settings.store_place)
    store.upgrade()
    store.close()
    with PostgresServer(standby_of=primary) as standby, desk(settings) as worker:
        for number in range(20):
            send(worker.client, SIGNALS, signal(number))
        worker.drain()
        wait_until(
            lambda: standby.run_sql("SELECT count(*) FROM failover.feature_vectors", database="refinery") == "20"
        )
        served = dict(worker.store._connection.query(SERVED))
        standby.run_sql("ALTER SYSTEM SET primary_conninfo = ''")
        standby.run_sql("SELECT pg_reload_conf()")
        wait_until(lambda: primary.run_sql("SELECT count(*) FROM pg_stat_replication") == "0")
        for number in range(20, 45):
            send(worker.client, SIGNALS, signal(number))
        for number in range(10):
            send(worker.client, TRADES, outcome(number, 1.0))
        worker.drain()
        assert pending(worker.client) == 0
        acknowledged = worker.store.counts()
        assert (acknowledged.signals, acknowledged.labelled) == (45, 10)
        primary.stop("immediate")
        standby.promote()
        address.unlink()
        address.symlink_to(standby.directory)
        worker.store.close()
        assert worker.store.counts().signals == 20, "nothing was lost, so this shows nothing"

        for _ in range(100):
            worker.drain()
            if worker.store.counts().signals == 45:
                break
            time.sleep(0.1)  # whether there still is a connection is looked at once a second
        after = worker.store.counts()
        assert (after.signals, after.labelled, after.dead_letters) == (45, 10, 0)
        again = dict(worker.store._connection.query(SERVED))
        assert {signal_id: again[signal_id] for signal_id in served} == served
        assert pending(worker.client) == 0
        assert failovers(worker.client, (SIGNALS, TRADES), GROUP) == 1
    address.unlink()


def test_an_id_far_ahead_of_the_clock_does_not_carry_the_mark_along(postgres_url: str) -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    today = int(now.timestamp() * 1000)
    with closing(FeatureDatabase(postgres_url)) as store:
        store.upgrade()
        for entry_id, mark in ((f"{today - 5}-0", today - 5), (f"{2**64 - 1}-1", today), ("strange", today)):
            note_handled(store, [Entry(SIGNALS, entry_id, {})], now)
            assert store.marks.get(f"handled:{SIGNALS}") == mark


def test_a_group_that_had_not_read_so_far_is_not_moved_forward(valkey: redis.Redis) -> None:
    """As one that an operator has set back before: what lies between would never be read."""
    for number in range(5):
        valkey.xadd(SIGNALS, {"data": b"{}"}, id=f"{100 + number}-0")
    valkey.xgroup_create(SIGNALS, GROUP, id="0")
    valkey.xreadgroup(GROUP, "one", {SIGNALS: ">"}, count=2)
    assert not set_back(valkey, SIGNALS, GROUP, to="103-0")
    assert set_back(valkey, SIGNALS, GROUP, to="100-0")
    assert not set_back(valkey, SIGNALS, "nobody", to="0-0")
    assert not set_back(valkey, "no.stream", GROUP, to="0-0")
    read = valkey.xreadgroup(GROUP, "one", {SIGNALS: ">"})
    assert [entry_id for entry_id, _ in read[0][1]] == [b"101-0", b"102-0", b"103-0", b"104-0"]


SERVED = "SELECT v.signal_id, s.payload FROM served_scores AS s JOIN feature_vectors AS v ON v.id = s.vector_id"
