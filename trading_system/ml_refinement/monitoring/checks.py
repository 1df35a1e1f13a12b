"""One look at drift, at what was served, and at whether learning is alive: alarms with their figures, stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from loguru import logger

from trading_system.ml_refinement.config import MLConfig, ModelType
from trading_system.ml_refinement.models.errors import ModelFileRefused
from trading_system.ml_refinement.models.model_registry import ModelRegistry
from trading_system.ml_refinement.models.signal_quality import SignalQualityModel
from trading_system.ml_refinement.monitoring.drift import WINDOW_DAYS, FeatureDrift, column_drift
from trading_system.ml_refinement.monitoring.liveness import Pulse, lifeless, served_figures
from trading_system.ml_refinement.storage.counters import StoreCounts
from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.storage.tables.models import RegistryRow
from trading_system.ml_refinement.storage.tables.monitoring import (
    Cause,
    MonitoringReports,
    RecentRows,
    newest_signal,
    nth_newest_signal,
    rows_between,
)
from trading_system.ml_refinement.storage.times import Clock, text_from_us, us_from_text
from trading_system.ml_refinement.training.promotion import DEMOTION_DAYS, Evidence, block_us
from trading_system.ml_refinement.typing import IntArray
from trading_system.ml_refinement.validation.walk_forward import DAY_US, measured_hold_us

#: More features than this share drifted, and it is an alarm. Without drift, persistent features stay below it.
DRIFTED_SHARE = 0.3
#: A retraining is asked for no sooner than this after the last one or the last request, and so often a day.
COOL_DOWN = timedelta(hours=6)
DAILY_BUDGET = 2
#: Of the labels that make a training due anyway, this part must be new: the same rows teach the same.
_NEW_LABELS_SHARE = 0.25
_MOST_ROWS = 5_000
_WINDOW_ROWS = 60
_WINDOWS_BEFORE = 4
_MODELS = 500
_TYPE = ModelType.SIGNAL_QUALITY
#: What a training on newer data may help with.
_CURABLE = frozenset({"features_drifted", "scores_drifted", "served_worse"})


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that a person should look at."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Report:
    """What one look found; `id` is that of its row."""

    id: int
    model_id: str | None
    alarms: tuple[Alarm, ...]
    figures: dict[str, float]
    features: tuple[FeatureDrift, ...]

    @property
    def curable(self) -> bool:
        """Is there an alarm that a training on newer data may help with?"""
        return any(alarm.name in _CURABLE for alarm in self.alarms)


def look(
    db: FeatureDatabase,
    config: MLConfig,
    *,
    names: Sequence[str],
    feature_version: str,
    clock: Clock,
    cause: Cause = "schedule",
    registry: ModelRegistry | None = None,
) -> Report:
    """Look at the newest signals and outcomes, and store what was found.

    Reads a bounded number of the newest rows: it takes the same time whatever the size of the store.

    Args:
        db: the store.
        config: windows, and how often trainings are due.
        names: the features, in the pipeline's order.
        feature_version: the features' version; vectors of another are not looked at.
        clock: for the ages of trainings and the time of the report.
        cause: why now.
        registry: of the champion, whose scores are then looked at too.
    """
    active = db.models.active(_TYPE.value)
    counts = db.counts()
    newest = newest_signal(db.connection)
    alarms: list[Alarm] = []
    figures: dict[str, float] = {"outcomes": counts.outcomes, "labelled": counts.labelled}
    figures |= {"waiting_outcomes": counts.waiting_outcomes, "dead_letters_open": counts.dead_letters_open}
    features: list[FeatureDrift] = []
    hold_us = 0
    if newest is not None:
        before, recent, window_us = _sides(db, active, config, newest, names, feature_version)
        features = column_drift(tuple(names), before.X, before.timestamp_us, recent.X, window_us=window_us)
        scores = _score_drift(_loaded(registry, active, names), before, recent, window_us)
        served, hold_us = _served(db, config, newest)
        figures |= _drift_figures(features, scores, before, recent) | served_figures(served)
        alarms = _drift_alarms(figures, features)
    reports = MonitoringReports(db.connection, clock)
    pulse = _pulse(db, config, counts, newest, hold_us=hold_us, reports=reports, now=clock())
    alarms += [Alarm(name, why) for name, why in lifeless(pulse)]
    last = db.runs.last(_TYPE.value)
    number = reports.add(
        cause,
        model_id=active.model_id if active else None,
        newest_run=last.token if last else 0,
        alarms=[asdict(alarm) for alarm in alarms],
        figures=figures,
        features=[asdict(drift) for drift in features],
    )
    return Report(number, active.model_id if active else None, tuple(alarms), figures, tuple(features))


def may_ask(
    *, asked: Sequence[datetime], last_training: datetime | None, new_labels: int, due_at: int, now: datetime
) -> bool:
    """May monitoring ask for a retraining now?

    Args:
        asked: when it asked during the last day.
        last_training: when the last training began.
        new_labels: labels since then.
        due_at: new labels that make a training due anyway.
        now: the time.
    """
    if new_labels < max(1.0, _NEW_LABELS_SHARE * due_at):
        return False
    recent = [at for at in asked if now - at < timedelta(days=1)]
    newest = max([*recent, *([last_training] if last_training else [])], default=None)
    return len(recent) < DAILY_BUDGET and (newest is None or now - newest >= COOL_DOWN)


def _sides(
    db: FeatureDatabase,
    active: RegistryRow | None,
    config: MLConfig,
    newest: str,
    names: Sequence[str],
    feature_version: str,
) -> tuple[RecentRows, RecentRows, int]:
    """The newest window of signals, and before it what the champion was trained on, or as long a time.

    A window is 63 days; where signals are rare, what the newest 60 of them took.
    """
    border_us = us_from_text(newest) - WINDOW_DAYS * DAY_US
    earlier = nth_newest_signal(db.connection, _WINDOW_ROWS)
    if earlier is not None:
        border_us = min(border_us, us_from_text(earlier) - 1)
    window_us = us_from_text(newest) - border_us
    before_us = max(config.training.train_window_days * DAY_US, _WINDOWS_BEFORE * window_us)
    start, border = text_from_us(border_us - before_us), text_from_us(border_us)
    end = border
    about = active.metadata if active is not None else None
    if about is not None and about.train_end_date and about.train_end_date < border:
        start, end = min(about.train_start_date, start), about.train_end_date

    def read(low: str, high: str) -> RecentRows:
        wanted = {"names": names, "feature_version": feature_version, "limit": _MOST_ROWS}
        return rows_between(db.connection, low, high, **wanted)  # type: ignore[arg-type]

    return read(start, end), read(border, newest), window_us


def _loaded(
    registry: ModelRegistry | None, active: RegistryRow | None, names: Sequence[str]
) -> SignalQualityModel | None:
    """The champion, if its file can be trusted and it reads these features."""
    if registry is None or active is None or tuple(active.metadata.feature_names) != tuple(names):
        return None
    try:
        model = registry.load(active.model_id)
    except ModelFileRefused as error:
        logger.error("monitoring: {}", error)
        return None
    return model if isinstance(model, SignalQualityModel) else None


def _score_drift(
    model: SignalQualityModel | None, before: RecentRows, recent: RecentRows, window_us: int
) -> list[FeatureDrift]:
    """How far the scores of one and the same model moved: what another model said before would be no measure."""
    if model is None or not len(before.X) or not len(recent.X):
        return []
    then, now = (model.predict_proba(rows.X)[:, None] for rows in (before, recent))
    return column_drift(("score",), then, before.timestamp_us, now, window_us=window_us)


def _served(db: FeatureDatabase, config: MLConfig, newest: str) -> tuple[Evidence, int]:
    """What champions served lately for signals whose outcome is known, and the longest holding among them."""
    since = text_from_us(us_from_text(newest) - (DEMOTION_DAYS + WINDOW_DAYS) * DAY_US)
    history = db.scores.served_history(since)
    rates = {
        row.model_id: row.metadata.train_metrics.get("base_rate", 0.5)
        for row in db.models.history(_TYPE.value, _MODELS)
    }
    hold_us = measured_hold_us(
        history.timestamp_us, history.label_us, at_most_days=config.training.train_window_days / 4.0
    )
    base = np.array([rates.get(model_id, 0.5) for model_id in history.model_id.tolist()], dtype=np.float64)
    windows: IntArray = np.zeros(len(base), dtype=np.int64)
    evidence = Evidence(history.r > 0, history.quality_score, base, history.timestamp_us, windows, block_us(hold_us))
    return evidence, hold_us


def _drift_figures(
    features: Sequence[FeatureDrift], scores: Sequence[FeatureDrift], before: RecentRows, recent: RecentRows
) -> dict[str, float]:
    figures: dict[str, float] = {
        "reference_rows": len(before.X),
        "recent_rows": len(recent.X),
        "features": len(features),
        "features_drifted": sum(drift.drifted for drift in features),
        "features_gone": sum(drift.gone for drift in features),
        "incomplete_share": recent.incomplete / max(1, recent.signals),
        "incomplete_share_before": before.incomplete / max(1, before.signals),
    }
    for score in scores:
        figures |= {"score_psi": score.psi, "score_limit": score.limit}
    return figures


def _drift_alarms(figures: dict[str, float], features: Sequence[FeatureDrift]) -> list[Alarm]:
    found = []
    drifted, of = int(figures["features_drifted"]), int(figures["features"])
    if drifted > DRIFTED_SHARE * of:
        worst = ", ".join(drift.name for drift in features[:3])
        found.append(Alarm("features_drifted", f"{drifted} of {of} features moved beyond their own past: {worst}"))
    gone = [drift.name for drift in features if drift.gone]
    if gone:
        found.append(Alarm("features_missing", f"far more often missing than before: {', '.join(gone[:5])}"))
    share, was = figures["incomplete_share"], figures["incomplete_share_before"]
    if share > max(0.05, 2.0 * was):
        found.append(Alarm("signals_incomplete", f"{share:.0%} of the newest signals lack features, before {was:.0%}"))
    if figures.get("score_psi", 0.0) > figures.get("score_limit", math.inf):
        why = f"the scores' PSI is {figures['score_psi']:.2f}, limit {figures['score_limit']:.2f}"
        found.append(Alarm("scores_drifted", why))
    if figures.get("served_worse"):
        excess, t = figures["served_excess"], figures["served_excess_t"]
        rows = int(figures["served_rows"])
        why = f"served log loss is {excess:.4f} above the base rate's on {rows} signals (t {t:.2f})"
        found.append(Alarm("served_worse", why))
    return found


def _pulse(
    db: FeatureDatabase,
    config: MLConfig,
    counts: StoreCounts,
    newest: str | None,
    *,
    hold_us: int,
    reports: MonitoringReports,
    now: datetime,
) -> Pulse:
    done = db.runs.last(_TYPE.value, "completed")
    begun = done.label_watermark if done else config.training.min_training_samples
    waiting, same = _stuck(reports, counts)
    quiet = None
    if newest is not None and counts.newest_label is not None:
        quiet = (us_from_text(newest) - us_from_text(counts.newest_label)) / DAY_US
    since = None
    if done is not None and done.completed_at is not None:
        since = (now - datetime.fromisoformat(done.completed_at)).total_seconds() / 86_400
    return Pulse(
        outcomes_grown=waiting,
        labels_grown=0 if same else 1,
        waiting_outcomes=counts.waiting_outcomes,
        labels_unlearned=max(0, counts.labels_total - begun),
        labels_for_training=config.min_new_samples_for_retrain,
        failed_in_a_row=_failed_in_a_row(db),
        quiet_days=quiet,
        longest_hold_days=hold_us / DAY_US,
        days_since_training=since,
        frequency_days=config.retrain_frequency_days,
    )


def _stuck(reports: MonitoringReports, counts: StoreCounts) -> tuple[int, bool]:
    """Outcomes that found no signal since the newest label was counted, and whether any look saw as many labels."""
    anchor: dict[str, Any] | None = None
    for report in reports.recent(200):
        if report.figures.get("labelled") != counts.labelled:
            break
        anchor = report.figures
    if anchor is None:
        return 0, False
    return max(0, counts.waiting_outcomes - int(anchor.get("waiting_outcomes", 0))), True


def _failed_in_a_row(db: FeatureDatabase) -> int:
    failed = 0
    for run in db.runs.recent(20):
        if run.model_type != _TYPE.value or run.status == "running":
            continue
        if run.status != "failed":
            break
        failed += 1
    return failed
