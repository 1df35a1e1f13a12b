"""The file under faults: killed, full, locked, read-only, damaged, forked, shared."""

from __future__ import annotations

import math
import os
import stat
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import pytest

from tests.storage.conftest import SteppingClock
from tests.storage.test_store_schema import kill_when_it_speaks
from tests.support.rows import contents, insert, metadata, outcome, plain, prediction, vector
from tests.support.waiting import HANGS_AFTER_S, join
from trading_system.ml_refinement.storage import (
    FeatureDatabase,
    SqliteConnection,
    StoreDamaged,
    StoreError,
    StoreUnavailable,
)
from trading_system.ml_refinement.storage.sqlite import connection


def test_a_process_killed_inside_a_transaction_leaves_nothing_and_no_lock(
    db: FeatureDatabase, path: Path, db_program: str
) -> None:
    db.store_feature_vector(plain("before"))
    before = contents(db)
    program = (
        db_program
        + """
with FeatureDatabase(path) as db, db.atomic():
    for n in range(2000):
        db.store_feature_vector(FeatureVector(f"s{n}", "2024-01-05", {f"f{k}": k / 7 for k in range(60)}))
    db.outcomes.correct("before", 1.0, None, None)
    say_and_wait()
"""
    )
    kill_when_it_speaks(program, path)
    assert contents(db) == before
    db.store_feature_vector(plain("after"))
    assert db.connection.query("PRAGMA integrity_check") == [("ok",)]


def test_a_committed_batch_survives_a_kill(path: Path, db_program: str) -> None:
    program = (
        db_program
        + """
db = FeatureDatabase(path)
db.initialize()
with db.atomic():
    for n in range(100):
        db.store_feature_vector(FeatureVector(f"s{n}", "2024-01-05", {"rsi": 1.0}))
say_and_wait()
"""
    )
    kill_when_it_speaks(program, path)
    with FeatureDatabase(path) as db:
        assert db.counts().signals == 100


