"""Bars for signals that bring none, from a directory with one file per symbol."""

from __future__ import annotations

import errno
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from pathlib import Path

import numpy as np
from loguru import logger

from trading_system.ml_refinement.bars import Bars
from trading_system.ml_refinement.features.pipeline import FeatureRequest
from trading_system.ml_refinement.storage.times import DAY_US, text_from_us
from worker.errors import EventRejected, Reason, TransientError
from worker.events.decoding import SignalCreated
from worker.market_data.files import (
    SUFFIXES,
    BadFileError,
    BarFile,
    FileVersion,
    file_stem,
    read_bars,
    version_of,
)
from worker.settings.schema import Settings

_NO_BARS = Bars.empty()
_LONGEST_NAME = 255  # of a file, in bytes
_BYTES_OF_A_BAR = 48
#: So much of what was read is kept: ten million bars. What was asked for last is kept in any case.
_MOST_KEPT_BYTES = 480_000_000


class NoMarketData(EventRejected):
    """A signal's bars are not to be had: no_market_data, or bad_market_data. The detail says which symbol and times."""


@dataclass(frozen=True, slots=True)
class MarketBook:
    """What the source holds for one batch, looked up once per symbol."""

    found: Mapping[str, Bars | NoMarketData]
    benchmark_symbols: Mapping[str, str]
    max_bar_age_days: float
    wanted: bool = True

    def request(self, signal: SignalCreated) -> FeatureRequest:
        """What a signal's features are computed from: what it brought, and what the source has for the rest.

        Raises:
            NoMarketData: its bars are not to be had.
            TransientError: its benchmark's file cannot be used; that is for the operator to repair, and no fault of any
                signal's.
        """
        (found,) = self.requests([signal])
        if isinstance(found, NoMarketData):
            raise found
        return found

    def requests(self, signals: Sequence[SignalCreated]) -> list[FeatureRequest | NoMarketData]:
        """`request` for each of the signals, or why its bars are not to be had.

        Raises:
            TransientError: a benchmark's file cannot be used.
        """
        if not signals:
            return []
        ids, us, symbols, classes, _, _, metadata, own, benchmarks, news, provided, _ = zip(*signals, strict=True)
        bars = self._bars(symbols, us, own)  # features are as of the signal's time: nothing has to be cut off here
        if self.benchmark_symbols:
            benchmarks = tuple(
                self.benchmark(kind) if one is None and not isinstance(found, NoMarketData) else one
                for one, kind, found in zip(benchmarks, classes, bars, strict=True)
            )
        nothing = repeat(None, len(ids))
        columns = zip(ids, us, metadata, bars, benchmarks, news, nothing, repeat(None, len(ids)), provided, strict=True)
        made = map(FeatureRequest._make, columns)
        return [one if isinstance(one, NoMarketData) else request for one, request in zip(bars, made, strict=True)]

    def benchmark(self, asset_class: str) -> Bars | None:
        """All bars of the asset class's benchmark; None where none is set or its file is missing.

        Raises:
            TransientError: the file is there and cannot be used.
        """
        symbol = self.benchmark_symbols.get(asset_class)
        found = self.found.get(symbol) if symbol is not None else None
        if not isinstance(found, NoMarketData):
            return found
        if found.reason is Reason.NO_MARKET_DATA:
            return None
        raise TransientError(f"the benchmark {found.detail}")

    def _bars(self, symbols: Sequence[str], us: Sequence[int], own: Sequence[Bars | None]) -> list[Bars | NoMarketData]:
        """What each signal brought, or else all bars of its symbol."""
        bars: list[Bars | NoMarketData] = [_NO_BARS if one is None else one for one in own]
        rows_of: dict[str, list[int]] = defaultdict(list)
        for row, (symbol, one) in enumerate(zip(symbols, own, strict=True)):
            if one is None and self.wanted:
                rows_of[symbol].append(row)
        for symbol, rows in rows_of.items():
            for row, found in zip(rows, self._of_symbol(symbol, [us[row] for row in rows]), strict=True):
                bars[row] = found
        return bars

    def _of_symbol(self, symbol: str, us: list[int]) -> list[Bars | NoMarketData]:
        """All bars of a symbol for each time at which the newest that had closed is not too old."""
        found = self.found[symbol]
        if isinstance(found, NoMarketData):
            return [NoMarketData(found.reason, f"{found.detail}; wanted bars up to {text_from_us(at)}") for at in us]
        if not len(found):
            return [self._too_old(symbol, at, found) for at in us]
        counts = found.timestamp.searchsorted(us, side="right")
        newest = found.timestamp.take(np.maximum(counts - 1, 0))
        recent = (counts > 0) & (newest >= np.array(us) - self.max_bar_age_days * DAY_US)
        if recent.all():
            return [found] * len(us)
        return [
            found if is_recent else self._too_old(symbol, at, found)
            for at, is_recent in zip(us, recent.tolist(), strict=True)
        ]

    def _too_old(self, symbol: str, us: int, found: Bars) -> NoMarketData:
        return NoMarketData(
            Reason.NO_MARKET_DATA,
            f"{symbol}: no bar within the {self.max_bar_age_days:g} days up to {text_from_us(us)}; {_extent(found)}",
        )


