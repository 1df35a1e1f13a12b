"""What the command line says to a slip of the finger, and what it offers next."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from click.testing import Result
from typer.testing import CliRunner

from tests.support.composed import free_port
from tests.support.desk import desk, send, settings_for
from tests.support.events import SIGNALS, signal
from tests.support.real_processes import QUIET, REFINERY, Installation
from tests.support.rows import metadata
from tests.support.waiting import wait_until
from worker.cli.main import cli
from worker.cli.options import complete_letter_ids, complete_model_ids, complete_reasons
from worker.errors import Reason
from worker.installation import open_store
from worker.observability.printable import counted
from worker.settings.schema import Settings

Run = Callable[..., Result]
MODELS = ("signal_quality_1.0_a1b2c3d4", "signal_quality_1.0_a1b2ffff", "signal_quality_1.0_77e5aaaa")


@pytest.fixture
def settings(tmp_path: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Three models, one of which serves, and three dead letters of two kinds."""
    monkeypatch.setenv("REFINERY_STATE_DIR", str(tmp_path / "var"))
    monkeypatch.setenv("REFINERY_REDIS_URL", valkey_url)
    settings = settings_for(tmp_path / "var", valkey_url)
    with desk(settings) as world:
        for model_id in MODELS:
            world.store.models.register(metadata(model_id))
        world.store.models.activate(MODELS[0], reason="the first one")
        send(world.client, SIGNALS, signal(1, technical_score=71.0, symbol="ACME"))
        send(world.client, SIGNALS, signal(2, technical_score=11.5, symbol="BRK.B"))
        send(world.client, SIGNALS, b"{")
        world.drain()
    return settings


@pytest.fixture
def run(settings: Settings) -> Run:
    return lambda *arguments: CliRunner().invoke(cli, list(arguments))


def test_a_part_of_an_id_that_no_other_has_is_enough(run: Run) -> None:
    assert json.loads(run("models", "show", "77e5", "--json").stdout)["model_id"] == MODELS[2]
    assert json.loads(run("models", "show", MODELS[1], "--json").stdout)["model_id"] == MODELS[1]
    assert f"{MODELS[0]} is pinned" in run("models", "pin", "a1b2c3").stdout


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ("a1b2", f"several ids have a1b2 in them, give more of one: {MODELS[1]}, {MODELS[0]}"),
        ("77e", "there is no model 77e"),
        ("zzzz", "there is no model zzzz"),
        ("%%%%", "there is no model %%%%"),
    ],
)
def test_a_part_that_says_too_little_is_refused(part: str, says: str, run: Run) -> None:
    for command in ("show", "pin"):
        assert str(run("models", command, part).exception).startswith(says)


def test_a_figure_that_no_model_has_is_refused_with_those_that_there_are(run: Run, settings: Settings) -> None:
    with open_store(settings) as store:
        one = metadata("with-figures")
        one.validation_metrics.update({"auc": 0.6, "log_loss": 0.68})
        store.models.register(one)
    done = run("models", "compare", "--metric", "sharpe")
    assert done.exit_code == 2
    assert "no model has a 'sharpe'; there are auc, log_loss" in " ".join(done.output.replace("│", "").split())
    assert run("models", "compare", "--metric", "auc").exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [("list", "--reason"), ("replay", "--all", "--reason"), ("discard", "--all", "--reason", "x", "--code")],
)
def test_a_reason_that_there_is_not_is_refused_with_those_that_there_are(arguments: tuple[str, ...], run: Run) -> None:
    done = run("dead-letters", *arguments, "scheme")
    assert done.exit_code == 2
    said = " ".join(done.output.replace("│", "").split())
    assert "there is no reason 'scheme'; there are bad_encoding, bad_json," in said


def test_groups_show_what_they_say_and_whom_they_hit(run: Run) -> None:
    shown = run("dead-letters", "list", "--groups")
    assert "ACME, BRK.B" in shown.stdout
    assert "technical_score: must be at most 10" in shown.stdout
    groups = json.loads(run("dead-letters", "list", "--groups", "--json").stdout)
    assert [(group["count"], group["symbols"]) for group in groups] == [(2, ["ACME", "BRK.B"]), (1, [])]


