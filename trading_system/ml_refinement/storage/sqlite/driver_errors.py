"""What SQLite's driver raises, as our errors."""

from __future__ import annotations

from pathlib import Path

import apsw

from trading_system.ml_refinement.storage.errors import (
    ConstraintRefused,
    StoreDamaged,
    StoreError,
    StoreUnavailable,
    UnusableValue,
)

_TRANSIENT = (
    apsw.BusyError,
    apsw.LockedError,
    apsw.FullError,
    apsw.IOError,
    apsw.ReadOnlyError,
    apsw.CantOpenError,
    apsw.PermissionsError,
    apsw.ProtocolError,
    apsw.NoMemError,
    apsw.InterruptError,
)
#: What the driver raises: its own errors, and Python's for a number beyond 64 bits and a text that is no UTF-8.
OF_THE_DRIVER = (apsw.Error, OverflowError, UnicodeEncodeError)
_DAMAGED = (apsw.CorruptError, apsw.NotADBError, apsw.FormatError)


def translated(error: Exception, path: Path) -> Exception:
    """The driver's exception as one of ours."""
    if isinstance(error, OverflowError):
        return UnusableValue(f"a number is too large for the store: {error}")
    if isinstance(error, UnicodeEncodeError):
        return UnusableValue(f"a text that is no UTF-8: {error.object!r:.80}")
    text = f"{path}: {error}"
    if isinstance(error, _TRANSIENT):
        return StoreUnavailable(text)
    if isinstance(error, _DAMAGED):
        return StoreDamaged(text)
    if isinstance(error, apsw.ConstraintError):
        return ConstraintRefused(text)
    return StoreError(text)
