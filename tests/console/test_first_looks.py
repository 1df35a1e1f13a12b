"""What a viewer meets first: times in their own zone, a word about strange times, and a first event to publish."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.support.console_installation import ConsoleInstallation
from tests.support.desk import desk, settings_for
from tests.support.events import STREAMS
from worker.console.application import create_app
from worker.console.filters import label_warning
from worker.console.zones import bound_in_utc
from worker.events.strict_json import parse_line
from worker.streams.jsonl import publish_lines

ZONE = "America/New_York"


def choose(client: FlaskClient, zone: str, page: str = "/signals") -> tuple[int, str]:
    found = re.search(r'name="csrf_token" value="([^"]+)"', client.get("/signals").get_data(as_text=True))
    assert found
    data = {"zone": zone, "page": page, "csrf_token": found[1]}
    answer = client.post("/zone", data=data, headers={"Origin": "http://localhost"})
    return answer.status_code, answer.headers.get("Location", "")


def test_a_viewer_s_zone_holds_for_times_shown_and_times_asked_for(flask_app: Flask) -> None:
    client = flask_app.test_client()
    page = client.get("/signals?signal_id=s-200").get_data(as_text=True)
    assert 'value="UTC"' in page
    in_utc = re.findall(r'<td class="nowrap"[^>]*>([^<]+)<', page)
    assert choose(client, ZONE) == (302, "/signals")
    page = client.get("/signals?signal_id=s-200").get_data(as_text=True)
    assert f'value="{ZONE}"' in page
    assert in_utc
    with flask_app.test_request_context("/", headers={"Cookie": client_cookie(client, flask_app)}):
        assert bound_in_utc("2024-03-01", end=False) == "2024-03-01T05:00:00.000000Z"
        assert bound_in_utc("2024-07-01", end=True) == "2024-07-02T03:59:59.999999Z"
        assert bound_in_utc("2024-07-01T12:00", end=False) == "2024-07-01T16:00:00.000000Z"
        assert bound_in_utc("2024-07-01T12:00:00Z", end=False) == "2024-07-01T12:00:00.000000Z"
        assert bound_in_utc("yesterday", end=False) == "yesterday"
        assert flask_app.jinja_env.filters["clock"]("2024-07-01T12:00:00.000000Z") == "1 Jul 2024"
        assert flask_app.jinja_env.filters["clock"]("2024-07-01T02:00:00.000000Z") == "30 Jun 2024"
    assert flask_app.jinja_env.filters["clock"]("2024-07-01T02:00:00.000000Z") == "1 Jul 2024"


def client_cookie(client: FlaskClient, app: Flask) -> str:
    name = f"{app.config['SESSION_COOKIE_NAME']}-zone"
    cookie = client.get_cookie(name)
    assert cookie is not None
    assert cookie.http_only
    assert cookie.same_site == "Strict"
    return f"{name}={cookie.value}"


@pytest.mark.parametrize("zone", ["", "Mars/Olympus", "../../etc/passwd", "/etc/localtime", "x" * 5000, "\x00"])
def test_a_zone_that_is_none_is_refused_and_a_forged_one_is_utc(flask_app: Flask, zone: str) -> None:
    client = flask_app.test_client()
    assert choose(client, zone)[0] == 400
    client.set_cookie(f"{flask_app.config['SESSION_COOKIE_NAME']}-zone", "Mars/Olympus")
    assert 'value="UTC"' in client.get("/signals").get_data(as_text=True)


@pytest.mark.parametrize("page", ["https://evil.example/", "//evil.example", "/\\evil.example", "/\t/evil.example"])
def test_choosing_a_zone_leads_nowhere_else(flask_app: Flask, page: str) -> None:
    status, location = choose(flask_app.test_client(), "UTC", page)
    assert status == 302
    assert "evil" not in location or location.startswith("/%09/")


def test_a_newest_label_of_long_ago_or_ahead_is_told() -> None:
    now = datetime.now(UTC)
    assert label_warning(None) is None
    assert label_warning((now - timedelta(days=300)).isoformat()) is None
    assert label_warning((now + timedelta(minutes=5)).isoformat()) is None
    assert "2.0 years ago" in str(label_warning((now - timedelta(days=731)).isoformat()))
    assert "ahead of this machine" in str(label_warning((now + timedelta(days=3)).isoformat()))


def test_old_labels_are_told_where_figures_are_shown(flask_app: Flask) -> None:
    for path in ("/", "/monitoring"):
        assert "years ago" in flask_app.test_client().get(path).get_data(as_text=True)


def test_a_first_event_is_offered_and_goes_through(tmp_path: Path, valkey_url: str) -> None:
    settings = settings_for(tmp_path / "var", valkey_url)
    client = create_app(settings, valkey_url).test_client()
    assert "first-event.jsonl" in client.get("/").get_data(as_text=True)
    file = tmp_path / "first-event.jsonl"
    file.write_bytes(client.get("/first-event.jsonl").get_data())
    with desk(settings) as world, file.open("rb") as lines:
        publish_lines(world.client, lines, streams=STREAMS, parse=parse_line)
        world.drain()
        counts = world.store.counts()
        assert (counts.signals, counts.labelled, counts.dead_letters, counts.incomplete) == (1, 1, 0, 0)
    assert "first-event.jsonl" not in client.get("/").get_data(as_text=True)


def test_where_events_are_no_first_one_is_offered(flask_app: Flask, place: ConsoleInstallation) -> None:
    assert place.settings.store_path.exists()
    assert "first-event.jsonl" not in flask_app.test_client().get("/").get_data(as_text=True)
