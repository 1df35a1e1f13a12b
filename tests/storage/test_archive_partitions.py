"""The archive in PostgreSQL: partitions by the time in entries' ids, writers at once, crashes, a role of few rights."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest

from tests.storage.conftest import SteppingClock
from tests.support.postgres_server import DATABASE, PostgresServer, needs_postgres
from tests.support.rows import at, plain
from tests.support.waiting import HANGS_AFTER_S, join
from trading_system.ml_refinement.storage import (
    ArchivedEvent,
    EventArchive,
    FeatureDatabase,
    StoreUnavailable,
    event_archive,
)
from trading_system.ml_refinement.storage.connection import id_list
from trading_system.ml_refinement.storage.errors import StoreRefused
from trading_system.ml_refinement.storage.postgres import archive as partitions
from trading_system.ml_refinement.storage.times import utc_text

pytestmark = needs_postgres
STREAM = "signals.created"
#: The clock stands on 2024-06-01.
MONTHS = ["2024_05", "2024_06", "2024_07", "2024_08", "2024_09"]
WHERE = "SELECT tableoid::regclass::text, entry_id FROM events ORDER BY id"


def in_month(month: int, day: int = 3, *, year: int = 2024, number: int = 0) -> str:
    """An entry id of that day."""
    return f"{int(datetime(year, month, day, tzinfo=UTC).timestamp()) * 1000}-{number}"


def event(entry_id: str, received: datetime | None = None, payload: bytes = b"{}") -> ArchivedEvent:
    return ArchivedEvent(STREAM, entry_id, at(1) if received is None else utc_text(received), payload)


@pytest.fixture
def store(postgres_url: str, clock: SteppingClock) -> Iterator[FeatureDatabase]:
    with closing(FeatureDatabase(postgres_url, clock=clock)) as store:
        store.upgrade()
        yield store


@pytest.fixture
def archive(store: FeatureDatabase, postgres_url: str, clock: SteppingClock) -> Iterator[EventArchive]:
    with EventArchive(postgres_url, clock=clock) as archive:
        yield archive


def parts(archive: EventArchive, table: str = "events") -> list[str]:
    """The months that have a partition."""
    sql = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = CAST(? AS regclass) ORDER BY 1"
    found = [name.removeprefix(f"{table}_") for (name,) in archive.engine.connection.query(sql, (table,))]
    assert found.pop() == "other"
    return found


def lying(archive: EventArchive) -> dict[str, str]:
    """The partition of each entry."""
    return {entry_id: name for name, entry_id in archive.engine.connection.query(WHERE)}


def test_the_upgrade_makes_the_next_months_and_a_worker_those_that_come_later(
    archive: EventArchive, clock: SteppingClock
) -> None:
    assert parts(archive) == parts(archive, "blocks") == MONTHS
    assert (archive.make_ahead(), archive.missing()) == ([], [])
    clock.move(days=61)
    assert archive.missing() == ["events_2024_10", "blocks_2024_10", "events_2024_11", "blocks_2024_11"]
    assert archive.make_ahead() == ["events_2024_10", "blocks_2024_10", "events_2024_11", "blocks_2024_11"]
    assert parts(archive) == parts(archive, "blocks") == [*MONTHS, "2024_10", "2024_11"]
    clock.move(days=3650)
    assert len(archive.make_ahead()) == 10, "what lies between is nobody's present"


def test_an_entry_lies_where_its_id_says_and_the_default_partition_takes_the_rest(archive: EventArchive) -> None:
    first_of_july = int(datetime(2024, 7, 1, tzinfo=UTC).timestamp()) * 1000
    lies = {
        in_month(6): "events_2024_06",
        f"{first_of_july - 1}-9": "events_2024_06",
        f"{first_of_july}-0": "events_2024_07",
        in_month(1): "events_other",
        in_month(1, year=2031): "events_other",
        "5-3": "events_other",
        f"{2**64 - 1}-{2**64 - 1}": "events_other",
        "no time at all": "events_other",
    }
    for _ in range(2):
        archive.append([event(entry_id, payload=entry_id.encode()) for entry_id in lies])
    assert lying(archive) == lies
    assert archive.count() == len(lies)
    for entry_id in lies:
        assert archive.get_all(STREAM, entry_id) == [entry_id.encode()]
        assert archive.append([event(entry_id, payload=b"another")]) == 1
        assert archive.get_all(STREAM, entry_id) == [entry_id.encode(), b"another"]
    assert [one.payload for one in archive.after(0, limit=3)] == [entry_id.encode() for entry_id in list(lies)[:3]]


def asked(archive: EventArchive, sql: str, *values: object) -> set[str]:
    """The tables that a statement looks into when it runs."""
    text = f"EXPLAIN (ANALYZE, FORMAT JSON) {getattr(sql, 'postgres', sql)}"
    [[plan]] = archive.engine.connection.query(text, values)
    nodes = [plan[0]["Plan"]]
    for node in nodes:
        nodes += node.get("Plans", [])
    return {node["Relation Name"] for node in nodes if "Relation Name" in node and node["Actual Loops"]}


def test_an_event_is_looked_up_in_one_partition_of_each_table_however_many_there_are(archive: EventArchive) -> None:
    received = datetime(2024, 7, 4, tzinfo=UTC)
    batch = [event(in_month(6, number=number), received, b"%d" % number) for number in range(3)]
    archive.append(batch)
    assert asked(archive, event_archive.GET_ALL, STREAM, batch[0].entry_id) == {"events_2024_06"}
    assert asked(archive, event_archive.KEPT, STREAM, id_list([one.entry_id for one in batch])) == {"events_2024_06"}
    [(block, newest_at)] = archive.engine.connection.query("SELECT id, newest_at FROM blocks")
    assert newest_at == batch[0].received_at
    assert asked(archive, event_archive.BLOCK_OF_BATCH, block, newest_at) == {"blocks_2024_07"}


def test_events_of_several_times_in_one_block_are_found(archive: EventArchive) -> None:
    times = [datetime(2024, month, 4, tzinfo=UTC) for month in (5, 6, 7)]
    batch = [event(in_month(6, number=number), at, b"%d" % number) for number, at in enumerate(times)]
    assert archive.add_older(batch) == 3
    for number, one in enumerate(batch):
        archive.initialize()  # forgets the block
        assert archive.get_all(STREAM, one.entry_id) == [b"%d" % number]


def test_what_came_before_its_partition_is_moved_into_it_unless_it_is_much(
    archive: EventArchive, clock: SteppingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "_MOST_MOVED", 5)
    october = [event(in_month(10, number=number)) for number in range(5)]
    november = [event(in_month(11, number=number)) for number in range(6)]
    archive.append([*october, *november])
    clock.move(days=61)
    archive.make_ahead()
    assert {lying(archive)[one.entry_id] for one in october} == {"events_2024_10"}
    assert {lying(archive)[one.entry_id] for one in november} == {"events_other"}
    assert archive.missing() == ["events_2024_11"]
    assert archive.append([*october, *november]) == 0
    assert archive.newest([STREAM], among=20) == [b"{}"] * 11


def strays(number: int, *, first: int = 0, received: datetime | None = None) -> list[ArchivedEvent]:
    """Events of a month that has no partition yet."""
    when = datetime(2024, 6, 2, tzinfo=UTC) if received is None else received
    return [event(in_month(11, number=first + place), when, b"%d" % (first + place)) for place in range(number)]


def test_the_upgrade_moves_what_is_much_in_steps_and_each_event_is_there_once_all_the_time(
    store: FeatureDatabase,
    archive: EventArchive,
    postgres_url: str,
    clock: SteppingClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(partitions, "_MOST_MOVED", 5)
    monkeypatch.setattr(partitions, "_COPIED_AT_ONCE", 4)
    old = datetime(2024, 1, 2, tzinfo=UTC)
    archive.append([*strays(1, received=old), *strays(20, first=1)])
    clock.move(days=61)
    seen = []
    copy = partitions.PostgresArchive._copy

    def copied(
        engine: partitions.PostgresArchive, table: str, month: partitions.Month, after: int | None
    ) -> int | None:
        """A step, after which others go on working."""
        last = copy(engine, table, month, after)
        if (table, month) == ("events", (2024, 11)):
            with EventArchive(postgres_url, clock=clock) as other:
                seen.append(other.count())
                assert other.append(strays(1, first=1)) == 0
                if last is None:
                    assert other.prune(datetime(2024, 2, 1, tzinfo=UTC)) == 1
                    assert other.append(strays(1, first=90)) == 1
                    assert other.add_older(strays(1, first=91)) == 1
        return last

    monkeypatch.setattr(partitions.PostgresArchive, "_copy", copied)
    store.upgrade()
    assert seen == [21] * 7
    assert archive.missing() == []
    numbers = [*range(1, 21), 90, 91]
    assert lying(archive) == {in_month(11, number=number): "events_2024_11" for number in numbers}
    assert archive.append([one for one in strays(92) if one.payload != b"0"]) == 91 - len(numbers)
    for number in numbers:
        assert archive.get_all(STREAM, in_month(11, number=number)) == [b"%d" % number]


def test_a_move_that_was_killed_is_gone_on_with(
    store: FeatureDatabase, archive: EventArchive, clock: SteppingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "_MOST_MOVED", 5)
    monkeypatch.setattr(partitions, "_COPIED_AT_ONCE", 4)
    archive.append(strays(20))
    clock.move(days=61)

    with monkeypatch.context() as patched:
        patched.setattr(partitions.PostgresArchive, "_copy", killed_after(8))
        with pytest.raises(KeyboardInterrupt):
            store.upgrade()
    assert set(lying(archive).values()) == {"events_other"}
    assert copies(archive) == {"events_2024_11_coming"}
    store.upgrade()
    assert set(lying(archive).values()) == {"events_2024_11"}
    assert archive.count() == 20
    assert copies(archive) == set()


def test_a_copy_that_was_broken_off_does_not_outlast_its_month(
    store: FeatureDatabase, archive: EventArchive, clock: SteppingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "_MOST_MOVED", 5)
    monkeypatch.setattr(partitions, "_COPIED_AT_ONCE", 4)
    old = datetime(2024, 1, 2, tzinfo=UTC)
    archive.append([*strays(17, received=old), *strays(3, first=17)])
    clock.move(days=61)
    with monkeypatch.context() as patched:
        patched.setattr(partitions.PostgresArchive, "_copy", killed_after(8))
        with pytest.raises(KeyboardInterrupt):
            store.upgrade()
    assert archive.prune(datetime(2024, 2, 1, tzinfo=UTC)) == 17
    archive.make_ahead()  # what is left is little
    assert set(lying(archive).values()) == {"events_2024_11"}
    assert archive.count() == 3
    assert copies(archive) == set()


def test_a_copy_that_an_older_release_left_does_not_stand_in_the_way(
    postgres_url: str, clock: SteppingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "_MOST_MOVED", 5)
    left = ("events_2024_11_coming", "events_coming")
    with closing(FeatureDatabase(postgres_url, clock=clock)) as store:
        connection = store._connection
        with connection.atomic():
            connection.execute_script(f"CREATE SCHEMA IF NOT EXISTS {connection.schema}")
            for name in left:
                connection.execute_script(f"CREATE TABLE {name} (of_another_shape integer)")
        store.upgrade()
        with EventArchive(postgres_url, clock=clock) as archive:
            assert copies(archive) == set()
            archive.append(strays(20))
            clock.move(days=61)
            store.upgrade()
            assert set(lying(archive).values()) == {"events_2024_11"}


@pytest.mark.parametrize("at", [0, 1, 3, 5, 6])
def test_two_upgrades_that_move_the_same_rows_end_well(
    at: int,
    store: FeatureDatabase,
    archive: EventArchive,
    postgres_url: str,
    clock: SteppingClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other one does all of its work after this one's step `at`."""
    monkeypatch.setattr(partitions, "_MOST_MOVED", 5)
    monkeypatch.setattr(partitions, "_COPIED_AT_ONCE", 4)
    archive.append(strays(20))
    clock.move(days=61)
    steps = count()
    atomic = partitions.PostgresArchive._unless_made

    @contextmanager
    def step(engine: partitions.PostgresArchive, table: str, month: partitions.Month) -> Iterator[bool]:
        with atomic(engine, table, month) as is_missing:
            yield is_missing
        if (table, month) == ("events", (2024, 11)) and next(steps) == 1 + at:  # the first is that of `make_ahead`
            with closing(FeatureDatabase(postgres_url, clock=clock)) as other:
                other.upgrade()

    monkeypatch.setattr(partitions.PostgresArchive, "_unless_made", step)
    store.upgrade()
    assert next(steps) > 1 + at
    assert set(lying(archive).values()) == {"events_2024_11"}
    assert len(lying(archive)) == archive.count() == 20
    assert archive.missing() == []
    assert copies(archive) == set()


