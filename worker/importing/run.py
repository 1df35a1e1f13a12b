"""An import from its files to its report: read, check, send signals and then trades, and ask what became of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeVar

import redis

from trading_system.ml_refinement.storage import FeatureDatabase
from trading_system.ml_refinement.storage.times import text_from_us, utc_now
from worker.errors import Reason, RefineryError
from worker.events.decoding import EventKind, Limits, SignalCreated, TradeClosed
from worker.importing.columns import Layout
from worker.importing.history import History, PastEvent, RefusedRow, read_history, refused_with_signal
from worker.importing.result import EventCounts, ImportResult
from worker.importing.sending import StreamSender
from worker.importing.tables import read_table
from worker.installation import feature_pipeline, no_store, open_store, refuse_other_owner, streams_of
from worker.market_data.directory import DirectorySource, NoMarketData, market_data
from worker.settings.schema import Settings
from worker.state_dir import make_private, take_lock

Item = TypeVar("Item")
_AT_ONCE = 500
_LOCK_TRIES = 20


def read_files(
    settings: Settings, files: Sequence[Path], layout: Layout, *, progress: Callable[[int], None] = lambda _: None
) -> tuple[History, ImportResult]:
    """What files hold, checked against the contract and against the market data; nothing is sent.

    Raises:
        WrongFile: a file cannot be read.
        WrongColumns: a file has neither signals nor trades.
        TransientError: the market data cannot be read now.
    """
    tables = [read_table(path, delimiter=layout.delimiter) for path in files]
    limits = Limits.from_settings(settings)
    history = read_history(tables, layout, now=utc_now(), limits=limits, progress=progress)
    pipeline = feature_pipeline(settings)
    if pipeline.reads_bars:
        _refuse_without_bars(history, market_data(settings), directory=settings.market_data_dir)
    result = ImportResult(rows=history.rows, repeated=history.repeated, refused=history.refused)
    result.signals.valid, result.trades.valid = len(history.signals), len(history.trades)
    if history.naive:
        result.notes.append(f"{history.naive:,} times have no offset, and are taken in {layout.zone} (--zone)")
    for name, columns in history.passed_over.items():
        result.notes.append(f"{name}: no field is made from {', '.join(map(repr, columns))}")
    return history, result


def import_history(
    settings: Settings,
    client: redis.Redis,
    history: History,
    result: ImportResult,
    *,
    patience_s: float,
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Send what `read_files` found, wait until a worker has handled it, and complete the result.

    Signals go first, in the order of time, then the trades of those that were applied.

    Args:
        settings: of this process.
        client: a client that does not retry.
        history: what to send.
        result: of `read_files`.
        patience_s: as of `StreamSender`.
        progress: told how many events are done with since it was last told.

    Raises:
        ConfigurationError: another installation handles the streams.
        ServerBusy: another import is at work.
        NothingHandled: no worker handles events.
        TransientError: the server was away too long.
    """
    refuse_other_owner(settings, client)
    streams = streams_of(settings)
    with import_lock(settings):

        def sent(kind: EventKind, events: Sequence[PastEvent], counts: EventCounts) -> list[PastEvent]:
            new, conflicts = _unknown(settings, events, counts)
            result.refused += map(_conflict, conflicts)
            progress(len(events) - len(new))
            refused: list[PastEvent] = []
            by_stream: dict[str, list[PastEvent]] = {}
            for one in new:
                by_stream.setdefault(streams.of_event(kind, one.data), []).append(one)
            for stream, some in by_stream.items():
                sender = StreamSender(client, stream, settings.streams.group, patience_s=patience_s, progress=progress)
                ids = sender.send(some)
                dead_lettered, repeats = _what_became(settings, stream, some, ids, result)
                refused += dead_lettered
                counts.known += repeats
                counts.applied += len(some) - len(dead_lettered) - repeats
            counts.sent = len(new)
            return conflicts + refused

        dead = {one.event.signal_id for one in sent("signal.created", history.signals, result.signals)}
        for trade in [trade for trade in history.trades if trade.event.signal_id in dead]:
            result.refused.append(refused_with_signal(trade))
            progress(1)
        trades = [trade for trade in history.trades if trade.event.signal_id not in dead]
        sent("trade.closed", trades, result.trades)
        result.waiting = _without_signal(settings, trades)


