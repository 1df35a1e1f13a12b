"""A small installation with everything in it, and markup planted wherever an event can bring it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from datetime import timedelta

import numpy as np
import redis

from tests.support.desk import desk, send
from tests.support.events import SIGNALS, START, TRADES, bars, outcome, signal
from trading_system.ml_refinement.models import ModelRegistry, SignalQualityModel
from trading_system.ml_refinement.models.fitting import FitPlan
from trading_system.ml_refinement.storage import FeatureDatabase
from worker.retraining.queue import QUEUE_NAME, connect_queue
from worker.settings.schema import Settings

#: Markup that runs when a page inserts it raw; the title of the page tells.
EVIL = "<script>document.title='OWNED'</script><img src=x onerror=\"document.title='OWNED'\">"
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MODELS = 2


@dataclass(frozen=True)
class ConsoleInstallation:
    """A filled installation."""

    settings: Settings
    url: str
    client: redis.Redis
    models: tuple[str, str]


def fill(settings: Settings, url: str) -> ConsoleInstallation:
    """Signals with outcomes and predictions of two models, dead letters of several kinds, and a job that failed."""
    app_store = FeatureDatabase(settings.store_place)
    app_store.initialize()
    with desk(settings) as world:
        for number in range(160):
            send(world.client, SIGNALS, signal(number, symbol="ACME" if number % 3 else "BRK.B"))
        world.drain()
        models = tuple(train(settings, world.store, seed) for seed in range(MODELS))
        for number in range(160, 330):
            send(world.client, SIGNALS, signal(number, bars=bars(end=START + timedelta(hours=number), seed=number)))
        world.drain()
        rng = np.random.default_rng(5)
        for number in range(330):
            send(world.client, TRADES, outcome(number, float(rng.normal(0.15, 1.1))))
        for number in range(4):
            send(world.client, SIGNALS, signal(900 + number, symbol="BRK.B", bars=None))
        send(world.client, SIGNALS, signal(910, bars=bars(end=START + timedelta(days=90))))
        send(world.client, SIGNALS, signal(911, symbol=EVIL[:120], conviction=EVIL))
        send(world.client, SIGNALS, b'{"signal_id": "' + EVIL.encode() + b'"')
        send(world.client, TRADES, outcome(3, 9.0))
        world.drain()
        _add_handler_error(world.store)
    _queue_evil_job(url)
    return ConsoleInstallation(settings, url, redis.Redis.from_url(url), models)  # type: ignore[arg-type]


def train(settings: Settings, store: FeatureDatabase, seed: int) -> str:
    """A model that serves, fitted on noise: its scores vary, and it is right about nothing."""
    names = tuple(
        name for (text,) in store._connection.query("SELECT names FROM feature_lists LIMIT 1") for name in _names(text)
    )
    row = store._connection.query("SELECT feature_version FROM feature_vectors LIMIT 1")[0]
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(400, len(names)))
    r = X[:, 0] * 0.8 + rng.normal(size=400)
    model = SignalQualityModel(min_samples=50)
    types = np.where(rng.random(400) < 0.5, "breakout", EVIL[:60])
    model.fit(X, r, feature_names=names, plan=replace(FitPlan.by_rows(400), signal_types=types))
    model.feature_version = row[0]
    model.set_training_period("2024-01-01T00:00:00.000000Z", "2024-03-05T00:00:00.000000Z")
    model.set_validation(200, {"auc": 0.56 + seed / 100, "log_loss": 0.676, "base_rate_log_loss": 0.688})
    registry = ModelRegistry(model_dir=str(settings.models_dir), db=store)
    registry.register(model)
    registry.promote(model.model_id, reason="AUC 0.561 (t 2.31), log loss 0.0121 below the base rate's", proven=True)
    return model.model_id


def _names(text: str) -> list[str]:
    import orjson

    names: list[str] = orjson.loads(text)
    return names


def _add_handler_error(store: FeatureDatabase) -> None:
    from trading_system.ml_refinement.storage import NewDeadLetter

    letter = NewDeadLetter(
        stream=SIGNALS,
        entry_id="1-1",
        reason="handler_error",
        error=f"ValueError: {EVIL}",
        payload=EVIL.encode(),
        attempts=5,
        worker_version="0.1.0",
        fingerprint="f00",
        traceback=f"Traceback (most recent call last):\nValueError: {EVIL}",
        signal_id=EVIL[:100],
        symbol=EVIL[:100],
    )
    store.dead_letters.add([letter])


def _queue_evil_job(url: str) -> None:
    from rq import Queue
    from rq.registry import FailedJobRegistry
    from rq.serializers import JSONSerializer

    client = connect_queue(url)
    queue = Queue(QUEUE_NAME, connection=client, serializer=JSONSerializer)
    job = queue.enqueue_call(
        "worker.retraining.job.retrain", kwargs={"reason": EVIL}, job_id="evil-job", description=EVIL, meta={"x": EVIL}
    )
    queue.remove(job)
    from rq.results import Result

    FailedJobRegistry(queue=queue).add(job, ttl=3600)
    job.set_status("failed")
    Result.create_failure(job, ttl=3600, exc_string=f"Traceback\nValueError: {EVIL}")
