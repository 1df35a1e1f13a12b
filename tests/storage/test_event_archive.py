"""The archive of received events: in a file, and in a store in PostgreSQL."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.support.rows import at
from trading_system.ml_refinement.storage import (
    ArchivedEvent,
    EventArchive,
    FeatureDatabase,
    StoreDamaged,
    StoreUnavailable,
)
from trading_system.ml_refinement.storage.event_blocks import parts
from trading_system.ml_refinement.storage.schema import migrate, steps
from trading_system.ml_refinement.storage.sqlite.connection import SqliteConnection
from trading_system.ml_refinement.storage.statement import Statement
from trading_system.ml_refinement.storage.times import utc_now


@pytest.fixture
def archive(place: str | Path) -> Iterator[EventArchive]:
    if isinstance(place, str):
        with closing(FeatureDatabase(place)) as store:
            store.upgrade()
    with EventArchive(place) as archive:
        yield archive


def event(number: int, day: int = 5, payload: bytes = b"{}") -> ArchivedEvent:
    return ArchivedEvent("signals.created", f"{number}-0", at(day), payload)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(payload=st.binary(max_size=300).map(lambda part: part * 7))
def test_bytes_come_back_as_they_were(archive: EventArchive, payload: bytes) -> None:
    number = archive.count() + 1
    assert archive.append([event(number, payload=payload)]) == 1
    assert archive.get("signals.created", f"{number}-0") == payload


def test_an_entry_is_kept_once_however_often_it_is_delivered(archive: EventArchive) -> None:
    assert archive.append([event(1, payload=b"first"), event(2), event(1, payload=b"first")]) == 2
    assert archive.append([event(1, payload=b"first"), event(3)]) == 1
    assert archive.get_all("signals.created", "1-0") == [b"first"]
    assert archive.get("trades.closed", "1-0") is None


def test_events_with_one_id_are_kept_each_and_told_apart_by_their_bytes(archive: EventArchive) -> None:
    long = b"a" * 1000
    assert archive.append([event(1, payload=b"first"), event(10)]) == 2
    for times in (1, 0):
        assert archive.append([event(1, payload=b"first"), event(1, payload=long), event(1, payload=b"")]) == 2 * times
    assert archive.get_all("signals.created", "1-0") == [b"first", long, b""]
    assert archive.get("signals.created", "1-0") == b""
    told = [(entry.entry_id, entry.payload) for entry in archive.after(0, limit=10)]
    assert told == [("1-0", b"first"), ("10-0", None), ("1-0", long), ("1-0", b"")]
    assert [entry.entry_id for entry in archive.after(0, limit=1)] == ["1-0"]


def test_where_the_first_of_two_events_is_pruned_the_second_is_still_known_by_its_bytes(archive: EventArchive) -> None:
    archive.append([event(1, day=1, payload=b"first")])
    archive.append([event(1, day=9, payload=b"second")])
    archive.prune(datetime(2024, 1, 6, tzinfo=UTC))
    assert archive.get_all("signals.created", "1-0") == [b"second"]
    assert [entry.payload for entry in archive.after(0, limit=10)] == [b"second"]


def test_an_event_is_kept_beside_damaged_bytes_of_its_id(archive: EventArchive) -> None:
    archive.append([event(1, payload=b"a" * 1000)])
    archive.engine.connection.run("UPDATE events SET payload = ?", (b"\x00\xff",))
    assert archive.append([event(1, payload=b"a" * 1000)]) == 1


def test_repetitive_events_are_stored_in_a_fraction(archive: EventArchive) -> None:
    bars = b'{"close": [' + b"101.25, " * 280 + b"101.25]}"
    archive.append([event(1, payload=bars)])
    archive.append([event(number, payload=bars.replace(b"280", b"%d" % number)) for number in range(2, 102)])
    connection = archive.engine.connection
    alone = connection.query("SELECT length(payload) FROM events WHERE entry_id = '1-0'")[0][0]
    assert alone < len(bars) / 10
    together = connection.query("SELECT (SELECT sum(length(payload)) FROM events) + sum(length(payload)) FROM blocks")
    assert together[0][0] < 100 * len(bars) / 50


def test_pruning_drops_what_is_older_and_nothing_else(archive: EventArchive) -> None:
    archive.append([event(number, day=1 + number % 10) for number in range(100)])
    assert archive.prune(datetime(2024, 1, 6, tzinfo=UTC), at_once=7) == 50
    assert archive.count() == 50
    assert archive.get("signals.created", "4-0") is None
    assert archive.get("signals.created", "5-0") == b"{}"


def test_damaged_bytes_are_damage(archive: EventArchive) -> None:
    archive.append([event(1, payload=b"a" * 1000)])
    archive.engine.connection.run("UPDATE events SET payload = ?", (b"\x00\xff",))
    with pytest.raises(StoreDamaged):
        archive.get("signals.created", "1-0")


def test_an_archive_that_is_not_there_is_not_made_for_reading(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        EventArchive(tmp_path / "none.db", read_only=True).initialize()


def test_events_that_are_kept_together_come_back_each_as_it_was(archive: EventArchive) -> None:
    payloads = [bytes([number % 251]) * (number * 37 % 5_000) for number in range(300)] + [b"x" * 3_000_000, b"", b"y"]
    rows = [event(number, payload=payload) for number, payload in enumerate(payloads)]
    assert archive.append(rows) == 303
    for number in [*range(303), 5, 299, 0]:
        assert archive.get_all("signals.created", f"{number}-0") == [payloads[number]]
    assert archive.newest(["signals.created"], among=303) == payloads[::-1]
    assert archive.append(rows) == 0
    assert archive.engine.connection.query("SELECT count(*) FROM blocks") == [(blocks_of(payloads),)]


def blocks_of(payloads: list[bytes]) -> int:
    return sum(part.stop - part.start > 1 for part in parts(payloads))


def test_what_an_earlier_release_packed_is_read_beside_blocks(archive: EventArchive) -> None:
    old, odd = b"a" * 1000, b"\x00 no place"
    add = Statement(
        "INSERT INTO events (stream, entry_id, received_at, payload, packed) VALUES ('signals.created', ?, ?, ?, ?)",
        postgres="""
            INSERT INTO events (stream, entry_ms, entry_id, received_at, payload, packed)
            VALUES ('signals.created', ms_of_entry(CAST(?1 AS text)), CAST(?1 AS text), ?2, ?3, ?4)""",
    )
    earlier = archive.engine.connection
    earlier.run(add, ("1-0", at(1), zlib.compress(old, 1), 1))
    earlier.run(add, ("2-0", at(1), odd, 0))
    assert archive.append([event(1, payload=old), event(2, payload=odd), event(3, payload=old)]) == 1
    assert archive.newest(["signals.created"], among=9) == [old, odd, old]


def test_an_archive_of_the_first_step_is_brought_up_to_date_and_keeps_what_it_has(tmp_path: Path) -> None:
    connection = SqliteConnection(tmp_path / "archive.db")
    migrate(connection, {1: steps("archive_")[1]}, utc_now)
    connection.run(
        "INSERT INTO events (stream, entry_id, received_at, payload, packed) VALUES ('s', '1-0', ?, ?, 1)",
        (at(1), zlib.compress(b"kept" * 100)),
    )
    connection.close()
    with EventArchive(tmp_path / "archive.db") as archive:
        assert archive.append([event(2, payload=b"a"), event(3, payload=b"b")]) == 2
        assert archive.get("s", "1-0") == b"kept" * 100


def test_blocks_go_with_the_last_of_their_events_and_no_number_is_given_twice(archive: EventArchive) -> None:
    archive.append([event(1, day=1, payload=b"a"), event(2, day=9, payload=b"b")])
    archive.append([event(3, day=2, payload=b"c"), event(4, day=3, payload=b"d")])
    connection = archive.engine.connection
    assert archive.prune(datetime(2024, 1, 6, tzinfo=UTC)) == 3
    assert connection.query("SELECT id FROM blocks") == [(1,)]
    assert archive.get("signals.created", "2-0") == b"b"
    archive.append([event(5, day=9, payload=b"e"), event(6, day=9, payload=b"f")])
    assert connection.query("SELECT id FROM blocks") == [(1,), (3,)]
    assert archive.get("signals.created", "6-0") == b"f"
    assert archive.prune(datetime(2024, 2, 1, tzinfo=UTC)) == 3
    assert connection.query("SELECT id FROM blocks") == []


def bits_turned(packed: bytes) -> bytes:
    return packed[:-1] + b"\x5a"


@pytest.mark.parametrize("damage", [None, lambda _: b"\x00", bits_turned])
def test_damage_to_a_block_is_damage_to_its_events_and_to_no_others(
    archive: EventArchive, damage: Callable[[bytes], bytes] | None
) -> None:
    archive.append([event(1, payload=b"a" * 1000), event(2, payload=b"b" * 1000)])
    archive.append([event(3, payload=b"c" * 1000)])
    connection = archive.engine.connection
    if damage is None:
        connection.run("DELETE FROM blocks")
    else:
        connection.run("UPDATE blocks SET payload = ?", (damage(connection.query("SELECT payload FROM blocks")[0][0]),))
    for number in (1, 2):
        with pytest.raises(StoreDamaged, match=f"{number}-0"):
            archive.get("signals.created", f"{number}-0")
    assert archive.get("signals.created", "3-0") == b"c" * 1000
    assert archive.append([event(1, payload=b"a" * 1000), event(2, payload=b"b" * 1000)]) == 2
