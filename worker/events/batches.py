"""The signals of a batch, read together where they have the usual form; `decoding` reads one, whatever its form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    """An event, the same without its bars, and by field where these will be found."""

    place: int
    data: bytes
    rest: bytes
    stretches: dict[str, Stretch]

    def bars(self, parser: simdjson.Parser) -> dict[str, Bars | None]:
        """Its bars by field; None for those that cannot be read here."""
        found = {name: stretch.bars for name, stretch in self.stretches.items()}
        if None not in found.values() or not any(stretch.is_shared for stretch in self.stretches.values()):
            return found
        event = cut(self.data)  # once more: what another event brought may be all that is wrong with the series
        return (
            found if event is None else dict(zip(found, read_columns([*event.columns.values()], parser), strict=True))
        )


def _brought(datas: Sequence[bytes | None], rests: list[bytes | None], limits: Limits) -> dict[int, Brought]:
    """By place, the bars of events that could all be read; those events' rests are entered."""
    parser = simdjson.Parser()
    reader = SeriesReader(parser)
    events = []
    for place, data in _by_symbol(datas, limits.max_bytes):
        if (found := cut(data)) is not None:
            stretches = {name: reader.add(name, texts) for name, texts in found.columns.items()}
            events.append(_Cut(place, data, found.rest, stretches))
    reader.read()
    brought: dict[int, Brought] = {}
    for event in events:
        bars = event.bars(parser)
        if all(each is not None and len(each) <= limits.max_bars for each in bars.values()):
            rests[event.place] = event.rest
            brought[event.place] = bars.get("bars"), bars.get("benchmark")
    return brought


def _by_symbol(datas: Sequence[bytes | None], max_bytes: int) -> Iterator[tuple[int, bytes]]:
    """The events that are not too long, with their places: those of a symbol in their order, one after the other.

    A guess is enough: it only decides which events' bars are compared.
    """
    symbols: dict[bytes, list[tuple[int, bytes]]] = {}
    for place, data in enumerate(datas):
        if data is not None and len(data) <= max_bytes:
            begin = data.find(_SYMBOL)
            symbol = data[begin : data.find(b",", begin)] if begin >= 0 else b""
            symbols.setdefault(symbol, []).append((place, data))
    return chain.from_iterable(symbols.values())
