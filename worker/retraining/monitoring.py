"""Monitoring on a schedule and after each training: what it finds is stored, and may ask for a retraining."""

from __future__ import annotations

from datetime import datetime, timedelta

import redis
from loguru import logger

from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.features.pipeline import FeaturePipeline
from trading_system.ml_refinement.models import ModelRegistry
from trading_system.ml_refinement.monitoring.checks import Report, may_request, run_checks
from trading_system.ml_refinement.storage import FeatureDatabase
from trading_system.ml_refinement.storage.tables.monitoring import Cause
from trading_system.ml_refinement.storage.times import Clock, utc_now, utc_text
from worker.retraining.history import training_history
from worker.retraining.policy import RetrainReason
from worker.retraining.requests import enqueue
from worker.settings.schema import Settings

#: So much time passes between two looks, unless a training ends in between.
EVERY = timedelta(hours=1)


def monitor_if_due(
    settings: Settings, store: FeatureDatabase, client: redis.Redis, *, clock: Clock = utc_now
) -> Report | None:
    """Look, when the last look is an hour old, and ask for a retraining where that may help. Idempotent; None: not due.

    Raises:
        StoreError: the store cannot be reached now.
    """
    last = store.monitoring.last()
    if last is not None and clock() - datetime.fromisoformat(last.at) < EVERY:
        return None
    report = monitor(settings, store, cause="schedule", clock=clock)
    if report.curable:
        _ask(settings, store, client, report, clock=clock)
    return report


def monitor(settings: Settings, store: FeatureDatabase, *, cause: Cause, clock: Clock = utc_now) -> Report:
    """Look now, store what was found, and log its alarms."""
    ml = settings.to_ml_config()
    pipeline = FeaturePipeline(ml.features)
    registry = ModelRegistry.from_config(ml, store)
    names, version = pipeline.names, pipeline.feature_version
    report = run_checks(store, ml, names=names, feature_version=version, clock=clock, cause=cause, registry=registry)
    for alarm in report.alarms:
        logger.warning("monitoring: {}: {}", alarm.name, alarm.why)
    return report


def _ask(settings: Settings, store: FeatureDatabase, client: redis.Redis, report: Report, *, clock: Clock) -> None:
    now = clock()
    yesterday = utc_text(now - timedelta(days=1))
    history = training_history(store, ModelType.SIGNAL_QUALITY)
    allowed = settings.ml.enabled and may_request(
        requested=[datetime.fromisoformat(at) for at in store.monitoring.requests_since(yesterday)],
        last_training=history.last_started_at,
        new_labels=history.new_labels,
        min_new_labels=settings.ml.min_new_samples_for_retrain,
        now=now,
    )
    if not allowed:
        return
    try:
        job_id = enqueue(settings, store, client, reason=RetrainReason.DRIFT)
    except redis.RedisError as error:
        logger.warning("monitoring could not ask for a training: {}", error)
        return
    store.monitoring.note_request(report.id, job_id)