class DirectorySource:
    """One CSV or Parquet file per symbol, read when first asked for and again whenever it has changed.

    Args:
        directory: where the files are; None: there is no source, and no symbol has bars.
        benchmark_symbols: symbol of the benchmark by asset class.
        max_bar_age_days: bars older than this before a signal are a stale file, and as good as none.
        wanted: whether any feature is made from bars; where none is, nothing is looked up and nothing is lacking.
    """

    def __init__(
        self,
        directory: Path | None,
        *,
        benchmark_symbols: Mapping[str, str],
        max_bar_age_days: float = 7.0,
        wanted: bool = True,
    ) -> None:
        self._directory = directory
        self._benchmark_symbols = dict(benchmark_symbols)
        self._max_bar_age_days = max_bar_age_days
        self._wanted = wanted
        self._had_files = False
        #: What was read, the one that was asked for last at the end.
        self._kept: dict[str, tuple[_Version, BarFile | NoMarketData]] = {}
        self._missed: set[str] = set()  # benchmarks whose absence was said

    def lookup(self, signals: Sequence[SignalCreated]) -> MarketBook:
        """What there is for a batch of signals, of that which they did not bring; one look per symbol.

        Raises:
            TransientError: the directory is gone or empty, or a file in it cannot be read now.
        """
        if not self._wanted:
            return MarketBook({}, {}, self._max_bar_age_days, wanted=False)
        symbols = {signal.symbol for signal in signals if signal.bars is None}
        asset_classes = {signal.asset_class for signal in signals if signal.benchmark is None}
        benchmarks = {self._benchmark_symbols[kind] for kind in asset_classes if kind in self._benchmark_symbols}
        found = {symbol: self._symbol(symbol) for symbol in symbols | benchmarks}
        self._report_benchmarks(benchmarks, found)
        return MarketBook(found, self._benchmark_symbols, self._max_bar_age_days)

    def bars(self, symbol: str) -> Bars | NoMarketData:
        """All bars of a symbol, or why there are none, `wanted` or not.

        Raises:
            TransientError: the directory is gone or empty, or a file in it cannot be read now.
        """
        return self._symbol(symbol)

    def _report_benchmarks(self, benchmarks: set[str], found: Mapping[str, Bars | NoMarketData]) -> None:
        for symbol in sorted(benchmarks):
            problem = found[symbol]
            if isinstance(problem, Bars):
                self._missed.discard(symbol)
            elif problem.reason is Reason.NO_MARKET_DATA and symbol not in self._missed:
                self._missed.add(symbol)
                logger.warning("benchmark {}; what compares with it is neutral until it is there", problem.detail)

    def _symbol(self, symbol: str) -> Bars | NoMarketData:
        if self._directory is None:
            return NoMarketData(Reason.NO_MARKET_DATA, f"{symbol}: no bars in the event, and no market-data directory")
        try:
            return self._looked_up(self._directory, symbol)
        except OSError as error:
            raise TransientError(
                f"market data of {symbol} cannot be read now: {error.filename or self._directory}: {error.strerror}"
            ) from error

    def _looked_up(self, directory: Path, symbol: str) -> Bars | NoMarketData:
        places = _paths(directory, symbol)
        versions = {path: version for path, name in places if (version := _version(name)) is not None}
        if not versions:
            self._kept.pop(symbol, None)
            return self._absent(directory, symbol, file_stem(symbol))
        self._had_files = True
        if len(versions) > 1:
            return NoMarketData(Reason.BAD_MARKET_DATA, f"{symbol}: both a CSV and a Parquet file are there")
        ((path, version),) = versions.items()
        kept = self._kept.pop(symbol, None)
        if kept is None or kept[0] != version:
            kept = (
                version,
                self._read(symbol, path, kept[1] if kept is not None and kept[0][0] == version[0] else None),
            )
            self._make_room(kept[1])
        self._kept[symbol] = kept
        return kept[1].bars if isinstance(kept[1], BarFile) else kept[1]

    def _make_room(self, coming: BarFile | NoMarketData) -> None:
        """Let go of what was not asked for longest, until there is room for what was read."""
        room = _MOST_KEPT_BYTES - _size(coming) - sum(_size(found) for _, found in self._kept.values())
        while room < 0 and self._kept:
            _, found = self._kept.pop(next(iter(self._kept)))
            room += _size(found)

    def _absent(self, directory: Path, symbol: str, stem: str) -> NoMarketData:
        os.stat(directory)  # one that is not there is no symbol's fault
        if self._had_files and not _has_files(directory):  # it has lost its mount
            raise TransientError(f"the market-data directory {directory} is empty, and was not before")
        names = " or ".join(f"{stem}{suffix}" for suffix in SUFFIXES)
        if len(stem) + len(SUFFIXES[0]) > _LONGEST_NAME:
            return NoMarketData(
                Reason.NO_MARKET_DATA, f"{symbol}: no file can have so long a name; its events have to bring bars"
            )
        shouted = [name for suffix in SUFFIXES if (directory / (name := f"{stem}{suffix.upper()}")).exists()]
        said = f"; {shouted[0]} is not read, suffixes are lower case" if shouted else ""
        return NoMarketData(Reason.NO_MARKET_DATA, f"{symbol}: there is no file {names}{said}")

    def _read(self, symbol: str, path: Path, before: BarFile | NoMarketData | None) -> BarFile | NoMarketData:
        try:
            if path.name not in os.listdir(path.parent):  # a file system that does not tell upper from lower case
                return self._absent(path.parent, symbol, file_stem(symbol))
            return read_bars(path, before if isinstance(before, BarFile) else None)
        except FileNotFoundError:
            return self._absent(path.parent, symbol, file_stem(symbol))
        except BadFileError as error:
            return NoMarketData(Reason.BAD_MARKET_DATA, f"{symbol}: {path.name}: {error}")


