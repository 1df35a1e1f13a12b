"""What became of an entry that may have been decided on before: by this worker, by one that died, by one that hung.

The store's identities make events have one effect. This makes *entries* end in one way: applied or dead-lettered, never
both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum, auto

from trading_system.ml_refinement.storage import FeatureDatabase, Replay
from trading_system.ml_refinement.storage.tables.entries import named_apart
from worker.consumer.rows import outcome_row
from worker.errors import DecodeError
from worker.events.decoding import EventKind, SignalCreated, decode_again
from worker.streams.entries import Entry

_CREATED: EventKind = "signal.created"

Key = tuple[str, str]
Content = tuple[object, ...]


class AlreadySettled(Enum):
    """Why nothing is to be done about an entry."""

    DEAD_LETTER = auto()
    """It is a dead letter, whatever became of that."""
    COPY = auto()
    """It carries a replay that takes effect through another entry."""


class Deduplication:
    """Looks up what the store knows of entries.

    Args:
        store: the open store.
        kinds: event type by stream name.
    """

    def __init__(self, store: FeatureDatabase, kinds: Mapping[str, EventKind]) -> None:
        self._store = store
        self._kinds = dict(kinds)

    def already_settled(self, entries: Sequence[Entry]) -> dict[Key, AlreadySettled]:
        """Those of the entries that nothing is to be done about; inside a transaction this holds until its end."""
        if not entries:
            return {}
        settled = dict.fromkeys(self.dead_lettered(entries), AlreadySettled.DEAD_LETTER)
        replays = _replays(entries, settled)
        carriers = self._store.replays.carriers(replays)
        for entry in entries if replays else ():
            if entry.replay in carriers and entry.key not in settled:
                carrier = carriers[entry.replay] = carriers[entry.replay] or entry.key
                if carrier != entry.key:
                    settled[entry.key] = AlreadySettled.COPY
        return settled

    def dead_lettered(self, entries: Sequence[Entry]) -> set[Key]:
        """Those of the entries that are dead letters, whatever became of these.

        A server that was emptied may give out an id again: other bytes are another event.
        """
        letters = self._store.entries.dead_lettered([entry.key for entry in entries])
        if not letters:
            return set()
        same, apart = set(), {}
        for entry in entries:
            if entry.key in letters and (_is_unread(entry) or (entry.data or b"") == letters[entry.key]):
                same.add(entry.key)
            elif entry.key in letters:
                apart[entry.stream, named_apart(entry.entry_id, entry.data or b"")] = entry.key
        return same | {apart[name] for name in (self._store.entries.dead_lettered(list(apart)) if apart else ())}

    def applied(self, entries: Sequence[Entry]) -> set[Key]:
        """Those of the entries that had an effect already, or were noted as duplicates.

        An entry with bytes is known by them too: a server that was emptied may give out an id again, and so may a
        replica that lacked entries when it took over.
        """
        if not entries:
            return set()
        known: dict[Key, set[Content]] = defaultdict(set)
        for key, signal_id in self._store.entries.duplicates([entry.key for entry in entries]):
            known[key].add((signal_id,))
        stored = self._store.entries
        for kind, look_up in ((_CREATED, stored.stored_signals), ("trade.closed", stored.stored_outcomes)):
            keys = {entry.stored_id: entry.key for entry in entries if self._kinds.get(entry.stream) == kind}
            for known_as, content in look_up(keys) if keys else ():
                known[keys[known_as]].add(content)
        return {entry.key for entry in entries if entry.key in known and self._is_one_of(entry, known[entry.key])}

    def stored_by(self, entries: Iterable[Entry]) -> set[str]:
        """The stored signals that were brought by those of the entries whose bytes are not there to tell them by."""
        unread = [entry.stored_id for entry in entries if _is_unread(entry) and self._kinds[entry.stream] == _CREATED]
        return {str(content[0]) for _, content in self._store.entries.stored_signals(unread)} if unread else set()

    def _is_one_of(self, entry: Entry, known: set[Content]) -> bool:
        """Whether the entry is one whose effects are in the store, as far as its bytes are there to tell."""
        if _is_unread(entry):
            return True
        if entry.data is None:
            return False
        try:
            event = decode_again(self._kinds[entry.stream], entry.data)
        except DecodeError:
            return False
        copies: set[Content] = {(event.signal_id,)} | ({("",)} if entry.replay else set())
        if isinstance(event, SignalCreated):
            return not known.isdisjoint(copies | {(event.signal_id, event.digest), (event.signal_id, None)})
        row = outcome_row(entry, event)
        return not known.isdisjoint(copies | {(row.signal_id, row.revision, *row.content)})

    def note_replays(self, entries: Sequence[Entry], settled: Mapping[Key, AlreadySettled]) -> None:
        """Note which entries replays take effect through; belongs in the transaction of those effects."""
        replays = _replays(entries, settled)
        if replays:
            valid = self._store.replays.carriers(replays)
            self._store.replays.take_effect([r for r in replays if (r.dead_letter_id, r.number) in valid])
        for copy in _copies(entries, settled) if settled else ():
            if copy.request is not None:
                self._store.replays.sent(copy.request, copy.dead_letter_id, copy.entry_id)


def _is_unread(entry: Entry) -> bool:
    """Whether its bytes are not there to tell it by."""
    return entry.is_lost or entry.oversized is not None


def _replays(entries: Sequence[Entry], settled: Mapping[Key, AlreadySettled]) -> list[Replay]:
    # An entry of the usual kind has one field, and that is not the name of a dead letter.
    named = [entry for entry in entries if len(entry.fields) > 1 and entry.key not in settled]
    return [replay for entry in named if (replay := _replay(entry)) is not None]


def _copies(entries: Sequence[Entry], settled: Mapping[Key, AlreadySettled]) -> list[Replay]:
    copies = [entry for entry in entries if settled.get(entry.key) is AlreadySettled.COPY]
    return [replay for entry in copies if (replay := _replay(entry)) is not None]


def _replay(entry: Entry) -> Replay | None:
    named = entry.replay
    if named is None:
        return None
    return Replay(*named, entry.stream, entry.entry_id, entry.data or b"", entry.replay_request)
