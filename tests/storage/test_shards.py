"""Shards of a store in PostgreSQL: they write side by side, and whoever looks at all of them sees them whole."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

import numpy as np
import pytest

from tests.support.postgres_server import needs_postgres
from tests.support.rows import NAMES, insert, metadata, outcome, prediction, vector
from tests.support.waiting import join
from trading_system.ml_refinement.storage import FeatureDatabase
from trading_system.ml_refinement.storage.shared.copying import copy_store
from trading_system.ml_refinement.storage.tables.feature_versions import StoredVector
from trading_system.ml_refinement.storage.tables.outcomes import OutcomeResult
from worker.dead_letters import DeadLetters, Rejected
from worker.errors import EventRejected, Reason
from worker.streams.entries import Entry
from worker.streams.shards import entry_stored_as, plain_name, shard_of, stored_id, stream_of_shard

pytestmark = needs_postgres
SHARDS = 4


@pytest.fixture
def db(postgres_url: str) -> Iterator[FeatureDatabase]:
    store = FeatureDatabase(postgres_url)
    store.upgrade(shards=SHARDS)
    with store:
        with store.atomic():
            store.vectors.list_id(NAMES)  # who enters it first is waited for
        yield store


@pytest.fixture
def other(db: FeatureDatabase, postgres_url: str) -> Iterator[FeatureDatabase]:
    with closing(FeatureDatabase(postgres_url)) as store:
        yield store


@contextmanager
def begun(does: Callable[[], object]) -> Iterator[threading.Event]:
    """What is done beside the block, in a thread; the event says that it has ended."""
    ended = threading.Event()

    def run() -> None:
        does()
        ended.set()

    thread = threading.Thread(target=run)
    thread.start()
    yield ended
    join(thread)
    assert ended.is_set()


def store_one(db: FeatureDatabase, signal_id: str, shard: int, **changes: object) -> None:
    with db.atomic(shards={shard}):
        insert(db, vector(signal_id, **changes))


def test_two_shards_write_at_the_same_time(db: FeatureDatabase, other: FeatureDatabase) -> None:
    with db.atomic(shards={0}):
        insert(db, vector("a"))
        store_one(other, "b", 1)
        assert other.counts().signals == 1
    assert db.counts().signals == 2


@pytest.mark.parametrize("theirs", [{0}, {0, 1}, {1, 0, 3}, set()])
def test_whoever_shares_a_shard_or_names_none_waits(
    db: FeatureDatabase, other: FeatureDatabase, theirs: set[int]
) -> None:
    def enter() -> None:
        with other.atomic(shards=theirs):
            other.marks.get("none")  # nothing that a row's own lock would keep back

    with ExitStack() as stack, db.atomic(shards={0, 2}):
        ended = stack.enter_context(begun(enter))
        assert not ended.wait(0.3)


def test_one_that_names_no_shard_keeps_all_shards_out(db: FeatureDatabase, other: FeatureDatabase) -> None:
    with ExitStack() as stack, db.atomic():
        ended = stack.enter_context(begun(lambda: store_one(other, "b", 3)))
        assert not ended.wait(0.3)


def test_a_signal_and_its_outcome_at_the_same_moment_keep_the_label(
    db: FeatureDatabase, other: FeatureDatabase
) -> None:
    told: list[OutcomeResult] = []

    def close_the_trade() -> None:
        with other.atomic(shards={2}):
            told.extend(other.outcomes.record([outcome("a", 1.5)]))

    with ExitStack() as stack, db.atomic(shards={2}):
        insert(db, vector("a"))
        ended = stack.enter_context(begun(close_the_trade))
        ended.wait(0.3)
    assert told == ["applied"]
    found = db.get_feature_vector("a")
    assert found is not None
    assert found.target == 1.5


def test_what_one_shard_counts_another_may_count_off(db: FeatureDatabase) -> None:
    with db.atomic(shards={3}):
        db.outcomes.record([outcome("a"), outcome("b")])
    assert db.counts().waiting_outcomes == 2
    with db.atomic(shards={1, 3}):
        insert(db, vector("a"))
    insert(db, vector("b"))
    counts = db.counts()
    assert (counts.waiting_outcomes, counts.signals, counts.labelled, counts.labels_total) == (0, 2, 2, 2)


def test_predictions_that_other_shards_log_meanwhile_are_not_counted_as_ours(
    db: FeatureDatabase, other: FeatureDatabase
) -> None:
    db.models.register(metadata("m1"))
    with db.atomic(shards={0}):
        insert(db, vector("a"))
        with other.atomic(shards={1}):
            insert(other, vector("b"), vector("c"))
            other.scores.log_predictions([prediction("b"), prediction("c")])
        db.scores.log_predictions([prediction("a"), prediction("a")])
    assert db.counts().predictions == 3


def test_a_list_of_names_that_two_shards_enter_at_once_is_entered_once(
    db: FeatureDatabase, other: FeatureDatabase
) -> None:
    def enter(store: FeatureDatabase, signal_id: str, shard: int) -> None:
        with store.atomic(shards={shard}):
            store.vectors.insert_new([vector(signal_id)], ("new",), np.array([[1.0]]))

    with ExitStack() as stack, db.atomic(shards={0}):
        db.vectors.insert_new([vector("a")], ("new",), np.array([[1.0]]))
        ended = stack.enter_context(begun(lambda: enter(other, "b", 1)))
        assert not ended.wait(0.3)
    assert db._connection.query("SELECT count(DISTINCT list_id), count(*) FROM feature_vectors") == [(1, 2)]


def test_below_the_last_number_that_a_rebuild_reads_to_no_vector_comes_any_more(
    db: FeatureDatabase, other: FeatureDatabase
) -> None:
    def rebuild() -> None:
        last = other.versions.last_id()
        read.extend(other.versions.read("standard-1", after_id=0, up_to_id=last, limit=10))

    insert(db, vector("known"))
    read: list[StoredVector] = []
    with ExitStack() as stack, db.atomic(shards={0}):
        insert(db, vector("late"))
        store_one(other, "early", 1)
        ended = stack.enter_context(begun(rebuild))
        assert not ended.wait(0.3)
    assert [one.signal_id for one in read] == ["known", "late", "early"]


def test_the_counters_of_shards_are_copied_as_one(db: FeatureDatabase, postgres_url: str) -> None:
    for shard, signal_id in enumerate("abcd"):
        store_one(db, signal_id, shard)
    with FeatureDatabase(":memory:") as file, closing(FeatureDatabase(f"{postgres_url}_back")) as back:
        back.upgrade(shards=2)
        copy_store(db, file)
        copy_store(file, back)
        assert file.counts() == db.counts() == back.counts()
        assert back.engine.shards() == 2


def test_the_number_of_shards_is_chosen_when_the_schema_is_made(db: FeatureDatabase) -> None:
    db.upgrade(shards=7)
    assert db.engine.shards() == SHARDS
    with FeatureDatabase(":memory:") as file:
        assert file.engine.shards() == 1


def test_the_shard_of_a_signal_is_crc16_of_its_id() -> None:
    assert shard_of("123456789", 16384) == 0x31C3
    assert {shard_of(f"s-{number}", SHARDS) for number in range(100)} == set(range(SHARDS))
    assert shard_of("anything", 1) == 0


@pytest.mark.parametrize("stream", ["trades.closed", "{r0}.trades.closed", "{r63}.trades.closed"])
def test_an_entry_is_known_by_its_id_and_its_shard(stream: str) -> None:
    known = stored_id(stream, "17-0")
    assert entry_stored_as(known, "trades.closed") == (stream, "17-0")
    assert plain_name(stream) == "trades.closed"
    assert known == ("17-0" if stream == "trades.closed" else f"17-0@{stream[2:-15]}")
    assert stream_of_shard("x", 3) == "{r3}.x"


def test_two_events_of_one_id_that_two_shards_dead_letter_at_once_are_both_kept(
    db: FeatureDatabase, other: FeatureDatabase
) -> None:
    def put_away(store: FeatureDatabase, data: bytes, shard: int) -> None:
        entry = Entry("trades.closed", "1-0", {b"data": data})
        with store.atomic(shards={shard}):
            DeadLetters(store, version="1").add([Rejected(entry, EventRejected(Reason.SCHEMA, "no"))])

    with ExitStack() as stack, db.atomic(shards={0}):
        put_away(db, b"first", 0)
        ended = stack.enter_context(begun(lambda: put_away(other, b"second", 1)))
        assert not ended.wait(0.3)
    letters = db.dead_letters.find(payloads=True)
    assert [letter.payload for letter in letters] == [b"first", b"second"]
    assert [letter.entry_id.partition("~")[0] for letter in letters] == ["1-0", "1-0"]
