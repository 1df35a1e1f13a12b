"""Copies of an installation's store, archive and models, and putting one back.

The store holds its models' bytes. Their files are copied too where they are there as they were registered, and are
needed only for models whose bytes the store has not got.

A backup is a directory that is complete or is not there. A restore verifies everything before it replaces anything,
keeps what it replaces, and finishes when it is run again after it was interrupted, wherever that was.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, count
from pathlib import Path
from typing import Any

import orjson
import redis

from trading_system.ml_refinement.storage import StoreDamaged
from trading_system.ml_refinement.storage.schema import steps
from trading_system.ml_refinement.storage.shared.artefacts import ARTEFACTS_STEP
from trading_system.ml_refinement.storage.sqlite.copies import copy_database, fold_alone, problems, schema_step, sync
from trading_system.ml_refinement.storage.tables.models import ModelFile
from worker.errors import RefineryError, ServerBusy
from worker.installation import open_copy, streams_of
from worker.settings.schema import Settings
from worker.state_dir import RESTORE_MARKER, make_private, take_lock
from worker.streams.errors import translated

MANIFEST = "manifest.json"
_STAGED = "restore-staged"
_FORMAT = 1
_NAME = re.compile(r"features\.db|events\.db|models/[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\.(?:skops|pkl)")
_TOP = ("features.db", "events.db", "models")
#: SQLite's files beside a database. A log that could not be folded belongs to its file, and must never meet another.
_BESIDE = ("-wal", "-shm", "-journal")


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup holds."""

    directory: Path
    created_at: str
    files: int
    size_bytes: int
    signals: int
    missing_models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did. `replaced` is where what was there before is kept; None when there was nothing."""

    created_at: str
    files: int
    replaced: Path | None
    resumed: bool = False


def back_up(settings: Settings, target: Path, *, release: str, now: datetime) -> Backup:
    """Copy store, archive and models as of now into a new directory, while everything runs.

    The models are those that the copied store knows, each as it was registered.

    Raises:
        RefineryError: there is no store, it is in PostgreSQL, `target` exists, or the store has not got the bytes of
            the serving model and its file is missing or altered.
        StoreError: the store cannot be read.
    """
    if settings.store_url is not None:
        raise RefineryError(
            f"{settings.masked_store} is backed up by PostgreSQL itself: take base backups and archive its WAL; "
            "after a recovery to a point in time the workers read the streams again (docs/scale.md)"
        )
    if target.exists():
        raise RefineryError(f"{target} exists already: name a directory that does not")
    if not settings.store_is_there:
        raise RefineryError(f"there is no store in {settings.state_dir}")
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    make_private(partial)
    try:
        copy_database(settings.store_path, partial / "features.db")
        if settings.archive_path.exists():
            copy_database(settings.archive_path, partial / "events.db")
        missing = _copy_models(settings.models_dir, partial)
        backup = _write_manifest(partial, target, missing, release=release, created_at=now.isoformat())
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync(target.parent)
    return backup


def _copy_models(source: Path, partial: Path) -> list[str]:
    """Copy the models that the copied store knows; those that are nowhere as they were registered, by id."""
    (partial / "models").mkdir(mode=0o700)
    missing = []
    files, kept = _models_of(partial / "features.db")
    for model_id, name, sha256, serves in files:
        safe = _NAME.fullmatch(f"models/{name}") is not None
        if safe and _copy_file(source / name, partial / "models" / name) == sha256:
            continue
        if safe:
            (partial / "models" / name).unlink(missing_ok=True)
        if sha256 in kept:
            continue
        if serves:
            raise RefineryError(f"the file of {model_id}, which serves, is missing or altered; nothing was backed up")
        missing.append(model_id)
    return missing


def _models_of(database: Path) -> tuple[list[ModelFile], set[str]]:
    """The files of all models that a copied store knows, and the hashes of those whose bytes it holds."""
    with closing(open_copy(database)) as copy:
        files = copy.models.files()
        if schema_step(database) < ARTEFACTS_STEP:
            return files, set()
        return files, {sha256 for _, _, sha256, _ in files if sha256 is not None and copy.artefacts.sound(sha256)}


def _copy_file(source: Path, target: Path) -> str | None:
    """Copy a regular file and have it on disk; its SHA-256, None when there is no such file."""
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    digest = hashlib.sha256()
    with os.fdopen(descriptor, "rb") as reader:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        with open(os.open(target, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as writer:
            while chunk := reader.read(1 << 20):
                digest.update(chunk)
                writer.write(chunk)
            writer.flush()
            os.fsync(writer.fileno())
    return digest.hexdigest()


def _write_manifest(partial: Path, target: Path, missing: list[str], *, release: str, created_at: str) -> Backup:
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(path for path in partial.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files[str(path.relative_to(partial))] = {"sha256": digest, "bytes": path.stat().st_size}
    with open_copy(partial / "features.db") as store:
        signals = store.counts().signals
    manifest = {
        "format": _FORMAT,
        "release": release,
        "created_at": created_at,
        "signals": signals,
        "missing_models": missing,
        "files": files,
    }
    _write_durably(partial / MANIFEST, manifest)
    for directory in (partial / "models", partial):
        sync(directory)
    size = sum(entry["bytes"] for entry in files.values())
    return Backup(target, created_at, len(files), size, signals, tuple(missing))


def _write_durably(path: Path, value: dict[str, Any]) -> None:
    """Write a file that is there whole, also after a power cut, or not at all."""
    new = path.with_name(f".{path.name}.new")
    with open(os.open(new, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as file:
        file.write(orjson.dumps(value, option=orjson.OPT_INDENT_2))
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
    sync(path.parent)


def restore(settings: Settings, source: Path, *, now: datetime) -> Restored:
    """Put a backup in the place of what is there, which is kept beside it.

    A restore that was interrupted while it replaced files is finished first, and that is all that is done. Where what
    it left does not say how (its marker is torn, what it had staged is gone), this one begins anew.

    Raises:
        RefineryError: the backup is not whole, is of a newer release, or someone still works on the state directory;
            nothing was replaced.
    """
    make_private(settings.state_dir.resolve())
    staged = settings.state_dir / _STAGED
    with _alone(settings):
        if (plan := _resumable(settings.state_dir)) is not None:
            return _replace(settings.state_dir, plan, resumed=True)
        manifest = _read_manifest(source)
        if (settings.state_dir / RESTORE_MARKER).exists():  # its plan must not be taken for that of what is staged next
            _write_durably(settings.state_dir / RESTORE_MARKER, {})
        _stage(staged, source, manifest)
        for path in (settings.store_path, settings.archive_path):
            if path.exists():
                _fold(path)
        plan = {
            "created_at": manifest["created_at"],
            "files": len(manifest["files"]),
            "replaced": _unused_name(settings.state_dir, now) if _there(settings.state_dir) else None,
            "staged": {name: (staged / name).stat().st_ino for name in _staged(settings.state_dir)},
        }
        _write_durably(settings.state_dir / RESTORE_MARKER, plan)
        return _replace(settings.state_dir, plan, resumed=False)


def reread(client: redis.Redis, settings: Settings) -> None:
    """Have the group read the input streams from their beginning again: what the store has by now has no effect twice.

    Raises:
        TransientError: Redis is away.
    """
    with translated():
        for stream in streams_of(settings).inputs:
            if client.exists(stream):
                with suppress(redis.ResponseError):  # a group that is not there yet begins at 0 anyway
                    client.xgroup_setid(stream, settings.streams.group, "0")


def _fold(path: Path) -> None:
    try:
        fold_alone(path)
    except StoreDamaged:
        return  # a damaged store is what one restores for; it is kept as it is


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """No worker and no training runs on the state directory while the block runs, and none can start."""
    locks = [*(settings.state_dir / "workers").glob("slot-*.lock"), settings.training_lock_path]
    with ExitStack() as held:
        for path in locks:
            lock = take_lock(path)
            if lock is None:
                raise ServerBusy(f"something still runs on {settings.state_dir} ({path.name}): stop it first")
            held.callback(os.close, lock)
        yield


def _stage(staged: Path, source: Path, manifest: dict[str, Any]) -> None:
    """Copy a backup into the state directory and verify the copy, so that what is checked is what is used."""
    _remove(staged)
    make_private(staged)
    (staged / "models").mkdir(mode=0o700)
    for name, entry in manifest["files"].items():
        if _copy_file(source / name, staged / name) != entry["sha256"]:
            raise RefineryError(f"{source / name} is missing or is not what the manifest says; nothing was replaced")
    for database, prefix in (("features.db", ""), ("events.db", "archive_")):
        if database in manifest["files"]:
            _verify_database(staged / database, newest=max(steps(prefix)))
    files, kept = _models_of(staged / "features.db")
    for model_id, name, sha256, _ in files:
        known = manifest["files"].get(f"models/{name}", {}).get("sha256")
        if known != sha256 and sha256 not in kept and model_id not in manifest["missing_models"]:
            raise RefineryError(f"the file of model {model_id} is not the one it was registered with")
    for directory in (staged / "models", staged):
        sync(directory)


def _read_manifest(source: Path) -> dict[str, Any]:
    try:
        manifest = orjson.loads((source / MANIFEST).read_bytes())
        names = list(manifest["files"])
        whole = manifest["format"] == _FORMAT and "features.db" in names and isinstance(manifest["created_at"], str)
        whole = whole and isinstance(manifest["missing_models"], list)
        whole = whole and all(isinstance(entry["sha256"], str) for entry in manifest["files"].values())
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise RefineryError(f"{source} is no backup: {MANIFEST} is missing or cannot be read") from error
    strange = [name for name in names if not _NAME.fullmatch(name)]
    if not whole or strange:
        raise RefineryError(f"{source} is no backup of this release: {', '.join(strange) or MANIFEST}")
    return dict(manifest)


def _verify_database(path: Path, *, newest: int) -> None:
    if found := problems(path):
        raise RefineryError(f"{path.name} of the backup is damaged: {found[0]}; nothing was replaced")
    if not 1 <= schema_step(path) <= newest:
        raise RefineryError(f"{path.name} of the backup is of a newer release; nothing was replaced")


def _resumable(state: Path) -> dict[str, Any] | None:
    """The plan of a restore that was interrupted while it replaced files, if all that it needs is there."""
    try:
        plan = orjson.loads((state / RESTORE_MARKER).read_bytes())
        places = {name: state / _STAGED / name if name in _staged(state) else state / name for name in plan["staged"]}
        there = all(places[name].stat().st_ino == inode for name, inode in plan["staged"].items())
        whole = "features.db" in plan["staged"] and isinstance(plan["replaced"], str | None)
        whole = whole and isinstance(plan["created_at"], str) and isinstance(plan["files"], int)
    except (FileNotFoundError, orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return None
    return plan if whole and there else None


def _staged(state: Path) -> list[str]:
    return [name for name in _TOP if (state / _STAGED / name).exists()]


def _there(state: Path) -> list[str]:
    """What a restore moves away; logs that lost their database too."""
    files = [name for name in _TOP if name != "models"]
    return [name for name in (*(f"{name}{end}" for name in files for end in _BESIDE), *_TOP) if (state / name).exists()]


def _unused_name(state: Path, now: datetime) -> str:
    """A name for what is replaced; two restores within a second, or under a clock set back, do not share one."""
    name = f"replaced-{now:%Y%m%dT%H%M%SZ}"
    names = chain([name], (f"{name}-{number}" for number in count(2)))
    return next(name for name in names if not (state / name).exists())


def _replace(state: Path, plan: dict[str, Any], *, resumed: bool) -> Restored:
    """Move the old away and the staged in; every step may have been done before, and is skipped then."""
    replaced = state / plan["replaced"] if plan["replaced"] else None
    if replaced is not None:
        make_private(replaced)
    for name in _staged(state):  # what is not there is in its place; or the backup has none, and what is there stays
        for old in (*(f"{name}{end}" for end in _BESIDE), name):
            if replaced is not None and (state / old).exists():
                (state / old).rename(replaced / old)
        if replaced is not None:
            sync(replaced)
        (state / _STAGED / name).rename(state / name)
    sync(state)
    _remove(state / _STAGED)
    (state / RESTORE_MARKER).unlink()
    sync(state)
    return Restored(plan["created_at"], plan["files"], replaced, resumed)


def _remove(directory: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(directory)
