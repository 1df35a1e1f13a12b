"""Bars that events repeat: of a symbol's next signal only the bars are parsed that its last one did not have.

A desk that sends a year of bars with each signal sends nearly all of them again with the next one. Texts are compared,
which is many times as quick as parsing them: events that go on where one before them was are laid end to end as one
series, that is read once, and each event's bars are a stretch of it.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from trading_system.ml_refinement.bars import Bars
from worker.events.inline_bars import ColumnTexts, read_columns

if TYPE_CHECKING:
    import simdjson

#: The beginning of a column of times by which it is found in another one: more than one time.
_ANCHOR_BYTES = 32
#: Bars that one event may have dropped of those of the event before it.
_MOST_DROPPED = 64
#: Texts that wait to be read are not many more bytes: they stay in a processor's cache.
_MOST_WAITING = 1 << 18
_BEHIND_A_VALUE = frozenset(b",]")


class Stretch(NamedTuple):
    """Which part of a series an event's bars are: without its oldest `dropped`, up to the `added`th that joined it."""

    series: _Series
    dropped: int
    added: int

    @property
    def is_shared(self) -> bool:
        """Whether bars of another event are in the series."""
        return bool(self.series.joined)

    @property
    def bars(self) -> Bars | None:
        """The bars, checked, as views; None where the series was not read."""
        bars = self.series.bars
        if bars is None:
            return None
        end = len(bars) - self.series.added + self.added
        return bars if (self.dropped, end) == (0, len(bars)) else bars.between(self.dropped, end)


class _Series:
    """The columns of an event, and what later events have added to them."""

    __slots__ = ("added", "bars", "dropped", "first", "joined", "newest")

    def __init__(self, texts: ColumnTexts) -> None:
        self.first = self.newest = texts
        #: What was added to each column, times first, each with its comma.
        self.joined: list[list[bytes]] = []
        self.dropped = self.added = 0
        self.bars: Bars | None = None

    def goes_on(self, texts: ColumnTexts) -> bool:
        """Whether these bars are the newest event's but for some that were dropped and some added; then enters them."""
        dropped = _dropped(self.newest.times, texts.times)
        if dropped is None:
            return False
        added: list[bytes] = []
        for old, new in zip(_columns(self.newest), _columns(texts), strict=True):
            text = _added(old, new, dropped)
            if text is None or text.count(b",") != (added or [text])[0].count(b","):
                return False
            added.append(text)
        self.joined.append(added)
        self.newest = texts
        self.dropped += dropped
        self.added += added[0].count(b",")
        return True

    def texts(self) -> ColumnTexts:
        """The columns of all that it has."""
        if not self.added:
            return self.first
        every = zip(_columns(self.first), zip(*self.joined, strict=True), strict=True)
        times, *numbers = (b"".join([first[:-1], *more, b"]"]) for first, more in every)
        return ColumnTexts(times, tuple(numbers))


class SeriesReader:
    """Reads the bars of a batch's events: add those of each, those of a symbol one after the other, then read."""

    def __init__(self, parser: simdjson.Parser) -> None:
        self._parser = parser
        self._newest: dict[str, _Series] = {}
        self._waiting: list[_Series] = []
        self._waiting_bytes = 0

    def add(self, name: str, texts: ColumnTexts) -> Stretch:
        """The bars of an event, to be had when all are read.

        Args:
            name: of the field; what it had in the event before is what is compared.
            texts: of the columns.
        """
        series = self._newest.get(name)
        if series is None or not series.goes_on(texts):
            if self._waiting_bytes > _MOST_WAITING:
                self.read()
            series = self._newest[name] = _Series(texts)
            self._waiting.append(series)
            self._waiting_bytes += sum(map(len, _columns(texts)))
        return Stretch(series, series.dropped, series.added)

    def read(self) -> None:
        """Read all that was added."""
        read = read_columns([series.texts() for series in self._waiting], self._parser)
        for series, bars in zip(self._waiting, read, strict=True):
            series.bars = bars
        self._newest, self._waiting, self._waiting_bytes = {}, [], 0


def _columns(texts: ColumnTexts) -> chain[bytes]:
    return chain((texts.times,), texts.numbers)


def _dropped(old: bytes, new: bytes) -> int | None:
    """How many of the oldest times in `old` seem to stand before the first one of `new`; None where that is not there.

    No more than a guess, which `_added` holds each column to.
    """
    begin = old.find(new[1 : 1 + _ANCHOR_BYTES], 1)
    dropped = old.count(b",", 0, begin) if begin > 0 else _MOST_DROPPED + 1
    return dropped if dropped <= _MOST_DROPPED else None


def _added(old: bytes, new: bytes, dropped: int) -> bytes | None:
    """What `new` has behind the values of `old` but the first `dropped`, comma first; None where it is without them.

    Values have no commas in them, or the column cannot be read.
    """
    begin = 1
    for _ in range(dropped):
        begin = old.find(b",", begin) + 1
        if not begin:
            return None
    if dropped and old.startswith(b" ", begin):
        begin += 1
    kept = old[begin:-1]
    if not new.startswith(kept, 1) or new[1 + len(kept)] not in _BEHIND_A_VALUE:
        return None
    return new[1 + len(kept) : -1]