def market_data(settings: Settings, *, wanted: bool = True) -> DirectorySource:
    """The source that the settings name; `wanted` as in `DirectorySource`."""
    return DirectorySource(
        settings.market_data_dir,
        benchmark_symbols=settings.benchmark_symbols,
        max_bar_age_days=settings.market_max_bar_age_days,
        wanted=wanted,
    )


def bars_to_look_at(settings: Settings, symbol: str, *, most_bytes: int) -> Bars | None:
    """All bars of a symbol, for a person; None where none can be read now, or their file is larger than that."""
    if settings.market_data_dir is None:
        return None
    try:
        sizes = [path.stat().st_size for path, _ in _paths(settings.market_data_dir, symbol) if path.exists()]
        found = market_data(settings).bars(symbol) if sum(sizes) <= most_bytes else None
    except (OSError, TransientError):
        return None
    return found if isinstance(found, Bars) else None


_Version = tuple[str, FileVersion]


@lru_cache(maxsize=16_384)  # to name a file takes longer than to ask the system whether it has changed
def _paths(directory: Path, symbol: str) -> tuple[tuple[Path, str], ...]:
    """The files that may hold a symbol's bars, also as text, which is what the system takes."""
    paths = [directory / f"{file_stem(symbol)}{suffix}" for suffix in SUFFIXES]
    return tuple((path, str(path)) for path in paths)


def _version(path: str) -> _Version | None:
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # no file can have such a symbol's name
            return None
        raise
    return path, version_of(stat)


def _size(found: BarFile | NoMarketData) -> int:
    return _BYTES_OF_A_BAR * len(found.bars) if isinstance(found, BarFile) else 0


def _has_files(directory: Path) -> bool:
    with os.scandir(directory) as found:
        return any(entry.name.endswith(SUFFIXES) for entry in found)


def _extent(bars: Bars) -> str:
    if not len(bars):
        return "the file has no bars"
    return f"the file goes from {text_from_us(int(bars.timestamp[0]))} to {text_from_us(int(bars.timestamp[-1]))}"
