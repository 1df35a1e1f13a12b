"""When to retrain: a pure function of what the store holds and the time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from worker.retraining.history import TrainingHistory
from worker.settings.schema import Settings


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
    min_new_labels: int
    frequency_days: int


def retrain_rule(settings: Settings) -> RetrainRule:
    """The rule that the settings make."""
    ml = settings.ml
    return RetrainRule(
        enabled=ml.enabled, min_new_labels=ml.min_new_samples_for_retrain, frequency_days=ml.retrain_frequency_days
    )


def due(rule: RetrainRule, history: TrainingHistory, *, now: datetime) -> RetrainReason | None:
    """Whether a training is due, and why.

    It needs `min_new_labels` labels since the last training, or one label and `frequency_days` since the last training;
    before the first, since the store was made. Whether there are enough samples to train on is for the training to
    see. A clock that runs back makes nothing due.
    """
    if not rule.enabled or history.new_labels < 1:
        return None
    if history.new_labels >= rule.min_new_labels:
        return RetrainReason.NEW_LABELS
    since = history.last_started_at or history.store_made_at
    if since is not None and now - since >= timedelta(days=rule.frequency_days):
        return RetrainReason.SCHEDULE
    return None
