"""The store's disk fails at the n-th write or sync: a pause, nothing acknowledged that is not stored, nothing twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from tests.faults.invariants import entries_of, judge
from tests.support.desk import desk, pending, send, settings_for
from tests.support.disk import Disk, DiskPlan
from tests.support.events import SIGNALS, TRADES, outcome, signal
from trading_system.ml_refinement.storage import FeatureDatabase


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("operation", ["write", "sync"])
@pytest.mark.parametrize("nth", [1, 3, 6])
def test_a_disk_that_fails_for_a_while_costs_nothing(
    operation: str, error: str, nth: int, tmp_path: Path, valkey_url: str, valkey: redis.Redis
) -> None:
    settings = settings_for(tmp_path / "var", valkey_url, batch_size=4)
    with desk(settings):
        pass
    for number in range(6):
        send(valkey, SIGNALS, signal(number))
        send(valkey, TRADES, outcome(number, 2.0))
    send(valkey, SIGNALS, b"[]")
    plan = DiskPlan(operation, nth, error, times=3, suffix=("features.db", "features.db-wal", "events.db-wal"))
    disk = Disk([plan])
    try:
        with desk(settings) as worker:
            worker.drain()
            assert pending(valkey) == 0
    finally:
        disk.close()
    assert plan.failed >= 1
    labels: dict[str, set[float | None]] = {f"s-{number}": {2.0} for number in range(6)}
    verdict = judge(settings.store_path, valkey, must=entries_of(valkey), labels=labels)
    assert verdict.holds, verdict
    with FeatureDatabase(settings.store_place) as store:
        assert [letter.reason for letter in store.dead_letters.find()] == ["bad_json"]  # nothing else was charged


def test_a_disk_that_stays_broken_acknowledges_nothing(tmp_path: Path, valkey_url: str, valkey: redis.Redis) -> None:
    settings = settings_for(tmp_path / "var", valkey_url)
    with desk(settings):
        pass
    send(valkey, SIGNALS, signal(1))
    disk = Disk([DiskPlan("write", 1, "ENOSPC", times=10**9)])
    try:
        with desk(settings) as worker:
            worker.drain(rounds=20)
            assert pending(valkey) == 1
    finally:
        disk.close()
    with desk(settings) as worker:
        worker.drain()
        counts = worker.store.counts()
        assert (counts.signals, counts.dead_letters) == (1, 0)
        assert worker.store.connection.query("SELECT * FROM attempts") == []
