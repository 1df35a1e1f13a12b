"""What can go wrong with the store, cut by what the caller does about it; and the standard library's kinds as well."""

from __future__ import annotations

import sqlite3


class StoreError(sqlite3.DatabaseError):
    """The store could not do what was asked; nothing of the unit of work was kept."""


class StoreUnavailable(StoreError, sqlite3.OperationalError):
    """Locked, full, unreadable or unwritable just now: pause and try the same work again."""


class StoreMoved(StoreUnavailable):
    """The files at the path are not those that are open; what was written since may be in neither."""


class StoreRefused(StoreError):
    """The server does not let us in, or not do what is needed: stop, and put URL, role or rights right."""


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
