"""The pages, without a browser: what they show, who may see it, and what a stranger cannot do."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from pydantic import SecretStr

from tests.support.console_installation import EVIL, ConsoleInstallation
from tests.support.desk import settings_for
from tests.support.events import SIGNALS
from trading_system.ml_refinement.models import ModelRegistry
from trading_system.ml_refinement.storage import FeatureDatabase, Filter
from worker.console.application import create_app
from worker.console.jobs import escaped
from worker.errors import ConfigurationError
from worker.installation import open_store

OPERATOR, VIEWER = "correct horse battery", "just looking around"


def every_page(place: ConsoleInstallation) -> list[str]:
    store = FeatureDatabase(place.settings.store_place, read_only=True)
    numbers = [row.id for row in store.dead_letters.find(Filter(status=None))]
    store.close()
    return [
        "/", "/dead-letters", "/dead-letters?status=any", "/models", "/signals", "/signals?symbol=ACME",
        "/monitoring", "/jobs",
        "/signals/s-3", "/signals/s-200", f"/models/{place.models[0]}", f"/models/{place.models[1]}",
        f"/models/compare?a={place.models[0]}&b={place.models[1]}", "/models/rollback",
        *(f"/dead-letters/{number}" for number in numbers),
        f"/dead-letters/{numbers[0]}/edit", f"/dead-letters/confirm?action=replay&id={numbers[0]}",
        "/jobs/rq/0/view/jobs", "/jobs/rq/", "/jobs/rq/0/view/workers", "/jobs/rq/0/view/job/evil-job",
    ]  # fmt: skip


def form_token(client: FlaskClient, path: str = "/models/rollback") -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', client.get(path).get_data(as_text=True))
    assert found
    return found[1]


def post(client: FlaskClient, path: str, data: dict[str, Any], **headers: str) -> Any:
    return client.post(path, data=data, headers={"Origin": "http://localhost"} | headers)


@pytest.fixture
def client(flask_app: Flask) -> FlaskClient:
    return flask_app.test_client()


@pytest.fixture(scope="module")
def locked_app(place: ConsoleInstallation) -> Flask:
    changes = {"console_operator_password": SecretStr(OPERATOR), "console_viewer_password": SecretStr(VIEWER)}
    return create_app(settings_for(place.settings.state_dir, place.url, console_host="0.0.0.0", **changes), place.url)  # noqa: S104


def sign_in(app: Flask, password: str) -> FlaskClient:
    client = app.test_client()
    answer = post(client, "/login", {"password": password, "csrf_token": form_token(client, "/login")})
    assert answer.status_code == 302
    return client


def test_every_page_opens_with_its_headers_and_nothing_of_it_is_raw(
    client: FlaskClient, place: ConsoleInstallation
) -> None:
    for path in every_page(place):
        answer = client.get(path)
        text = answer.get_data(as_text=True)
        assert answer.status_code == 200, (path, text[:500])
        assert EVIL[:30] not in text, path
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "unsafe" not in answer.headers["Content-Security-Policy"] or path.startswith("/jobs/rq")
        if not path.startswith("/jobs/rq"):
            assert re.search(r"<script(?![^>]*src=)|<[^>]*\s(on\w+|style)=", text) is None, path


def test_the_session_cookie_is_kept_from_scripts_and_other_sites(client: FlaskClient) -> None:
    cookie = client.get("/models/rollback").headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie


def test_the_overview_answers_and_compares(client: FlaskClient) -> None:
    text = client.get("/").get_data(as_text=True)
    assert "Running, not learning." in text
    assert "The champion is proven." in text
    assert text.count('<svg class="chart"') == 2
    assert "of 20" in text or "of 50" in text


def test_a_model_s_page_tells_what_it_learned_of_each_type(client: FlaskClient, place: ConsoleInstallation) -> None:
    text = client.get(f"/models/{place.models[0]}").get_data(as_text=True)
    columns = text.split("Its columns")[1].split("</table>")[0]
    assert re.findall(r'<th class="n">([^<]*)</th>', columns)[:2] == ["every signal", "far from its mean"]
    assert ">breakout, besides<" in columns
    assert ">being of the type<" in columns
    rows = re.findall(r'<td class="mono">([a-z0-9_]+)</td><td class="n">([+-][0-9.]+)</td>', columns)
    assert 0 < len(rows) <= 14
    with open_store(place.settings, read_only=True) as store:
        model = ModelRegistry.from_config(place.settings.to_ml_config(), store).load(place.models[0])
    served = dict(zip(model.feature_names, model.columns_served().line, strict=True))
    assert {name: float(value) for name, value in rows} == {name: round(float(served[name]), 3) for name, _ in rows}


def test_a_payload_that_is_long_is_shortened_and_a_page_has_at_most_fifty_rows(client: FlaskClient) -> None:
    text = client.get("/signals/s-3").get_data(as_text=True)
    assert "more …" in text
    assert client.get("/signals").get_data(as_text=True).count("/signals/s-") == 50


def test_signals_are_found_by_id_symbol_and_time(client: FlaskClient) -> None:
    def found(query: str) -> int:
        return client.get(f"/signals?{query}").get_data(as_text=True).count("/signals/s-")

    assert found("signal_id=s-32") == 11
    assert found("symbol=BRK.B&signal_id=s-3") == 5
    assert found("since=2024-03-01&until=2024-03-01") == 3
    assert found("symbol=NONE") == 0
    assert "neither a date nor a time" in client.get("/signals?since=soon").get_data(as_text=True)


@pytest.mark.parametrize(
    "path",
    [
        "/dead-letters/99999",
        "/models/none",
        "/signals/none",
        "/none",
        "/jobs/rq/0/view/job/none",
        "/jobs/rq/1/view/jobs",
        "/jobs/rq/0/data/jobs/q/made-up/8/asc/1.json",
        "/jobs/rq/0/data/jobs/q/queued/100000/asc/1.json",
    ],
)
def test_what_is_not_there_is_404_and_never_500(client: FlaskClient, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/dead-letters/replay",
        "/dead-letters/discard",
        "/logout",
        "/jobs/rq/requeue/refinery-retrain",
        "/jobs/rq/job/evil-job/delete",
        "/jobs/rq/job/evil-job/requeue",
        "/jobs/rq/queue/refinery-retrain/failed/empty",
        "/jobs/rq/queue/refinery-retrain/compact",
    ],
)
def test_nothing_changes_on_get(client: FlaskClient, path: str) -> None:
    assert client.get(path).status_code == 405


def test_a_change_needs_the_session_s_token_and_our_own_origin(client: FlaskClient, place: ConsoleInstallation) -> None:
    token = form_token(client)
    active = place.models[1]
    path, data = f"/models/{place.models[0]}/activate", {"active": active, "why": "x"}
    assert post(client, path, data).status_code == 403
    assert post(client, path, data | {"csrf_token": "wrong"}).status_code == 403
    assert post(client, path, data | {"csrf_token": token}, Origin="http://evil.example").status_code == 403
    assert client.post(path, data=data | {"csrf_token": token}).status_code == 403
    assert post(client, "/jobs/rq/job/evil-job/delete", {}).status_code == 403


def test_another_host_name_is_refused_where_there_is_no_password(client: FlaskClient) -> None:
    assert client.get("/", headers={"Host": "rebound.example"}).status_code == 421


def test_without_a_password_only_this_machine_is_listened_to(place: ConsoleInstallation) -> None:
    with pytest.raises(ConfigurationError, match="REFINERY_CONSOLE_OPERATOR_PASSWORD must be set"):
        create_app(settings_for(place.settings.state_dir, place.url, console_host="0.0.0.0"), place.url)  # noqa: S104
    with pytest.raises(ConfigurationError, match="at least 12"):
        create_app(
            settings_for(place.settings.state_dir, place.url, console_operator_password=SecretStr("short")), place.url
        )


def test_strangers_see_the_sign_in_page_only(locked_app: Flask, place: ConsoleInstallation) -> None:
    client = locked_app.test_client()
    for path in every_page(place):
        answer = client.get(path)
        assert answer.status_code == 302, path
        assert answer.headers["Location"].startswith("/login")
    assert client.get("/jobs/rq/0/data/queues.json").status_code == 302


def test_viewers_look_and_do_not_touch(locked_app: Flask, place: ConsoleInstallation) -> None:
    client = sign_in(locked_app, VIEWER)
    assert client.get("/dead-letters").status_code == 200
    text = client.get("/dead-letters").get_data(as_text=True)
    assert "Replay selected" not in text
    token = re.search(r'name="csrf_token" value="([^"]+)"', text)
    assert token
    for path in ("/dead-letters/replay", f"/models/{place.models[0]}/activate", "/jobs/rq/job/evil-job/delete"):
        assert post(client, path, {"csrf_token": token[1], "every": 1}).status_code == 403
    assert client.get("/dead-letters/1/edit").status_code == 403


def test_operators_get_the_buttons(locked_app: Flask) -> None:
    assert "Replay selected" in sign_in(locked_app, OPERATOR).get("/dead-letters").get_data(as_text=True)


def test_passwords_cannot_be_tried_for_long(locked_app: Flask) -> None:
    client = locked_app.test_client()
    token = form_token(client, "/login")
    codes = [post(client, "/login", {"password": "guess", "csrf_token": token}).status_code for _ in range(12)]
    assert codes[:10] == [401] * 10
    assert codes[10:] == [429, 429]
    elsewhere = locked_app.test_client()
    elsewhere.environ_base["REMOTE_ADDR"] = "192.0.2.7"
    assert (
        post(elsewhere, "/login", {"password": OPERATOR, "csrf_token": form_token(elsewhere, "/login")}).status_code
        == 302
    )
    locked_app.extensions["refinery.tries"].succeeded("127.0.0.1")


def test_a_sign_in_never_leads_elsewhere(locked_app: Flask) -> None:
    client = locked_app.test_client()
    token = form_token(client, "/login")
    for target in ("https://evil.example/", "//evil.example", "/\\evil.example"):
        answer = post(client, f"/login?next={target}", {"password": OPERATOR, "csrf_token": token})
        assert answer.headers["Location"] == "/"
        client = locked_app.test_client()
        token = form_token(client, "/login")


def test_a_body_that_is_too_large_is_refused(client: FlaskClient) -> None:
    token = form_token(client)
    answer = post(client, "/dead-letters/1/edit", {"csrf_token": token, "payload": "x" * 3_000_000})
    assert answer.status_code == 413


def test_a_rollback_is_refused_when_another_model_serves_than_was_seen(
    client: FlaskClient, place: ConsoleInstallation
) -> None:
    answer = post(
        client,
        f"/models/{place.models[0]}/activate",
        {"active": "someone_else", "why": "x", "csrf_token": form_token(client)},
    )
    assert answer.status_code == 503
    assert "not" in answer.get_data(as_text=True)


def test_an_export_has_the_bytes_of_every_chosen_dead_letter(client: FlaskClient) -> None:
    answer = client.get("/dead-letters/export?reason=no_market_data")
    rows = [json.loads(line) for line in answer.get_data().splitlines()]
    assert len(rows) == 4
    assert {row["reason"] for row in rows} == {"no_market_data"}
    assert all(json.loads(row["payload_text"])["signal_id"] == row["signal_id"] for row in rows)
    assert "attachment" in answer.headers["Content-Disposition"]


def test_edits_that_are_no_json_come_back_with_the_reason(client: FlaskClient, place: ConsoleInstallation) -> None:
    store = FeatureDatabase(place.settings.store_place, read_only=True)
    number = store.dead_letters.find(Filter(reason="lookahead"))[0].id
    store.close()
    answer = post(client, f"/dead-letters/{number}/edit", {"csrf_token": form_token(client), "payload": "{oops"})
    assert answer.status_code == 400
    assert "{oops" in answer.get_data(as_text=True)
    for refused in ('{"a": 1, "a": 2}', '{"features": {"edge": 1, "edge": 2}}', "[]", "NaN"):
        answer = post(client, f"/dead-letters/{number}/edit", {"csrf_token": form_token(client), "payload": refused})
        assert answer.status_code == 400, refused


def test_the_dashboard_s_templates_insert_nothing_raw(client: FlaskClient) -> None:
    for path in (
        "/jobs/rq/0/view/jobs",
        "/jobs/rq/",
        "/jobs/rq/0/view/workers",
        "/jobs/rq/0/view/job/evil-job",
    ):
        assert "<%=" not in client.get(path).get_data(as_text=True)
    assert escaped("<%= $('<div/>').text(d.exc_info).html() %>") == "<%- d.exc_info %>"


def test_the_dashboard_reads_json_only(flask_app: Flask) -> None:
    import rq.serializers
    import rq_dashboard.web

    json_only = rq.serializers.JSONSerializer
    assert flask_app
    assert rq_dashboard.web.config.serializer is json_only
    assert rq.serializers.DefaultSerializer is json_only
    assert rq.serializers.PickleSerializer is json_only


def test_a_page_is_read_without_a_write_to_the_store(client: FlaskClient, place: ConsoleInstallation) -> None:
    before = place.settings.store_path.stat().st_mtime_ns, place.client.xlen(SIGNALS)
    for path in every_page(place):
        client.get(path)
    time.sleep(0.01)
    assert (place.settings.store_path.stat().st_mtime_ns, place.client.xlen(SIGNALS)) == before