def killed_after(copied: int) -> Callable[..., int | None]:
    """A step of copying after which the process is killed, once so many rows are copied."""
    copy = partitions.PostgresArchive._copy
    done = count(partitions._COPIED_AT_ONCE, partitions._COPIED_AT_ONCE)

    def step(engine: partitions.PostgresArchive, table: str, month: partitions.Month, after: int | None) -> int | None:
        last = copy(engine, table, month, after)
        if (table, month) == ("events", (2024, 11)) and next(done) >= copied:
            raise KeyboardInterrupt
        return last

    return step


def copies(archive: EventArchive) -> set[str]:
    """The tables that partitions are made of."""
    return {name for (name,) in archive.engine.connection.query(partitions.COPIES)}


def test_old_months_are_dropped_whole_and_rows_elsewhere(archive: EventArchive, clock: SteppingClock) -> None:
    def received(month: int, day: int) -> datetime:
        return datetime(2024, month, day, tzinfo=UTC)

    archive.append([event(in_month(5, number=number), received(5, 4)) for number in range(3)])
    archive.append([event(in_month(6, number=number), received(6, 4)) for number in range(3)])
    archive.append([event(in_month(6, number=9), received(8, 9))])  # long after it was published
    archive.append([event(in_month(7, number=number), received(7, 4)) for number in range(3)])
    archive.append([event(in_month(7, 20, number=number), received(7, 21)) for number in range(3)])
    archive.append([event(f"{number}-0", received(7, 1)) for number in range(3)])
    bound = received(7, 10)
    assert archive.count_older(bound) == 12
    assert archive.prune(bound) == 12
    assert parts(archive) == ["2024_06", "2024_07", "2024_08", "2024_09"]
    assert parts(archive, "blocks") == ["2024_07", "2024_08", "2024_09"]
    assert archive.newest([STREAM], among=20) == [b"{}"] * 4
    assert archive.engine.connection.query("SELECT newest_at FROM blocks") == [(utc_text(received(7, 21)),)]
    assert archive.prune(received(10, 1)) == 4
    assert parts(archive) == parts(archive, "blocks") == []
    archive.append([event(in_month(6), received(6, 4)), event(in_month(6, 4), received(6, 4))])
    assert set(lying(archive).values()) == {"events_other"}


