"""Checks of drift, of what was served, and of whether learning is alive: alarms with their figures, stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from loguru import logger

from trading_system.ml_refinement.config import MLConfig, ModelType
from trading_system.ml_refinement.models.errors import ModelFileRefused
from trading_system.ml_refinement.models.model_registry import ModelRegistry
from trading_system.ml_refinement.models.signal_quality import SignalQualityModel
from trading_system.ml_refinement.monitoring.drift import DRIFTED_SHARE, FeatureDrift, column_drift
from trading_system.ml_refinement.monitoring.drift_windows import DriftWindows, read_drift_windows
from trading_system.ml_refinement.monitoring.liveness import learning_alarms, read_learning_health
from trading_system.ml_refinement.monitoring.served import ServedFigures, read_served, served_figures
from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.storage.tables.models import RegistryRow
from trading_system.ml_refinement.storage.tables.monitoring import Cause
from trading_system.ml_refinement.storage.times import DAY_US, Clock, utc_text
from trading_system.ml_refinement.validation.evidence import finite
from trading_system.ml_refinement.validation.walk_forward import measured_hold_us

#: A retraining is requested no sooner than this after the last one or the last request, and so often a day.
COOL_DOWN = timedelta(hours=6)
DAILY_BUDGET = 2
#: Of the labels that make a training due anyway, this part must be new: the same rows teach the same.
_NEW_LABELS_SHARE = 0.25
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
    """What the checks found; `id` is that of its row."""

    id: int
    model_id: str | None
    alarms: tuple[Alarm, ...]
    figures: dict[str, float]
    features: tuple[FeatureDrift, ...]

    @property
    def curable(self) -> bool:
        """Is there an alarm that a training on newer data may help with?"""
        return any(alarm.name in _CURABLE for alarm in self.alarms)


def run_checks(
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
    counts, train_days = db.counts(), config.training.train_window_days
    figures: dict[str, float] = {"outcomes": counts.outcomes, "labelled": counts.labelled}
    figures |= {"waiting_outcomes": counts.waiting_outcomes, "dead_letters_open": counts.dead_letters_open}
    features: list[FeatureDrift] = []
    alarms: list[Alarm] = []
    windows = read_drift_windows(db, train_window_days=train_days, names=names, feature_version=feature_version)
    if windows is not None:
        features = windows.features()
        scores = _score_drift(_loaded(registry, active, names), windows)
        figures |= _drift_figures(features, scores, windows)
        alarms += _drift_alarms(figures, features)
    record = read_served(db, train_window_days=train_days)
    served = served_figures(record)
    figures |= _served_figures(served)
    if served.worse:
        why = f"served log loss is {served.excess:.4f} above the base rate's on {served.rows} signals"
        alarms.append(Alarm("served_worse", f"{why} (t {served.excess_t:.2f})"))
    hold_us = measured_hold_us(record.entered_us, record.known_us, train_days=train_days)
    health = read_learning_health(db, config, counts, longest_hold_days=hold_us / DAY_US, now=clock())
    alarms += [Alarm(name, why) for name, why in learning_alarms(health)]
    last = db.runs.last(_TYPE.value)
    number = db.monitoring.add(
        cause,
        at=utc_text(clock()),
        model_id=active.model_id if active else None,
        newest_run=last.token if last else 0,
        alarms=[asdict(alarm) for alarm in alarms],
        figures=figures,
        features=[asdict(drift) for drift in features],
    )
    return Report(number, active.model_id if active else None, tuple(alarms), figures, tuple(features))


def may_request(
    *,
    requested: Sequence[datetime],
    last_training: datetime | None,
    new_labels: int,
    min_new_labels: int,
    now: datetime,
) -> bool:
    """May monitoring request a retraining now?

    Args:
        requested: when it did so during the last day.
        last_training: when the last training began.
        new_labels: labels since then.
        min_new_labels: so many make a training due anyway.
        now: the time.
    """
    if new_labels < max(1.0, _NEW_LABELS_SHARE * min_new_labels):
        return False
    recent = [at for at in requested if now - at < timedelta(days=1)]
    newest = max([*recent, *([last_training] if last_training else [])], default=None)
    return len(recent) < DAILY_BUDGET and (newest is None or now - newest >= COOL_DOWN)


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


def _score_drift(model: SignalQualityModel | None, windows: DriftWindows) -> list[FeatureDrift]:
    """How far the scores of one and the same model moved: what another model said before would be no measure."""
    before, recent = windows.before, windows.recent
    if model is None or not len(before.X) or not len(recent.X):
        return []
    then, now = (model.predict_proba(rows.X, rows.signal_types)[:, None] for rows in (before, recent))
    return column_drift(("score",), then, before.timestamp_us, now, window_us=windows.window_us)


def _drift_figures(
    features: Sequence[FeatureDrift], scores: Sequence[FeatureDrift], windows: DriftWindows
) -> dict[str, float]:
    before, recent = windows.before, windows.recent
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


def _served_figures(served: ServedFigures) -> dict[str, float]:
    """As a report keeps them; empty where nothing was served."""
    return finite({f"served_{name}": value for name, value in asdict(served).items()}) if served.rows else {}


def _drift_alarms(figures: dict[str, float], features: Sequence[FeatureDrift]) -> list[Alarm]:
    found = []
    drifted, of = int(figures["features_drifted"]), len(features)
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
    return found
