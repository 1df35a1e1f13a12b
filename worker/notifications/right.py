"""The right to send what waits, which one process has of all that share a store."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from loguru import logger

from trading_system.ml_refinement.storage import FeatureDatabase
from worker.settings.schema import Settings
from worker.state_dir import take_lock
from worker.supervision.leases import give_back, take

LOCK: Final = "notify.lock"
SENDING: Final = "notifications"
#: A sender that has not said so long that it lives is taken for dead, by the database's clock; beside the time that one
#: post may take.
LEASE_S = 30
#: So often it says so while nothing is due.
_RENEWED_EVERY_S = 10.0


class Right(Protocol):
    """What a sender asks."""

    def had(self, opened: Callable[[], FeatureDatabase]) -> bool:
        """Whether this process is the sender; it becomes so where nobody is. `opened` gives the store."""

    def sure(self, opened: Callable[[], FeatureDatabase]) -> bool:
        """Whether nobody else has been the sender since `had`, nor will be while one message is posted."""

    def give_back(self, store: FeatureDatabase | None) -> None:
        """Let another one be the sender; None where the store is not open."""


def right_to_send(settings: Settings) -> Right:
    """As the store is shared: by processes of this host, or of any."""
    if settings.store_url is None:
        return _Lock(settings.state_dir / LOCK)
    return _Lease(LEASE_S + math.ceil(settings.notify.timeout_s))


class _Lock:
    """A locked file, which the kernel lets go of with its process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: int | None = None

    def had(self, _: Callable[[], FeatureDatabase]) -> bool:
        if self._lock is None:
            self._lock = take_lock(self._path)
        return self._lock is not None

    def sure(self, _: Callable[[], FeatureDatabase]) -> bool:
        return self._lock is not None

    def give_back(self, _: FeatureDatabase | None) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class _Lease:
    """A lease of the store. It is renewed right before each post, and so tells one that stood still meanwhile."""

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds
        self._token: int | None = None
        self._renewed = 0.0

    def had(self, opened: Callable[[], FeatureDatabase]) -> bool:
        if self._token is None:
            asked = time.monotonic()
            self._token = take(opened(), SENDING, self._seconds)
            self._renewed = asked
        elif time.monotonic() - self._renewed >= _RENEWED_EVERY_S:
            return self.sure(opened)
        return self._token is not None

    def sure(self, opened: Callable[[], FeatureDatabase]) -> bool:
        if self._token is None:
            return False
        store, asked = opened(), time.monotonic()
        if not store.leases.renew(SENDING, self._token, self._seconds):
            logger.warning("another process sends the notifications: this one stood still, or had no store, too long")
            give_back(None, SENDING, self._token)
            self._token = None
            return False
        self._renewed = asked
        return True

    def give_back(self, store: FeatureDatabase | None) -> None:
        if self._token is not None:
            give_back(store, SENDING, self._token)
            self._token = None
