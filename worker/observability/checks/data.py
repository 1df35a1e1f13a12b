"""What `refinery doctor` looks at of what comes in: the market-data directory, and what the newest signals bring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

from worker.errors import DecodeError, TransientError
from worker.events.decoding import SignalCreated, decode_kept
from worker.installation import open_archive, streams_of
from worker.market_data.directory import NoMarketData, market_data
from worker.market_data.files import SUFFIXES, BadFileError, file_stem, read_bars
from worker.market_data.hosts import HostsFiles, told
from worker.observability.findings import Finding
from worker.observability.printable import counted
from worker.redis_server.connection import server_if_there
from worker.settings.schema import Settings

_FILE_ADVICE = (
    "repair it: signals of what it breaks a rule in are dead-lettered, and the worker waits for one it cannot read"
)
_HOSTS_ADVICE = "copy one to all hosts; docs/operations.md, Hosts have different market data"
_MOST_FILES = 200
_SHOWN_FILES = 5
_SHOWN_WORKERS = 3
#: Among so many of the newest events, those that are signals are looked at for what was provided.
_EVENTS = 1_000


def look_at_market_data(settings: Settings) -> Iterator[Finding]:
    directory = settings.market_data_dir
    if directory is None:
        yield Finding("market data", "ok", "none set: bars come with the events")
        return
    every = sorted(directory.iterdir())
    files = [path for path in every if path.suffix in SUFFIXES]
    shouted = [path.name for path in every if path.suffix not in SUFFIXES and path.suffix.lower() in SUFFIXES]
    if shouted:
        says = f"{', '.join(shouted[:_SHOWN_FILES])}: not read, suffixes are lower case"
        yield Finding("market data", "warn", says, "rename them to .csv or .parquet")
    broken = list(_broken(files[:_MOST_FILES]))
    for path, why in broken[:_SHOWN_FILES]:
        yield Finding("market data", "bad", f"{path.name}: {why}", _FILE_ADVICE)
    stems = {path.stem for path in files}
    missing = sorted({symbol for symbol in settings.benchmark_symbols.values() if file_stem(symbol) not in stems})
    if missing:
        says = f"no file for the benchmark {', '.join(missing)}"
        yield Finding("market data", "bad", says, f"put it into {directory}")
    if not files:
        yield Finding("market data", "warn", f"{directory} holds no CSV or Parquet file", "one file a symbol")
    if files and not broken and not missing and not shouted:
        yield Finding(
            "market data", "ok", f"{counted(len(files), 'file')}, {min(len(files), _MOST_FILES):,} read, all sound"
        )


def look_at_hosts(settings: Settings) -> Iterator[Finding]:
    """Whether the directories of all workers hold the same, where hosts share a store."""
    if settings.store_url is None:
        return
    with server_if_there(settings) as client:
        if client is None:
            return
        try:
            found = told(settings, client)
        except TransientError:
            return  # the server's own finding says so
    if not found:
        return
    most, *others = found
    for one in others:
        says = f"{_named(one.workers)} and {_named(most.workers)} have other files: {_differences(one, most)}"
        yield Finding("market data", "warn", f"{says}; features depend on who takes a signal", _HOSTS_ADVICE)
    if not others:
        yield Finding("market data", "ok", f"the same in {counted(len(most.workers), 'worker')} of all hosts")


def _named(workers: Sequence[str]) -> str:
    more = f" and {len(workers) - _SHOWN_WORKERS:,} more" if len(workers) > _SHOWN_WORKERS else ""
    return f"{', '.join(workers[:_SHOWN_WORKERS])}{more}"


def _differences(one: HostsFiles, most: HostsFiles) -> str:
    """The files that differ, in words: a few of each kind, and how many more."""
    common = one.files.keys() & most.files.keys()
    kinds = {
        "differ": {name for name in common if one.files[name] != most.files[name]},
        "only the first": one.files.keys() - common,
        "only the second": most.files.keys() - common,
    }
    return "; ".join(f"{kind}: {_few(sorted(names))}" for kind, names in kinds.items() if names)


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN_FILES:,} more" if len(names) > _SHOWN_FILES else ""
    return f"{', '.join(names[:_SHOWN_FILES])}{more}"


def look_at_benchmarks(settings: Settings) -> Iterator[Finding]:
    """Benchmarks whose bars close at other times than those of the newest signals: correlation is neutral then."""
    if settings.market_data_dir is None or not settings.benchmark_symbols:
        return
    source = market_data(settings)
    told = set()
    for signal in _newest_signals(settings):
        name = settings.benchmark_symbols.get(signal.asset_class)
        if name is None or name in told or signal.benchmark is not None:
            continue
        own = signal.bars if signal.bars is not None else source.bars(signal.symbol)
        benchmark = source.bars(name)
        if isinstance(own, NoMarketData) or isinstance(benchmark, NoMarketData):
            continue
        known = own.timestamp[: own.timestamp.searchsorted(signal.timestamp_us, side="right")]
        last = known[-settings.ml.features.market_regime_window - 1 :].tolist()
        common = len(set(last).intersection(benchmark.timestamp.tolist()))
        if 2 * common < len(last):
            told.add(name)
            says = (
                f"benchmark {name} of {signal.asset_class}: {common} of the last {len(last)} bars of {signal.symbol} "
                "close when one of its bars does; with too few, the correlation is neutral"
            )
            yield Finding("market data", "warn", says, "give its bars the close times of the symbols' bars")


def _broken(files: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    for path in files:
        try:
            read_bars(path)
        except BadFileError as error:
            yield path, str(error)
        except OSError as error:
            yield path, f"cannot be read: {error.strerror}"


def look_at_provided(settings: Settings) -> Iterator[Finding]:
    """Which names that are listed never come with a signal, and which come and are not listed."""
    listed = settings.ml.features.provided
    if not listed:
        return
    signals = _newest_signals(settings)
    if not signals:
        yield Finding("features", "ok", f"{len(listed)} provided are listed; no signal is in the archive yet")
        return
    come = {name for signal in signals for name in signal.features}
    never = [name for name in listed if name not in come]
    others = sorted(come.difference(listed))
    looked = f"of the {len(signals):,} newest signals"
    advice = "compare REFINERY_ML__FEATURES__PROVIDED with what the producer sends"
    if never:
        says = f"none {looked} brings {', '.join(never)}: a neutral value stands for it"
        yield Finding("features", "warn", says, advice)
    if others:
        says = f"{looked} some bring {', '.join(others)}, which is not listed"
        yield Finding("features", "warn" if never else "ok", says, advice)
    if not never:
        yield Finding("features", "ok", f"{looked} each of the {len(listed)} listed names came with some")


def _newest_signals(settings: Settings) -> list[SignalCreated]:
    if not settings.archive_is_there:
        return []
    with closing(open_archive(settings, read_only=True)) as archive:
        kept = archive.newest(streams_of(settings).created, among=_EVENTS)
    signals = []
    for data in kept:
        if len(data) > settings.max_event_bytes:
            continue  # the door refused it too
        with suppress(DecodeError):  # it went to the dead letters
            signals.append(decode_kept(data))
    return signals
