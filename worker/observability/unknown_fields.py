"""Fields that producers send and nobody reads, by name: read from the newest events of the archive when it is asked.

The worker only counts them, since names would cost every event something.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from trading_system.ml_refinement.bar_limits import COLUMNS
from trading_system.ml_refinement.storage import StoreError
from worker.events.field_names import NEWS_FIELDS, SIGNAL_FIELDS, TRADE_FIELDS
from worker.installation import open_archive, streams_of
from worker.observability.printable import counted

if TYPE_CHECKING:
    from worker.settings.schema import Settings

#: So many of the newest events are looked at, of both kinds together; so many names are told.
LOOKED_AT = 200
_MOST_NAMES = 10
_MOST_SIGNS = 64


@dataclass(frozen=True, slots=True)
class UnknownField:
    """A field of an event that nobody reads, and how many of the newest events have it."""

    event: str
    name: str
    events: int


def unknown_fields(settings: Settings) -> tuple[UnknownField, ...]:
    """Those of the newest events, the most frequent first; empty without an archive, or where it cannot be read now."""
    if not settings.archive.enabled or not settings.archive_is_there:
        return ()
    provided = settings.ml.features.provided
    found: Counter[tuple[str, str]] = Counter()
    streams = streams_of(settings)
    kinds = (("signal.created", streams.created, SIGNAL_FIELDS), ("trade.closed", streams.closed, TRADE_FIELDS))
    try:
        with closing(open_archive(settings, read_only=True)) as archive:
            for event, named, known in kinds:
                for data in archive.newest(named, among=LOOKED_AT):
                    if len(data) <= settings.max_event_bytes:
                        found.update((event, name) for name in set(_unknown_in(data, known, provided)))
    except StoreError:
        return ()
    return tuple(UnknownField(event, name, number) for (event, name), number in found.most_common(_MOST_NAMES))


def unknown_in_words(fields: Collection[UnknownField]) -> str:
    """Which fields nobody reads, and in how many events."""
    if not fields:
        return f"none among the newest {LOOKED_AT} events"
    return ", ".join(f"{one.name} of {one.event} (in {counted(one.events, 'event')})" for one in fields)


def _unknown_in(data: bytes, known: Collection[str], provided: Collection[str]) -> Iterator[str]:
    try:
        event: Any = orjson.loads(data)
    except orjson.JSONDecodeError:
        return  # it went to the dead letters
    yield from _beyond(event, known)
    if isinstance(event, dict):
        for name in ("bars", "benchmark"):
            if name in known:
                yield from _beyond(event.get(name), COLUMNS, f"{name}.")
        if "news" in known and isinstance(event.get("news"), list):
            for item in event["news"]:
                yield from _beyond(item, NEWS_FIELDS, "news.")
        if "features" in known:
            yield from _beyond(event.get("features"), provided, "features.")


def _beyond(value: Any, known: Collection[str], prefix: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        yield from (f"{prefix}{name}"[:_MOST_SIGNS] for name in value if name not in known)
