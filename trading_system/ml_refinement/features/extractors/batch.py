"""What extractors read: the bars of many signals as arrays, cut at each signal's own time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trading_system.ml_refinement.bars import Bars
from trading_system.ml_refinement.features.extractors.news_item import NewsItem
from trading_system.ml_refinement.features.extractors.signal_metadata import SignalMetadata
from trading_system.ml_refinement.typing import BoolArray, FloatArray, IntArray, TimeArray

if TYPE_CHECKING:
    import pandas as pd


class Given(NamedTuple):
    """What a caller handed over, as it was: extractors that are written for one signal read it.

    A frame may hold what came after the signal: `frame_at` cuts it off.
    """

    metadata: Mapping[str, Any]
    ohlcv: pd.DataFrame | None = None
    benchmark: pd.DataFrame | None = None


@dataclass(frozen=True, slots=True)
class Flaws:
    """What is wrong with what a request was made from.

    `said` has words by input: "bars", "benchmark", "metadata", "news", "features". `bars` and `benchmark` say
    by column how many bars back the newest value lies that cannot be meant, 1 being the newest bar; in the bars it is
    NaN.
    """

    said: Mapping[str, str]
    bars: Mapping[str, int] = field(default_factory=dict)
    benchmark: Mapping[str, int] = field(default_factory=dict)

    def reach(self, inputs: Sequence[str], lookback_bars: int | None) -> bool:
        """Whether a feature of these inputs, over so many bars, would have been made from such a value."""
        sides = (self.bars, self.benchmark) if "benchmark" in inputs else (self.bars,)
        backs = [side[name] for side in sides for name in inputs if name in side]
        return bool(backs) and (lookback_bars is None or min(backs) <= lookback_bars)


class FeatureRequest(NamedTuple):
    """One signal and all that may be known of it.

    `bars`, `benchmark` and `news` may hold what came after `timestamp_us`: the batch cuts it off. `given` is what
    these were made from, with what they have no place for: keys of the signal's, columns of the bars'. `flaws` is None
    where nothing is wrong with it. `provided` is what the desk said in `features`, by name.
    """

    signal_id: str
    timestamp_us: int
    metadata: SignalMetadata
    bars: Bars
    benchmark: Bars | None = None
    news: tuple[NewsItem, ...] = ()
    given: Given | None = None
    flaws: Flaws | None = None
    provided: Mapping[str, float] | None = None

    def signal(self) -> dict[str, Any]:
        """The signal as a dictionary of its own: all that was given, or else of its metadata what is not missing."""
        if self.given is not None:
            return dict(self.given.metadata)
        told: dict[str, Any] = {name: value for name, value in self.metadata._asdict().items() if value is not None}
        return told | {"features": dict(self.provided)} if self.provided else told


class BarsBatch:
    """Bars of n rows, each cut to its first `lengths[i]` bars.

    `tail` gives arrays of shape (n, n_bars), right-aligned: column -1 is the newest bar of each row, and what a row
    does not have is NaN on the left. A row's values do not depend on the rows beside it.
    """

    def __init__(self, rows: Sequence[Bars], ends: Sequence[int]) -> None:
        self._rows = rows
        self._ends = ends
        self._gathered: dict[str, FloatArray] = {}
        self._asked: dict[str, int] = {}
        self._remembered: dict[tuple[str, int], FloatArray] = {}
        self.lengths = np.array(ends, dtype=np.int64)
        self.longest = max(ends, default=0)
        self.shortest = min(ends, default=0)

    def __len__(self) -> int:
        return len(self._rows)

    def starting(self, n_bars: int) -> BoolArray | None:
        """Which rows have exactly `n_bars` and so nothing before them, shape (n,); None where no row is that short."""
        return self.lengths == n_bars if self.shortest <= n_bars else None

    def tail(self, column: str, n_bars: int) -> FloatArray:
        """The newest `n_bars` of a column, shape (n, n_bars), NaN where a row has fewer; a read-only view.

        Args:
            column: "open", "high", "low", "close" or "volume".
            n_bars: at least 1.
        """
        if self._asked.get(column, 0) < n_bars:
            self._asked[column] = n_bars
        return self._tail(column, n_bars)

    def expect(self, column: str, n_bars: int) -> None:
        """Gather so many bars of a column at once, for all who ask for no more."""
        self._tail(column, n_bars)

    def _tail(self, column: str, n_bars: int) -> FloatArray:
        kept = self._gathered.get(column)
        if kept is None or kept.shape[1] < n_bars:
            kept = self._gathered[column] = self._gather(column, n_bars)
        return kept[:, kept.shape[1] - n_bars :]

    @property
    def asked(self) -> dict[str, int]:
        """The most bars of each column that `tail` was asked for."""
        return dict(self._asked)

    def remember(self, key: tuple[str, int], make: Callable[[], FloatArray]) -> FloatArray:
        """What `make` gives, of shape (n,) or (n, ...), computed once for the batch.

        Args:
            key: the intermediate's name and its window in bars; several extractors that use it read the same array.
            make: computes it.
        """
        if key not in self._remembered:
            self._remembered[key] = make()
        return self._remembered[key]

    def history(self, column: str) -> FloatArray:
        """All bars of every row: `tail` as wide as the longest row, shape (n, max(longest, 1))."""
        return self.tail(column, max(self.longest, 1))

    def missing(self, n_bars: int) -> BoolArray:
        """Where `tail(..., n_bars)` is padding, shape (n, n_bars)."""
        return np.arange(n_bars) < (n_bars - self.lengths)[:, None]

    def times(self, n_bars: int, side: int) -> TimeArray:
        """The close times of the newest `n_bars`, shape (n, n_bars).

        Where a row has none there are times before all times, that meet neither each other nor those of the other
        `side` (0 or 1).
        """
        times = np.empty((len(self), n_bars), dtype=np.int64)
        if self.shortest < n_bars:
            times[:] = 2 * np.arange(n_bars) - (2**62 + side)
        for row, bars, end in zip(times, self._rows, self._ends, strict=True):
            row[n_bars - min(end, n_bars) :] = bars.timestamp[max(end - n_bars, 0) : end]
        return times

    def row(self, index: int) -> Bars:
        """The bars of one row, cut."""
        return self._rows[index].first(self._ends[index])

    def _gather(self, column: str, n_bars: int) -> FloatArray:
        columns = map(attrgetter(column), self._rows)
        if self.shortest >= n_bars:
            parts = [values[end - n_bars : end] for values, end in zip(columns, self._ends, strict=True)]
        else:
            parts = [values[max(end - n_bars, 0) : end] for values, end in zip(columns, self._ends, strict=True)]
            parts = [part if part.size == n_bars else _padded(part, n_bars) for part in parts]
        out = np.concatenate(parts).reshape(len(parts), n_bars) if parts else np.empty((0, n_bars))
        out.flags.writeable = False  # the extractors share it
        return out


def _padded(values: FloatArray, n_bars: int) -> FloatArray:
    return np.concatenate([np.full(n_bars - values.size, np.nan), values])


class SignalBatch:
    """The signals of one call, as extractors see them: nothing in it is later than each signal's own time.

    `bars` has a row per signal.
    """

    def __init__(self, requests: Sequence[FeatureRequest]) -> None:
        self.requests = requests
        self._ends = closed_counts([request.bars for request in requests], [r.timestamp_us for r in requests])
        self.bars = BarsBatch([request.bars for request in requests], self._ends)
        self._markets: tuple[BarsBatch, IntArray] | None = None

    def __len__(self) -> int:
        return len(self.requests)

    @cached_property
    def flawed(self) -> list[tuple[int, Flaws]]:
        """The signals made from something that is wrong, by row, with what is."""
        return [(row, request.flaws) for row, request in enumerate(self.requests) if request.flaws is not None]

    @property
    def timestamp_us(self) -> TimeArray:
        """Each signal's time, shape (n_signals,)."""
        return np.array([request.timestamp_us for request in self.requests], dtype=np.int64)

    @property
    def metadata(self) -> list[SignalMetadata]:
        """Each signal's own statement."""
        return [request.metadata for request in self.requests]

    @property
    def has_benchmark(self) -> BoolArray:
        """Which signals came with a benchmark, shape (n_signals,)."""
        return np.array([request.benchmark is not None for request in self.requests], dtype=bool)

    @property
    def markets(self) -> tuple[BarsBatch, IntArray]:
        """The distinct market histories, and for each signal its row among them, shape (n_signals,).

        A market is a benchmark cut at the signal's time, or the signal's own bars where it has no benchmark.
        """
        if self._markets is None:
            self._markets = self._distinct_markets()
        return self._markets

    def _distinct_markets(self) -> tuple[BarsBatch, IntArray]:
        places: dict[tuple[int, int], int] = {}
        rows: list[Bars] = []
        ends: list[int] = []
        place: list[int] = []
        for request, own_end in zip(self.requests, self._ends, strict=True):
            benchmark = request.benchmark
            market = request.bars if benchmark is None else benchmark
            end = own_end if benchmark is None else closed_bars(benchmark, request.timestamp_us)
            at = places.setdefault((id(market), end), len(rows))
            if at == len(rows):
                rows.append(market)
                ends.append(end)
            place.append(at)
        return BarsBatch(rows, ends), np.array(place, dtype=np.int64)


def closed_bars(bars: Bars, us: int) -> int:
    """How many bars had closed at `us`."""
    times = bars.timestamp
    if times.size == 0 or times.item(-1) <= us:
        return times.size
    return int(times.searchsorted(us, side="right"))


def closed_counts(bars: Sequence[Bars], us: Sequence[int]) -> list[int]:
    """`closed_bars` of each of these bars at each of these times; quick where many are the same bars."""
    same: dict[int, list[int]] = defaultdict(list)
    for row, key in enumerate(map(id, bars)):
        same[key].append(row)
    if len(same) == len(bars):
        return list(map(closed_bars, bars, us))
    counts = [0] * len(bars)
    for rows in same.values():
        times = bars[rows[0]].timestamp
        for row, count in zip(rows, times.searchsorted([us[row] for row in rows], side="right").tolist(), strict=True):
            counts[row] = count
    return counts
