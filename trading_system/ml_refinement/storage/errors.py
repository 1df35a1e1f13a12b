"""What can go wrong with the store, cut by what the caller does about it; and the standard library's kinds as well."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import apsw


class StoreError(sqlite3.DatabaseError):
    """The store could not do what was asked; nothing of the unit of work was kept."""


class StoreUnavailable(StoreError, sqlite3.OperationalError):
    """Locked, full, unreadable or unwritable just now: pause and try the same work again."""


class StoreMoved(StoreUnavailable):
    """The files at the path are not those that are open; what was written since may be in neither."""


class StoreDamaged(StoreError):
    """The file is not a database, or is corrupt: stop, and restore a copy."""


class ConstraintRefused(StoreError, sqlite3.IntegrityError):
    """A rule of the schema refused the row, e.g. a prediction of a model that is not registered."""


class SchemaMismatch(StoreError):
    """The file's schema is not the one this code was written for."""


class StaleActivation(StoreError):
    """The active model, or the newest training run, is no longer the one the decision was made on."""


class UnknownModel(StoreError, LookupError):
    """No such model in the registry."""


class PickledModel(StoreError):
    """The model's file is a pickle, which executes what it holds: it is never loaded, and the model cannot serve."""


class UnusableValue(StoreError, ValueError):
    """A value that the store cannot hold or look for: the caller's fault."""


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
