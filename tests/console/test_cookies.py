"""The session's cookie: sent over HTTPS only where the settings say so, and another one after every sign-in."""

from __future__ import annotations

import re

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr

from tests.support.console_installation import ConsoleInstallation
from tests.support.desk import settings_for
from worker.console.access.compression import unmasked
from worker.console.application import create_app

PASSWORD = "correct horse battery"  # noqa: S105 - of this test


def client_of(place: ConsoleInstallation, **changes: object) -> FlaskClient:
    changes = {"console_operator_password": SecretStr(PASSWORD)} | changes
    return create_app(settings_for(place.settings.state_dir, place.url, **changes), place.url).test_client()


def token_on(client: FlaskClient, path: str) -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', client.get(path).get_data(as_text=True))
    assert found
    return found[1]


def sign_in(client: FlaskClient, token: str) -> int:
    data = {"password": PASSWORD, "csrf_token": token}
    return client.post("/login", data=data, headers={"Origin": "http://localhost"}).status_code


@pytest.mark.parametrize("secure", [True, False])
def test_the_cookie_is_for_https_alone_where_the_setting_says_so(place: ConsoleInstallation, secure: bool) -> None:
    cookie = client_of(place, console_secure_cookies=secure).get("/login").headers["Set-Cookie"]
    assert ("Secure" in re.split(r";\s*", cookie)) is secure


def test_what_was_known_of_a_session_before_the_sign_in_opens_nothing_after_it(place: ConsoleInstallation) -> None:
    """Whoever planted the cookie of a session that they know must not have the signed-in one."""
    client = client_of(place)
    name = client.application.config["SESSION_COOKIE_NAME"]
    planted = token_on(client, "/login")
    before = client.get_cookie(name)
    assert sign_in(client, planted) == 302
    after = client.get_cookie(name)
    assert before is not None
    assert after is not None
    assert after.value != before.value
    answer = client.post("/logout", data={"csrf_token": planted}, headers={"Origin": "http://localhost"})
    assert answer.status_code == 403
    other = client.application.test_client()
    other.set_cookie(name, before.value)
    assert other.get("/").status_code == 302
    assert unmasked(token_on(client, "/models/rollback")) != unmasked(planted)