def test_discarding_what_is_not_there_or_not_open_says_so_and_fails(run: Run) -> None:
    missing = run("dead-letters", "discard", "99", "--reason", "noise")
    assert missing.exit_code == 1
    assert str(missing.exception) == "there is no dead letter 99"
    assert run("dead-letters", "discard", "1", "--reason", "noise").stdout == "1 dead letter discarded\n"
    again = run("dead-letters", "discard", "1", "--reason", "noise")
    assert again.exit_code == 1
    assert "1 is discarded already, and stays so" in again.output
    some = run("dead-letters", "discard", "1", "2", "--reason", "noise")
    assert (some.exit_code, "1 dead letter discarded" in some.output) == (0, True)


def test_tables_end_with_what_to_do_next(run: Run) -> None:
    assert "next: `refinery dead-letters show ID`" in run("dead-letters", "list").output
    assert "next: `refinery models show ID`" in run("models", "list").output
    assert "next:" not in run("dead-letters", "list", "--symbol", "NONE").output
    assert "next:" not in run("dead-letters", "list", "--json").stdout


def test_a_retraining_that_no_trainer_will_do_says_so(run: Run) -> None:
    done = run("retrain")
    assert done.exit_code == 0
    assert "no trainer is running: the job waits for one" in done.output
    assert json.loads(run("retrain", "--json").stdout)["trainers"] == 0


def test_a_retraining_with_a_trainer_says_nothing_of_it(
    installation: Installation, valkey_url: str, running: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    open_store(settings_for(installation.state_dir, valkey_url)).close()
    running("trainer")
    wait_until(lambda: installation.document("retrain")["trainers"] == 1)
    done = installation.run("retrain")
    assert done.returncode == 0
    assert b"no trainer" not in done.stdout + done.stderr


def test_the_shell_completes_reasons_ids_and_models(settings: Settings) -> None:
    assert complete_reasons("bad_") == [reason for reason in Reason if reason.startswith("bad_")]
    assert complete_letter_ids("") == [("3", "bad_json"), ("2", "schema"), ("1", "schema")]
    assert complete_letter_ids("2") == [("2", "schema")]
    assert complete_model_ids("signal") == list(reversed(MODELS))


def test_the_shell_completes_nothing_where_there_is_no_store_and_makes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFINERY_STATE_DIR", str(tmp_path / "none"))
    assert complete_letter_ids("") == []
    assert complete_model_ids("") == []
    assert not (tmp_path / "none").exists()
    monkeypatch.setenv("REFINERY_BATCH_SIZE", "many")
    assert complete_letter_ids("") == []


def test_words_follow_their_number() -> None:
    assert [counted(n, "event") for n in (0, 1, 2, 2000)] == ["0 events", "1 event", "2 events", "2,000 events"]
    assert counted(1, "event waits", "events wait") == "1 event waits"


@pytest.fixture
def stopped() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.terminate()
    for process in processes:
        process.communicate()


def test_ports_and_directory_are_options_and_a_second_up_says_that_it_joins(
    tmp_path: Path, valkey_url: str, stopped: list[subprocess.Popen[bytes]]
) -> None:
    environment = {**os.environ, **QUIET, "REFINERY_REDIS_URL": valkey_url, "REFINERY_STATE_DIR": str(tmp_path / "no")}
    port, place, log = free_port(), tmp_path / "here", tmp_path / "log"
    options = ["--state-dir", str(place), "--console-port", "0", "--metrics-port", str(port)]
    with log.open("wb") as told:
        for _ in range(2):
            stopped.append(subprocess.Popen([*REFINERY, "up", *options], env=environment, stderr=told))
            wait_until(lambda: _answers(port), log.read_text)
    wait_until(lambda: f"workers run in {place} already: this one joins them" in log.read_text(), log.read_text)
    assert not (tmp_path / "no").exists()
    assert (place / "features.db").exists()


def _answers(port: int) -> bool:
    from urllib.request import urlopen  # only here

    try:
        with urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10):
            return True
    except OSError:
        time.sleep(0.2)
        return False


def test_a_port_that_is_none_is_refused(run: Run, valkey: redis.Redis) -> None:
    for command in ("up", "demo", "worker"):
        assert run(command, "--metrics-port", "99999").exit_code == 2
