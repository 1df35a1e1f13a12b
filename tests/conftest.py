"""Fixtures that more than one area needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from worker.redis_server.embedded import EmbeddedServer


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own `REFINERY_*` variables do not reach the tests."""
    for name in [name for name in os.environ if name.upper().startswith("REFINERY_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """One real server per test process."""
    with EmbeddedServer(tmp_path_factory.mktemp("valkey"), join=False) as server:
        yield server


@pytest.fixture
def valkey_url(valkey_server: EmbeddedServer) -> str:
    """Address of a real server that is empty at the start of the test."""
    with redis.Redis.from_url(valkey_server.url) as client:
        client.flushall()
        client.config_resetstat()
    return valkey_server.url


@pytest.fixture
def valkey(valkey_url: str) -> Iterator[redis.Redis]:
    """A client of a real server that is empty at the start of the test; replies are bytes."""
    with redis.Redis.from_url(valkey_url) as client:
        yield client


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """An empty state directory."""
    path = tmp_path / "var"
    path.mkdir(mode=0o700)
    return path
