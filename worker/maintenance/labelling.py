"""Virtual outcomes of stored signals, from the bars that came after them.

A signal's levels are those of its event in the archive. Its bars are the symbol's in the market-data directory; where
there are none, those that later signals of the symbol brought. Every signal is walked, also those whose trade reported
an outcome: nothing that learns uses these, but only on the same trades can the two be compared.

What is final is stored and not looked at again; a trade that is open is walked again the next time. There is no state
but the store's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from trading_system.ml_refinement.bars import Bars
from trading_system.ml_refinement.labelling.joined_bars import joined
from trading_system.ml_refinement.labelling.rules import LabellingRule
from trading_system.ml_refinement.labelling.triple_barrier import FINAL, Ended, Levels, TradePlan, VirtualTrade, walk
from trading_system.ml_refinement.storage import FeatureDatabase
from trading_system.ml_refinement.storage.tables.virtual_outcomes import VirtualOutcomeRow, WalkedSignal
from trading_system.ml_refinement.storage.times import DAY_US, text_from_us, utc_now, utc_text
from worker.events.decoding import SignalCreated
from worker.installation import open_archive
from worker.maintenance.received import NotReceived, ReceivedSignals
from worker.market_data.directory import DirectorySource, market_data
from worker.settings.schema import Settings

#: Of a run of bars that still has open trades, so many are kept that the next piece finds where it joins.
_KEPT_BARS = 500


@dataclass(slots=True)
class Labelled:
    """What a labelling came to.

    `ended` counts the signals that were walked to an end now, by how; `not_received` those whose event is not to be
    had, by why; `passed_over` those of the ended whose walk begins a bar late because one was open when they came.
    `known` had their outcome already.
    """

    ended: Counter[str] = field(default_factory=Counter)
    not_received: Counter[str] = field(default_factory=Counter)
    open: int = 0
    no_bars: int = 0
    passed_over: int = 0
    known: int = 0

    @property
    def with_r(self) -> int:
        """How many got an R."""
        return self.ended[Ended.STOP] + self.ended[Ended.TARGET] + self.ended[Ended.TIME]


class _Pending(NamedTuple):
    """A signal to walk, as it is stored and as its trade was meant."""

    row: WalkedSignal
    plan: TradePlan


@dataclass(slots=True)
class _Run:
    """The bars of a symbol that its signals have brought, and the trades that they have not ended yet."""

    bars: Bars
    open: list[_Pending]


class Labelling:
    """Labels the signals of a store.

    Args:
        store: open.
        received: the events of its signals.
        market_data: where bars come from for symbols that it has.
        rule: how long trades last, and when bars open.
        max_gap_us: a signal without a bar so shortly before and after it has no bars.
    """

    def __init__(
        self,
        *,
        store: FeatureDatabase,
        received: ReceivedSignals,
        market_data: DirectorySource,
        rule: LabellingRule,
        max_gap_us: int,
    ) -> None:
        self._store = store
        self._received = received
        self._market_data = market_data
        self._rule = rule
        self._max_gap_us = max_gap_us

    def run(
        self,
        *,
        since: str = "",
        again: bool = False,
        dry_run: bool = False,
        progress: Callable[[int], None] = lambda _: None,
    ) -> Labelled:
        """Walk every signal from `since` on that has no outcome of this rule.

        Args:
            since: the store's text of a time; empty: all signals.
            again: walk those that have one too, as after a correction of the market data.
            dry_run: change nothing.
            progress: told how many signals were looked at, now and then.

        Raises:
            StoreUnavailable: the store cannot be used now; what was done is kept.
            TransientError: the same of the market-data directory.
        """
        walk_through = _WalkThrough(self, again=again, dry_run=dry_run)
        for rows in self._store.virtual_outcomes.signals(since, utc_text(utc_now())):
            walk_through.look_at(rows)
            progress(len(rows))
        walk_through.finish()
        return walk_through.done

    def version(self, row: WalkedSignal) -> str:
        """What an outcome of this signal is labelled with."""
        return self._rule.version(row.signal_type, row.asset_class)

    def plan(self, signal: SignalCreated) -> TradePlan:
        """The trade that a signal meant."""
        named = signal.metadata
        levels = Levels(named.entry_price, named.stop_price, named.target_price, signal.direction == "long")
        hold, session = self._rule.hold_us(signal.signal_type), self._rule.session_us(signal.asset_class)
        return TradePlan(signal.timestamp_us, levels, hold, session)

    def signal(self, row: WalkedSignal) -> SignalCreated:
        """The signal as it was received.

        Raises:
            NotReceived: its event is not to be had.
        """
        return self._received.signal(row.signal_id, row.entry_id, row.event_hash)

    def bars(self, symbol: str) -> Bars | None:
        """The symbol's bars in the directory; None where it has none of use."""
        found = self._market_data.bars(symbol)
        return found if isinstance(found, Bars) else None

    def walked(self, bars: Bars, pending: Sequence[_Pending]) -> list[tuple[_Pending, VirtualTrade]]:
        """Each with what the bars say of it."""
        trades = walk(bars, [one.plan for one in pending], max_gap_us=self._max_gap_us)
        return list(zip(pending, trades, strict=True))

    def keep(self, settled: Sequence[VirtualOutcomeRow], stale: Sequence[str], *, again: bool) -> None:
        """Store what is final, and drop what was labelled by another rule and is not final by this one."""
        with self._store.atomic():
            self._store.virtual_outcomes.put(settled, again=again)
            self._store.virtual_outcomes.forget(stale)


