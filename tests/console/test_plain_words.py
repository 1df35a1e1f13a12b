"""Gate and serving are told as two things, on every page, in the status and in the metrics; and why a proof ended."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from tests.support.desk import settings_for
from tests.support.proof_that_ended import ENDED, LIFE, live
from trading_system.ml_refinement.standing import NotProven
from worker.cli.main import cli
from worker.console.application import create_app
from worker.installation import open_store
from worker.observability.metrics import MetricsServer
from worker.settings.schema import Settings

Page = Callable[[str], str]
OF_THE_GATE = re.compile(r"\b(reject|rejected|promote|hold|demote|held)\b")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = settings_for(tmp_path_factory.mktemp("words") / "var", "redis://127.0.0.1:1/0")
    with open_store(settings) as store:
        live(store)
    return settings


@pytest.fixture(scope="module")
def page(settings: Settings) -> Page:
    client = create_app(settings, settings.redis_url or "").test_client()

    def text(path: str) -> str:
        answer = client.get(path)
        assert answer.status_code == 200
        return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", answer.get_data(as_text=True))).split())

    return text


@pytest.fixture(autouse=True)
def _environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFINERY_STATE_DIR", str(settings.state_dir))
    monkeypatch.setenv("REFINERY_REDIS_URL", "redis://127.0.0.1:1/0")


def said(*arguments: str) -> str:
    done = CliRunner().invoke(cli, [*arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("path", ["/", "/jobs"])
def test_each_training_shows_its_own_reason_and_both_answers(page: Page, path: str) -> None:
    text = page(path)
    for _, serves, _, reason in LIFE:
        assert reason in text, path
        assert {"proven": "promoted", "provisional": "serves provisionally", "no": "does not serve"}[serves] in text
    assert "not proven (skill is not shown) serves provisionally skill is not shown at level 0.0012" in text
    assert "trades ended below it" not in text


def test_no_page_says_the_gate_s_codes(page: Page) -> None:
    for path in ("/", "/jobs", "/models", "/models/m1", "/models/m3", "/models/compare?a=m1&b=m3"):
        assert OF_THE_GATE.findall(page(path)) == [], path


def test_the_models_pages_say_when_the_proof_ended_and_why(page: Page) -> None:
    assert f"proof ended gate {ENDED}" in page("/models/m1")
    text = page("/models/m3")
    assert "serves provisionally" in text
    assert re.search(rf"Proof: ended on \d{{4}}-\d\d-\d\d \(skill does not show any more\): {re.escape(ENDED)}", text)
    assert "m3 m1 gate skill is not shown" in page("/models")


def test_the_status_says_since_when_and_why(settings: Settings) -> None:
    text = " ".join(said("status").split())
    assert "m3 (provisional)" in text
    assert f"(skill does not show any more): {ENDED}" in text
    assert "not proven (skill is not shown): serves provisionally; skill is not shown at level 0.0012" in text
    document = json.loads(said("status", "--json"))
    with open_store(settings, read_only=True) as store:
        [ended] = [entry for entry in store.models.promotions(model_type="signal_quality") if entry.action == "demote"]
    assert document["standing"] == {
        "model_id": "m3", "proven": False, "since": ended.at, "not_proven": "skill_not_shown", "why": ENDED,
    }  # fmt: skip
    assert (document["last_training"]["verdict"], document["last_training"]["serves"]) == ("reject", "provisional")


def test_the_commands_of_models_say_what_was_done_in_words() -> None:
    for words in (said("models", "history"), said("models", "show", "m1"), said("models", "list")):
        assert OF_THE_GATE.findall(words) == []
    lines = said("models", "history").splitlines()[1:]
    assert [re.split(r"\s{2,}", line)[1] for line in reversed(lines)] == [
        "serves provisionally", "promoted", "not proven", "proof ended", "serves provisionally",
    ]  # fmt: skip
    assert "serves provisionally" in said("models", "list")
    assert json.loads(said("models", "history", "--json"))[0]["action"] == "activate"


def test_metrics_tell_the_two_answers_apart_and_why_nothing_is_proven(settings: Settings) -> None:
    registry = CollectorRegistry()
    server = MetricsServer(settings, settings.redis_url or "", port=0, registry=registry, loop=None)
    found = {
        tuple(sample.labels.values()): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name in ("refinery_trainings", "refinery_not_proven")
    }
    server.stop()
    assert found["reject", "provisional"] == 2
    assert found["promote", "proven"] == found["reject", "no"] == 1
    assert found["hold", "no"] == found["failed", ""] == 0
    assert {code: found[code,] for code in NotProven} == {
        code: float(code is NotProven.SKILL_NOT_SHOWN) for code in NotProven
    }
