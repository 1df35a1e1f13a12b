"""Entries that stand in a stream and that nobody read, since somebody moved the group past them (`XGROUP SETID`)."""

from __future__ import annotations

import time
from collections.abc import Mapping

from loguru import logger

from trading_system.ml_refinement.storage import EventArchive, FeatureDatabase
from worker.consumer.deduplication import Deduplication
from worker.consumer.store_errors import translated_store_errors
from worker.errors import TransientError
from worker.events.decoding import EventKind
from worker.streams.entries import Entry
from worker.streams.losses import PassedOver, PassedOverRecord
from worker.streams.sharded_reader import Reader

_LOOK_EVERY_S = 60.0


class PassedOverWatch:
    """Looks whether what stands right before each batch was read, and tells what was not.

    What is read is archived, and what is settled is in the store: an entry of neither, not pending, with a later one
    read, was passed over. It is told, with the command that delivers it, and not undone: to skip may have been the aim.

    Args:
        store: the open store.
        archive: of the same installation; None: none is kept.
        reader: the input streams.
        record: where it is told.
        kinds: event type by stream name.
    """

    def __init__(
        self,
        store: FeatureDatabase,
        archive: EventArchive | None,
        reader: Reader,
        record: PassedOverRecord,
        kinds: Mapping[str, EventKind],
    ) -> None:
        self._archive = archive
        self._reader = reader
        self._record = record
        self._streams = tuple(kinds)
        self._deduplication = Deduplication(store, kinds)
        self._due = 0.0

    def look_if_due(self) -> None:
        """`look`, once a minute.

        Raises:
            TransientError: the store or the archive cannot be asked now.
            StoreUnusable: one of them is damaged.
        """
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + _LOOK_EVERY_S
            self.look()

    def look(self) -> None:
        """Look now. What Redis does not answer is looked at next time.

        Raises:
            TransientError: the store or the archive cannot be asked now.
            StoreUnusable: one of them is damaged.
        """
        try:
            told = {stream: self._record.get(stream) for stream in self._streams}
            before = [(Entry(stream, one.last, {}), one.before) for stream, one in told.items() if one is not None]
            passed = before + self._reader.passed_over()
            unread = self._unread([entry for entry, _ in passed])
            for entry, after in passed:
                found = PassedOver(entry.entry_id, after)
                if entry.key not in unread and told[entry.stream] == found:
                    self._record.forget(entry.stream)
                elif entry.key in unread and told[entry.stream] != found:
                    self._record.tell(entry.stream, found)
        except TransientError as error:
            logger.debug("whether entries were passed over is looked at again: {}", error)

    def _unread(self, entries: list[Entry]) -> set[tuple[str, str]]:
        """The keys of those that neither the store nor the archive knows."""
        if not entries:
            return set()
        with translated_store_errors(use="read"):
            known = self._deduplication.applied(entries) | self._deduplication.dead_lettered(entries)
            rest = {entry.key for entry in entries} - known
            return {key for key in rest if self._archive is None or not self._archive.get_all(*key)}
