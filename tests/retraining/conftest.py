"""An installation without anything in it: its settings, its store, and a client of the queue's server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from trading_system.ml_refinement.storage import FeatureDatabase
from worker.installation import open_store
from worker.retraining.queue import connect_queue
from worker.settings.schema import Settings, load_settings


@pytest.fixture
def settings(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("REFINERY_STATE_DIR", str(state_dir))
    return load_settings()


@pytest.fixture
def store(settings: Settings) -> Iterator[FeatureDatabase]:
    with open_store(settings) as store:
        yield store


@pytest.fixture
def client(valkey_url: str) -> Iterator[redis.Redis]:
    with connect_queue(valkey_url) as client:
        yield client