@contextmanager
def import_lock(settings: Settings) -> Iterator[None]:
    """Keeps other imports away, and trainings from being asked for, while the block runs.

    Raises:
        RefineryError: another import is at work.
    """
    make_private(settings.state_dir)
    path = settings.import_lock_path
    for _ in range(_LOCK_TRIES):
        if (lock := take_lock(path)) is not None:
            break
        time.sleep(0.05)  # whoever looks whether an import is at work holds it for a moment
    else:
        raise RefineryError(f"another import into {settings.state_dir} is at work")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)


def _refuse_without_bars(history: History, source: DirectorySource, *, directory: Path | None) -> None:
    """Take out the signals whose bars are not to be had, and their trades: they can be imported when the bars are."""
    kept: list[PastEvent] = []
    gone: set[str] = set()
    for part in _parts(history.signals):
        book = source.lookup([one.event for one in part if isinstance(one.event, SignalCreated)])
        for one in part:
            try:
                book.request(one.event)  # type: ignore[arg-type]
                kept.append(one)
            except NoMarketData as error:
                detail = error.detail if directory else "REFINERY_MARKET_DATA_DIR: not set, and features need bars"
                history.refused.append(RefusedRow(one.place, error.reason.value, detail))
                gone.add(one.event.signal_id)
    history.signals = kept
    history.refused += [refused_with_signal(trade) for trade in history.trades if trade.event.signal_id in gone]
    history.trades = [trade for trade in history.trades if trade.event.signal_id not in gone]


def _unknown(
    settings: Settings, events: Sequence[PastEvent], counts: EventCounts
) -> tuple[list[PastEvent], list[PastEvent]]:
    """The events that are not in the store, and those that it has with other content."""
    if no_store(settings):
        return list(events), []
    new: list[PastEvent] = []
    conflicts: list[PastEvent] = []
    with open_store(settings) as store:
        for part in _parts(events):
            for one, kept in zip(part, _kept(store, part), strict=True):
                if kept is None:
                    new.append(one)
                elif kept == _content(one.event):
                    counts.known += 1
                else:
                    conflicts.append(one)
    return new, conflicts


def _kept(store: FeatureDatabase, events: Sequence[PastEvent]) -> list[tuple[object, ...] | None]:
    """What the store has under the identity of each event; None where there is nothing."""
    ids = [one.event.signal_id for one in events]
    if isinstance(events[0].event, SignalCreated):
        known = store.vectors.known(ids)
        return [(known[signal_id].event_hash,) if signal_id in known else None for signal_id in ids]
    outcomes = {(row.signal_id, row.revision): row.content for row in store.outcomes.of_signals(ids)}
    return [
        outcomes.get((one.event.signal_id, one.event.revision)) if isinstance(one.event, TradeClosed) else None
        for one in events
    ]


def _content(event: SignalCreated | TradeClosed) -> tuple[object, ...]:
    if isinstance(event, SignalCreated):
        return (event.digest,)
    return text_from_us(event.closed_at_us), event.r_multiple, event.return_pct, event.exit_reason


def _conflict(one: PastEvent) -> RefusedRow:
    event = one.event
    if isinstance(event, SignalCreated):
        detail = f"signal_id: {event.signal_id} is stored with other content"
        return RefusedRow(one.place, Reason.IDENTITY_CONFLICT.value, detail)
    detail = f"revision: revision {event.revision} of {event.signal_id} is stored with other content"
    return RefusedRow(one.place, Reason.OUTCOME_CONFLICT.value, detail)


def _what_became(
    settings: Settings, stream: str, events: Sequence[PastEvent], ids: Sequence[str], result: ImportResult
) -> tuple[list[PastEvent], int]:
    """Those of the events that became dead letters, and how many said again what was known."""
    refused: list[PastEvent] = []
    repeats = 0
    if not events:
        return refused, repeats
    with open_store(settings) as store:
        pairs = iter(zip(ids, events, strict=True))
        while part := dict(islice(pairs, _AT_ONCE)):
            keys = [(stream, entry_id) for entry_id in part]
            repeats += len({key for key, _ in store.entries.duplicates(keys)})
            for entry_id, reason, error in store.dead_letters.reasons_of(stream, list(part)):
                refused.append(part[entry_id])
                result.refused.append(RefusedRow(part[entry_id].place, reason, error))
    return refused, repeats


def _without_signal(settings: Settings, trades: Sequence[PastEvent]) -> int:
    if not trades:
        return 0
    ids = list({one.event.signal_id for one in trades})
    with open_store(settings) as store:
        return len(ids) - sum(len(store.vectors.known(part)) for part in _parts(ids))


def _parts(events: Sequence[Item]) -> Iterator[Sequence[Item]]:
    for first in range(0, len(events), _AT_ONCE):
        yield events[first : first + _AT_ONCE]