class _WalkThrough:
    """One pass over the signals in order of time."""

    def __init__(self, labelling: Labelling, *, again: bool, dry_run: bool) -> None:
        self._labelling = labelling
        self._again = again
        self._dry_run = dry_run
        self._runs: dict[str, _Run] = {}
        self._settled: list[VirtualOutcomeRow] = []
        self._stale: list[str] = []
        self.done = Labelled()

    def look_at(self, rows: Sequence[WalkedSignal]) -> None:
        """Walk the next signals as far as bars go, and store what that settles."""
        wanted = {row.signal_id: row for row in rows if self._again or row.version != self._labelling.version(row)}
        self.done.known += len(rows) - len(wanted)
        found = {symbol: self._labelling.bars(symbol) for symbol in {row.symbol for row in wanted.values()}}
        in_directory: dict[str, list[_Pending]] = {symbol: [] for symbol, bars in found.items() if bars is not None}
        for row in rows:
            pending = row.signal_id in wanted
            if not pending and row.symbol not in self._runs:
                continue
            signal = self._signal(row, pending=pending)
            if signal is not None and row.symbol in in_directory:
                in_directory[row.symbol].append(_Pending(row, self._labelling.plan(signal)))
            elif signal is not None:
                self._arrived(row, signal, pending=pending)
        for symbol, waiting in in_directory.items():
            self._settle(self._labelling.walked(found[symbol] or Bars.empty(), waiting))
        self._walk_runs()
        self._keep()

    def finish(self) -> None:
        """Count the trades that stay open."""
        for symbol in list(self._runs):
            self._end_run(symbol)
        self._keep()

    def _signal(self, row: WalkedSignal, *, pending: bool) -> SignalCreated | None:
        try:
            return self._labelling.signal(row)
        except NotReceived as lost:
            if pending:
                self.done.not_received[lost.why] += 1
                self._leave(row)
            return None

    def _arrived(self, row: WalkedSignal, signal: SignalCreated, *, pending: bool) -> None:
        """A signal of a symbol whose bars come with its signals: it continues their run, or begins another."""
        brought = signal.bars if signal.bars is not None else Bars.empty()
        run = self._runs.get(row.symbol)
        continued = joined(run.bars, brought) if run is not None else None
        if run is not None and continued is not None:
            run.bars = continued
        elif len(brought):
            self._end_run(row.symbol)
            run = self._runs[row.symbol] = _Run(brought, [])
        if pending and len(brought) and run is not None:
            run.open.append(_Pending(row, self._labelling.plan(signal)))
        elif pending:
            self._settle(self._labelling.walked(Bars.empty(), [_Pending(row, self._labelling.plan(signal))]))

    def _walk_runs(self) -> None:
        """Settle what the runs have ended, and keep of their bars what the open trades still need."""
        for symbol, run in list(self._runs.items()):
            walked = self._labelling.walked(run.bars, run.open)
            self._settle([one for one in walked if one[1].ended in FINAL])
            run.open = [pending for pending, trade in walked if trade.ended not in FINAL]
            if not run.open:
                del self._runs[symbol]
                continue
            oldest = min(pending.plan.timestamp_us for pending in run.open)
            needed = len(run.bars) - int(run.bars.timestamp.searchsorted(oldest)) + 2
            run.bars = run.bars.tail(max(needed, _KEPT_BARS))

    def _end_run(self, symbol: str) -> None:
        """No later bars continue this run: what it has not ended stays open."""
        run = self._runs.pop(symbol, None)
        if run is not None:
            self._settle(self._labelling.walked(run.bars, run.open))

    def _settle(self, walked: Sequence[tuple[_Pending, VirtualTrade]]) -> None:
        for (row, _), trade in walked:
            if trade.ended not in FINAL:
                self.done.open += trade.ended is Ended.OPEN
                self.done.no_bars += trade.ended is Ended.NO_BARS
                self._leave(row)
                continue
            self.done.ended[trade.ended.value] += 1
            self.done.passed_over += trade.passed_over
            known_at = None if trade.known_us is None else text_from_us(trade.known_us)
            version = self._labelling.version(row)
            self._settled.append(VirtualOutcomeRow(row.signal_id, trade.r, trade.ended.value, known_at, version))

    def _leave(self, row: WalkedSignal) -> None:
        if row.version is not None:
            self._stale.append(row.signal_id)

    def _keep(self) -> None:
        if not self._dry_run and (self._settled or self._stale):
            self._labelling.keep(self._settled, self._stale, again=self._again)
        self._settled, self._stale = [], []


@contextmanager
def labelling(settings: Settings, store: FeatureDatabase, rule: LabellingRule) -> Iterator[Labelling]:
    """The labelling of an installation; the archive is closed when the block ends.

    Args:
        settings: of this process.
        store: open.
        rule: from `labelling_rule`.

    Raises:
        StoreError: the archive cannot be opened now, or is damaged.
    """
    with ExitStack() as stack:
        archive = stack.enter_context(open_archive(settings)) if settings.archive_is_there else None
        yield Labelling(
            store=store,
            received=ReceivedSignals(archive, settings.streams.signals_created),
            market_data=market_data(settings),
            rule=rule,
            max_gap_us=int(settings.market_max_bar_age_days * DAY_US),
        )
