"""Model files: one deflated skops archive of a plain dictionary, read only after its hash was verified."""

from __future__ import annotations

import hashlib
import hmac
import io
import math
import os
import stat
import time
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import skops.io

from trading_system.ml_refinement.models.errors import ModelFileRefused

#: Types a model file may hold beyond plain values and arrays. Frozen: never what a file asks for.
TRUSTED_TYPES: Final = ("numpy.dtype",)

MAX_FILE_BYTES: Final = 32 * 1024 * 1024
MAX_INFLATED_BYTES: Final = 128 * 1024 * 1024
MAX_ENTRIES: Final = 2_000


def encode(state: Mapping[str, Any]) -> bytes:
    """The file's bytes for a dictionary of plain values and numpy arrays."""
    return bytes(skops.io.dumps(dict(state), compression=zipfile.ZIP_DEFLATED))


def decode(data: bytes, *, sha256: str | None = None) -> dict[str, Any]:
    """The dictionary in a file's bytes.

    Args:
        data: the bytes as read; nothing is read again.
        sha256: what they must hash to, checked before anything is parsed. None: not known, not checked.

    Raises:
        ModelFileRefused: another hash, too large, not an archive, or of types outside `TRUSTED_TYPES`.
    """
    if sha256 is not None:
        check_hash(data, sha256)
    _check_sizes(data)
    try:
        state = skops.io.loads(data, trusted=list(TRUSTED_TYPES))
    except Exception as error:  # whatever a hostile archive makes the reader raise, it is one refusal
        raise ModelFileRefused(f"not a model file: {type(error).__name__}: {error}") from error
    if not isinstance(state, dict):
        raise ModelFileRefused(f"not a model file: it holds a {type(state).__name__}")
    return state


def check_hash(data: bytes, sha256: str) -> None:
    """Refuse a file that is not the one that was registered.

    Raises:
        ModelFileRefused: it hashes to something else.
    """
    if not hmac.compare_digest(hashlib.sha256(data).hexdigest(), sha256):
        raise ModelFileRefused("the file's SHA-256 is not the one in the store")


def _check_sizes(data: bytes) -> None:
    if len(data) > MAX_FILE_BYTES:
        raise ModelFileRefused(f"{len(data)} bytes, at most {MAX_FILE_BYTES}")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            inflated = sum(entry.file_size for entry in entries)
            if len(entries) > MAX_ENTRIES or inflated > MAX_INFLATED_BYTES:
                raise ModelFileRefused(f"{len(entries)} entries inflating to {inflated} bytes")
            if any(entry.compress_type not in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED) for entry in entries):
                raise ModelFileRefused("compressed in a way we never write")
            # A size in the directory can lie; reading in bounded pieces finds that out without inflating the lie.
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, RuntimeError, ValueError, NotImplementedError, EOFError) as error:
        raise ModelFileRefused(f"not a model file: {error}") from error
    if damaged is not None:
        raise ModelFileRefused(f"entry {damaged!r} is damaged")


def read_file(path: Path) -> bytes:
    """The bytes of a regular file that is not a symbolic link.

    Raises:
        ModelFileRefused: missing, a link, not a regular file, or too large.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
                raise ModelFileRefused(f"{path.name} is not a regular file of at most {MAX_FILE_BYTES} bytes")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(MAX_FILE_BYTES + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ModelFileRefused(f"{path.name}: {error.strerror}") from error


def write_file(path: Path, data: bytes) -> None:
    """Write for good: a temporary name, fsync, rename, fsync of the directory. On failure nothing is left behind.

    Raises:
        OSError: as the system says it (disk full, no permission).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def remove_leftovers(directory: Path, *, older_than_s: float = 3600) -> int:
    """Remove the temporary files of writers that were killed; how many. One that is written now is younger."""
    removed = 0
    for path in directory.glob(".*.tmp"):
        with suppress(FileNotFoundError):
            if time.time() - path.lstat().st_mtime > older_than_s:
                path.unlink()
                removed += 1
    return removed


def digest(value: Any) -> str:
    """SHA-256 over content: equal for equal nested dictionaries, lists, arrays and scalars, in any process."""
    hasher = hashlib.sha256()
    _feed(hasher, value)
    return hasher.hexdigest()


def _feed(hasher: Any, value: Any) -> None:
    if isinstance(value, Mapping):
        for key in sorted(value):
            hasher.update(f"{{{key}:".encode())
            _feed(hasher, value[key])
    elif isinstance(value, list | tuple):
        hasher.update(f"[{len(value)}".encode())
        for item in value:
            _feed(hasher, item)
    elif isinstance(value, np.ndarray):
        hasher.update(f"<{value.dtype.str}{value.shape}".encode())
        hasher.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, float) and not math.isnan(value):
        hasher.update(float(value).hex().encode())
    else:
        hasher.update(repr(value).encode())
    hasher.update(b";")
