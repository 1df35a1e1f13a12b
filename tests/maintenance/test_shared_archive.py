"""Hosts that share nothing but PostgreSQL, Redis and settings: what one has received, every other one can use."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis
from loguru import logger
from typer.testing import CliRunner

from tests.support.desk import desk, pending, send, settings_for
from tests.support.events import SIGNALS, TRADES, outcome, signal
from tests.support.postgres_server import needs_postgres
from tests.support.real_processes import Installation
from tests.support.waiting import wait_until
from trading_system.ml_refinement.storage import ArchivedEvent, EventArchive, FeatureDatabase, Filter
from trading_system.ml_refinement.storage.times import utc_text
from worker.app import feature_rebuild
from worker.cli.main import cli
from worker.client import RefineryClient
from worker.console.queries import ConsoleQueries
from worker.dead_letters import DeadLetters
from worker.errors import NoStore
from worker.installation import add_archive_file, copy_a_store, open_archive, streams_of, upgrade_store
from worker.maintenance.prune import Days, prune
from worker.observability.checks.postgres import look_at_postgres
from worker.observability.unknown_fields import unknown_fields
from worker.settings.schema import Settings, load_settings

pytestmark = needs_postgres
CHANGE = {"ml": {"features": {"volatility_window": 15}}}


@pytest.fixture
def host(postgres_url: str, tmp_path: Path, valkey_url: str) -> Callable[..., Settings]:
    """Settings of a host of this name."""
    with closing(FeatureDatabase(postgres_url)) as store:
        store.upgrade()
    return lambda name, **more: settings_for(tmp_path / name, valkey_url, store_url=postgres_url, **more)


def handle(settings: Settings, valkey: redis.Redis, count: int, *, first: int = 0) -> None:
    with desk(settings) as worker:
        for number in range(first, first + count):
            send(valkey, SIGNALS, signal(number, venue="x"))
            send(valkey, TRADES, outcome(number, 1.0))
        worker.drain()
        assert pending(valkey) == 0


def told(settings: Settings, *arguments: str, **more: str) -> Any:
    own = {"REFINERY_STATE_DIR": str(settings.state_dir), "REFINERY_STORE_URL": settings.store_url or ""}
    environment = {**own, **more}
    done = CliRunner().invoke(cli, [*arguments, "--json"], env=environment, catch_exceptions=False)
    logger.remove()
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_a_host_that_never_saw_the_events_rebuilds_shows_and_prunes_them(
    host: Callable[..., Settings], valkey: redis.Redis, valkey_url: str
) -> None:
    first, second = host("first"), host("second", **CHANGE)
    handle(first, valkey, 6)
    assert not first.archive_path.exists()
    with feature_rebuild(second) as rebuild:
        done = rebuild.run()
    assert (done.rebuilt, done.not_rebuilt) == (6, [])
    found = unknown_fields(second)
    assert [(one.event, one.name, one.events) for one in found] == [("signal.created", "venue", 6)]
    with closing(FeatureDatabase(second.store_place)) as store:
        entry_id = store._connection.query("SELECT entry_id FROM feature_vectors WHERE signal_id = 's-3'")[0][0]
    shown = ConsoleQueries(second, valkey_url).archived(entry_id, "s-3")
    assert shown is not None
    assert json.loads(shown)["venue"] == "x"
    later = datetime.now(UTC) + timedelta(days=3)
    for dry_run, left in ((True, 12), (False, 0)):
        assert prune(second, Days(None, None, 2), now=later, dry_run=dry_run).events == 12
        with open_archive(first) as archive:
            assert archive.count() == left


def test_an_entry_that_the_server_has_no_more_comes_back_on_another_host(
    host: Callable[..., Settings], valkey: redis.Redis
) -> None:
    first, second = host("first"), host("second", consumer_slot=1, claim_idle_ms=1000)
    handle(first, valkey, 2)
    entry_id = send(valkey, SIGNALS, signal(7))
    with open_archive(first) as archive:  # as a worker that died right after
        valkey.xreadgroup(first.streams.group, "dead", {SIGNALS: ">"})
        data = valkey.xrange(SIGNALS, entry_id)[0][1][b"data"]  # type: ignore[index]
        archive.append([ArchivedEvent(SIGNALS, entry_id, utc_text(datetime.now(UTC)), data)])
    valkey.xdel(SIGNALS, entry_id)
    with desk(second) as worker:
        wait_until(lambda: worker.drain().signals == 1)
        assert (worker.store.counts().signals, worker.store.counts().dead_letters) == (3, 0)


def test_a_store_is_copied_with_its_archive_and_rebuilt_where_it_came_to(
    host: Callable[..., Settings], tmp_path: Path, valkey: redis.Redis, valkey_url: str
) -> None:
    alone = settings_for(tmp_path / "alone", valkey_url)
    handle(alone, valkey, 5)
    server = host("server", **CHANGE)
    done = told(alone, "store", "copy", str(alone.store_path), str(server.store_url))
    assert [table["rows"] for table in done["tables"] if table["name"] == "events"] == [10]
    with feature_rebuild(server) as rebuild:
        assert rebuild.run().rebuilt == 5
    back = settings_for(tmp_path / "back", valkey_url)
    copy_a_store(str(server.store_url), str(back.store_path), told=lambda _: None)
    with feature_rebuild(back) as rebuild:
        assert rebuild.run().rebuilt == 5
    handle(back, valkey, 3, first=10)
    with open_archive(back) as archive, open_archive(server) as before:
        assert (archive.count(), before.count()) == (16, 10)


def test_what_a_host_kept_beside_the_store_before_is_added_by_a_command(
    host: Callable[..., Settings], tmp_path: Path, valkey: redis.Redis
) -> None:
    first = host("first")
    handle(first, valkey, 4)
    with open_archive(first) as archive, EventArchive(tmp_path / "events.db") as earlier:
        kept = [event for _, event in archive.before(10**9, limit=99)]
        earlier.append(kept[::-1])
        archive.prune(datetime.now(UTC) + timedelta(days=1))
    with feature_rebuild(host("first", **CHANGE)) as rebuild:
        assert rebuild.run().obstacles == {"no_archived_event": 4}
    file = str(tmp_path / "events.db")
    assert told(first, "store", "add-archive", file) == {"events": 8, "new": 8}
    assert told(first, "store", "add-archive", file) == {"events": 8, "new": 0}
    with pytest.raises(NoStore, match="no archive at"):
        add_archive_file(first, Path(file + "x"), told=lambda _: None)
    with desk(first) as worker:
        worker.drain()
        assert worker.store.counts().signals == 4
    with feature_rebuild(host("second", **CHANGE)) as rebuild:
        assert rebuild.run().rebuilt == 4


def test_a_worker_makes_the_partitions_of_its_months(
    postgres_url: str, state_dir: Path, valkey: redis.Redis, valkey_url: str
) -> None:
    installation = Installation(state_dir, valkey_url)
    with closing(FeatureDatabase(postgres_url, clock=lambda: datetime(2024, 6, 1, tzinfo=UTC))) as store:
        store.upgrade()
    with EventArchive(postgres_url) as archive:
        assert len(archive.missing()) == 10
        installation.environment |= {"REFINERY_STORE_URL": postgres_url}
        worker = installation.start("worker")
        try:
            wait_until(lambda: archive.missing() == [])
            send(valkey, SIGNALS, signal(1))
            wait_until(lambda: archive.count() == 1)
        finally:
            worker.terminate()
            worker.communicate()
        lies = "SELECT tableoid::regclass::text FROM events"
        assert archive.engine.connection.query(lies) == [(f"events_{datetime.now(UTC):%Y_%m}",)]


def test_the_doctor_tells_that_partitions_are_missing(postgres_url: str, tmp_path: Path, valkey_url: str) -> None:
    with closing(FeatureDatabase(postgres_url, clock=lambda: datetime(2024, 6, 1, tzinfo=UTC))) as store:
        store.upgrade()
        settings = settings_for(tmp_path, valkey_url, store_url=postgres_url)
        said = [one for one in look_at_postgres(settings) if one.part == "archive"]
        assert [(one.verdict, one.says.partition(" has no events_2")[0]) for one in said] == [("warn", "the archive")]
    with EventArchive(postgres_url) as archive:
        archive.make_ahead()
    assert [one for one in look_at_postgres(settings) if one.part == "archive"] == []


@pytest.mark.sqlite_file  # it makes its stores itself
@pytest.mark.parametrize("before", [1, 4])
def test_a_store_goes_over_to_another_number_of_shards_as_the_guide_says(
    tmp_path: Path, valkey: redis.Redis, valkey_url: str, postgres_url: str, before: int
) -> None:
    """From a file with one shard and from a schema with four, to three; some trades end afterwards."""
    if before == 1:
        old = settings_for(tmp_path / "old", valkey_url)
    else:
        old = settings_for(tmp_path / "old", valkey_url, store_url=f"{postgres_url}_old", shards=before)
        upgrade_store(old)
    address = postgres_url
    new = settings_for(tmp_path / "new", valkey_url, store_url=address, shards=3, claim_idle_ms=1000)
    with desk(old) as worker, RefineryClient(valkey_url, shards=before) as client:
        for number in range(12):
            client.signal_created(**signal(number))
        client.trade_closed(**outcome(0, 1.0))
        send(valkey, streams_of(old).created[0], b"no JSON")
        worker.drain()
    told(old, "store", "copy", str(old.store_path if before == 1 else old.store_url), address, "--shards", "3")
    told(new, "adopt", REFINERY_SHARDS="3", REFINERY_REDIS_URL=valkey_url)
    with desk(new) as worker, RefineryClient(valkey_url, shards=3) as client:
        for number in range(12):
            client.trade_closed(**outcome(number, 1.0))
        client.signal_created(**signal(3))
        dead = DeadLetters(worker.store, version="test")
        dead.edit(next(dead.chosen([], Filter())), orjson.dumps(signal(50)), actor="ops")
        dead.replay(valkey, dead.chosen([], Filter()), actor="ops", streams=streams_of(new))
        handled = worker.drain()
        assert (handled.signals, handled.labelled, handled.duplicates) == (1, 11, 2)
        counts = worker.store.counts()
        assert (counts.signals, counts.labelled, counts.dead_letters_open) == (13, 12, 0)
    with feature_rebuild(new.model_copy(update={"ml": load_settings(**CHANGE).ml})) as rebuild:
        assert rebuild.run().rebuilt == 13
