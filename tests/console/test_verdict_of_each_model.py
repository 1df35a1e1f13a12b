"""A training makes several models, and the gate judges one of them: no page gives its verdict to the others."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from tests.support.desk import settings_for
from tests.support.real_processes import REFINERY
from tests.support.rows import metadata
from trading_system.ml_refinement.config import ModelType
from worker.console.application import create_app
from worker.installation import open_store
from worker.settings.schema import Settings

FIGURES = {
    "rows": 120,
    "auc": 0.61,
    "not_proven": "never_shown",
    "reason": "AUC 0.61 is not shown",
    "virtual_samples": 7,
}


@pytest.fixture
def settings(tmp_path: Path, valkey_url: str) -> Settings:
    settings = settings_for(tmp_path / "var", valkey_url)
    with open_store(settings) as store:
        store.runs.start("run-1", "signal_quality", {}, label_watermark=0)
        beside = metadata("regime-1")
        beside.model_type = ModelType.REGIME_CLASSIFIER
        for one in (metadata("quality-1"), beside):
            store.models.register(one, run_id="run-1")
            store.models.activate(one.model_id, reason="it may serve", run_id="run-1")
        figures = FIGURES | {"reported_samples": 3, "virtual_samples": 7}
        store.runs.finish(
            "run-1", "completed", model_id="quality-1", verdict="reject", serves="provisional", metrics=figures
        )
    return settings


@pytest.fixture
def client(settings: Settings, valkey_url: str) -> FlaskClient:
    return create_app(settings, valkey_url).test_client()


def test_the_page_of_the_candidate_has_the_gates_verdict_and_how_it_serves(client: FlaskClient) -> None:
    page = client.get("/models/quality-1").text
    assert "not proven (skill is not shown)" in page
    assert "serves provisionally" in page


def test_the_page_of_a_model_beside_it_has_neither_its_verdict_nor_its_figures(client: FlaskClient) -> None:
    page = client.get("/models/regime-1").text
    assert "skill is not shown" not in page
    assert "0.61" not in page
    assert "learned from" not in page.lower()
    assert "beside that run's candidate" in page


def test_the_command_gives_the_figures_of_the_run_to_its_candidate_alone(settings: Settings, valkey_url: str) -> None:
    environment = {"REFINERY_STATE_DIR": str(settings.state_dir), "REFINERY_REDIS_URL": valkey_url}
    shown = {}
    for model in ("quality-1", "regime-1"):
        command = [*REFINERY, "models", "show", model]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        shown[model] = done.stdout
    assert "learned from 3 reported and 7 virtual outcomes" in shown["quality-1"]
    assert "learned from" not in shown["regime-1"]
