"""Entries that were read, and then struck off the group's pending list by somebody else before they were settled.

A deleted consumer, a group made anew, an acknowledgement or a trim that is not ours: nobody delivers such an entry
again. The archive has it, since it is written before anything is decided: an entry of the archive that nothing in the
store knows of, and that is not pending, was struck off. Of several events that a server gave the same id each is
looked up by its bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

from loguru import logger

from trading_system.ml_refinement.storage import ArchivedEntry, EventArchive, FeatureDatabase
from worker.consumer.deduplication import Deduplication
from worker.consumer.store_errors import translated_store_errors
from worker.events.decoding import EventKind
from worker.streams.entries import Entry
from worker.streams.sharded_reader import Reader

_MARK = "archive_settled"
_PAGE = 2000
#: A look costs a small share of the time between two looks, however far behind it is.
_PAGES = 20


class Reconciliation:
    """Walks along the archive behind the workers, once over each entry.

    Args:
        store: the open store.
        archive: of the same installation.
        reader: the input streams.
        kinds: event type by stream name.
    """

    def __init__(
        self, store: FeatureDatabase, archive: EventArchive, reader: Reader, kinds: Mapping[str, EventKind]
    ) -> None:
        self._store = store
        self._archive = archive
        self._reader = reader
        self._kinds = dict(kinds)
        self._deduplication = Deduplication(store, kinds)

    def struck_off(self, *, most: int) -> list[Entry]:
        """At most `most` entries that were struck off; without their bytes, which the archive has, unless their id was
        given out twice.

        Raises:
            TransientError: store, archive or Redis cannot be asked now.
            StoreUnusable: store or archive are damaged.
        """
        with translated_store_errors(use="read"):
            mark = self._store.marks.get(_MARK) or 0
            for _ in range(_PAGES):
                rows = self._archive.after(mark, limit=_PAGE)
                unsettled = self._unknown([row for row in rows if row.stream in self._kinds])
                before, mark = mark, unsettled[0].id - 1 if unsettled else rows[-1].id if rows else mark
                if mark != before:
                    self._store.marks.put(_MARK, mark)
                if unsettled or len(rows) < _PAGE:
                    return self._not_pending(unsettled[:most])
            return []

    def _not_pending(self, unsettled: list[ArchivedEntry]) -> list[Entry]:
        if not unsettled:
            return []
        pending = self._reader.pending_among([_entry(row) for row in unsettled])
        # What is settled is acknowledged after it is in the store: whatever is not pending is looked up once more.
        gone = self._unknown([row for row in unsettled if (row.stream, row.entry_id) not in pending])
        if gone:
            logger.warning(
                "{} entries that were read and not handled are not pending any more (a deleted consumer or group, "
                "a trim, an acknowledgement by somebody else): they are taken from the archive, from {} {} on",
                len(gone),
                gone[0].stream,
                gone[0].entry_id,
            )
        # Of several events with one id the next comes when this one is settled.
        first = {(row.stream, row.entry_id): row for row in reversed(gone)}
        return [_entry(row) for row in gone if first[row.stream, row.entry_id] is row]

    def begin(self) -> None:
        """Set the mark where there is none, or where it is beside another archive: to the archive's end.

        Raises:
            StoreUnavailable: store or archive cannot be used now.
        """
        mark, last = self._store.marks.get(_MARK), self._archive.last_id()
        if mark is None or mark > last:
            self._store.marks.put(_MARK, last)

    def _unknown(self, rows: list[ArchivedEntry]) -> list[ArchivedEntry]:
        """Those that the store knows nothing of."""
        known = self._known([row for row in rows if row.payload is None])
        return [
            row
            for row in rows
            if (row.stream, row.entry_id) not in (known if row.payload is None else self._known([row]))
        ]

    def _known(self, rows: list[ArchivedEntry]) -> set[tuple[str, str]]:
        entries = [_entry(row) for row in rows]
        return self._deduplication.applied(entries) | self._deduplication.dead_lettered(entries) if entries else set()


def _entry(row: ArchivedEntry) -> Entry:
    fields = {} if row.payload is None else {b"data": row.payload}
    return Entry(row.stream, row.entry_id, fields, redelivered=True, struck_off=True)
