"""Stored vectors of another feature version, computed again from the events as they were received.

The computation is the worker's own, as of each signal's own time. What takes long (reading, decoding, computing)
happens before the store is locked; a batch is written in one short transaction, and a vector that was changed in
between is left alone. There is no state but the store's: what is of the current version is done, so that a rebuild that
was ended goes on with the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from trading_system.ml_refinement.features.feature_store import FeatureStore
from trading_system.ml_refinement.features.pipeline import FeaturePipeline, FeatureRequest
from trading_system.ml_refinement.storage import EventArchive, FeatureDatabase, StoredVector
from worker.events.decoding import SignalCreated
from worker.maintenance.received import NotReceived, ReceivedSignals
from worker.market_data.directory import DirectorySource, NoMarketData


class Obstacle(StrEnum):
    """Why a vector could not be computed again. It stays as it is."""

    NO_EVENT = "no_event"
    """It did not come as an event, so nothing says what it was computed from."""

    NO_ARCHIVED_EVENT = "no_archived_event"
    """Its event is not in the archive: never kept, or older than the archive's retention."""

    OTHER_EVENT = "other_event"
    """The archived event of its entry id is not the one it was computed from."""

    BAD_EVENT = "bad_event"
    """Its archived event cannot be read."""

    NO_MARKET_DATA = "no_market_data"
    """The event brought no bars, and the market-data source has none of the symbol up to the signal's time."""

    BAD_MARKET_DATA = "bad_market_data"
    """The event brought no bars, and the symbol's file in the market-data source cannot be used."""

    INCOMPLETE = "incomplete"
    """An extractor failed on it."""


@dataclass(frozen=True, slots=True)
class NotRebuilt:
    """A vector that stays as it was, and why."""

    signal_id: str
    symbol: str | None
    timestamp: str
    feature_version: str
    obstacle: Obstacle
    detail: str


@dataclass(slots=True)
class Rebuilt:
    """What a rebuild came to.

    `unchanged` were computed to what they said already, as happens only to those of the current version; `overtaken`
    were changed by somebody else in the meantime.
    """

    feature_version: str
    rebuilt: int = 0
    unchanged: int = 0
    overtaken: int = 0
    not_rebuilt: list[NotRebuilt] = field(default_factory=list)

    @property
    def obstacles(self) -> dict[str, int]:
        """How many were not rebuilt, by reason."""
        return dict(Counter(one.obstacle.value for one in self.not_rebuilt))

    def leave(self, row: StoredVector, obstacle: Obstacle, detail: str) -> None:
        """Note a vector that stays as it is."""
        self.not_rebuilt.append(
            NotRebuilt(row.signal_id, row.symbol, row.timestamp, row.feature_version, obstacle, detail)
        )


class Rebuild:
    """Brings the vectors of a store to the version of a pipeline.

    Args:
        store: open.
        archive: the events as received; None: there is none, and nothing can be rebuilt.
        pipeline: the features to compute.
        market_data: bars for events that brought none.
        stream: where signals come from now; other streams of the archive are looked through after it.
        batch_size: vectors computed and written together.
    """

    def __init__(
        self,
        *,
        store: FeatureDatabase,
        archive: EventArchive | None,
        pipeline: FeaturePipeline,
        market_data: DirectorySource,
        stream: str,
        batch_size: int = 256,
    ) -> None:
        self._store = store
        self._archive = archive
        self._pipeline = pipeline
        self._features = FeatureStore(store, pipeline)
        self._market_data = market_data
        self._stream = stream
        self._batch_size = batch_size

    def pending(self, *, force: bool = False) -> dict[str, int]:
        """How many vectors there are to compute, by their feature version."""
        counts = self._store.versions.counts()
        return {name: n for name, n in counts.items() if force or name != self._pipeline.feature_version}

    def run(self, *, force: bool = False, progress: Callable[[int], None] = lambda _: None) -> Rebuilt:
        """Compute every vector of another version, and with `force` those of this one too.

        Args:
            force: compute everything, as after a correction of the market data.
            progress: told after each batch how many vectors it had.

        Raises:
            StoreUnavailable: the store cannot be used now; what was done is kept.
            TransientError: the same of the market data.
        """
        done = Rebuilt(self._pipeline.feature_version)
        received = ReceivedSignals(self._archive, self._stream)
        for batch in self._batches(force):
            self._rebuild(batch, received, done)
            progress(len(batch))
        return done

    def _batches(self, force: bool) -> Iterator[list[StoredVector]]:
        """What there is at the start, in batches of one version each; our own first, before others are added to it."""
        last = self._store.versions.last_id()
        for version in sorted(
            self.pending(force=force), key=lambda name: (name != self._pipeline.feature_version, name)
        ):
            after = 0
            while batch := self._store.versions.read(version, after_id=after, up_to_id=last, limit=self._batch_size):
                yield batch
                after = batch[-1].id

    def _rebuild(self, batch: Sequence[StoredVector], received: ReceivedSignals, done: Rebuilt) -> None:
        requests = self._requests(self._signals(batch, received, done), done)
        features = self._pipeline.extract_batch([request for _, request in requests])
        for place in np.flatnonzero(~features.complete).tolist():
            row, request = requests[place]
            failures = self._pipeline.extract_batch([request]).failures
            done.leave(row, Obstacle.INCOMPLETE, "; ".join(f"{name}: {told}" for name, told in failures.items()))
        whole = np.flatnonzero(features.complete)
        rows = [requests[place][0] for place in whole.tolist()]
        results = Counter(self._features.replace(rows, features.values[whole]))
        done.rebuilt += results["replaced"]
        done.unchanged += results["same"]
        done.overtaken += results["overtaken"]

    def _signals(
        self, batch: Sequence[StoredVector], received: ReceivedSignals, done: Rebuilt
    ) -> list[tuple[StoredVector, SignalCreated]]:
        """The vectors whose signals are to be had as they were received; the others are noted."""
        found = []
        for row in batch:
            try:
                found.append((row, received.signal(row.signal_id, row.entry_id, row.event_hash)))
            except NotReceived as lost:
                done.leave(row, Obstacle(lost.why), lost.detail)
        return found

    def _requests(
        self, found: Sequence[tuple[StoredVector, SignalCreated]], done: Rebuilt
    ) -> list[tuple[StoredVector, FeatureRequest]]:
        book = self._market_data.lookup([signal for _, signal in found])
        requests = []
        for row, signal in found:
            try:
                requests.append((row, book.request(signal)))
            except NoMarketData as error:
                done.leave(row, Obstacle(error.reason.value), error.detail)
        return requests
