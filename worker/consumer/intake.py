"""A batch of entries, decoded: signals and outcomes in the order they came, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice

from worker.dead_letters import Rejected
from worker.errors import DecodeError, EventError, EventRejected, Reason
from worker.events.batches import decode_together
from worker.events.decoding import Decoded, EventKind, Limits, SignalCreated, TradeClosed, decode
from worker.streams.entries import Entry

#: Fields of an entry without an event that are named, and characters of each.
_SHOWN, _SHOWN_CHARACTERS = 8, 40


@dataclass(slots=True)
class Intake:
    """A decoded batch. Signals are grouped by id: the first entry may become the signal, the others repeat it."""

    signals: dict[str, list[tuple[Entry, SignalCreated]]] = field(default_factory=dict)
    outcomes: list[tuple[Entry, TradeClosed]] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    unknown_fields: int = 0
    #: Values that were to be provided and are not there.
    missing_features: int = 0


def decode_batch(
    entries: Sequence[Entry],
    kinds: Mapping[str, EventKind],
    *,
    now: datetime,
    limits: Limits,
    provided: frozenset[str] = frozenset(),
) -> Intake:
    """Decode the entries; one that is no event is rejected and the others go on.

    Args:
        entries: as read from the streams.
        kinds: event type by stream name.
        now: the worker's clock.
        limits: what the door lets in.
        provided: the names in `features` that are ours; others are fields that nobody knows.
    """
    datas = [entry.data if kinds.get(entry.stream) == "signal.created" else None for entry in entries]
    together, unknown = decode_together(datas, now=now, limits=limits)
    intake = Intake(unknown_fields=unknown)
    for entry, read in zip(entries, together, strict=True):
        try:
            event, unknown_fields = (read, 0) if read is not None else _decode(entry, kinds, now, limits)
        except EventError as error:
            intake.rejected.append(Rejected(entry, error))
            continue
        intake.unknown_fields += unknown_fields
        if isinstance(event, SignalCreated):
            if event.features or provided:
                ours = len(provided.intersection(event.features))
                intake.unknown_fields += len(event.features) - ours
                intake.missing_features += len(provided) - ours
            intake.signals.setdefault(event.signal_id, []).append((entry, event))
        else:
            intake.outcomes.append((entry, event))
    return intake


def _decode(entry: Entry, kinds: Mapping[str, EventKind], now: datetime, limits: Limits) -> Decoded:
    if entry.oversized is not None:
        raise DecodeError(Reason.TOO_LARGE, _oversized(entry, entry.oversized, limits))
    if entry.is_lost:
        raise EventRejected(Reason.PAYLOAD_LOST, "the stream was trimmed before the event was handled")
    if entry.data is None:
        raise EventRejected(Reason.MISSING_DATA, _without_data(entry))
    return decode(kinds[entry.stream], entry.data, now=now, limits=limits)


def _oversized(entry: Entry, size: int, limits: Limits) -> str:
    begins = f"; it was not kept, and begins {entry.beginning!r}"
    return f"an entry of {size} bytes, at most {limits.max_bytes} are allowed{begins}"


def _without_data(entry: Entry) -> str:
    first = [name[:_SHOWN_CHARACTERS].decode("utf-8", "backslashreplace") for name in islice(entry.fields, _SHOWN)]
    more = f" and {len(entry.fields) - _SHOWN} more" if len(entry.fields) > _SHOWN else ""
    return f"the entry has the fields {', '.join(map(repr, first))}{more} and no 'data'"
