"""Backup and restore, rehearsed: what comes back is what was there, and a bad backup replaces nothing."""

from __future__ import annotations

import json
import os
import shutil
import stat
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.desk import desk, pending, send, settings_for
from tests.support.events import SIGNALS, TRADES, outcome, signal
from tests.support.learning_installation import fitted
from tests.support.models_in_files import only_in_files
from tests.support.waiting import join
from trading_system.ml_refinement.models import ModelRegistry
from trading_system.ml_refinement.storage import FeatureDatabase, SqliteConnection, StoreDamaged, StoreUnavailable
from worker.errors import ConfigurationError, RefineryError, ServerBusy
from worker.installation import open_store
from worker.maintenance import backup as backups
from worker.maintenance.backup import back_up, restore
from worker.retraining.job import housekeeping, retrain
from worker.retraining.queue import connect_queue
from worker.settings.schema import Settings
from worker.state_dir import RESTORE_MARKER
from worker.supervision.slots import worker_slot

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
VOLATILE = ("sqlite_sequence",)


@pytest.fixture
def settings(tmp_path: Path, valkey_url: str, valkey: redis.Redis) -> Settings:
    """An installation with signals, labels, a dead letter, and a model that serves."""
    made = settings_for(tmp_path / "var", valkey_url)
    for number in range(5):
        send(valkey, SIGNALS, signal(number))
        send(valkey, TRADES, outcome(number))
    send(valkey, SIGNALS, b"no event")
    with desk(made) as worker:
        worker.drain()
        registry = ModelRegistry(str(made.models_dir), worker.store)
        model = fitted()
        registry.register(model)
        registry.activate(model.model_id)
    return made


def contents(path: Path) -> dict[str, list[Any]]:
    """Every row of every table."""
    connection = SqliteConnection(path, read_only=True)
    tables = [name for (name,) in connection.query("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY 1")]
    rows = {
        name: sorted(connection.query(f"SELECT * FROM {name}"), key=repr)  # noqa: S608 - the schema's own names
        for name in tables
        if name not in VOLATILE
    }
    connection.close()
    return rows


def everything(settings: Settings) -> dict[str, Any]:
    models = {path.name: path.read_bytes() for path in sorted(settings.models_dir.iterdir())}
    return {"store": contents(settings.store_path), "archive": contents(settings.archive_path), "models": models}


def backed_up(settings: Settings, tmp_path: Path) -> Path:
    return back_up(settings, tmp_path / "backup", release="test", now=NOW).directory


def test_a_restore_equals_the_original_and_keeps_what_it_replaces(
    settings: Settings, tmp_path: Path, valkey: redis.Redis
) -> None:
    before = everything(settings)
    backup = backed_up(settings, tmp_path)
    send(valkey, SIGNALS, signal(7))
    with desk(settings) as worker:
        worker.drain()
    later = everything(settings)
    assert later != before
    restored = restore(settings, backup, now=NOW)
    assert everything(settings) == before
    assert restored.replaced is not None
    kept = settings.model_copy(update={"state_dir": restored.replaced})
    assert everything(kept) == later
    with FeatureDatabase(settings.store_place) as store:
        active = store.models.active_id("signal_quality")
        assert active is not None
        ModelRegistry(str(settings.models_dir), store).load(active)


def test_reading_the_streams_again_brings_back_what_came_after_the_backup(
    settings: Settings, tmp_path: Path, valkey: redis.Redis
) -> None:
    backup = backed_up(settings, tmp_path)
    send(valkey, SIGNALS, signal(7))
    with desk(settings) as worker:
        worker.drain()
    before = contents(settings.store_path)["feature_vectors"]
    restore(settings, backup, now=NOW)
    backups.reread(valkey, settings)
    with desk(settings) as worker:
        worker.drain()
        counts = worker.store.counts()
    assert (counts.signals, counts.labelled, counts.duplicates, counts.dead_letters) == (6, 5, 0, 1)
    again = contents(settings.store_path)["feature_vectors"]
    assert [row[:6] for row in again] == [row[:6] for row in before]
    assert pending(valkey) == 0


def test_a_backup_while_the_worker_writes_is_one_moment(
    settings: Settings, tmp_path: Path, valkey: redis.Redis
) -> None:
    stop = threading.Event()
    with desk(settings) as worker:
        running = threading.Thread(target=worker.consumer.run, args=(stop,))
        running.start()
        for number in range(100, 160):
            send(valkey, SIGNALS, signal(number))
            send(valkey, TRADES, outcome(number))
        backup = backed_up(settings, tmp_path)
        stop.set()
        join(running)
    with FeatureDatabase(backup / "features.db", read_only=True) as store:
        counts = store.counts()
        stored = store.connection.query("SELECT count(*) FROM feature_vectors")[0][0]
    assert counts.signals == stored


