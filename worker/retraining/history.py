"""What the store knows of past trainings: what decides whether the next one is due, and what the status shows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from trading_system.ml_refinement.storage import FeatureDatabase, TrainingRun

#: So many trainings in a row that were killed, and the next one waits for new labels, as after any other failure.
KILLED_IN_A_ROW = 3
#: How the message of a training begins that ended without a word.
KILLED = "killed"

_RECENT = 50


@dataclass(frozen=True, slots=True)
class TrainingHistory:
    """What the store knows about past trainings of one model type.

    A training that was killed has tried nothing: it counts in `newest` and not in the other two, so that what made it
    due still makes the next one due. One that failed has counted, or it would be tried again with the same labels, and
    so has one that found too few samples.
    """

    #: Token of the newest training ever begun, 0 before the first: the same for all who look before the next begins.
    newest: int = 0
    #: `labels_total` at the start of the last training that counts; 0 when there is none.
    label_watermark: int = 0
    #: When the last training that counts began; None when there is none.
    last_started_at: datetime | None = None
    #: `labels_total` now.
    labels_total: int = 0
    #: What the last training that counts found, where that was too few to train on; None when it had enough.
    samples_found: int | None = None
    #: When the store was made, while no training counts: what its age is reckoned from.
    store_made_at: datetime | None = None

    @property
    def new_labels(self) -> int:
        """Labels since the last training that counts."""
        return self.labels_total - self.label_watermark

    @property
    def samples(self) -> int:
        """Samples that the next training will find, as far as is known: not all labels need be of use to it."""
        return self.labels_total if self.samples_found is None else self.samples_found + self.new_labels


def training_history(store: FeatureDatabase, model_type: str) -> TrainingHistory:
    """What `due` has to know, from the store."""
    labels_total = store.counts().labels_total
    newest = store.runs.last(model_type)
    if newest is None:
        return TrainingHistory(labels_total=labels_total, store_made_at=_made_at(store))
    counts = newest if not _was_killed(newest) else _last_that_counts(store, model_type)
    if counts is None:
        return TrainingHistory(newest=newest.token, labels_total=labels_total, store_made_at=_made_at(store))
    started_at = _instant(counts.started_at)
    return TrainingHistory(newest.token, counts.label_watermark, started_at, labels_total, counts.samples_found)


def _was_killed(run: TrainingRun) -> bool:
    return run.status == "failed" and (run.error_message or "").startswith(KILLED)


def _last_that_counts(store: FeatureDatabase, model_type: str) -> TrainingRun | None:
    runs = [run for run in store.runs.recent(_RECENT) if run.model_type == model_type]
    alive = next((place for place, run in enumerate(runs) if not _was_killed(run)), len(runs))
    if alive >= KILLED_IN_A_ROW:
        return runs[0]
    return runs[alive] if alive < len(runs) else None


def _made_at(store: FeatureDatabase) -> datetime | None:
    try:
        return _instant(store.made_at() or "")
    except ValueError:
        return None  # the first step of a store may have been written by somebody else's code


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
