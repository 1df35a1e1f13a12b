"""The signals of a batch, read together where they have the usual form; `decoding` reads one, whatever its form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from worker.events.decoding import Limits, SignalCreated, decode_without_bars
from worker.events.inline_bars import CutEvent, cut, read_columns
from worker.events.plain_signals import Brought, plain_signals

try:
    import simdjson
except ModuleNotFoundError:  # where there are no wheels of it, events with bars are read one by one
    simdjson = None  # type: ignore[assignment]

#: So many events' bars are read together.
_TOGETHER = 16


class ReadTogether(NamedTuple):
    """The signals of a batch by place, None where `decode` is to be asked, and the unknown fields of the others."""

    signals: list[SignalCreated | None]
    unknown_fields: int


def decode_together(datas: Sequence[bytes | None], *, now: datetime, limits: Limits) -> ReadTogether:
    """What `decode` makes of those signals that it would take.

    Args:
        datas: as received; None for what is no signal.
        now: the worker's clock.
        limits: what the door lets in.
    """
    rests: list[bytes | None] = list(datas)
    brought: dict[int, Brought] = {}
    parser = simdjson.Parser() if simdjson is not None else None
    for begin in range(0, len(datas), _TOGETHER) if parser is not None else ():
        places = range(begin, min(begin + _TOGETHER, len(datas)))
        for place, event, columns in _with_bars(datas, places, parser, limits):
            rests[place] = event.rest
            brought[place] = columns
    signals, unknown_fields = plain_signals(rests, now=now, limits=limits, brought=brought)
    for place, (bars, benchmark) in brought.items():
        if signals[place] is None:
            found = decode_without_bars(rests[place] or b"", bars, benchmark, now=now, limits=limits)
            if found is not None:
                signals[place], more = found
                unknown_fields += more
    return ReadTogether(signals, unknown_fields)


def _with_bars(
    datas: Sequence[bytes | None], places: range, parser: simdjson.Parser, limits: Limits
) -> Iterator[tuple[int, CutEvent, Brought]]:
    """The events at these places whose bars could all be read."""
    events = [
        (place, event)
        for place in places
        if (data := datas[place]) is not None and len(data) <= limits.max_bytes and (event := cut(data)) is not None
    ]
    if not events:
        return
    read = iter(read_columns([texts for _, event in events for texts in event.columns.values()], parser))
    for place, event in events:
        found = {name: next(read) for name in event.columns}
        if all(bars is not None and len(bars) <= limits.max_bars for bars in found.values()):
            yield place, event, (found.get("bars"), found.get("benchmark"))
