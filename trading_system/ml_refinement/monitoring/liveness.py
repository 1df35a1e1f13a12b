"""Whether learning is alive: do labels arrive, and is anything learned from them?"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from trading_system.ml_refinement.config import MLConfig, ModelType
from trading_system.ml_refinement.storage.counters import StoreCounts
from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.storage.times import DAY_US, us_from_text

_TYPE = ModelType.SIGNAL_QUALITY.value
#: So many outcomes in a row without one new label, and labels do not arrive.
OUTCOMES_WITHOUT_LABEL = 20
#: So many times the labels that make a training due, and none has made a model.
TRAININGS_MISSED = 5
FAILED_IN_A_ROW = 3
#: Signals go on, and no trade has closed for so many times the longest holding, and never under this many days.
_QUIET_HOLDINGS = 3.0
_QUIET_DAYS = 21.0


@dataclass(frozen=True, slots=True)
class LearningHealth:
    """What tells whether learning is alive. Growth is since the newest label; times are the events' own."""

    outcomes_grown: int
    labels_grown: bool
    waiting_outcomes: int
    #: Labels since the last training that made a model, beyond those that a first one needs; how many make a job due.
    labels_unlearned: int
    min_new_labels: int
    failed_in_a_row: int
    #: Days from the newest label to the newest signal; None without either.
    quiet_days: float | None
    #: The longest time a trade was held, in days.
    longest_hold_days: float
    #: Days since a training made a model by the clock, and how often one is due by age. None: there was none.
    days_since_training: float | None
    frequency_days: int


def learning_alarms(health: LearningHealth) -> list[tuple[str, str]]:
    """Why learning is not alive: (name, words) of each alarm; empty where it is."""
    found = []
    if health.outcomes_grown >= OUTCOMES_WITHOUT_LABEL and not health.labels_grown:
        why = f"{health.outcomes_grown} trades closed and none became a label"
        found.append(("labels_do_not_arrive", f"{why}; {health.waiting_outcomes} wait for a signal"))
    quiet_limit = max(_QUIET_DAYS, _QUIET_HOLDINGS * health.longest_hold_days)
    if health.quiet_days is not None and health.quiet_days > quiet_limit:
        why = f"signals go on, and the newest label is {health.quiet_days:.0f} days older than the newest of them"
        found.append(("no_trade_closes", f"{why} (limit {quiet_limit:.0f})"))
    if health.failed_in_a_row >= FAILED_IN_A_ROW:
        found.append(("trainings_fail", f"the last {health.failed_in_a_row} trainings failed"))
    missed = health.labels_unlearned >= TRAININGS_MISSED * health.min_new_labels
    late = health.days_since_training is not None and health.days_since_training > 4.0 * health.frequency_days
    if missed or (late and health.labels_unlearned > 0):
        since = "ever" if health.days_since_training is None else f"for {health.days_since_training:.1f} days"
        found.append(("nothing_is_learned", f"no training made a model {since}; {health.labels_unlearned} labels wait"))
    return found


def read_learning_health(
    db: FeatureDatabase, config: MLConfig, counts: StoreCounts, *, longest_hold_days: float, now: datetime
) -> LearningHealth:
    """What the store tells of it.

    Args:
        db: the store.
        config: how often trainings are due.
        counts: of the store.
        longest_hold_days: of the trades whose signals were served.
        now: the time.
    """
    done = db.runs.last_with_model(_TYPE)
    begun = done.label_watermark if done else config.training.min_training_samples
    waiting, same = _stuck(db, counts)
    newest = db.signals.newest()
    quiet = None
    if newest is not None and counts.newest_label is not None:
        quiet = (us_from_text(newest) - us_from_text(counts.newest_label)) / DAY_US
    since = None
    if done is not None and done.completed_at is not None:
        since = (now - datetime.fromisoformat(done.completed_at)).total_seconds() / 86_400
    return LearningHealth(
        outcomes_grown=waiting,
        labels_grown=not same,
        waiting_outcomes=counts.waiting_outcomes,
        labels_unlearned=max(0, counts.labels_total - begun),
        min_new_labels=config.min_new_samples_for_retrain,
        failed_in_a_row=_failed_in_a_row(db),
        quiet_days=quiet,
        longest_hold_days=longest_hold_days,
        days_since_training=since,
        frequency_days=config.retrain_frequency_days,
    )


def _stuck(db: FeatureDatabase, counts: StoreCounts) -> tuple[int, bool]:
    """Outcomes that found no signal since the newest label was counted, and whether any report saw as many labels."""
    anchor: dict[str, Any] | None = None
    for report in db.monitoring.recent(200):
        if report.figures.get("labelled") != counts.labelled:
            break
        anchor = report.figures
    if anchor is None:
        return 0, False
    return max(0, counts.waiting_outcomes - int(anchor.get("waiting_outcomes", 0))), True


def _failed_in_a_row(db: FeatureDatabase) -> int:
    failed = 0
    for run in db.runs.recent(20):
        if run.model_type != _TYPE or run.status == "running":
            continue
        if run.status != "failed":
            break
        failed += 1
    return failed
