"""Restore, backup, prune and rebuild, killed after each of their file operations, and then run again."""

from __future__ import annotations

import shutil
import signal as signals
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from os import waitpid, waitstatus_to_exitcode
from pathlib import Path
from typing import Any

import pytest

from tests.faults.crash_points import Fuse, after_file_operation
from tests.support.learning_installation import fitted
from tests.support.processes import fork
from tests.support.rebuild_installation import NEW, event, features, rebuild_installation
from tests.support.rows import dead
from trading_system.ml_refinement.models import ModelRegistry
from trading_system.ml_refinement.storage import SqliteConnection
from trading_system.ml_refinement.storage.sqlite.copies import problems
from worker.errors import ConfigurationError
from worker.installation import open_archive, open_store
from worker.maintenance.backup import back_up, restore
from worker.maintenance.prune import Days, prune
from worker.settings.schema import Settings, load_settings
from worker.state_dir import RESTORE_MARKER

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
TORN = {"as it was left": None, "empty": b"", "torn": b'{"created_at": "20', "without what was staged": b"gone"}


def killed_at_each(
    work: Callable[[], Any], *, sqlite: tuple[str, ...] = ("write", "truncate", "sync", "delete"), first: int = 1
) -> Iterator[int]:
    """The work in a process that is killed after its n-th file operation, n by n, until there are no more."""
    nth = first
    while True:

        def child(nth: int = nth) -> None:
            disk = after_file_operation(Fuse(nth), sqlite=sqlite)
            work()
            disk.close()

        code = waitstatus_to_exitcode(waitpid(fork(child), 0)[1])
        if code == 0:
            return
        assert code == -signals.SIGKILL
        yield nth
        nth += 1


