"""The store is the file at its path: what is written into one that was removed, moved or replaced is not kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.rows import insert, vector
from trading_system.ml_refinement.storage import ArchivedEvent, EventArchive, FeatureDatabase, StoreMoved
from trading_system.ml_refinement.storage.times import utc_now, utc_text


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory of a store's own, which can be moved."""
    (tmp_path / "var").mkdir()
    return tmp_path / "var"


def _remove_all(place: Path) -> None:
    for path in place.glob("features.db*"):
        path.unlink()


def _replace(place: Path) -> None:
    _move(place)
    place.mkdir()
    with FeatureDatabase(place / "features.db"):
        pass


def _copy(place: Path) -> None:
    shutil.copytree(place, place.with_name("copy"))
    _move(place)
    place.with_name("copy").rename(place)


def _move(place: Path) -> None:
    place.rename(place.with_name("elsewhere"))


DISPLACED: dict[str, Callable[[Path], None]] = {
    "every file removed": _remove_all,
    "the file removed": lambda place: (place / "features.db").unlink(),
    "the write-ahead log removed": lambda place: (place / "features.db-wal").unlink(),
    "the shared index removed": lambda place: (place / "features.db-shm").unlink(),
    "the directory removed": shutil.rmtree,
    "the directory moved": _move,
    "another store in its place": _replace,
    "a copy in its place": _copy,
}


@pytest.mark.parametrize("how", DISPLACED)
def test_nothing_is_written_once_the_file_is_not_at_its_path(how: str, place: Path) -> None:
    with FeatureDatabase(place / "features.db") as db:
        insert(db, vector("before"))
        DISPLACED[how](place)
        there = sorted(path.name for path in place.iterdir()) if place.exists() else None
        with pytest.raises(StoreMoved, match=r"was removed, moved or replaced .* put the same file back"):
            insert(db, vector("after"))
        assert db.counts().signals == 1
        assert (sorted(path.name for path in place.iterdir()) if place.exists() else None) == there


@pytest.mark.parametrize("how", [how for how in DISPLACED if "index" not in how])
def test_what_was_committed_while_the_file_went_away_is_not_said_to_be_kept(how: str, place: Path) -> None:
    def written_meanwhile(db: FeatureDatabase) -> None:
        with db.atomic():
            insert(db, vector("meanwhile"))
            DISPLACED[how](place)

    with FeatureDatabase(place / "features.db") as db, pytest.raises(StoreMoved):
        written_meanwhile(db)


def test_a_statement_of_ones_own_is_not_committed_elsewhere(place: Path) -> None:
    with FeatureDatabase(place / "features.db") as db:
        db.connection.execute("UPDATE counters SET value = value")
        _remove_all(place)
        with pytest.raises(StoreMoved):
            db.connection.commit()


def test_a_directory_that_is_moved_back_is_used_again(place: Path) -> None:
    with FeatureDatabase(place / "features.db") as db:
        insert(db, vector("before"))
        _move(place)
        with pytest.raises(StoreMoved):
            insert(db, vector("meanwhile"))
        place.with_name("elsewhere").rename(place)
        insert(db, vector("after"))
    with FeatureDatabase(place / "features.db") as db:
        assert db.counts().signals == 2


def test_a_failed_transaction_does_not_open_what_is_at_the_path_by_then(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FeatureDatabase(place / "features.db") as db:
        insert(db, vector("before"))
        _move(place)
        handle = db.connection._handle
        assert handle is not None
        handle.close()  # as after an error that SQLite did not survive
        db.connection._handle = None
        with pytest.raises(StoreMoved):
            db.counts()
        assert not place.exists()


def test_a_store_that_was_closed_is_opened_where_it_is_then(place: Path) -> None:
    db = FeatureDatabase(place / "features.db")
    db.initialize()
    insert(db, vector("before"))
    db.close()
    _replace(place)
    db.initialize()
    assert db.counts().signals == 0
    db.close()


def test_the_archive_too_is_the_file_at_its_path(place: Path) -> None:
    with EventArchive(place / "events.db") as archive:
        (place / "events.db").unlink()
        with pytest.raises(StoreMoved):
            archive.append([ArchivedEvent("signals.created", "1-0", utc_text(utc_now()), b"{}")])


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux lets the files of a process be copied")
def test_what_was_removed_can_be_copied_out_of_the_process_that_has_it_open(place: Path) -> None:
    """As docs/operations.md says."""
    rescued = place.with_name("rescued")
    rescued.mkdir()
    with FeatureDatabase(place / "features.db") as db:
        insert(db, vector("before"))
        _remove_all(place)
        for descriptor in Path(f"/proc/{os.getpid()}/fd").iterdir():
            with suppress(FileNotFoundError):  # the one that lists them
                name = Path(os.readlink(descriptor).removesuffix(" (deleted)"))
                if name in (place / "features.db", place / "features.db-wal"):
                    subprocess.run(["cp", descriptor, rescued / name.name], check=True)  # by a process of its own
    with FeatureDatabase(rescued / "features.db") as db:
        assert db.counts().signals == 1


_TAKE_ALONE = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x40000000 + 2)
"""


def test_another_connection_of_the_process_leaves_its_locks_alone(place: Path) -> None:
    """SQLite locks the file while it is open; a process that closes any descriptor of it loses all of its locks."""
    path = place / "features.db"

    def can_be_taken_alone() -> bool:
        return (
            subprocess.run([sys.executable, "-c", _TAKE_ALONE, path], capture_output=True, check=False).returncode == 0
        )

    with FeatureDatabase(path) as db:
        insert(db, vector("before"))
        assert not can_be_taken_alone()
        with FeatureDatabase(path) as second:
            second.counts()
        assert not can_be_taken_alone()
    assert can_be_taken_alone()


def test_the_directory_of_the_process_does_not_matter(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    with FeatureDatabase("features.db") as db:
        insert(db, vector("before"))
        os.chdir(place.parent)
        insert(db, vector("after"))
        assert db.counts().signals == 2
