"""A batch of entries into effects: decode, compute, then one transaction. Publishing and acknowledging come after.

Everything that takes long (bars, features, scores) happens before the store is locked, and nothing that was found out
before the lock is trusted inside it: two workers may hold the same signal, or the same entry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from loguru import logger

from trading_system.ml_refinement.features.feature_store import Capture, Captured, FeatureStore
from trading_system.ml_refinement.features.pipeline import FeaturePipeline, FeatureRequest
from trading_system.ml_refinement.scoring import Scorer
from trading_system.ml_refinement.storage import (
    ArchivedEvent,
    DuplicateRow,
    EventArchive,
    FeatureDatabase,
    KnownSignal,
    OutcomeRow,
    PredictionRow,
    ServedRow,
    StoreMoved,
)
from trading_system.ml_refinement.storage.times import utc_text
from worker.consumer.batch_result import BatchResult
from worker.consumer.deduplication import AlreadySettled, Deduplication
from worker.consumer.failover import note_handled
from worker.consumer.intake import Intake, decode_batch
from worker.consumer.rows import outcome_bytes, outcome_row, prediction_rows, served_rows
from worker.consumer.store_errors import translated_store_errors
from worker.dead_letters import DeadLetters, Rejected
from worker.errors import EventRejected, Reason
from worker.events.decoding import EventKind, Limits, SignalCreated
from worker.market_data.directory import DirectorySource, NoMarketData
from worker.streams.entries import Entry
from worker.streams.shards import entry_stored_as, plain_name, shard_of


@dataclass(frozen=True, slots=True)
class _Computed:
    """Signals ready to be stored, and what the models say of them."""

    captured: Captured
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
        shards: of the store; with one every batch keeps all others out.
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
        shards: int = 1,
    ) -> None:
        self._store = store
        self._archive = archive
        self._features = FeatureStore(store, pipeline)
        self._scorer = scorer
        self._market_data = market_data
        self._dead_letters = dead_letters
        self._kinds = dict(kinds)
        self._name_of = {kind: plain_name(stream) for stream, kind in kinds.items()}
        self._shards = shards
        self._limits = limits
        self._provided = frozenset(pipeline.config.provided)
        self._clock = clock
        self._deduplication = Deduplication(store, kinds)
        self._server_may_change = store.engine.on_a_server

    def handle(self, entries: Sequence[Entry]) -> BatchResult:
        """Apply a batch whole, and say what is to be published.

        Raises:
            TransientError: the store cannot take it now; nothing was applied.
            StoreUnusable: the store is damaged; nothing was applied.
        """
        with translated_store_errors():
            self._keep_originals(entries)
            lost = sum(entry.is_lost for entry in entries)
            entries = [self._restored(entry) if entry.is_lost else entry for entry in entries]
            restored = BatchResult(restored=lost - sum(entry.is_lost for entry in entries))
            settled = self._deduplication.already_settled(
                [entry for entry in entries if entry.redelivered or entry.replay]
            )
            while True:
                now = self._clock()
                intake = self._decoded([entry for entry in entries if entry.key not in settled], now)
                computed = self._compute(intake, now)
                with self._store.atomic(shards=self._shards_of(entries, intake, settled)):
                    decided = self._deduplication.already_settled(entries)
                    if decided == settled:
                        if self._server_may_change:
                            note_handled(self._store, entries, now)
                        return self._apply(intake, computed, entries, settled) + restored
                settled = decided  # another worker decided on some of them meanwhile

    def dead_letter(self, entry: Entry, error: Exception, attempts: int) -> BatchResult:
        """Put one event into the dead letters, in a transaction of its own, unless it is settled already.

        Raises:
            TransientError: the store cannot take it now.
            StoreUnusable: the store is damaged.
        """
        with translated_store_errors(), self._store.atomic():
            settled = self._deduplication.already_settled([entry])
            intake = Intake(rejected=[] if settled else [Rejected(entry, error, attempts)])
            self._deduplication.note_replays([entry], settled)
            return self._dead_letter(intake) + self._set_aside([entry], settled)

    def _shards_of(
        self, entries: Sequence[Entry], intake: Intake, settled: Mapping[tuple[str, str], AlreadySettled]
    ) -> set[int]:
        """The shards that the batch belongs to whole; empty where that cannot be said, and all others are kept out.

        Whoever else holds one of the entries reads the same signal in it, and asks for the same shard. What is no event
        of any signal, was decided on without being read, or is a replay, whose copies may name other signals, is of
        no shard. It does not count in which shard's stream an event came.
        """
        signals = {*intake.signals, *(outcome.signal_id for _, outcome in intake.outcomes)}
        refused = {each.signal_id for each in intake.rejected}
        if self._shards == 1 or settled or None in refused or any(entry.replay for entry in entries):
            return set()
        return {shard_of(signal_id, self._shards) for signal_id in signals | refused if signal_id is not None}

    def _restored(self, entry: Entry) -> Entry:
        """An entry that was trimmed while it was pending, with its bytes from the archive if it was read before."""
        kept = self._archive.get(entry.stream, entry.entry_id) if self._archive is not None else None
        return entry if kept is None else entry._replace(fields={b"data": kept})

    def _keep_originals(self, entries: Sequence[Entry]) -> None:
        self._store.check_in_place()  # first, since an archive is begun anew only beside the store that we have open
        if self._archive is None:
            return
        received_at = utc_text(self._clock())
        rows = [ArchivedEvent(e.stream, e.entry_id, received_at, e.data) for e in entries if e.data is not None]
        try:
            self._archive.append(rows)
        except StoreMoved as error:
            logger.error("what the archive held is not there any more, and it goes on with what is: {}", error)
            self._archive.close()
            self._archive.initialize()
            self._archive.append(rows)

    def _decoded(self, entries: Sequence[Entry], now: datetime) -> Intake:
        return decode_batch(entries, self._kinds, now=now, limits=self._limits, provided=self._provided)

    def _compute(self, intake: Intake, now: datetime) -> _Computed:
        """Features and scores of the signals that are new as far as one can see without the lock."""
        known = self._store.vectors.known(list(intake.signals))
        firsts = [entries[0] for signal_id, entries in intake.signals.items() if signal_id not in known]
        fresh = self._with_bars(firsts, intake)
        signals = [signal for _, signal, _ in fresh]
        captured = self._features.compute(
            [Capture(request, signal.symbol, signal.digest, entry.stored_id) for entry, signal, request in fresh]
        )
        features = captured.features
        for extractor, why in features.failures.items():
            logger.warning(
                "{} could not compute for some of {} signals, which stay incomplete: {}", extractor, len(fresh), why
            )
        self._scorer.refresh()
        scores = self._scorer.score(
            features.values,
            [s.metadata.combined_score for s in signals],
            [s.metadata.signal_type or "" for s in signals],
        )
        scored_at = utc_text(now)
        predictions, served = prediction_rows(signals, scores, scored_at), served_rows(signals, scores, scored_at)
        return _Computed(captured, predictions, served)

    def _with_bars(
        self, firsts: Sequence[tuple[Entry, SignalCreated]], intake: Intake
    ) -> list[tuple[Entry, SignalCreated, FeatureRequest]]:
        """Each signal with its bars; those without any are dead-lettered and so are their repeats."""
        signals = [signal for _, signal in firsts]
        requests = self._market_data.lookup(signals).requests(signals)
        found = []
        for (entry, signal), request in zip(firsts, requests, strict=True):
            if isinstance(request, NoMarketData):
                intake.rejected += [
                    Rejected(e, request, signal_id=s.signal_id, symbol=s.symbol)
                    for e, s in intake.signals.pop(signal.signal_id)
                ]
            else:
                found.append((entry, signal, request))
        return found

    def _apply(
        self,
        intake: Intake,
        computed: _Computed,
        entries: Sequence[Entry],
        settled: Mapping[tuple[str, str], AlreadySettled],
    ) -> BatchResult:
        """Everything of the batch that is written, inside the caller's transaction."""
        stored = self._features.store(computed.captured)
        new = {row[0] for row, fresh in zip(computed.captured.vectors.rows, stored.new, strict=True) if fresh}
        self._store.scores.put_served([row for row in computed.served if row[0] in new])
        predictions = [row for row in computed.predictions if row[0] in new]
        self._store.scores.log_predictions(predictions, labelled=stored.labelled)
        self._reject_early(intake, stored.refused)
        result = BatchResult(
            scores=self._answers(intake, computed, new),
            signals=len(new),
            labelled=len(stored.labelled),
            unknown_fields=intake.unknown_fields,
            missing_features=intake.missing_features,
        )
        if repeats := {name: found for name, found in intake.signals.items() if name not in new or len(found) > 1}:
            result += self._apply_repeats(repeats, new, intake)
        if intake.outcomes:
            result += self._apply_outcomes(intake)
        if intake.rejected:
            result += self._dead_letter(intake)
        if settled:
            result += self._set_aside(entries, settled)
        self._deduplication.note_replays(entries, settled)
        return result

    def _answers(self, intake: Intake, computed: _Computed, new: set[str]) -> list[bytes]:
        """What is to be published, in the order of the signals; for known ones what was at the first time."""
        answers = {row[0]: row[3] for row in computed.served if row[0] in new}
        answers |= self._store.scores.served(intake.signals.keys() - new)
        return [answers[signal_id] for signal_id in intake.signals if signal_id in answers]

    def _dead_letter(self, intake: Intake) -> BatchResult:
        """Keep what is not settled already: an event can be fit for use at one try and unfit at another."""
        applied = self._deduplication.applied([each.entry for each in intake.rejected])
        rejected = [each for each in intake.rejected if each.entry.key not in applied]
        self._dead_letters.add(rejected)
        # One that had its effect may not have been answered before its bytes went.
        answered = self._deduplication.stored_by(each.entry for each in intake.rejected if each.entry.key in applied)
        return BatchResult(
            scores=list(self._store.scores.served(answered).values()) if answered else [],
            dead_lettered=len(rejected),
            redelivered=len(intake.rejected) - len(rejected),
        )

    def _set_aside(self, entries: Sequence[Entry], settled: Mapping[tuple[str, str], AlreadySettled]) -> BatchResult:
        """Account for entries that need nothing done: dead letters delivered again, and copies of one replay."""
        copies = [
            DuplicateRow(entry.stream, entry.entry_id, "", "replay")
            for entry in entries
            if settled.get(entry.key) is AlreadySettled.COPY
        ]
        recorded = self._store.duplicates.record(copies) if copies else 0
        return BatchResult(duplicates=recorded, redelivered=len(settled) - recorded)

    def _reject_early(self, intake: Intake, refused: Sequence[OutcomeRow]) -> None:
        """Outcomes that came first and closed before their signal was known: they could not be refused until now."""
        for early in refused:
            # To the byte, since its entry may be delivered again and has to be known as this letter.
            said = early.payload if early.payload is not None else outcome_bytes(early)
            place = entry_stored_as(early.entry_id or "", self._name_of["trade.closed"])
            entry = Entry(*place, {b"data": said})
            intake.rejected.append(Rejected(entry, _closed_before(early.signal_id), signal_id=early.signal_id))

    def _apply_repeats(
        self, repeats: Mapping[str, list[tuple[Entry, SignalCreated]]], new: set[str], intake: Intake
    ) -> BatchResult:
        """Tell each signal's entries apart: the stored one, its redelivery, a duplicate, or a conflict of identity."""
        stored = self._store.vectors.known(repeats.keys() - new)
        redelivered = 0
        duplicates = []
        for signal_id, entries in repeats.items():
            first, told = entries[0]
            known = stored.get(signal_id) or KnownSignal(told.digest, first.stored_id)
            for entry, signal in entries:
                if known.event_hash not in (None, signal.digest):
                    rejected = EventRejected(Reason.IDENTITY_CONFLICT, f"{signal_id} is stored with other content")
                    intake.rejected.append(Rejected(entry, rejected, signal_id=signal_id, symbol=signal.symbol))
                elif entry.stored_id == known.entry_id:
                    redelivered += signal_id not in new
                else:
                    duplicates.append(DuplicateRow(entry.stream, entry.entry_id, signal_id, "signal.created"))
        recorded = self._store.duplicates.record(duplicates)
        return BatchResult(redelivered=redelivered + len(duplicates) - recorded, duplicates=recorded)

    def _apply_outcomes(self, intake: Intake) -> BatchResult:
        results = self._store.outcomes.record([outcome_row(entry, outcome) for entry, outcome in intake.outcomes])
        counts = Counter(results)
        duplicates = []
        for (entry, outcome), result in zip(intake.outcomes, results, strict=True):
            if result == "duplicate":
                duplicates.append(DuplicateRow(entry.stream, entry.entry_id, outcome.signal_id, "trade.closed"))
            elif result == "conflict":
                detail = f"revision {outcome.revision} of {outcome.signal_id} is stored with other content"
                rejected = EventRejected(Reason.OUTCOME_CONFLICT, detail)
                intake.rejected.append(Rejected(entry, rejected, signal_id=outcome.signal_id))
            elif result == "before_signal":
                rejected = _closed_before(outcome.signal_id)
                intake.rejected.append(Rejected(entry, rejected, signal_id=outcome.signal_id))
        recorded = self._store.duplicates.record(duplicates)
        return BatchResult(
            outcomes=counts["applied"] + counts["waiting"] + counts["superseded"],
            labelled=counts["applied"],
            redelivered=counts["redelivered"] + len(duplicates) - recorded,
            duplicates=recorded,
        )


def _closed_before(signal_id: str) -> EventRejected:
    return EventRejected(Reason.CLOSED_BEFORE_SIGNAL, f"the trade of {signal_id} closed before its signal was known")
