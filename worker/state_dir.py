"""The state directory: private directories, locks, the marker of a restore, and faults of its disk that may pass."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from pathlib import Path

from worker.errors import ConfigurationError, TransientError
from worker.settings.schema import Settings


def make_private(directory: Path) -> None:
    """Creates `directory` with mode 0700, or narrows it to that.

    Raises:
        ConfigurationError: it is no directory, a symbolic link, or another user's.
        TransientError: the disk cannot be written just now.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.stat(follow_symlinks=False)
        if directory.is_symlink() or found.st_uid != os.geteuid():
            raise ConfigurationError(f"{directory} must be a directory of this user, not a link and not another's")
        if found.st_mode & 0o777 != 0o700:
            directory.chmod(0o700)
    except OSError as error:
        if may_pass(error):
            raise TransientError(f"{directory} cannot be written just now: {error.strerror}") from error
        raise ConfigurationError(f"{directory} cannot be used as a private directory: {error.strerror}") from error


def take_lock(path: Path, *, shared: bool = False) -> int | None:
    """A descriptor that holds the lock on `path`, or None when someone else does. Close it to let go.

    Those who take it `shared` have it together.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock on `path`; takes it for a moment where nobody does."""
    if not path.exists():
        return False
    lock = take_lock(path)
    if lock is not None:
        os.close(lock)
    return lock is None


def place_of(state_dir: Path) -> str:
    """A token of this state directory: it outlives restarts, restores and being moved, and a copy gets another one.

    Kept in a file that names its own inode, which a copy does not have.

    Raises:
        OSError: it can be neither read nor written now.
    """
    directory = os.open(state_dir / "workers", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        path = state_dir / "workers" / "place"
        words = path.read_text(encoding="ascii", errors="replace").split() if path.exists() else []
        if len(words) == 2 and words[1] == str(path.stat().st_ino):
            return words[0]
        new, token = path.with_name("place.new"), secrets.token_hex(6)
        with open(os.open(new, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w", encoding="ascii") as file:
            file.write(f"{token} {os.fstat(file.fileno()).st_ino}\n")
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)
        os.fsync(directory)
        return token
    finally:
        os.close(directory)


#: In the state directory while a restore replaces files; no store is opened beside it.
RESTORE_MARKER = "restore-in-progress.json"


def refuse_half_restored(settings: Settings) -> None:
    """Refuse to work on a state directory whose files are being replaced.

    Raises:
        ConfigurationError: a restore is going on, or was interrupted.
    """
    if (settings.state_dir / RESTORE_MARKER).exists():
        raise ConfigurationError(f"a restore of {settings.state_dir} was interrupted: run `refinery restore` again")


#: A file that is smaller fits into the space that a full disk's last block has left.
_PROBE_BYTES = 1 << 16


def unwritable(directory: Path) -> str | None:
    """Why nothing can be written into `directory` just now; None where it can, or where waiting would not help."""
    probe = directory / f".probe-{os.getpid()}"
    try:
        try:
            with open(probe, "wb") as file:
                file.write(bytes(_PROBE_BYTES))
                file.flush()
                os.fsync(file.fileno())
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        return error.strerror if may_pass(error) else None
    return None


#: What a disk or a file system says that may be well again later.
_PASSING = frozenset({errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.EMFILE, errno.ENFILE})


def may_pass(error: OSError) -> bool:
    """Whether the disk may be well again later, as one that is full; not so a path that is wrong."""
    return error.errno in _PASSING
