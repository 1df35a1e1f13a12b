"""An archive that goes along with its store says the same there, and one of a host is added to that of all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.storage.test_archive_partitions import STREAM, in_month, lying
from tests.support.postgres_server import needs_postgres
from tests.support.rows import at
from trading_system.ml_refinement.storage import ArchivedEvent, EventArchive, FeatureDatabase
from trading_system.ml_refinement.storage.shared import archives
from trading_system.ml_refinement.storage.shared.archives import add_archive, copy_archive
from trading_system.ml_refinement.storage.shared.copying import CopiedTable, DifferentRows

pytestmark = needs_postgres
ROWS = "SELECT id, stream, entry_id, received_at, payload, packed FROM events ORDER BY id"
BLOCKS = "SELECT id, newest_at, payload FROM blocks ORDER BY id"


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_AT_ONCE", 10)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[EventArchive]:
    with EventArchive(tmp_path / "events.db") as archive:
        yield archive


@pytest.fixture
def there(postgres_url: str) -> Iterator[EventArchive]:
    with closing(FeatureDatabase(postgres_url)) as store:
        store.upgrade()
    with EventArchive(postgres_url) as archive:
        yield archive


def fill(archive: EventArchive, first: int, batches: int, *, month: int = 1) -> None:
    """Batches of three, and every other time an event alone; one has the id of another event."""
    for batch in range(first, first + batches):
        ids = [in_month(month, 1 + batch % 20, number=batch * 10 + number) for number in range(3)]
        archive.append([ArchivedEvent(STREAM, one, at(batch % 20 + 1), f"{batch} {one}".encode() * 9) for one in ids])
        if batch % 2:
            archive.append([ArchivedEvent("trades.closed", ids[0], at(batch % 20 + 1), b"alone" * 50)])
    archive.append([ArchivedEvent(STREAM, in_month(month, 1 + first % 20, number=first * 10), at(1), b"given twice")])


def rows(archive: EventArchive) -> tuple[list[object], list[object]]:
    connection = archive.engine.connection
    return list(connection.query(ROWS)), list(connection.query(BLOCKS))


def events(archive: EventArchive) -> list[tuple[str, str, str, bytes]]:
    """What is kept, the newest first."""
    return [tuple(event) for _, event in archive.before(10**9, limit=10**6)]  # type: ignore[misc]


def test_there_and_back_again_under_the_same_numbers(tmp_path: Path, here: EventArchive, there: EventArchive) -> None:
    fill(here, 0, 20)
    done = copy_archive(here, there)
    assert done == [CopiedTable("blocks", 20, 0), CopiedTable("events", 71, 0)]
    assert rows(there) == rows(here)
    assert set(lying(there).values()) == {"events_2024_01"}
    fill(there, 30, 4)  # it goes on there, and numbers of its own follow
    assert there.last_id() > here.last_id()
    with EventArchive(tmp_path / "back.db") as back:
        copy_archive(there, back)
        assert rows(back) == rows(there)
        fill(back, 40, 2)
    copy_archive(there, here)
    assert rows(here) == rows(there), "what it had is gone on from"


def test_a_second_copy_begins_where_the_first_ended(here: EventArchive, there: EventArchive) -> None:
    fill(here, 0, 40)
    copy_archive(here, there)
    fill(here, 50, 3)
    blocks, copied = copy_archive(here, there)
    assert rows(there) == rows(here)
    assert (blocks.already, blocks.rows) == (10, 13)
    assert copied.already == 10
    assert copied.rows - copied.already == here.count() - 141


def test_a_copy_that_was_broken_off_is_gone_on_from(here: EventArchive, there: EventArchive) -> None:
    fill(here, 0, 20)

    def broken_off(table: CopiedTable) -> None:
        if table.name == "blocks":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_archive(here, there, told=broken_off)
    assert there.count() == 0
    copy_archive(here, there)
    assert rows(there) == rows(here)
    lost = there.engine.connection.query("SELECT id FROM events ORDER BY id DESC LIMIT 1 OFFSET 30")[0][0]
    there.engine.connection.run("DELETE FROM events WHERE id > ? AND id < ?", (lost, lost + 5))
    copy_archive(here, there)
    assert rows(there) == rows(here)


def test_what_was_pruned_since_stays_in_the_copy(here: EventArchive, there: EventArchive) -> None:
    fill(here, 0, 20)
    copy_archive(here, there)
    before = events(there)
    here.engine.connection.run("DELETE FROM events WHERE id <= 40")
    fill(here, 50, 3)
    copy_archive(here, there)
    assert set(before) | set(events(here)) == set(events(there))


def test_an_archive_that_received_events_of_its_own_is_told(here: EventArchive, there: EventArchive) -> None:
    fill(here, 0, 5)
    fill(there, 3, 5)
    with pytest.raises(DifferentRows, match="events of its own"):
        copy_archive(here, there)


def test_rows_that_were_changed_in_the_copy_are_told(here: EventArchive, there: EventArchive) -> None:
    fill(here, 0, 5)
    copy_archive(here, there)
    there.engine.connection.run("UPDATE events SET payload = ? WHERE id = (SELECT max(id) FROM events)", (b"x",))
    with pytest.raises(DifferentRows, match="events: postgresql"):
        copy_archive(here, there)


def test_the_archives_of_two_hosts_are_added_each_event_once(
    tmp_path: Path, here: EventArchive, there: EventArchive
) -> None:
    """In their order, and before what is followed."""
    fill(there, 90, 2, month=6)
    followed, last = there.after(0, limit=99), there.last_id()
    with ExitStack() as stack:
        other = stack.enter_context(EventArchive(tmp_path / "other.db"))
        fill(here, 0, 20)
        fill(other, 15, 15)
        told: list[int] = []
        assert add_archive(here, there, told=told.append) == here.count()
        assert told[-1] == here.count()
        # Five of its batches are of the first host too, and so is the id that was given twice, with other bytes there.
        assert add_archive(other, there) == other.count() - len(set(events(here)) & set(events(other)))
        assert add_archive(here, there) == add_archive(other, there) == 0
        assert {*events(here), *events(other)} < set(events(there))
        assert events(there)[len(followed) : len(followed) + here.count()] == events(here)
    assert (there.after(0, limit=99), there.last_id()) == (followed, last)
    assert there.get_all(STREAM, in_month(1, 1, number=0)) == [
        b"0 %s" % in_month(1, 1, number=0).encode() * 9,
        b"given twice",
    ]


def test_what_was_added_below_is_copied_too(
    tmp_path: Path, here: EventArchive, there: EventArchive, postgres_url: str
) -> None:
    fill(there, 0, 9)
    copy_archive(there, here)
    with EventArchive(tmp_path / "other.db") as other:
        fill(other, 100, 9)
        add_archive(other, there)
    copy_archive(there, here)
    assert rows(here) == rows(there)
