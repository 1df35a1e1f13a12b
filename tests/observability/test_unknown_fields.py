"""Fields that producers send and nobody reads have names, in the status and in the console."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.desk import desk, send, settings_for
from tests.support.events import SIGNALS, TRADES, bars, outcome, signal
from worker.cli.main import cli
from worker.console.application import create_app
from worker.observability.unknown_fields import (
    UnknownField,
    unknown_fields,
)
from worker.settings.schema import Settings


@pytest.fixture
def settings(tmp_path: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("REFINERY_STATE_DIR", str(tmp_path / "var"))
    monkeypatch.setenv("REFINERY_REDIS_URL", valkey_url)
    monkeypatch.setenv("REFINERY_METRICS_PORT", "0")
    settings = settings_for(tmp_path / "var", valkey_url)
    news = [{"published_at": signal(1)["timestamp"], "sentiment": 0.1, "lang": "en"}]
    with desk(settings) as world:
        for number in (1, 2):
            event = signal(number, bars=bars() | {"vwap": bars()["open"]}, features={"edge": 1.0}, news=news)
            send(world.client, SIGNALS, event | {"tehcnical_score": 5.0})
        send(world.client, SIGNALS, signal(3))
        send(world.client, SIGNALS, b"{")
        send(world.client, TRADES, outcome(1, venue="X"))
        send(world.client, TRADES, outcome(2, **{"\x1b[2J": "X" * 100}))
        world.drain()
    return settings


def test_they_are_named_by_event_and_by_how_many_have_them(settings: Settings) -> None:
    found = unknown_fields(settings)
    assert set(found) == {
        UnknownField("signal.created", "tehcnical_score", 2),
        UnknownField("signal.created", "bars.vwap", 2),
        UnknownField("signal.created", "features.edge", 2),
        UnknownField("signal.created", "news.lang", 2),
        UnknownField("trade.closed", "venue", 1),
        UnknownField("trade.closed", "\x1b[2J", 1),
    }
    assert [one.events for one in found] == [2, 2, 2, 2, 1, 1]


def test_what_settings_provide_is_known(settings: Settings, tmp_path: Path, valkey_url: str) -> None:
    ml = {"features": {"provided": ["edge"]}}
    listed = settings_for(tmp_path / "var", valkey_url, ml=ml)
    assert "features.edge" not in {one.name for one in unknown_fields(listed)}


def test_status_and_console_have_the_names_and_nothing_that_a_terminal_obeys(
    settings: Settings, valkey_url: str
) -> None:
    shown = CliRunner().invoke(cli, ["status"])
    assert "tehcnical_score of signal.created (in 2 events)" in shown.stdout
    assert "\x1b[2J" not in shown.stdout
    told = json.loads(CliRunner().invoke(cli, ["status", "--json"]).stdout)["unknown_fields"]
    assert {"event": "trade.closed", "name": "venue", "events": 1} in told
    page = create_app(settings, valkey_url).test_client().get("/").text
    assert "tehcnical_score of signal.created (in 2 events)" in page


def test_without_an_archive_there_is_none_to_look_at(tmp_path: Path, valkey_url: str) -> None:
    assert unknown_fields(settings_for(tmp_path / "none", valkey_url)) == ()
    assert not (tmp_path / "none").exists()