def contents(path: Path) -> dict[str, list[Any]]:
    """Every row of every table."""
    assert problems(path) == []
    connection = SqliteConnection(path, read_only=True)
    names = [name for (name,) in connection.query("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    rows = {name: sorted(connection.query(f"SELECT * FROM {name}"), key=repr) for name in names}  # noqa: S608
    connection.close()
    return rows


def everything(state: Path) -> dict[str, Any]:
    models = {path.name: path.read_bytes() for path in (state / "models").iterdir()}
    return {"store": contents(state / "features.db"), "archive": contents(state / "events.db"), "models": models}


@pytest.fixture
def original(tmp_path: Path) -> Settings:
    """An installation with signals, their events, and a model that serves."""
    state = tmp_path / "original"
    state.mkdir(mode=0o700)
    with rebuild_installation(state) as made:
        made.receive([event(number) for number in range(4)])
        registry = ModelRegistry(str(state / "models"), made.store)
        model = fitted()
        registry.register(model)
        registry.activate(model.model_id)
    return load_settings(state_dir=state)


def copy_of(original: Settings, place: Path) -> Settings:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(original.state_dir, place)
    return load_settings(state_dir=place)


@pytest.mark.parametrize("torn", TORN)
def test_a_restore_killed_after_any_file_operation_is_finished_by_the_same_restore(
    torn: str, original: Settings, tmp_path: Path
) -> None:
    backup = back_up(original, tmp_path / "backup", release="test", now=NOW).directory
    before = everything(original.state_dir)
    with rebuild_installation(original.state_dir) as made:
        made.receive([event(7)])
    (original.models_dir / "later.skops").write_bytes(b"later")
    later = everything(original.state_dir)
    place = tmp_path / "killed"

    def begin() -> None:
        restore(load_settings(state_dir=place), backup, now=NOW)

    settings = copy_of(original, place)
    interrupted = 0
    first = 1
    if torn != "as it was left":  # what happens before the marker is there is the same in each
        first = next(nth for nth in killed_at_each(begin) if (place / RESTORE_MARKER).exists())
        copy_of(original, place)
    for _ in killed_at_each(begin, first=first):
        marker = place / RESTORE_MARKER
        if marker.exists():
            interrupted += 1
            with pytest.raises(ConfigurationError, match="run `refinery restore` again"):
                open_store(settings)
            if torn == "without what was staged":
                shutil.rmtree(place / "restore-staged", ignore_errors=True)
            elif TORN[torn] is not None:
                marker.write_bytes(TORN[torn] or b"")
        elif torn == "as it was left":
            with open_store(settings) as store:
                assert store.counts().signals in (4, 5)
        if marker.exists() or torn == "as it was left":
            restore(settings, backup, now=NOW)
            assert everything(place) == before
            with open_store(settings) as store, open_archive(settings):
                assert store.counts().signals == 4
            kept = list(place.glob("replaced-*"))
            assert any(
                contents(each / "features.db") == later["store"] for each in kept if (each / "features.db").exists()
            )
            assert any((each / "models" / "later.skops").exists() for each in kept)
            assert not (place / "restore-staged").exists()
        copy_of(original, place)
    assert interrupted > 10


def test_a_backup_killed_after_any_file_operation_is_whole_or_not_there(original: Settings, tmp_path: Path) -> None:
    before = everything(original.state_dir)
    target = tmp_path / "backup"
    elsewhere = load_settings(state_dir=tmp_path / "elsewhere")

    def begin() -> None:
        back_up(original, target, release="test", now=NOW)

    whole = 0
    for _ in killed_at_each(begin, sqlite=("sync", "truncate", "delete")):
        whole += target.exists()
        if not target.exists():
            begin()
        restore(elsewhere, target, now=NOW)
        assert everything(elsewhere.state_dir) == before
        shutil.rmtree(elsewhere.state_dir)
        shutil.rmtree(target)
        assert list(tmp_path.glob(".backup*")) == []
    assert whole >= 1
    assert everything(original.state_dir) == before


def test_a_prune_killed_after_any_file_operation_is_finished_by_the_next(original: Settings, tmp_path: Path) -> None:
    with open_store(original) as store:
        numbers = store.dead_letters.add([dead(f"{number}-0") for number in range(3)])
        for number in numbers[:2]:
            store.dead_letters.mark_discarded(number, "no use", actor="test")
    days, later = Days(1, None, 1), datetime.now(UTC) + timedelta(days=3)
    settings = copy_of(original, tmp_path / "killed")
    halves = 0
    for _ in killed_at_each(lambda: prune(settings, days, now=later)):
        done = prune(settings, days, now=later)
        halves += (done.dead_letters, done.events) not in ((2, 4), (0, 0))
        for path in (settings.store_path, settings.archive_path):
            assert problems(path) == []
        with open_store(settings) as store, open_archive(settings) as archive:
            assert [letter.id for letter in store.dead_letters.find()] == numbers[2:]
            pruned = [
                [entry.action for entry in store.dead_letters.audit(number)].count("pruned") for number in numbers
            ]
            assert pruned == [1, 1, 0]
            assert (store.counts().signals, archive.count()) == (4, 0)
        copy_of(original, settings.state_dir)
    assert halves >= 1


def test_a_rebuild_killed_after_any_file_operation_leaves_whole_vectors(original: Settings, tmp_path: Path) -> None:
    with rebuild_installation(tmp_path / "wanted") as other:
        other.receive([event(number) for number in range(4)], NEW)
        wanted = features(other.store)
    with open_store(original) as store:
        before = features(store)
    settings = copy_of(original, tmp_path / "killed")

    def begin() -> None:
        with rebuild_installation(settings.state_dir) as killed:
            killed.rebuild(batch_size=2).run()

    halves = 0
    for _ in killed_at_each(begin):
        assert problems(settings.store_path) == []
        with rebuild_installation(settings.state_dir) as next_one:
            left = features(next_one.store)
            halves += any(left[each] == wanted[each] for each in left) and left != wanted
            assert all(row in (before[each], wanted[each]) for each, row in left.items())
            next_one.rebuild().run()
            assert features(next_one.store) == wanted
        copy_of(original, settings.state_dir)
    assert halves >= 1
