"""Signals as they were received: a stored vector's event, out of the archive and checked to be the one."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

from trading_system.ml_refinement.storage import EventArchive, StoreDamaged
from worker.errors import DecodeError
from worker.events.decoding import SignalCreated, decode_kept
from worker.streams.shards import entry_stored_as, plain_name

Missing = Literal["no_event", "no_archived_event", "other_event", "bad_event"]


class NotReceived(Exception):
    """A vector's event is not to be had: why, and what was found instead."""

    def __init__(self, why: Missing, detail: str) -> None:
        super().__init__(detail)
        self.why = why
        self.detail = detail


class ReceivedSignals:
    """What the archive holds of the events of signals.

    Args:
        archive: the events as received; None: there is none.
        stream: where signals come from now; other streams of the archive are looked through after it.
    """

    def __init__(self, archive: EventArchive | None, stream: str) -> None:
        self._archive = archive
        self._stream = stream

    def signal(self, signal_id: str, entry_id: str | None, event_hash: bytes | None) -> SignalCreated:
        """The signal of a stored vector.

        Raises:
            NotReceived: its event is not there, cannot be read, or is another than the one that was stored.
        """
        if not entry_id:
            raise NotReceived("no_event", "stored through the library")
        why = NotReceived("no_archived_event", f"entry {entry_id} is not in the archive")
        for data in self._payloads(entry_id):
            try:
                signal = decode_kept(data)
            except DecodeError as error:
                why = NotReceived("bad_event", str(error))
                continue
            if signal.signal_id == signal_id and (not event_hash or signal.digest == event_hash):
                return signal
            why = NotReceived("other_event", f"entry {entry_id} holds {signal.signal_id} with other content")
        raise why

    def _payloads(self, known_as: str) -> list[bytes]:
        """What is kept of an entry, in the first stream that has it: several events where a server gave an id twice."""
        if self._archive is None:
            raise NotReceived("no_archived_event", "there is no archive")
        try:
            for name in self._names:
                if kept := self._archive.get_all(*entry_stored_as(known_as, name)):
                    return kept
        except StoreDamaged as error:
            raise NotReceived("bad_event", str(error)) from error
        return []

    @cached_property
    def _names(self) -> list[str]:
        """What streams are called, without their shards."""
        others = self._archive.streams() if self._archive is not None else []
        return list(dict.fromkeys([self._stream, *map(plain_name, others)]))
