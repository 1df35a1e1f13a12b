"""How often an event was tried: charged before each try, so that one which kills its worker is found out."""

from __future__ import annotations

from collections.abc import Sequence

from trading_system.ml_refinement.storage import FeatureDatabase
from worker.consumer.store_errors import translated_store_errors
from worker.streams.entries import Entry


class RetryBudget:
    """The tries of events, kept by the store: the stream's own count rises also where our side was at fault.

    Args:
        store: the open store of this process.

    Raises (from every method):
        TransientError: the store cannot take it now.
        StoreUnusable: the store is damaged.
    """

    def __init__(self, store: FeatureDatabase) -> None:
        self._store = store

    def charge(self, entry: Entry) -> int:
        """Charge an event with one try, before it is made; how many it has had."""
        with translated_store_errors():
            return self._store.attempts.charge(*entry.key)

    def take_back(self, entries: Sequence[Entry]) -> None:
        """Take one try back from each event: what failed was our own side."""
        with translated_store_errors():
            self._store.attempts.take_back([entry.key for entry in entries])

    def forget(self, entry: Entry) -> None:
        """The event is done with: its tries are of no interest any more."""
        with translated_store_errors():
            self._store.attempts.forget([entry.key])