def test_an_exception_in_a_unit_of_work_leaves_nothing_of_it(db: FeatureDatabase) -> None:
    def interrupted() -> None:
        with db.atomic():
            insert(db, vector("s1"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert db.counts().signals == 0
    assert insert(db, vector("s1")) == [True]


def test_a_swallowed_failure_inside_a_unit_of_work_fails_it(db: FeatureDatabase) -> None:
    def careless() -> None:
        with db.transaction():
            insert(db, vector("s1"))
            with suppress(StoreError):
                db.scores.put_served([("nobody", None, "scored", b"")])

    with pytest.raises(StoreError, match="part of this transaction failed"):
        careless()
    assert db.counts().signals == 0


def fill_the_disk(db: FeatureDatabase, pages_left: int = 2) -> None:
    pages = db.connection.query("PRAGMA page_count")[0][0]
    db.connection.query(f"PRAGMA max_page_count = {pages + pages_left}")


def test_a_full_disk_is_a_pause_and_keeps_nothing_of_the_batch(db: FeatureDatabase) -> None:
    insert(db, vector("first"))
    before = contents(db)
    fill_the_disk(db)
    with pytest.raises(StoreUnavailable, match="full"):
        insert(db, *(vector(f"s{n}") for n in range(500)))
    assert contents(db) == before
    db.connection.query("PRAGMA max_page_count = 1000000")
    assert all(insert(db, *(vector(f"s{n}") for n in range(500))))


def test_after_a_full_disk_a_single_statement_of_the_unit_commits_nothing_alone(db: FeatureDatabase) -> None:
    fill_the_disk(db)

    def careless() -> None:
        with db.connection.atomic():
            with suppress(StoreUnavailable):
                db.connection.run("INSERT INTO feature_lists (names) VALUES (?)", ("x" * 100_000,))
            db.connection.query("PRAGMA max_page_count = 1000000")
            db.connection.run("INSERT INTO feature_lists (names) VALUES ('[]')")

    with pytest.raises(StoreUnavailable, match="given up by SQLite"):
        careless()
    db.connection.query("PRAGMA max_page_count = 1000000")
    assert db.connection.query("SELECT * FROM feature_lists") == []


def test_after_a_full_disk_nothing_of_the_unit_commits_alone(db: FeatureDatabase) -> None:
    fill_the_disk(db)

    def careless() -> None:
        with db.atomic():
            try:
                insert(db, *(vector(f"s{n}") for n in range(500)))
            except StoreUnavailable:
                db.connection.query("PRAGMA max_page_count = 1000000")
            db.connection.run("INSERT INTO feature_lists (names) VALUES ('[]')")

    with pytest.raises(StoreError):
        careless()
    assert db.counts().signals == 0
    assert db.connection.query("SELECT * FROM feature_lists") == []


def test_a_locked_store_is_a_pause(db: FeatureDatabase, path: Path) -> None:
    db.connection.query("PRAGMA busy_timeout = 50")
    other = SqliteConnection(path)
    with other.atomic():
        with pytest.raises(StoreUnavailable, match="locked"):
            db.store_feature_vector(plain("s1"))
        assert db.counts().signals == 0  # readers go on
    assert db.store_feature_vector(plain("s1"))


def test_a_writer_waits_for_another_that_is_quick(db: FeatureDatabase, path: Path) -> None:
    inside, other = threading.Event(), SqliteConnection(path)

    def hold() -> None:
        with other.atomic():
            inside.set()
            time.sleep(0.2)  # longer than a try without waiting

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait(HANGS_AFTER_S)
    assert db.store_feature_vector(plain("s1"))
    join(holder)


class Waiting:
    """A clock that goes on by what is slept, and a lock that is let go once so much was."""

    def __init__(
        self, let_go: Callable[[], object] = lambda: None, after_s: float = math.inf, *, began_at: float = 0.0
    ) -> None:
        self.naps: list[float] = []
        self._began_at = began_at
        self._let_go, self._after_s = let_go, after_s

    def monotonic(self) -> float:
        return self._began_at + sum(self.naps)

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        if sum(self.naps) >= self._after_s:
            self._let_go()
            self._after_s = math.inf


def test_who_has_waited_long_for_the_lock_looks_as_often(
    db: FeatureDatabase, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for held_s in (0.05, 3.0):
        with ExitStack() as holding:
            holding.enter_context(SqliteConnection(path).atomic())
            waiting = Waiting(holding.close, held_s)
            monkeypatch.setattr(connection, "time", waiting)
            assert db.store_feature_vector(plain(f"held for {held_s}"))
        assert max(waiting.naps) <= 0.005
        assert held_s <= sum(waiting.naps) < held_s + 0.005


def test_waiting_for_the_lock_ends(db: FeatureDatabase, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with SqliteConnection(path).atomic():
        for began_at in (1000.0, 2000.0):  # the second one has all of its time again
            waiting = Waiting(began_at=began_at)
            monkeypatch.setattr(connection, "time", waiting)
            with pytest.raises(StoreUnavailable, match="locked"):
                db.store_feature_vector(plain("s1"))
            assert sum(waiting.naps) == pytest.approx(5.0, abs=0.01)


def test_threads_take_turns_and_do_not_share_a_transaction(db: FeatureDatabase) -> None:
    def work(name: str) -> None:
        for n in range(20):
            with db.atomic():
                db.store_feature_vector(plain(f"{name}{n}"))
                assert db.counts().signals % 2 == 1
                db.store_feature_vector(plain(f"{name}{n}x"))

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    join(*threads)
    assert db.counts().signals == 80


def test_a_read_only_store_reads_and_refuses_to_write(db: FeatureDatabase, path: Path) -> None:
    insert(db, vector("s1"))
    with FeatureDatabase(path, read_only=True) as reader:
        assert reader.counts().signals == 1
        insert(db, vector("s2"))
        assert reader.counts().signals == 2
        with pytest.raises(StoreUnavailable):
            reader.store_feature_vector(plain("s3"))
    assert db.counts().signals == 2


def test_a_read_only_store_that_is_not_there_is_not_made(path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        FeatureDatabase(path, read_only=True).initialize()
    assert not path.exists()


def test_a_place_where_no_file_can_be_made_is_a_pause(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="file"):
        FeatureDatabase(tmp_path / "file" / "features.db").initialize()


def test_an_sqlite_that_can_corrupt_a_shared_file_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FIRST_SOUND_SQLITE", (99, 0, 0))
    with pytest.raises(StoreError, match="can corrupt a database in WAL mode"):
        FeatureDatabase(path).initialize()
    assert not path.exists()


def test_a_file_that_is_no_database_is_damaged_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database at all" * 500)
    with pytest.raises(StoreDamaged):
        FeatureDatabase(path).initialize()
    assert path.read_bytes() == b"not a database at all" * 500


def test_a_damaged_page_is_damage_and_no_empty_answer(path: Path, clock: SteppingClock) -> None:
    with FeatureDatabase(path, clock=clock) as db:
        insert(db, *(vector(f"s{n}") for n in range(2000)))
        root = db.connection.query("SELECT rootpage FROM sqlite_schema WHERE name = 'feature_vectors'")[0][0]
    with path.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(os.urandom(4096))
    db = FeatureDatabase(path, clock=clock)
    with pytest.raises(StoreDamaged):
        db.get_feature_vector("s1")


def test_the_file_and_its_folder_are_its_owners_alone(db: FeatureDatabase, path: Path) -> None:
    insert(db, vector("s1"))
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {"features.db": 0o600, "features.db-wal": 0o600, "features.db-shm": 0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_file_is_set_up_to_keep_what_was_committed(db: FeatureDatabase) -> None:
    expected = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "mmap_size": 0}
    assert {name: db.connection.query(f"PRAGMA {name}")[0][0] for name in expected} == expected


def in_a_child(work: object) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if work() else 2  # type: ignore[operator]
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forked_child_gets_a_connection_of_its_own(db: FeatureDatabase) -> None:
    insert(db, vector("s1"))
    assert in_a_child(lambda: db.store_feature_vector(plain("of the child"))) == 0
    assert db.counts().signals == 2
    insert(db, vector("s2"))
    assert db.counts().signals == 3
    assert db.connection.query("PRAGMA integrity_check") == [("ok",)]


def test_a_forked_child_cannot_go_on_with_its_parents_transaction(db: FeatureDatabase) -> None:
    def refused() -> bool:
        try:
            db.store_feature_vector(plain("of the child"))
        except StoreError as error:
            return "parent process" in str(error)
        return False

    with db.atomic():
        insert(db, vector("s1"))
        assert in_a_child(refused) == 0
        insert(db, vector("s2"))
    assert db.counts().signals == 2


def test_a_write_inside_a_snapshot_is_refused(db: FeatureDatabase) -> None:
    with pytest.raises(StoreError, match="inside a snapshot"), db.connection.snapshot():
        db.store_feature_vector(plain("s1"))
    assert db.counts().signals == 0


def test_a_snapshot_does_not_see_what_is_written_beside_it(db: FeatureDatabase, path: Path) -> None:
    reader = FeatureDatabase(path, read_only=True)
    with reader.connection.snapshot():
        assert reader.counts().signals == 0
        insert(db, vector("s1"))
        assert reader.counts().signals == 0
    assert reader.counts().signals == 1


def test_the_drivers_exceptions_do_not_leave_the_store(db: FeatureDatabase) -> None:
    with pytest.raises(StoreError):
        db.connection.query("SELECT nothing FROM nowhere")
    with pytest.raises(StoreError):
        list(db.connection.chunks("SELECT nothing FROM nowhere"))
    with pytest.raises(ValueError, match="too large"):
        db.connection.query("SELECT ?", (2**63,))


def test_the_same_batch_twice_is_the_same_store(db: FeatureDatabase) -> None:
    """What a worker does that died after its commit and before its acknowledgement."""
    db.register_model(metadata())

    def batch() -> None:
        with db.atomic():
            insert(db, vector("s1"), vector("s2"))
            db.scores.log_predictions([prediction("s1"), prediction("s2")])
            db.scores.put_served([("s1", "m1", "scored", b"1"), ("s2", "m1", "scored", b"2")])
            db.outcomes.record([outcome("s1"), outcome("s9")])

    batch()
    before = contents(db)
    batch()
    assert contents(db) == before


def test_a_reader_that_stays_makes_the_wal_grow_and_loses_nothing_and_its_end_stops_the_growth(
    db: FeatureDatabase, path: Path
) -> None:
    names = tuple(f"f{n:02d}" for n in range(60))
    wal = path.with_name(f"{path.name}-wal")
    numbers = iter(range(1_000_000))

    def write(batches: int) -> int:
        for _ in range(batches):
            rows = [vector(f"s{next(numbers):06d}") for _ in range(500)]
            db.vectors.insert_new(rows, names, np.full((500, 60), 1 / 3))
        return wal.stat().st_size

    write(1)
    with FeatureDatabase(path, read_only=True) as looking, looking.connection.snapshot() as reads:
        assert reads.query("SELECT count(*) FROM feature_vectors") == [(500,)]
        grown = write(16)
        assert grown > 24 * 2**20  # half again as much as is kept where nobody reads
        assert reads.query("SELECT count(*) FROM feature_vectors") == [(500,)]
    write(2)
    assert write(16) <= grown * 1.2
    assert db.counts().signals == 500 * 35
    assert db.connection.query("SELECT count(*) FROM feature_vectors") == [(500 * 35,)]
    assert db.connection.query("PRAGMA integrity_check") == [("ok",)]