def test_a_partition_that_somebody_reads_is_emptied_row_by_row(
    archive: EventArchive, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "_LOCK_WAIT_MS", 50)
    old = datetime(2024, 5, 4, tzinfo=UTC)
    archive.append([event(in_month(5, number=number), old) for number in range(3)])
    with closing(EventArchive(postgres_url, read_only=True)) as reader, reader.engine.connection.snapshot():
        assert reader.count() == 3
        assert archive.prune(datetime(2024, 6, 2, tzinfo=UTC)) == 3
        assert reader.count() == 3
    assert archive.count() == 0
    assert parts(archive) == MONTHS


def test_a_role_that_may_make_no_tables_loses_nothing(
    archive: EventArchive, postgres_server: PostgresServer, postgres_url: str, clock: SteppingClock
) -> None:
    schema = postgres_url.partition("schema=")[2]
    postgres_server.run_sql(
        f"CREATE ROLE {schema}_worker LOGIN; GRANT USAGE ON SCHEMA {schema} TO {schema}_worker;"
        f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {schema}_worker;"
        f"GRANT ALL ON ALL SEQUENCES IN SCHEMA {schema} TO {schema}_worker",
        database=DATABASE,
    )
    clock.move(days=150)
    october = [event(in_month(10, number=number), clock.now) for number in range(3)]
    may = [event(in_month(5, number=number), datetime(2024, 5, 4, tzinfo=UTC)) for number in range(3)]
    with EventArchive(postgres_url.replace("//refinery@", f"//{schema}_worker@"), clock=clock) as worker:
        with pytest.raises(StoreRefused, match="permission denied"):
            worker.make_ahead()
        assert worker.append([*may, *october]) == 6
        assert worker.append(october) == 0
        assert worker.prune(datetime(2024, 6, 2, tzinfo=UTC)) == 3
        assert set(lying(worker).values()) == {"events_other"}
    archive.make_ahead()
    assert set(lying(archive).values()) == {"events_2024_10"}
    assert archive.get_all(STREAM, in_month(10)) == [b"{}"]


