"""What PostgreSQL and its driver say, as our errors."""

from __future__ import annotations

import re

import psycopg

from trading_system.ml_refinement.storage.errors import (
    ConstraintRefused,
    StoreDamaged,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    UnusableValue,
)

#: What the driver raises: its own errors, and Python's for a number or a text that it cannot send.
OF_THE_DRIVER = (psycopg.Error, OverflowError, UnicodeEncodeError)

#: Classes of SQLSTATE, or whole ones, by what the caller does about it; the longest that fits counts.
_KINDS: dict[str, type[StoreError]] = {
    "08": StoreUnavailable,  # connection
    "22": UnusableValue,
    "23": ConstraintRefused,
    "25006": StoreUnavailable,  # read-only: a standby
    "25P03": StoreUnavailable,  # idle in transaction for too long
    "28": StoreRefused,  # authorisation
    "3D": StoreRefused,  # no such database
    "40": StoreUnavailable,  # rolled back by the server
    "42501": StoreRefused,  # a right is missing
    "53": StoreUnavailable,  # disk, memory or connections are used up
    "55": StoreUnavailable,  # locked
    "57": StoreUnavailable,  # shut down, cancelled
    "58": StoreUnavailable,  # input and output
    "XX001": StoreDamaged,
    "XX002": StoreDamaged,
}
#: A connection that was refused has no SQLSTATE; these do not get better by waiting.
_REFUSALS = re.compile(
    r"authentication failed|role .* does not exist|database .* does not exist|no pg_hba.conf entry|certificate"
    r"|no password supplied|server does not support SSL|invalid .*(?:option|value)|permission denied for database",
    re.I,
)


def translated(error: Exception, name: str) -> StoreError:
    """The driver's exception as one of ours; `name` is what was open, without its password."""
    if isinstance(error, OverflowError):
        return UnusableValue(f"a number is too large for the store: {error}")
    if isinstance(error, UnicodeEncodeError):
        return UnusableValue(f"a text that is no UTF-8: {error.object!r:.80}")
    text = f"{name}: {' '.join(str(error).split())}"
    state = getattr(error, "sqlstate", None)
    if state is None:
        if isinstance(error, psycopg.DataError):
            return UnusableValue(text)
        return (StoreRefused if _REFUSALS.search(text) else StoreUnavailable)(text)
    for length in (5, 2):
        if (kind := _KINDS.get(state[:length])) is not None:
            return kind(text)
    return StoreError(text)
