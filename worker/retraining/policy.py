"""When to retrain: a pure function of what the store holds and the time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from worker.retraining.history import TrainingHistory


class RetrainReason(StrEnum):
    """Why a training was asked for."""

    NEW_LABELS = "new_labels"
    SCHEDULE = "schedule"
    MANUAL = "manual"
    DRIFT = "drift"


@dataclass(frozen=True, slots=True)
class RetrainRule:
    """The settings that decide when a training is due."""

    enabled: bool
    min_training_samples: int
    min_new_labels: int
    frequency_days: int


def due(rule: RetrainRule, history: TrainingHistory, *, now: datetime) -> RetrainReason | None:
    """Whether a training is due, and why.

    It needs `min_training_samples` labels in all, and beyond that either `min_new_labels` labels since the last
    training, or one new label and `frequency_days` since the last training. A clock that runs back makes nothing due.
    """
    if not rule.enabled or history.labels_total < rule.min_training_samples or history.new_labels < 1:
        return None
    if history.new_labels >= rule.min_new_labels:
        return RetrainReason.NEW_LABELS
    last = history.last_started_at
    if last is not None and now - last >= timedelta(days=rule.frequency_days):
        return RetrainReason.SCHEDULE
    return None
