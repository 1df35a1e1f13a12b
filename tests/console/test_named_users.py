"""Users with names of their own: each act is theirs, and one who may look does not act."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from pydantic import SecretStr

from tests.support.console_installation import ConsoleInstallation
from tests.support.desk import settings_for
from trading_system.ml_refinement.storage import FeatureDatabase
from worker.console.application import create_app
from worker.errors import ConfigurationError
from worker.settings.passwords import hash_password

ANN, BOB, SHARED = "ann's long password", "bob's long password", "everybody's password"
USERS = {
    "console_operators": {"ann": SecretStr(hash_password(ANN))},
    "console_viewers": {"bob": SecretStr(hash_password(BOB))},
}


def app_of(place: ConsoleInstallation, **changes: Any) -> Flask:
    return create_app(settings_for(place.settings.state_dir, place.url, **changes), place.url)


def token(client: FlaskClient, path: str) -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', client.get(path).get_data(as_text=True))
    assert found
    return found[1]


def sign_in(client: FlaskClient, user: str, password: str) -> int:
    data = {"user": user, "password": password, "csrf_token": token(client, "/login")}
    return client.post("/login", data=data, headers={"Origin": "http://localhost"}).status_code


@pytest.fixture(scope="module")
def app(place: ConsoleInstallation) -> Flask:
    return app_of(place, console_host="0.0.0.0", **USERS)  # noqa: S104


def test_the_audit_names_who_acted(app: Flask, place: ConsoleInstallation) -> None:
    client = app.test_client()
    assert sign_in(client, "ann", ANN) == 302
    with FeatureDatabase(place.settings.store_place) as store:
        number = store.dead_letters.find(limit=1)[0].id
        data = {"id": number, "why": "seen", "csrf_token": token(client, "/models/rollback")}
        assert (
            client.post("/dead-letters/discard", data=data, headers={"Origin": "http://localhost"}).status_code == 302
        )
        assert [entry.actor for entry in store.dead_letters.audit(number)] == ["console (ann)"]
    page = client.get("/dead-letters").get_data(as_text=True)
    assert "console (ann)" in page
    assert "ann (operator)" in page


def test_a_named_viewer_looks_and_does_not_touch(app: Flask) -> None:
    client = app.test_client()
    assert sign_in(client, "bob", BOB) == 302
    assert client.get("/dead-letters").status_code == 200
    data = {"id": 1, "why": "x", "csrf_token": token(client, "/dead-letters")}
    assert client.post("/dead-letters/discard", data=data, headers={"Origin": "http://localhost"}).status_code == 403


@pytest.mark.parametrize(
    ("user", "password"),
    [("ann", BOB), ("bob", ANN), ("carol", ANN), ("", ANN), ("ANN", ANN), ("ann", ""), ("ann", ANN + " ")],
)
def test_a_name_and_a_password_that_do_not_fit_open_nothing(app: Flask, user: str, password: str) -> None:
    app.extensions["refinery.tries"].succeeded("127.0.0.1")
    client = app.test_client()
    assert sign_in(client, user, password) == 401
    assert client.get("/").status_code == 302


def test_the_shared_password_goes_on_beside_names(place: ConsoleInstallation) -> None:
    app = app_of(place, console_operator_password=SecretStr(SHARED), **USERS)
    assert sign_in(app.test_client(), "", SHARED) == 302
    assert sign_in(app.test_client(), "ann", SHARED) == 401
    assert sign_in(app.test_client(), "ann", ANN) == 302


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"console_operators": {"ann": SecretStr(ANN)}}, "hash-password"),
        ({"console_operators": {"a b": USERS["console_operators"]["ann"]}}, "no name of a user"),
        ({"console_operators": {"operator": USERS["console_operators"]["ann"]}}, "no name of a user"),
        ({"console_viewers": USERS["console_viewers"]}, "REFINERY_CONSOLE_OPERATORS beside it"),
        (USERS | {"console_viewers": USERS["console_operators"]}, "is an operator already"),
    ],
)
def test_settings_that_do_not_work_out_stop_the_start_and_show_no_secret(
    place: ConsoleInstallation, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said) as raised:
        app_of(place, **changes)
    assert ANN not in str(raised.value)
    assert "scrypt:" not in str(raised.value)
