"""What an operator chose stays until it is unpinned: as the commands say it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.cli.test_models import serving
from tests.support.learning_installation import learning_installation
from worker.cli.main import cli

#: The model before, and the one that serves.
Served = tuple[str, str]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Served:
    monkeypatch.setenv("REFINERY_STATE_DIR", str(tmp_path))
    installation = learning_installation(tmp_path)
    before, now = (model.model_id for model in serving(installation, 2))
    installation.db.close()
    return before, now


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["models", *arguments])


@pytest.mark.parametrize("command", [("rollback",), ("activate", "{before}")])
def test_what_an_operator_chose_is_pinned_until_it_is_unpinned(served: Served, command: tuple[str, ...]) -> None:
    before, _ = served
    said = run(*(word.format(before=before) for word in command)).stdout
    assert f"{before} serves" in said
    assert "pinned" in said
    assert json.loads(run("show", before, "--json").stdout)["pinned_by"]
    assert run("unpin").stdout.strip() == f"{before} is not pinned any more"
    assert run("unpin").stdout.strip() == "no model is pinned"
    assert json.loads(run("show", before, "--json").stdout)["pinned_by"] is None


def test_an_operator_may_choose_without_pinning_and_pin_what_serves(served: Served) -> None:
    before, _ = served
    assert json.loads(run("rollback", "--no-pin", "--json").stdout)["pinned"] is False
    assert json.loads(run("show", before, "--json").stdout)["pinned_by"] is None
    assert run("pin", before).stdout.strip() == f"{before} is pinned"
    assert "is pinned already" in run("pin", before).stdout


def test_a_model_that_does_not_serve_is_not_pinned_and_one_line_says_what_to_do(served: Served) -> None:
    _, now = served
    run("rollback")
    found = run("pin", now)
    assert found.exit_code == 1
    assert f"refinery models activate {now}" in str(found.exception)
