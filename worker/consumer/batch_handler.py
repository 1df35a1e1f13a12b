"""A batch of entries into effects: decode, compute, then one transaction. Publishing and acknowledging come after.

Everything that takes long (bars, features, scores) happens before the store is locked, and nothing that was found out
before the lock is trusted inside it: two workers may hold the same signal, or the same entry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from loguru import logger

from trading_system.ml_refinement.features.pipeline import FeaturePipeline, FeatureRequest
from trading_system.ml_refinement.scoring import Scorer
from trading_system.ml_refinement.storage import (
    ArchivedEvent,
    DuplicateRow,
    EventArchive,
    FeatureDatabase,
    KnownSignal,
    PredictionRow,
    ServedRow,
    StoreDamaged,
    StoreUnavailable,
    VectorRow,
)
from trading_system.ml_refinement.storage.times import utc_text
from trading_system.ml_refinement.typing import FloatArray
from worker.consumer.deduplication import EntryFates, Fate
from worker.consumer.rows import outcome_bytes, outcome_row, prediction_rows, served_rows, vector_rows
from worker.dead_letters import Burial, DeadLetters
from worker.errors import EventError, EventRejected, Reason, StoreUnusable, TransientError
from worker.events.decoding import Decoded, EventKind, Limits, SignalCreated, TradeClosed, decode
from worker.market_data.directory import DirectorySource, NoMarketData
from worker.streams.entries import Entry


@dataclass(frozen=True, slots=True)
class Handled:
    """What a batch came to. `received = applied + duplicates + buried + redelivered`."""

    scores: list[bytes] = field(default_factory=list)
    signals: int = 0
    outcomes: int = 0
    labelled: int = 0
    duplicates: int = 0
    redelivered: int = 0
    buried: int = 0
    #: Fields of events that are none of ours, passed over.
    unknown_fields: int = 0

    def __add__(self, other: Handled) -> Handled:
        return Handled(
            self.scores + other.scores,
            self.signals + other.signals,
            self.outcomes + other.outcomes,
            self.labelled + other.labelled,
            self.duplicates + other.duplicates,
            self.redelivered + other.redelivered,
            self.buried + other.buried,
            self.unknown_fields + other.unknown_fields,
        )


@dataclass(slots=True)
class _Intake:
    """A decoded batch. Signals are grouped by id: the first entry may become the signal, the others repeat it."""

    signals: dict[str, list[tuple[Entry, SignalCreated]]] = field(default_factory=dict)
    outcomes: list[tuple[Entry, TradeClosed]] = field(default_factory=list)
    burials: list[Burial] = field(default_factory=list)
    unknown_fields: int = 0


@dataclass(frozen=True, slots=True)
class _Computed:
    """Signals ready to be stored, one row each, in the order of `entries`."""

    entries: list[Entry]
    signals: list[SignalCreated]
    rows: list[VectorRow]
    values: FloatArray
    predictions: list[PredictionRow]
    served: list[ServedRow]


class BatchHandler:
    """Applies batches of entries to the store, each in one transaction.

    Args:
        store: the open store of this process.
        archive: keeps the events as received; None keeps none.
        pipeline: the features to compute.
        scorer: the models to score with.
        market_data: bars for signals that bring none.
        dead_letters: where unusable events go.
        kinds: event type by stream name.
        limits: what the door lets in.
        clock: the worker's clock.
    """

    def __init__(
        self,
        *,
        store: FeatureDatabase,
        archive: EventArchive | None,
        pipeline: FeaturePipeline,
        scorer: Scorer,
        market_data: DirectorySource,
        dead_letters: DeadLetters,
        kinds: Mapping[str, EventKind],
        limits: Limits,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._archive = archive
        self._pipeline = pipeline
        self._scorer = scorer
        self._market_data = market_data
        self._dead_letters = dead_letters
        self._kinds = dict(kinds)
        self._stream_of = {kind: stream for stream, kind in kinds.items()}
        self._limits = limits
        self._clock = clock
        self._fates = EntryFates(store, kinds)

    def handle(self, entries: Sequence[Entry]) -> Handled:
        """Apply a batch whole, and say what is to be published.

        Raises:
            TransientError: the store cannot take it now; nothing was applied.
            StoreUnusable: the store is damaged; nothing was applied.
        """
        with _our_own_fault():
            self._keep_originals(entries)
            entries = [self._restored(entry) if entry.is_lost else entry for entry in entries]
            fates = self._fates.of([entry for entry in entries if entry.redelivered or entry.replay])
            while True:
                now = self._clock()
                intake = self._open([entry for entry in entries if entry.key not in fates], now)
                computed = self._compute(intake, now)
                with self._store.atomic():
                    decided = self._fates.of(entries)
                    if decided == fates:
                        return self._apply(intake, computed, entries, fates)
                fates = decided  # another worker decided on some of them meanwhile

    def bury(self, entry: Entry, error: Exception, attempts: int) -> Handled:
        """Put one event into the dead letters, in a transaction of its own, unless it is settled already.

        Raises:
            TransientError: the store cannot take it now.
            StoreUnusable: the store is damaged.
        """
        with _our_own_fault(), self._store.atomic():
            fates = self._fates.of([entry])
            intake = _Intake(burials=[] if fates else [Burial(entry, error, attempts)])
            self._fates.note_replays([entry], fates)
            return self._bury(intake) + self._set_aside([entry], fates)

    def charge(self, entry: Entry) -> int:
        """Charge an event with one try, before it is made; how many it has had.

        Raises:
            TransientError: the store cannot take it now.
            StoreUnusable: the store is damaged.
        """
        with _our_own_fault():
            return self._store.attempts.charge(*entry.key)

    def take_back(self, entries: Sequence[Entry]) -> None:
        """Take one try back from each event: what failed was our own side.

        Raises:
            TransientError: the store cannot take it now.
            StoreUnusable: the store is damaged.
        """
        with _our_own_fault():
            self._store.attempts.take_back([entry.key for entry in entries])

    def forget(self, entry: Entry) -> None:
        """The event is done with: its tries are of no interest any more.

        Raises:
            TransientError: the store cannot take it now.
            StoreUnusable: the store is damaged.
        """
        with _our_own_fault():
            self._store.attempts.forget([entry.key])

    def _restored(self, entry: Entry) -> Entry:
        """An entry that was trimmed while it was pending, with its bytes from the archive if it was read before."""
        kept = self._archive.get(entry.stream, entry.entry_id) if self._archive is not None else None
        return entry if kept is None else entry._replace(fields={b"data": kept})

    def _keep_originals(self, entries: Sequence[Entry]) -> None:
        if self._archive is not None:
            received_at = utc_text(self._clock())
            self._archive.append(
                [ArchivedEvent(e.stream, e.entry_id, received_at, e.data) for e in entries if e.data is not None]
            )

    def _open(self, entries: Sequence[Entry], now: datetime) -> _Intake:
        intake = _Intake()
        for entry in entries:
            try:
                event, unknown_fields = self._decode(entry, now)
            except EventError as error:
                intake.burials.append(Burial(entry, error))
                continue
            intake.unknown_fields += unknown_fields
            if isinstance(event, SignalCreated):
                intake.signals.setdefault(event.signal_id, []).append((entry, event))
            else:
                intake.outcomes.append((entry, event))
        return intake

    def _decode(self, entry: Entry, now: datetime) -> Decoded:
        if entry.is_lost:
            raise EventRejected(Reason.PAYLOAD_LOST, "the stream was trimmed before the event was handled")
        if entry.data is None:
            raise EventRejected(Reason.MISSING_DATA, f"the entry has the fields {sorted(entry.fields)} and no 'data'")
        return decode(self._kinds[entry.stream], entry.data, now=now, limits=self._limits)

    def _compute(self, intake: _Intake, now: datetime) -> _Computed:
        """Features and scores of the signals that are new as far as one can see without the lock."""
        known = self._store.vectors.known(list(intake.signals))
        firsts = [entries[0] for signal_id, entries in intake.signals.items() if signal_id not in known]
        fresh = self._with_bars(firsts, intake)
        entries = [entry for entry, _, _ in fresh]
        signals = [signal for _, signal, _ in fresh]
        features = self._pipeline.extract_batch([request for _, _, request in fresh])
        for extractor, why in features.failures.items():
            logger.warning(
                "{} could not compute for some of {} signals, which stay incomplete: {}", extractor, len(fresh), why
            )
        self._scorer.refresh()
        scores = self._scorer.score(features.values, [s.metadata.combined_score for s in signals])
        scored_at = utc_text(now)
        version = self._pipeline.feature_version
        return _Computed(
            entries,
            signals,
            vector_rows(entries, signals, version, features.complete.tolist()),
            features.values,
            prediction_rows(signals, scores, scored_at),
            served_rows(signals, scores, scored_at),
        )

    def _with_bars(
        self, firsts: Sequence[tuple[Entry, SignalCreated]], intake: _Intake
    ) -> list[tuple[Entry, SignalCreated, FeatureRequest]]:
        """Each signal with its bars; those without any are buried and so are their repeats."""
        book = self._market_data.lookup_for([signal for _, signal in firsts])
        found = []
        for entry, signal in firsts:
            try:
                found.append((entry, signal, book.request(signal)))
            except NoMarketData as error:
                intake.burials += [
                    Burial(e, error, signal_id=s.signal_id, symbol=s.symbol)
                    for e, s in intake.signals.pop(signal.signal_id)
                ]
        return found

    def _apply(
        self, intake: _Intake, computed: _Computed, entries: Sequence[Entry], fates: Mapping[tuple[str, str], Fate]
    ) -> Handled:
        """Everything of the batch that is written, inside the caller's transaction."""
        is_new = self._store.vectors.insert_new(computed.rows, self._pipeline.names, computed.values)
        new = {row[0] for row, fresh in zip(computed.rows, is_new, strict=True) if fresh}
        self._store.scores.put_served([row for row in computed.served if row[0] in new])
        self._store.scores.log_predictions([row for row in computed.predictions if row[0] in new])
        handled = Handled(signals=len(new), unknown_fields=intake.unknown_fields)
        handled += Handled(labelled=self._apply_waiting(intake, list(new)))
        handled += self._apply_repeats(intake, new)
        handled += self._apply_outcomes(intake)
        handled += self._bury(intake)
        handled += self._set_aside(entries, fates)
        self._fates.note_replays(entries, fates)
        return handled + Handled(scores=self._answers(intake, computed, new))

    def _answers(self, intake: _Intake, computed: _Computed, new: set[str]) -> list[bytes]:
        """What is to be published, in the order of the signals; for known ones what was at the first time."""
        answers = {row[0]: row[3] for row in computed.served if row[0] in new}
        answers |= self._store.scores.served(intake.signals.keys() - new)
        return [answers[signal_id] for signal_id in intake.signals if signal_id in answers]

    def _bury(self, intake: _Intake) -> Handled:
        """Bury what is not settled already: an event can be fit for use at one try and unfit at another."""
        settled = self._fates.applied([burial.entry for burial in intake.burials])
        burials = [burial for burial in intake.burials if burial.entry.key not in settled]
        self._dead_letters.bury(burials)
        return Handled(buried=len(burials), redelivered=len(intake.burials) - len(burials))

    def _set_aside(self, entries: Sequence[Entry], fates: Mapping[tuple[str, str], Fate]) -> Handled:
        """Account for entries that need nothing done: dead letters delivered again, and copies of one replay."""
        copies = [
            DuplicateRow(entry.stream, entry.entry_id, "", "replay")
            for entry in entries
            if fates.get(entry.key) is Fate.COPY
        ]
        recorded = self._store.duplicates.record(copies) if copies else 0
        return Handled(duplicates=recorded, redelivered=len(fates) - recorded)

    def _apply_waiting(self, intake: _Intake, new: list[str]) -> int:
        """Label signals whose outcome came first; an outcome from before its signal could not be refused until now."""
        for early in self._store.outcomes.take_before_signal(new):
            # To the byte, since its entry may be delivered again and has to be known as this letter.
            said = early.payload if early.payload is not None else outcome_bytes(early)
            entry = Entry(self._stream_of["trade.closed"], early.entry_id or "", {b"data": said})
            intake.burials.append(Burial(entry, _closed_before(early.signal_id), signal_id=early.signal_id))
        return len(self._store.outcomes.apply_waiting(new))

    def _apply_repeats(self, intake: _Intake, new: set[str]) -> Handled:
        """Tell each signal's entries apart: the stored one, its redelivery, a duplicate, or a conflict of identity."""
        stored = self._store.vectors.known(intake.signals.keys() - new)
        redelivered = 0
        duplicates = []
        for signal_id, entries in intake.signals.items():
            if signal_id in new and len(entries) == 1:
                continue
            first, told = entries[0]
            known = stored.get(signal_id) or KnownSignal(told.digest, first.entry_id)
            for entry, signal in entries:
                if entry.entry_id == known.entry_id:
                    redelivered += signal_id not in new
                elif known.event_hash in (None, signal.digest):
                    duplicates.append(DuplicateRow(entry.stream, entry.entry_id, signal_id, "signal.created"))
                else:
                    rejected = EventRejected(Reason.IDENTITY_CONFLICT, f"{signal_id} is stored with other content")
                    intake.burials.append(Burial(entry, rejected, signal_id=signal_id, symbol=signal.symbol))
        recorded = self._store.duplicates.record(duplicates)
        return Handled(redelivered=redelivered + len(duplicates) - recorded, duplicates=recorded)

    def _apply_outcomes(self, intake: _Intake) -> Handled:
        results = self._store.outcomes.record([outcome_row(entry, outcome) for entry, outcome in intake.outcomes])
        counts = Counter(results)
        duplicates = []
        for (entry, outcome), result in zip(intake.outcomes, results, strict=True):
            if result == "duplicate":
                duplicates.append(DuplicateRow(entry.stream, entry.entry_id, outcome.signal_id, "trade.closed"))
            elif result == "conflict":
                detail = f"revision {outcome.revision} of {outcome.signal_id} is stored with other content"
                rejected = EventRejected(Reason.OUTCOME_CONFLICT, detail)
                intake.burials.append(Burial(entry, rejected, signal_id=outcome.signal_id))
            elif result == "before_signal":
                rejected = _closed_before(outcome.signal_id)
                intake.burials.append(Burial(entry, rejected, signal_id=outcome.signal_id))
        recorded = self._store.duplicates.record(duplicates)
        return Handled(
            outcomes=counts["applied"] + counts["waiting"] + counts["superseded"],
            labelled=counts["applied"],
            redelivered=counts["redelivered"] + len(duplicates) - recorded,
            duplicates=recorded,
        )


@contextmanager
def _our_own_fault() -> Iterator[None]:
    """The store's errors as the worker's: it waits for one that is unavailable, and stops at one that is damaged."""
    try:
        yield
    except StoreUnavailable as error:
        raise TransientError(f"the store cannot be written: {error}") from error
    except StoreDamaged as error:
        raise StoreUnusable(f"the store is damaged: {error}; stop, and restore a backup") from error


def _closed_before(signal_id: str) -> EventRejected:
    return EventRejected(Reason.CLOSED_BEFORE_SIGNAL, f"the trade of {signal_id} closed before its signal was known")
