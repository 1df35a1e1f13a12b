"""The commands of dead letters, backups and retention, as ops call them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner, Result

from tests.support.desk import desk, send, settings_for
from tests.support.events import SIGNALS, TRADES, outcome, signal
from trading_system.ml_refinement.storage import FeatureDatabase, Filter, PredictionRow
from worker.cli.main import cli
from worker.maintenance.prune import Days, prune
from worker.settings.schema import Settings

Run = Callable[..., Result]


@pytest.fixture
def settings(tmp_path: Path, valkey_url: str, valkey: redis.Redis) -> Settings:
    """Three dead letters: two of one kind, and one of another."""
    made = settings_for(tmp_path / "var", valkey_url)
    with desk(made) as worker:
        for number in (1, 2):
            send(valkey, SIGNALS, signal(number, technical_score=70.0 + number))
        send(valkey, TRADES, b"\xff\xfe")
        worker.drain()
    return made


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("REFINERY_STATE_DIR", str(settings.state_dir))
    monkeypatch.setenv("REFINERY_REDIS_URL", settings.redis_url or "")
    monkeypatch.setenv("REFINERY_LOG_LEVEL", "ERROR")

    def run(*arguments: str, **options: Any) -> Result:
        return CliRunner().invoke(cli, list(arguments), **options)

    return run


def parsed(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_list_is_filtered_and_grouped(run: Run) -> None:
    rows = parsed(run("dead-letters", "list", "--json"))
    assert [row["reason"] for row in rows] == ["schema", "schema", "bad_encoding"]
    groups = parsed(run("dead-letters", "list", "--groups", "--json"))
    assert [(group["reason"], group["count"]) for group in groups] == [("schema", 2), ("bad_encoding", 1)]
    [row] = parsed(run("dead-letters", "list", "--json", "--signal", "s-2"))
    assert row["signal_id"] == "s-2"
    alike = ("dead-letters", "list", "--json", "--fingerprint", groups[0]["fingerprint"])
    assert len(parsed(run(*alike, "--limit", "1"))) == 1
    assert len(parsed(run(*alike, "--after", "1"))) == 1
    assert parsed(run("dead-letters", "list", "--json", "--stream", TRADES))[0]["reason"] == "bad_encoding"
    assert parsed(run("dead-letters", "list", "--json", "--until", "2020-01-01")) == []
    assert "schema" in run("dead-letters", "list").stdout
    assert "2" in run("dead-letters", "list", "--groups").stdout


def test_show_and_export_have_every_byte(run: Run, tmp_path: Path) -> None:
    shown = parsed(run("dead-letters", "show", "3", "--json"))
    assert base64.b64decode(shown["payload_base64"]) == b"\xff\xfe"
    assert shown["payload_text"] is None
    assert run("dead-letters", "export", str(tmp_path / "out.jsonl")).exit_code == 0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [1, 2, 3]
    assert json.loads(lines[0]["payload_text"])["technical_score"] == 71.0


def test_a_dry_run_does_nothing(run: Run, valkey: redis.Redis) -> None:
    before = valkey.xlen(SIGNALS)
    assert parsed(run("dead-letters", "replay", "--all", "--dry-run", "--json")) == {"would_be_replayed": [1, 2, 3]}
    wanted = ("dead-letters", "discard", "--all", "--reason", "x", "--code", "schema", "--dry-run", "--json")
    assert parsed(run(*wanted)) == {"would_be_discarded": [1, 2]}
    assert valkey.xlen(SIGNALS) == before
    assert len(parsed(run("dead-letters", "list", "--json"))) == 3


def test_edit_and_replay_bring_an_event_home(run: Run, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "corrected.json").write_text(json.dumps(signal(1, technical_score=7.1)))
    edited = parsed(run("dead-letters", "edit", "1", "--file", str(tmp_path / "corrected.json"), "--json"))
    assert '+"technical_score": 7.1' in edited["difference"]
    report = parsed(run("dead-letters", "replay", "1", "--wait", "0", "--json"))
    assert [sent["id"] for sent in report["sent"]] == [1]
    with desk(settings) as worker:
        worker.drain()
        assert worker.store.get_feature_vector("s-1") is not None
    again = parsed(run("dead-letters", "replay", "1", "--wait", "0", "--json"))
    assert (again["sent"], again["skipped"]) == ([], [1])


def test_discarding_needs_a_reason_and_acting_needs_a_choice(run: Run) -> None:
    assert run("dead-letters", "discard", "1").exit_code == 2
    assert run("dead-letters", "discard", "1", "--reason", " ").exit_code == 2
    assert run("dead-letters", "replay").exit_code == 2
    assert run("dead-letters", "replay", "1", "--all").exit_code == 2
    assert run("dead-letters", "replay", "1", "--symbol", "ACME").exit_code == 2
    assert parsed(run("dead-letters", "discard", "1", "--reason", "noise", "--json")) == {
        "discarded": [1],
        "skipped": [],
    }
    [entry] = parsed(run("dead-letters", "show", "1", "--json"))["audit"]
    assert (entry["action"], entry["detail"]) == ("discarded", {"reason": "noise"})


@pytest.mark.sqlite_file
def test_backup_and_restore_by_command(run: Run, settings: Settings, tmp_path: Path) -> None:
    made = parsed(run("backup", str(tmp_path / "copy"), "--json"))
    assert made["files"] == 2
    parsed(run("dead-letters", "discard", "--all", "--reason", "by mistake", "--json"))
    restored = parsed(run("restore", str(tmp_path / "copy"), "--reread", "--json"))
    assert Path(restored["replaced"]).is_dir()
    assert len(parsed(run("dead-letters", "list", "--json"))) == 3
    assert run("backup", str(tmp_path / "copy")).exit_code == 1


def test_only_what_is_old_and_dealt_with_is_pruned(run: Run, settings: Settings, valkey: redis.Redis) -> None:
    parsed(run("dead-letters", "discard", "2", "--reason", "noise", "--json"))
    with FeatureDatabase(settings.store_place) as store:
        from tests.support.rows import metadata

        for model_id in ("retired", "serves"):
            store.register_model(metadata(model_id))
        store.activate_model("serves")
    for number in (11, 12):
        send(valkey, SIGNALS, signal(number))
    send(valkey, TRADES, outcome(11))
    with desk(settings) as worker:
        worker.drain()
        rows = [
            PredictionRow(signal_id, model_id, "2024-03-02T00:00:00.000000Z", 0.5)
            for signal_id in ("s-11", "s-12")
            for model_id in ("retired", "serves")
        ]
        worker.store.scores.log_predictions(rows)
    later = datetime.now(UTC) + timedelta(days=100)
    days = Days(dead_letters=90, predictions=90, events=90)
    counted = prune(settings, days, now=later, dry_run=True)
    assert prune(settings, days, now=datetime.now(UTC)).dead_letters == 0
    pruned = prune(settings, days, now=later)
    assert (pruned.dead_letters, pruned.events) == (1, counted.events)
    with FeatureDatabase(settings.store_place) as store:
        assert [row.id for row in store.dead_letters.find(Filter(status=None))] == [1, 3]
        assert [entry.action for entry in store.dead_letters.audit(2)] == ["discarded", "pruned"]
        left = store._connection.query("SELECT signal_id, model_id FROM prediction_log ORDER BY 1, 2")
        # What serves, and what still waits for its trade.
        assert left == [("s-11", "serves"), ("s-12", "retired"), ("s-12", "serves")]
        assert store.counts().labelled == 1
