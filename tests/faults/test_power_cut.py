"""After a power cut, what was acknowledged is in the store: only what was synced survives, and that is enough."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import redis

from tests.faults.invariants import settled
from tests.support.desk import desk, send, settings_for
from tests.support.disk import Disk, Journal, after_power_cut
from tests.support.events import SIGNALS, TRADES, outcome, signal
from trading_system.ml_refinement.storage import FeatureDatabase, SqliteConnection
from worker.streams.entries import Entry
from worker.streams.reader import GroupReader

SEED = 20260701
CUTS = 60


@pytest.fixture
def journal(tmp_path: Path, valkey_url: str, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Journal:
    """What a worker did to its store and when it acknowledged what, from an empty store on."""
    with FeatureDatabase(tmp_path / "template" / "features.db"):
        pass
    shutil.copytree(tmp_path / "template", tmp_path / "var")
    for number in range(24):
        send(valkey, SIGNALS, signal(number))
        send(valkey, TRADES, outcome(number))
    send(valkey, SIGNALS, b"not an event")
    journal = Journal()
    settle = GroupReader.settle

    def noted(self: GroupReader, done: Sequence[Entry], scores: list[bytes]) -> None:
        settle(self, done, scores)
        for entry in done:
            journal.note("acked", "/".join(("", entry.stream)), 0, entry.entry_id.encode())

    monkeypatch.setattr(GroupReader, "settle", noted)
    disk = Disk(journal=journal)
    try:
        with desk(settings_for(tmp_path / "var", valkey_url, batch_size=4)) as worker:
            worker.drain()
            worker.store.connection.query("PRAGMA wal_checkpoint(TRUNCATE)")
            send(valkey, SIGNALS, signal(30))
            worker.drain()
    finally:
        disk.close()
    return journal


def test_whenever_the_power_is_cut_every_acknowledged_event_is_in_the_store_once(
    journal: Journal, tmp_path: Path
) -> None:
    start = {"features.db": (tmp_path / "template" / "features.db").read_bytes()}
    operations = [op for op in journal.operations if op[0] == "acked" or op[1].startswith("features.db")]
    assert sum(op[0] == "acked" for op in operations) == 50
    rng = random.Random(SEED)
    for cut in sorted(rng.sample(range(len(operations) + 1), CUTS)):
        place = tmp_path / f"cut-{cut}"
        place.mkdir()
        for name, data in after_power_cut(start, operations[:cut], rng).items():
            (place / name).write_bytes(data)
        with FeatureDatabase(place / "features.db") as store:
            assert store.connection.query("PRAGMA integrity_check") == [("ok",)], f"seed {SEED}, cut at {cut}"
        found = settled(place / "features.db")
        acked = [(name, data.decode()) for what, name, _, data in operations[:cut] if what == "acked"]
        lost = [key for key in acked if found[key] != 1]
        assert lost == [], f"seed {SEED}, cut at {cut}"


def test_the_power_cut_is_one_that_a_careless_store_does_not_survive(tmp_path: Path) -> None:
    """The test's own proof: with synchronous=OFF the same cut loses what was committed."""
    start_path = tmp_path / "store.db"
    connection = SqliteConnection(start_path)
    connection.query("CREATE TABLE t (x)")
    connection.close()
    start = {"store.db": start_path.read_bytes()}
    journal = Journal()
    disk = Disk(journal=journal)
    try:
        careless = SqliteConnection(start_path, synchronous="OFF")
        for number in range(20):
            with careless.atomic():
                careless.run("INSERT INTO t VALUES (?)", (number,))
        operations = list(journal.operations)
        careless.close()
    finally:
        disk.close()
    place = tmp_path / "cut"
    place.mkdir()
    for name, data in after_power_cut(start, operations, random.Random(1)).items():
        (place / name).write_bytes(data)
    assert SqliteConnection(place / "store.db").query("SELECT count(*) FROM t")[0][0] < 20
