"""Workers on hosts that share a store in PostgreSQL and a server of streams, and no disk."""

from __future__ import annotations

import os
import signal as signals
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.desk import desk, pending, send, settings_for
from tests.support.events import GROUP, SIGNALS, TRADES, signal
from tests.support.postgres_server import PostgresServer, needs_postgres
from tests.support.waiting import HANGS_AFTER_S, wait_until
from tests.support.workers_on_hosts import Start
from trading_system.ml_refinement.storage import FeatureDatabase
from trading_system.ml_refinement.storage.postgres import connection as postgres
from trading_system.ml_refinement.storage.shared.copying import copy_store
from worker.errors import CopyAtWork
from worker.settings.schema import Settings
from worker.streams.maintenance import remove_dead_consumers
from worker.supervision.slots import worker_slot

pytestmark = needs_postgres


def consumers(valkey: redis.Redis) -> dict[str, int]:
    """Names in the group of signals, with how many entries are pending for each."""
    if not valkey.exists(SIGNALS) or not valkey.xinfo_groups(SIGNALS):
        return {}
    found: Any = valkey.xinfo_consumers(SIGNALS, GROUP)
    return {one["name"].decode(): one["pending"] for one in found}


def host(tmp_path: Path, name: str, url: str, store_url: str) -> Settings:
    return settings_for(tmp_path / name, url, store_url=store_url)


def test_hosts_of_one_name_are_two_consumers_and_handle_each_event_once(
    start_on_host: Start, postgres_store: FeatureDatabase, valkey: redis.Redis
) -> None:
    for directory in ("one", "other"):
        start_on_host(directory, REFINERY_CONSUMER_NAME="worker", REFINERY_BATCH_SIZE="2")
    wait_until(lambda: len(consumers(valkey)) == 2)
    for number in range(40):
        send(valkey, SIGNALS, signal(number))
    wait_until(lambda: postgres_store.counts().signals == 40 and not pending(valkey))
    names = sorted(consumers(valkey))
    assert len(names) == 2
    assert all(name.startswith("worker-") and name.endswith("-0") for name in names)
    assert postgres_store.counts().duplicates == 0


def test_a_container_that_comes_back_under_another_name_leaves_no_entry_unread_and_no_consumer_behind(
    start_on_host: Start, postgres_store: FeatureDatabase, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_IDLE_WRITER_MS", 1000 * int(HANGS_AFTER_S))  # this test is such a writer
    first = start_on_host("container-1", REFINERY_CONSUMER_NAME="4f1c", REFINERY_CLAIM_IDLE_MS="1000")
    send(valkey, SIGNALS, signal(0))
    wait_until(lambda: postgres_store.counts().signals == 1 and not pending(valkey))
    [gone] = consumers(valkey)
    with postgres_store.atomic():  # so that it has a batch in hand
        for number in range(1, 20):
            send(valkey, SIGNALS, signal(number))
        wait_until(lambda: pending(valkey) > 0)
        os.kill(first.pid, signals.SIGKILL)
        first.wait()
    assert consumers(valkey)[gone] > 0
    start_on_host("container-2", REFINERY_CONSUMER_NAME="9ab0", REFINERY_CLAIM_IDLE_MS="1000")
    wait_until(lambda: postgres_store.counts().signals == 20 and not pending(valkey))
    assert postgres_store.counts().duplicates == 0
    [new] = consumers(valkey).keys() - {gone}
    # As a worker does each minute, with an hour for the last argument.
    wait_until(lambda: remove_dead_consumers(valkey, [SIGNALS, TRADES], GROUP, me=new, idle_ms=1) == [gone])
    assert list(consumers(valkey)) == [new]


def test_a_host_that_stops_does_not_let_a_copy_of_the_store_begin_beside_the_others(
    tmp_path: Path,
    valkey_url: str,
    valkey: redis.Redis,
    postgres_store: FeatureDatabase,
    postgres_url: str,
    postgres_server: PostgresServer,
) -> None:
    copy_url = postgres_server.url("copy_of_a_store")
    with closing(FeatureDatabase(copy_url)) as copy:
        copy.upgrade()
        copy_store(postgres_store, copy)
    one, other = (host(tmp_path, name, valkey_url, postgres_url) for name in ("one", "other"))
    with worker_slot(other) as at_work, desk(at_work):
        with worker_slot(one) as named, desk(named):
            pass
        with pytest.raises(CopyAtWork, match="copy of this store"), desk(host(tmp_path, "third", valkey_url, copy_url)):
            pass
    with worker_slot(one) as named, desk(named):  # of this store itself nobody waits
        pass
