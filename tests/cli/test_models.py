"""Rollback, comparison and history of models: by the library, and as a person meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.learning_installation import LearningInstallation, fitted, learning_installation
from tests.support.models_in_files import only_in_files
from tests.support.store_place import store_place
from trading_system.ml_refinement.actors import acting_user
from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.models import SignalQualityModel
from trading_system.ml_refinement.models.errors import ModelFileRefused
from trading_system.ml_refinement.models.model_registry import predecessors, roll_back
from trading_system.ml_refinement.storage.errors import UnknownModel
from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.storage.tables.models import Promotion
from worker.cli.main import cli

TYPE = ModelType.SIGNAL_QUALITY


def back(installation: LearningInstallation) -> tuple[str, str]:
    return roll_back(installation.db, installation.registry, TYPE, reason="it misbehaves")


def serving(installation: LearningInstallation, count: int, *, proven: bool = True) -> list[SignalQualityModel]:
    models = [fitted(seed) for seed in range(count)]
    for model in models:
        installation.registry.register(model)
        installation.registry.promote(model.model_id, proven=proven)
    return models


def test_a_rollback_serves_the_model_before_as_proven_as_it_was_and_enters_the_ledger(tmp_path: Path) -> None:
    installation = learning_installation(tmp_path)
    first, second = serving(installation, 2)
    assert back(installation) == (second.model_id, first.model_id)
    row = installation.db.models.active(TYPE)
    assert row is not None
    assert (row.model_id, row.proven, row.retired_at) == (first.model_id, True, None)
    [entry] = installation.db.models.promotions(1)
    assert (entry.action, entry.model_id, entry.previous_model_id) == ("activate", first.model_id, second.model_id)
    assert (entry.reason, entry.figures) == ("it misbehaves", {"rolled_back_from": second.model_id})
    assert entry.actor == acting_user()


def test_rolling_back_twice_goes_back_two_steps_and_then_there_is_nothing_left(tmp_path: Path) -> None:
    installation = learning_installation(tmp_path)
    a, b, c = (model.model_id for model in serving(installation, 3))
    assert [back(installation), back(installation)] == [(c, b), (b, a)]
    with pytest.raises(UnknownModel, match="before"):
        back(installation)
    assert installation.db.models.active_id(TYPE) == a


def test_a_model_activated_after_a_rollback_is_rolled_back_to_what_it_replaced(tmp_path: Path) -> None:
    installation = learning_installation(tmp_path)
    a, b, c = (model.model_id for model in serving(installation, 3))
    back(installation)
    installation.registry.activate(a)
    assert back(installation) == (a, b)
    installation.registry.activate(c)
    assert back(installation) == (c, b)


def test_nothing_serves_and_nothing_is_rolled_back(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="no model serves"):
        back(learning_installation(tmp_path))


def test_an_altered_file_is_not_rolled_back_to(tmp_path: Path) -> None:
    installation = learning_installation(tmp_path)
    first, second = serving(installation, 2)
    path = installation.directory / "models" / f"{first.model_id}.skops"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    only_in_files(installation.db)
    with pytest.raises(ModelFileRefused):
        back(installation)
    assert installation.db.models.active_id(TYPE) == second.model_id


def test_the_ledger_is_read_as_a_stack() -> None:
    def entry(model_id: str, **figures: object) -> Promotion:
        return Promotion(0, "", TYPE, "activate", model_id, None, None, False, "", dict(figures), None)

    ledger = [entry("a"), entry("b"), entry("c"), entry("b", rolled_back_from="c"), entry("d")]
    assert predecessors(ledger) == ["b", "a"]
    assert predecessors(ledger[:1]) == []
    assert predecessors([]) == []


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LearningInstallation:
    monkeypatch.setenv("REFINERY_STATE_DIR", str(tmp_path))
    return learning_installation(tmp_path)


def run(*arguments: str) -> object:
    done = CliRunner().invoke(cli, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_commands_say_what_they_did(installation: LearningInstallation, tmp_path: Path) -> None:
    first, second = serving(installation, 2)
    installation.db.close()
    told = {"rolled_back": second.model_id, "serves": first.model_id, "pinned": True}
    assert run("models", "rollback") == told
    ledger = run("models", "history")
    assert isinstance(ledger, list)
    assert [entry["action"] for entry in ledger] == ["pin", "activate", "activate", "activate"]
    assert [entry["model_id"] for entry in ledger[1:]] == [first.model_id, second.model_id, first.model_id]
    compared = run("models", "compare", "--metric", "auc")
    assert isinstance(compared, dict)
    assert {row["model_id"] for row in compared["models"]} == {first.model_id, second.model_id}
    two = run("models", "compare", first.model_id, second.model_id)
    assert isinstance(two, dict)
    assert (two["rows"], two["words"]) == (0, "no signal with an outcome was scored by both")
    with FeatureDatabase(store_place(tmp_path)) as db:
        assert db.models.active_id(TYPE) == first.model_id


def test_one_model_alone_is_not_compared(installation: LearningInstallation) -> None:
    assert CliRunner().invoke(cli, ["models", "compare", "a"]).exit_code == 2
