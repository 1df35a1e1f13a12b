"""The signals of a batch, read together where they have the usual form; `decoding` reads one, whatever its form."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import chain
from typing import NamedTuple

from trading_system.ml_refinement.bars import Bars
from worker.events.bar_series import SeriesReader, Stretch
from worker.events.decoding import Limits, SignalCreated, decode_without_bars
from worker.events.inline_bars import cut, read_columns
from worker.events.plain_signals import Brought, plain_signals

try:
    import simdjson
except ModuleNotFoundError:  # where there are no wheels of it, events with bars are read one by one
    simdjson = None  # type: ignore[assignment]

_SYMBOL = b'"symbol":'


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
    brought = _brought(datas, rests, limits) if simdjson is not None else {}
    signals, unknown_fields = plain_signals(rests, now=now, limits=limits, brought=brought)
    for place, (bars, benchmark) in brought.items():
        if signals[place] is None:
            found = decode_without_bars(rests[place] or b"", bars, benchmark, now=now, limits=limits)
            if found is not None:
                signals[place], more = found
                unknown_fields += more
    return ReadTogether(signals, unknown_fields)


class _Cut(NamedTuple):
    """An event without its bars, and by field where they will be found."""

    place: int
    rest: bytes
    stretches: dict[str, Stretch]


def _brought(datas: Sequence[bytes | None], rests: list[bytes | None], limits: Limits) -> dict[int, Brought]:
    """By place, the bars of events that could all be read; those events' rests are entered."""
    parser = simdjson.Parser()
    reader = SeriesReader(parser)
    events = []
    for place in _by_symbol(datas, limits.max_bytes):
        if (event := cut(datas[place] or b"")) is not None:
            stretches = {name: reader.add(name, texts) for name, texts in event.columns.items()}
            events.append(_Cut(place, event.rest, stretches))
    reader.read()
    brought: dict[int, Brought] = {}
    for place, rest, stretches in events:
        found = {name: stretch.bars for name, stretch in stretches.items()}
        if any(bars is None for bars in found.values()):
            found = _alone(datas[place] or b"", stretches, parser)
        if all(bars is not None and len(bars) <= limits.max_bars for bars in found.values()):
            rests[place] = rest
            brought[place] = found.get("bars"), found.get("benchmark")
    return brought


def _by_symbol(datas: Sequence[bytes | None], max_bytes: int) -> list[int]:
    """The places of the events that are not too long, those of a symbol in their order, one after the other.

    A guess is enough: it only decides which events' bars are compared.
    """
    symbols: dict[bytes, list[int]] = {}
    for place, data in enumerate(datas):
        if data is not None and len(data) <= max_bytes:
            begin = data.find(_SYMBOL)
            symbols.setdefault(data[begin : data.find(b",", begin)] if begin >= 0 else b"", []).append(place)
    return [*chain.from_iterable(symbols.values())]


def _alone(data: bytes, stretches: dict[str, Stretch], parser: simdjson.Parser) -> dict[str, Bars | None]:
    """The bars of an event that shared a series which could not be read, perhaps for another one's fault."""
    event = cut(data) if any(stretch.series.is_shared for stretch in stretches.values()) else None
    if event is None:
        return dict.fromkeys(stretches)
    return dict(zip(event.columns, read_columns(list(event.columns.values()), parser), strict=True))
