from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.support.rows import at
from trading_system.ml_refinement.storage import ArchivedEvent, EventArchive, StoreDamaged, StoreUnavailable
from trading_system.ml_refinement.storage.sqlite.connection import SqliteConnection


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[EventArchive]:
    with EventArchive(tmp_path / "archive.db") as archive:
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
    SqliteConnection(archive.path).run("UPDATE events SET payload = x'00ff'")
    assert archive.append([event(1, payload=b"a" * 1000)]) == 1


def test_repetitive_events_are_stored_in_a_fraction(archive: EventArchive) -> None:
    bars = b'{"close": [' + b"101.25, " * 280 + b"101.25]}"
    archive.append([event(1, payload=bars)])
    stored = SqliteConnection(archive.path).query("SELECT length(payload) FROM events")[0][0]
    assert stored < len(bars) / 10


def test_pruning_drops_what_is_older_and_nothing_else(archive: EventArchive) -> None:
    archive.append([event(number, day=1 + number % 10) for number in range(100)])
    assert archive.prune(datetime(2024, 1, 6, tzinfo=UTC), at_once=7) == 50
    assert archive.count() == 50
    assert archive.get("signals.created", "4-0") is None
    assert archive.get("signals.created", "5-0") == b"{}"


def test_damaged_bytes_are_damage(archive: EventArchive) -> None:
    archive.append([event(1, payload=b"a" * 1000)])
    SqliteConnection(archive.path).run("UPDATE events SET payload = x'00ff'")
    with pytest.raises(StoreDamaged):
        archive.get("signals.created", "1-0")


def test_an_archive_that_is_not_there_is_not_made_for_reading(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        EventArchive(tmp_path / "none.db", read_only=True).initialize()