def test_the_archive_waits_for_nobody_who_writes_to_the_store(store: FeatureDatabase, archive: EventArchive) -> None:
    with store.atomic():
        store.store_feature_vector(plain("a"))
        assert archive.append([event(in_month(6)), event(in_month(6, 4))]) == 2
    with archive.engine.connection.atomic():
        archive.append([event(in_month(6, 5))])
        store.store_feature_vector(plain("b"))
    commit = "SELECT current_setting('synchronous_commit')"
    with archive.engine.connection.atomic() as connection:
        assert connection.query(commit) == [("off",)]
    with store.atomic():
        assert store._connection.query(commit) == [("on",)]


def test_who_follows_the_archive_misses_nothing_that_is_committed_late(
    archive: EventArchive, postgres_url: str
) -> None:
    """Numbers rise in the order of commits, since writers take turns."""
    begun, second = threading.Event(), []

    def write() -> None:
        with EventArchive(postgres_url) as other:
            begun.set()
            other.append([event(in_month(6, 5))])
            second.append(other.last_id())

    thread = threading.Thread(target=write)
    with archive.engine.connection.atomic():
        archive.append([event(in_month(6, 4))])
        thread.start()
        assert begun.wait(HANGS_AFTER_S)
        thread.join(0.3)
        assert second == []
    join(thread)
    assert [one.entry_id for one in archive.after(0, limit=9)] == [in_month(6, 4), in_month(6, 5)]


