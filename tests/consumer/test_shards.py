"""Streams and writers in shards: events find theirs, and have one effect whichever stream they came in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from tests.support.desk import Desk, desk, send, settings_for
from tests.support.events import GROUP, outcome, signal
from tests.support.postgres_server import needs_postgres
from tests.support.waiting import join
from trading_system.ml_refinement.storage import FeatureDatabase, Filter
from worker.client import RefineryClient
from worker.consumer.batch_result import BatchResult
from worker.dead_letters import DeadLetters
from worker.errors import ConfigurationError
from worker.installation import open_store
from worker.observability.checks.postgres import look_at_postgres
from worker.observability.status import read_status
from worker.settings.schema import Settings, load_settings
from worker.streams.entries import Entry
from worker.streams.reader import GroupReader
from worker.streams.sharded_reader import ShardedReader, home_shard
from worker.streams.shards import ShardStreams, Streams
from worker.streams.state import stream_states

pytestmark = [needs_postgres, pytest.mark.sqlite_file]  # SQLite has no shards
SHARDS = 4
STREAMS = Streams(ShardStreams("signals.created", "trades.closed", "signals.scored"), SHARDS)
ENOUGH = 40


@pytest.fixture
def settings(tmp_path: Path, valkey_url: str, valkey: redis.Redis, postgres_url: str) -> Settings:
    store = FeatureDatabase(postgres_url)
    store.upgrade(shards=SHARDS)
    store.close()
    return settings_for(tmp_path, valkey_url, store_url=postgres_url, shards=SHARDS)


@pytest.fixture
def worker(settings: Settings) -> Iterator[Desk]:
    with desk(settings) as built:
        yield built


def right(event: dict[str, Any], kind: Any = "signal.created") -> str:
    return STREAMS.of_event(kind, orjson.dumps(event))


def states(client: redis.Redis) -> list[Any]:
    return stream_states(client, STREAMS.inputs, GROUP)


def drained(*workers: Desk) -> BatchResult:
    """What workers, each in a thread, made of all that is in the streams."""
    stop = threading.Event()
    threads = [threading.Thread(target=one.consumer.run, args=(stop,)) for one in workers]
    before = [len(one.handled) for one in workers]
    for thread in threads:
        thread.start()
    client = workers[0].client
    waited = threading.Event()
    while any(state.pending or state.lag for state in states(client)):
        waited.wait(0.02)
    stop.set()
    for thread in threads:
        join(thread)
    handled = [batch for one, since in zip(workers, before, strict=True) for batch in one.handled[since:]]
    return sum(handled, BatchResult())


def test_each_event_goes_to_its_shard_and_one_worker_reads_all_of_them(worker: Desk, settings: Settings) -> None:
    with RefineryClient(settings.redis_url or "", shards=SHARDS) as client:
        for number in range(ENOUGH):
            client.signal_created(**signal(number))
            client.trade_closed(**outcome(number))
        handled = drained(worker)
        assert (handled.signals, handled.outcomes, handled.labelled) == (ENOUGH, ENOUGH, ENOUGH)
        read = list(client.scores(after="0", wait_s=0))
        assert {entry.score.signal_id for entry in read} == {f"s-{number}" for number in range(ENOUGH)}
        assert [e.score.signal_id for e in client.scores(after=read[9].entry_id, wait_s=0)] == [
            entry.score.signal_id for entry in read[10:]
        ]
    for streams in STREAMS.by_shard:
        ids = [orjson.loads(fields[b"data"])["signal_id"] for _, fields in worker.client.xrange(streams.signals_scored)]  # type: ignore[union-attr]
        assert ids
        assert all(STREAMS.of_signal(signal_id) == streams for signal_id in ids)
    status = read_status(settings, worker.store, worker.client)
    assert [state.name for state in status.streams] == list(STREAMS.inputs)
    assert status.lag == 0


def test_events_in_the_wrong_shard_have_one_effect(worker: Desk) -> None:
    for number in range(ENOUGH):
        send(worker.client, STREAMS.created[0], signal(number))
        send(worker.client, STREAMS.closed[1], outcome(number))
        send(worker.client, STREAMS.created[3], signal(number))
    drained(worker)
    counts = worker.store.counts()
    assert (counts.signals, counts.labelled, counts.duplicates, counts.waiting_outcomes) == (ENOUGH, ENOUGH, ENOUGH, 0)


def test_a_signal_and_its_outcome_at_the_same_moment_on_different_workers_keep_the_label(settings: Settings) -> None:
    """Outcomes of all signals come in other shards than theirs, so that other workers have them in hand."""
    others = [settings.model_copy(update={"consumer_slot": slot, "batch_size": 8}) for slot in range(3)]
    with desk(others[0]) as one, desk(others[1]) as two, desk(others[2]) as three:
        for number in range(3 * ENOUGH):
            send(one.client, STREAMS.created[0], signal(number))
            send(one.client, STREAMS.closed[1], outcome(number))
            send(one.client, STREAMS.closed[2], outcome(number, 2.5, revision=1))
        handled = drained(one, two, three)
        counts = one.store.counts()
    assert (counts.signals, counts.outcomes, counts.waiting_outcomes) == (3 * ENOUGH, 6 * ENOUGH, 0)
    assert handled.duplicates == handled.dead_lettered == 0
    with open_store(settings) as store:
        found = [store.get_feature_vector(f"s-{number}") for number in range(3 * ENOUGH)]
    assert {vector.target for vector in found if vector is not None} == {2.5}


def test_the_same_entry_id_in_two_shards_is_two_entries(worker: Desk) -> None:
    for stream, number in zip(STREAMS.created, range(SHARDS), strict=True):
        worker.client.xadd(stream, {"data": orjson.dumps(signal(number))}, id="17-1")
    worker.client.xadd(STREAMS.created[0], {"data": orjson.dumps(signal(3))}, id="18-1")
    worker.client.xadd(STREAMS.created[1], {"data": orjson.dumps(signal(3))}, id="18-1")
    handled = drained(worker)
    assert (handled.signals, handled.duplicates, handled.redelivered) == (SHARDS, 2, 0)


def test_what_is_lost_in_one_shard_is_not_taken_for_what_another_has_under_its_id(settings: Settings) -> None:
    no_archive = settings.archive.model_copy(update={"enabled": False})
    settings = settings.model_copy(update={"archive": no_archive, "claim_idle_ms": 1_000})
    with desk(settings) as worker:
        worker.client.xadd(STREAMS.created[0], {"data": orjson.dumps(signal(1))}, id="17-1")
        drained(worker)
        worker.client.xadd(STREAMS.created[1], {"data": orjson.dumps(signal(2))}, id="17-1")
        worker.client.xreadgroup(GROUP, settings.consumer, {STREAMS.created[1]: ">"})
        worker.client.xdel(STREAMS.created[1], "17-1")
        handled = drained(worker)
        assert handled.dead_lettered == 1
        assert worker.store.dead_letters.find()[0].reason == "payload_lost"


@pytest.mark.parametrize(("bad", "waits"), [(b"no JSON", True), (None, False)])
def test_a_batch_with_what_is_no_signals_event_waits_for_every_shard(
    worker: Desk, settings: Settings, bad: bytes | None, waits: bool
) -> None:
    numbers = (number for number in range(99) if right(signal(number)) != STREAMS.created[0])
    stream = right(signal(number := next(numbers)))
    send(worker.client, stream, signal(number))
    if bad is not None:
        send(worker.client, stream, bad)
    ended = threading.Event()
    thread = threading.Thread(target=lambda: (drained(worker), ended.set()))
    with open_store(settings) as other, other.atomic(shards={0}):
        other.attempts.charge("another", "1-1")
        thread.start()
        assert ended.wait(1.0 if waits else 60.0) is not waits
    join(thread)
    assert worker.store.counts().signals == 1


def test_what_came_first_and_has_to_be_refused_is_the_letter_of_its_own_shards_entry(worker: Desk) -> None:
    early = outcome(1, closed_at="2024-01-01T00:00:00Z")
    stream = right(early, "trade.closed")
    entry_id = send(worker.client, stream, early)
    drained(worker)
    send(worker.client, right(signal(1)), signal(1))
    drained(worker)
    [letter] = worker.store.dead_letters.find()
    assert (letter.stream, letter.entry_id, letter.reason) == (stream, entry_id, "closed_before_signal")


def test_a_replay_of_an_edited_letter_goes_to_the_shard_of_its_new_signal(worker: Desk) -> None:
    send(worker.client, STREAMS.created[0], b"no JSON")
    drained(worker)
    dead = DeadLetters(worker.store, version="test")
    dead.edit(next(dead.chosen([], Filter())), orjson.dumps(signal(5)), actor="ops")
    dead.replay(worker.client, dead.chosen([], Filter()), actor="ops", streams=STREAMS)
    assert worker.client.xlen(right(signal(5))) == 1 + (right(signal(5)) == STREAMS.created[0])
    assert drained(worker).signals == 1


def test_an_event_whose_signal_cannot_be_read_goes_to_the_first_shard() -> None:
    for data in (b"", b"[]", b"{", b'{"signal_id": 1}', b"\xff"):
        assert STREAMS.of_event("trade.closed", data) == "{r0}.trades.closed"


def test_another_number_than_the_stores_is_refused_and_told(settings: Settings, postgres_url: str) -> None:
    other = settings.model_copy(update={"shards": 2})
    with pytest.raises(ConfigurationError, match="REFINERY_SHARDS is 2, and the store was made with 4"):
        open_store(other)
    [told] = look_at_postgres(other)
    assert (told.verdict, "made with 4" in told.says) == ("bad", True)
    with pytest.raises(ConfigurationError, match="REFINERY_SHARDS is 1"):
        open_store(load_settings(state_dir=settings.state_dir, store_url=postgres_url))


def test_shards_are_refused_of_a_store_that_has_one_write_lock() -> None:
    with pytest.raises(ConfigurationError, match="REFINERY_SHARDS needs a store in PostgreSQL"):
        load_settings(shards=2)


def reader(client: redis.Redis, shard: int, consumer: str) -> GroupReader:
    streams = STREAMS.by_shard[shard]
    made = GroupReader(
        client, streams=streams.inputs, group=GROUP, consumer=consumer, batch_size=2, block_ms=20,
        claim_idle_ms=60_000, max_event_bytes=1024, scores=streams.signals_scored, scores_maxlen=None,
    )  # fmt: skip
    made.ensure_groups()
    return made


def shards_read(client: redis.Redis, reads: int, *, home: int) -> list[str]:
    made = ShardedReader([reader(client, shard, "one") for shard in range(SHARDS)], home=home)
    batches: list[list[Entry]] = [made.read_new() for _ in range(reads)]
    return [batch[0].stream[:4] if batch else "" for batch in batches]


def test_a_worker_reads_its_home_first_and_others_when_that_is_idle(valkey: redis.Redis) -> None:
    for _ in range(4):
        send(valkey, STREAMS.created[2], b"{}")
    send(valkey, STREAMS.created[0], b"{}")
    assert shards_read(valkey, 4, home=2) == ["{r2}", "{r2}", "{r0}", ""]


def test_a_shard_that_nobody_keeps_up_with_is_read_in_turn_with_a_busy_home(valkey: redis.Redis) -> None:
    for number in range(6):
        valkey.xadd(STREAMS.created[0], {"data": b"{}"}, id=f"100000-{number}")
        valkey.xadd(STREAMS.created[1], {"data": b"{}"}, id=f"99000-{number}")
        valkey.xadd(STREAMS.created[2], {"data": b"{}"}, id=f"1000-{number}")
    assert shards_read(valkey, 6, home=0) == ["{r0}", "{r2}", "{r0}", "{r2}", "{r0}", "{r2}"]


def test_workers_of_numbered_hosts_have_different_homes() -> None:
    assert [home_shard(host, 0, SHARDS) for host in ("worker-0", "worker-1.local", "worker-6", "desk")] == [0, 1, 2, 0]
    assert [home_shard("worker-1", slot, SHARDS) for slot in range(4)] == [1, 2, 3, 0]
