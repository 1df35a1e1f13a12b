"""What the console says of the next job and of the first model."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from flask.testing import FlaskClient

from tests.support.desk import settings_for
from tests.support.labels import label
from trading_system.ml_refinement.storage import FeatureDatabase
from worker.console.application import create_app
from worker.console.overview import Overview, Process, verdict
from worker.installation import open_store
from worker.observability.status import read_status
from worker.redis_server.connection import connect
from worker.settings.schema import Settings

TYPE = "signal_quality"
ALIVE = tuple(Process(f"{kind}-1", kind, 0.0, "") for kind in ("worker", "trainer"))


@pytest.fixture
def settings(tmp_path: Path, valkey_url: str) -> Settings:
    return settings_for(tmp_path / "var", valkey_url)


@pytest.fixture
def store(settings: Settings) -> Iterator[FeatureDatabase]:
    with open_store(settings) as store:
        yield store


@pytest.fixture
def redis_client(valkey_url: str) -> Iterator[redis.Redis]:
    with connect(valkey_url) as client:
        yield client


def page(settings: Settings, path: str) -> str:
    flask = create_app(settings, settings.redis_url or "")
    flask.extensions["refinery"].sample()
    client: FlaskClient = flask.test_client()
    answer = client.get(path)
    assert answer.status_code == 200
    return html.unescape(re.sub(r"<[^>]+>", " ", answer.get_data(as_text=True)))


def answer(settings: Settings, store: FeatureDatabase, client: redis.Redis, training: str | None = None) -> str:
    status = read_status(settings, store, client)
    return verdict(Overview(status, ALIVE, training, None, None, None, None, ()))[2]


def hold(store: FeatureDatabase, number: int, samples: int) -> None:
    store.runs.start(f"retrain-{TYPE}-{number}", TYPE, {}, label_watermark=store.counts().labels_total)
    words = {"samples": samples, "reason": f"{samples} of 100 samples"}
    store.runs.finish(f"retrain-{TYPE}-{number}", "completed", verdict="hold", metrics=words)


def test_labels_and_samples_that_are_missing_are_counted_on_overview_and_jobs(
    settings: Settings, store: FeatureDatabase
) -> None:
    label(store, settings, 40)
    hold(store, 0, 40)
    label(store, settings, 12, first=40)
    overview, jobs = page(settings, "/"), page(settings, "/jobs")
    assert "52 of 100 samples until the first model" in overview
    assert "12 of 20 new labels until the next job · 52 of 100 samples until the first model" in jobs
    for text in (overview, jobs):
        assert re.search(r"too few samples\s+nothing was trained\s+40 of 100 samples", text)


def test_the_answer_on_top_says_what_is_waited_for_and_never_that_a_training_is_due_when_none_comes(
    settings: Settings, store: FeatureDatabase, redis_client: redis.Redis
) -> None:
    label(store, settings, 19)
    waits = "19 of 20 new labels until the next job, 19 of 100 samples until the first model."
    assert waits in answer(settings, store, redis_client)
    label(store, settings, 1, first=19)
    assert "The next job is due, with 20 of 20 new labels, 20 of 100" in answer(settings, store, redis_client)
    assert "A training is running." in answer(settings, store, redis_client, "started")
    off = settings.model_copy(update={"ml": replace(settings.ml, enabled=False)})
    assert "Retraining is turned off." in answer(off, store, redis_client)
    assert "due" not in answer(off, store, redis_client)
    hold(store, 0, 20)
    waits = "The last job found too few samples to train on. 0 of 20 new labels until the next job, 20 of 100 samples"
    assert waits in answer(settings, store, redis_client)
    label(store, settings, 100, first=20)
    store.runs.start("failed", TYPE, {}, label_watermark=120)
    store.runs.finish("failed", "failed", error_message="one_class: all 120 trades won")
    waits = "The last training failed: one_class: all 120 trades won. 0 of 20 new labels until the next job."
    assert waits in answer(settings, store, redis_client)
