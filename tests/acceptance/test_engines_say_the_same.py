"""A store that was copied into PostgreSQL: every page and every command that looks says what it says over SQLite."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.support.console_installation import fill
from tests.support.desk import settings_for
from tests.support.postgres_server import PostgresServer, needs_postgres
from tests.support.real_processes import QUIET, REFINERY
from tests.support.waiting import HANGS_AFTER_S
from trading_system.ml_refinement.storage import FeatureDatabase
from worker.console.application import create_app
from worker.installation import copy_a_store
from worker.redis_server.embedded import EmbeddedServer
from worker.settings.schema import Settings

pytestmark = needs_postgres

Both = tuple[Settings, Settings]
#: What is of the engine itself, or of the moment.
APART = {"sizes", "store", "store_url", "size_bytes", "took_s", "age_s", "now", "read_at", "generated_at", "uptime_s"}
PAGES = (
    "/",
    "/dead-letters",
    "/dead-letters?symbol=BRK.B&reason=no_market_data&status=any",
    "/dead-letters?text=script",
    "/dead-letters?since=2020-01-01&order=signal_id",
    "/dead-letters?order=-last_seen",
    "/dead-letters/1",
    "/models",
    "/models/{champion}",
    "/models/{before}",
    "/signals",
    "/signals?symbol=ACME",
    "/signals?outcome=won",
    "/signals?outcome=open",
    "/signals?kind=breakout&since=2024-01-02",
    "/signals?score_from=0.5",
    "/signals?model_id={champion}",
    "/signals?signal_id=s-3",
    "/signals/{signal}",
    "/monitoring",
    "/monitoring?days=7",
    "/monitoring?symbol=ACME",
    "/jobs",
)
COMMANDS = (
    "status",
    "dead-letters list",
    "dead-letters list --groups",
    "dead-letters list --status any --symbol BRK.B",
    "dead-letters show 1",
    "models list",
    "models history",
    "models show {champion}",
    "models compare {before} {champion}",
    "explain {signal}",
    "features missing",
    "label --dry-run",
    "notify",
    "evaluate --out {out}",
)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer) -> Iterator[Both]:
    base = tmp_path_factory.mktemp("both")
    with EmbeddedServer(base / "valkey", join=False) as server:
        settings = settings_for(base / "var", server.url)
        fill(settings, server.url)
        url = postgres_server.url("says_the_same")
        copy_a_store(str(settings.store_path), url, told=lambda _: None)
        yield settings, settings_for(base / "var", server.url, store_url=url)


@pytest.fixture(scope="module")
def names(both: Both) -> dict[str, str]:
    """What the pages and commands are asked for."""
    with closing(FeatureDatabase(both[0].store_place)) as store:
        history = [row.model_id for row in store.models.history(limit=10)]
        champion = str(store.models.active_id("signal_quality"))
        newest = store.connection.query("SELECT signal_id FROM feature_vectors ORDER BY id DESC LIMIT 1")[0][0]
    return {"champion": champion, "before": next(one for one in history if one != champion), "signal": newest}


def page(client: FlaskClient, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200, (path, answer.status_code)
    text = re.sub(r'name="csrf[^>]*>', "", answer.get_data(as_text=True))
    return re.sub(r"\b\d+ (?:s|ms|min)\b| ago|\bnow\b|nonce-?=?\"?[\w+/=-]+", "", text)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_says_the_same(path: str, both: Both, names: dict[str, str]) -> None:
    here, there = (create_app(settings, str(settings.redis_url)) for settings in both)
    for app in (here, there):
        app.extensions["refinery"].sample()
    asked = path.format(**names)
    assert page(there.test_client(), asked) == page(here.test_client(), asked)


def said(settings: Settings, command: str) -> tuple[int, Any]:
    variables = {"REFINERY_STATE_DIR": str(settings.state_dir), "REFINERY_REDIS_URL": str(settings.redis_url)}
    if settings.store_url is not None:
        variables["REFINERY_STORE_URL"] = settings.store_url
    done = subprocess.run(
        [*REFINERY, *command.split(), "--json"],
        env={**os.environ, **QUIET, **variables},
        capture_output=True,
        timeout=HANGS_AFTER_S,
        check=False,
    )
    assert done.stdout, done.stderr.decode()
    return done.returncode, without(json.loads(done.stdout))


def without(told: Any) -> Any:
    if isinstance(told, dict):
        return {name: without(value) for name, value in told.items() if name not in APART}
    if isinstance(told, list):
        return [without(one) for one in told]
    return round(told, 9) if isinstance(told, float) else told


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_says_the_same(command: str, both: Both, names: dict[str, str]) -> None:
    here, there = both
    asked = command.format(**names, out=both[0].state_dir / "report")
    code, told = said(here, asked)
    assert code == 0
    assert said(there, asked) == (code, told)
