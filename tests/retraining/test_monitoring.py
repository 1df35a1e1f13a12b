"""Monitoring as the trainer does it: once an hour and after trainings, asking at most for what it may."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import redis
from rq import Queue
from rq.serializers import JSONSerializer

from trading_system.ml_refinement.features.pipeline import FeaturePipeline
from trading_system.ml_refinement.storage import FeatureDatabase, OutcomeRow, VectorRow
from trading_system.ml_refinement.storage.times import text_from_us, utc_now
from worker.observability.status import read_status
from worker.retraining.monitoring import EVERY, monitor_if_due
from worker.retraining.queue import QUEUE_NAME, connect_queue
from worker.settings.schema import Settings

DAY_US = 86_400_000_000
START_US = 1_735_689_600_000_000


def fill(store: FeatureDatabase, settings: Settings, *, shift: float) -> None:
    """315 days of noise, four signals a day, the features of the last 63 moved by `shift`."""
    pipeline = FeaturePipeline(settings.to_ml_config().features)
    rng = np.random.default_rng(1)
    times = START_US + np.arange(315 * 4, dtype=np.int64) * DAY_US // 4
    X = rng.standard_normal((len(times), len(pipeline.names)))
    X[times > times[-1] - 63 * DAY_US] += shift
    version, ids = pipeline.feature_version, [f"s-{n}" for n in range(len(times))]
    rows = [
        VectorRow(name, text_from_us(int(at)), "SYM", "equity", "breakout", None, version, True, b"0" * 16, name)
        for name, at in zip(ids, times, strict=True)
    ]
    closed = [text_from_us(int(at) + DAY_US) for at in times]
    outcomes = [
        OutcomeRow(name, 0, at, float(r), None, None, name)
        for name, at, r in zip(ids, closed, rng.standard_normal(len(ids)), strict=True)
    ]
    with store.atomic():
        store.vectors.insert_new(rows, pipeline.names, X)
        store.outcomes.record(outcomes)


def jobs(client: redis.Redis) -> list[str]:
    return Queue(QUEUE_NAME, connection=client, serializer=JSONSerializer).job_ids


def test_drift_asks_for_one_training_and_the_status_tells(
    settings: Settings, store: FeatureDatabase, client: redis.Redis
) -> None:
    fill(store, settings, shift=3.0)
    report = monitor_if_due(settings, store, client)
    assert report is not None
    assert report.curable
    assert jobs(client) == ["retrain-signal_quality-0"]
    assert store.models.promotions() == []
    seen = read_status(settings, store, None).monitoring
    assert seen is not None
    assert (seen.requested, seen.features_drifted) == ("retrain-signal_quality-0", report.figures["features_drifted"])
    assert "features_drifted" in {alarm["name"] for alarm in seen.alarms}


def test_it_looks_once_an_hour_and_asks_no_more_often_than_it_may(
    settings: Settings, store: FeatureDatabase, client: redis.Redis
) -> None:
    fill(store, settings, shift=3.0)
    start = utc_now()

    for hour in range(24):
        now = start + hour * EVERY + timedelta(minutes=hour)
        assert monitor_if_due(settings, store, client, clock=lambda now=now: now) is not None  # type: ignore[misc]
        assert monitor_if_due(settings, store, client, clock=lambda now=now: now) is None  # type: ignore[misc]
    asked = [report.at for report in store.monitoring.recent() if report.requested]
    assert len(asked) == 2


def test_without_drift_nothing_is_asked_for(settings: Settings, store: FeatureDatabase, client: redis.Redis) -> None:
    fill(store, settings, shift=0.0)
    report = monitor_if_due(settings, store, client)
    assert report is not None
    assert not report.curable
    assert jobs(client) == []


def test_redis_away_is_no_reason_to_fail(settings: Settings, store: FeatureDatabase) -> None:
    fill(store, settings, shift=3.0)
    with connect_queue("redis://127.0.0.1:1/0") as nobody:
        report = monitor_if_due(settings, store, nobody)
    assert report is not None
    last = store.monitoring.last()
    assert last is not None
    assert last.requested is None