def test_a_backup_is_its_owners_alone_and_never_half_there(settings: Settings, tmp_path: Path) -> None:
    backup = backed_up(settings, tmp_path)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in backup.rglob("*") if path.is_file()}
    assert stat.S_IMODE(backup.stat().st_mode) == 0o700
    assert modes <= {0o600, 0o644}
    with pytest.raises(RefineryError, match="exists already"):
        back_up(settings, backup, release="test", now=NOW)
    model = next(settings.models_dir.iterdir())
    model.write_bytes(b"altered")
    only_in_files(settings.store_path)
    with pytest.raises(RefineryError, match="missing or altered"):
        back_up(settings, tmp_path / "second", release="test", now=NOW)
    assert sorted(path.name for path in tmp_path.iterdir() if "second" in path.name) == []


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def manifest_with(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def spoil(backup: Path) -> None:
        manifest = json.loads((backup / "manifest.json").read_text())
        change(manifest)
        (backup / "manifest.json").write_text(json.dumps(manifest))

    return spoil


def _outside(backup: Path) -> None:
    """A name that leads out of the state directory, to a file that is there and hashes to what is said."""
    (backup.parent / "escaped.skops").write_bytes((backup / "features.db").read_bytes())

    def named(manifest: dict[str, Any]) -> None:
        manifest["files"]["models/../../escaped.skops"] = manifest["files"]["features.db"]

    manifest_with(named)(backup)


def _forged(backup: Path) -> None:
    """A store that is sound by its hash and damaged inside: someone made a manifest for it."""
    import hashlib

    path = backup / "features.db"
    data = bytearray(path.read_bytes())
    data[3 * 4096 : 3 * 4096 + 2048] = os.urandom(2048)
    path.write_bytes(bytes(data))
    entry = {"sha256": hashlib.sha256(bytes(data)).hexdigest(), "bytes": len(data)}
    manifest_with(lambda manifest: manifest["files"].__setitem__("features.db", entry))(backup)


def _linked(backup: Path) -> None:
    (backup / "features.db").rename(backup.parent / "elsewhere.db")
    (backup / "features.db").symlink_to(backup.parent / "elsewhere.db")


SPOILED: dict[str, Callable[[Path], None]] = {
    "a flipped bit in the store": lambda backup: flip(backup / "features.db"),
    "a flipped bit in a model": lambda backup: flip(next((backup / "models").iterdir())),
    "a missing archive": lambda backup: (backup / "events.db").unlink(),
    "no manifest": lambda backup: (backup / "manifest.json").unlink(),
    "a manifest that is no JSON": lambda backup: (backup / "manifest.json").write_text("{"),
    "a manifest of another format": manifest_with(lambda manifest: manifest.update(format=2)),
    "a manifest without files": manifest_with(lambda manifest: manifest.update(files={})),
    "a path out of the directory": _outside,
    "a damaged store with a right hash": _forged,
    "a link in place of the store": _linked,
    "an unlisted model that the store has only a row of": lambda b: manifest_with(
        lambda m: m["files"].pop(next(name for name in m["files"] if name.startswith("models/")))
    )(b),
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_backup_that_is_not_whole_replaces_nothing(how: str, settings: Settings, tmp_path: Path) -> None:
    if "only a row" in how:
        only_in_files(settings.store_path)
    backup = backed_up(settings, tmp_path)
    before = everything(settings)
    SPOILED[how](backup)
    with pytest.raises((RefineryError, StoreDamaged)):
        restore(settings, backup, now=NOW)
    assert everything(settings) == before
    assert not (settings.state_dir / RESTORE_MARKER).exists()


def test_nothing_is_restored_beside_a_running_worker(settings: Settings, tmp_path: Path) -> None:
    backup = backed_up(settings, tmp_path)
    with worker_slot(settings), pytest.raises(ServerBusy, match="stop it first"):
        restore(settings, backup, now=NOW)
    with open_store(settings) as store:  # anyone else who has it open
        store.counts()
        with pytest.raises(StoreUnavailable):
            restore(settings, backup, now=NOW)
    restore(settings, backup, now=NOW)


STEPS = 6


def killed_before_rename(step: int, settings: Settings, backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restore that dies before it moves the file of this number, 1 is the first; its marker is in place by then."""
    rename, done = Path.rename, 0

    def dying(self: Path, target: Any) -> Path:
        nonlocal done
        done += 1
        if done == step + 1:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", dying)
    with pytest.raises(KeyboardInterrupt):
        restore(settings, backup, now=NOW)
    monkeypatch.undo()


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_restore_killed_at_any_step_is_finished_by_the_next_and_nobody_sees_an_empty_store(
    step: int, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(settings)
    backup = backed_up(settings, tmp_path)
    killed_before_rename(step, settings, backup, monkeypatch)
    with pytest.raises(ConfigurationError, match="run `refinery restore` again"):
        open_store(settings)
    shutil.rmtree(backup)  # it is not needed any more
    assert restore(settings, backup, now=NOW + timedelta(hours=1)).resumed
    assert everything(settings) == before
    with open_store(settings) as store:
        assert store.counts().signals == 5


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_trainer_beside_an_interrupted_restore_leaves_what_it_keeps_alone(
    step: int, settings: Settings, tmp_path: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = everything(settings)
    killed_before_rename(step, settings, backed_up(settings, tmp_path), monkeypatch)
    with pytest.raises(ConfigurationError, match="run `refinery restore` again"):
        retrain(settings, model_type="signal_quality", after=0, reason="test")
    with connect_queue(valkey_url) as client:
        housekeeping(settings, client)
    replaced = restore(settings, tmp_path / "backup", now=NOW).replaced
    assert replaced is not None
    assert everything(settings.model_copy(update={"state_dir": replaced})) == live


def test_a_damaged_store_is_replaced_and_kept(settings: Settings, tmp_path: Path) -> None:
    before = everything(settings)
    backup = backed_up(settings, tmp_path)
    settings.store_path.write_bytes(b"garbage" * 1000)
    restored = restore(settings, backup, now=NOW)
    assert everything(settings) == before
    assert restored.replaced is not None
    assert (restored.replaced / "features.db").read_bytes() == b"garbage" * 1000


def test_restoring_into_an_empty_place_needs_nothing_there(settings: Settings, tmp_path: Path) -> None:
    before = everything(settings)
    backup = backed_up(settings, tmp_path)
    elsewhere = settings.model_copy(update={"state_dir": tmp_path / "elsewhere"})
    assert restore(elsewhere, backup, now=NOW).replaced is None
    assert everything(elsewhere) == before