def _append_all(url: str, seed: int, results: multiprocessing.Queue[int]) -> None:
    with EventArchive(url) as archive:
        new = 0
        for begin in range(0, 400, 20):
            batch = [event(in_month(6, number=number), payload=b"%d" % number) for number in range(begin, begin + 20)]
            new += archive.append(batch[seed:] + batch[:seed])
    results.put(new)


def test_two_processes_that_append_the_same_entries_at_once_keep_each_once(
    archive: EventArchive, postgres_url: str
) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=_append_all, args=(postgres_url, seed, results)) for seed in (0, 7)]
    for process in processes:
        process.start()
    assert sum(results.get(timeout=HANGS_AFTER_S) for _ in processes) == 400
    for process in processes:
        process.join(HANGS_AFTER_S)
    assert archive.count() == 400
    for number in (0, 7, 399):
        assert archive.get_all(STREAM, in_month(6, number=number)) == [b"%d" % number]


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


def test_a_crash_of_the_server_takes_no_event_that_the_store_has_settled(own_server: PostgresServer) -> None:
    with closing(FeatureDatabase(own_server.url())) as store, closing(EventArchive(own_server.url())) as archive:
        store.upgrade()
        settled = [in_month(6, number=number) for number in range(50)]
        for number, entry_id in enumerate(settled):
            archive.append([event(entry_id, payload=b"%d" % number)])
            store.store_feature_vector(plain(f"s{number}"))
        late = [event(in_month(7, number=number)) for number in range(3)]
        archive.append(late)
        own_server.stop("immediate")
        with pytest.raises(StoreUnavailable):
            archive.append(late)
        own_server.start()
        assert archive.append(late) in (0, 3), "they are delivered again"
        assert archive.count() == 53
        for number, entry_id in enumerate(settled):
            assert archive.get_all(STREAM, entry_id) == [b"%d" % number]
        numbers = archive.engine.connection.query("SELECT count(DISTINCT id) FROM events")
        assert numbers == [(53,)]


def test_another_store_at_the_address_gets_no_events(own_server: PostgresServer, tmp_path: Path) -> None:
    with closing(FeatureDatabase(own_server.url())) as store, closing(EventArchive(own_server.url())) as archive:
        store.upgrade()
        archive.append([event(in_month(6))])
        store._connection.run("UPDATE installation SET id = 'another'")
        archive.close()
        with pytest.raises(StoreUnavailable, match="another store is there"):
            archive.append([event(in_month(7))])
        with pytest.raises(StoreUnavailable, match="another store is there"):
            archive.initialize()
