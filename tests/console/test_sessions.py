"""Sessions end where they should, tries are limited by address, and a proxy before the console is understood."""

from __future__ import annotations

import re

import pytest
from flask import Flask
from flask.testing import FlaskClient
from pydantic import SecretStr

from tests.support.console_installation import ConsoleInstallation
from tests.support.desk import settings_for
from worker.console.access.security import _same_host
from worker.console.access.sessions import FREE_TRIES, LIFETIME_S, Sessions, SignInTries, Visitor
from worker.console.application import create_app

OPERATOR = "the operator's password"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def app_of(place: ConsoleInstallation, **changes: object) -> Flask:
    changes = {"console_operator_password": SecretStr(OPERATOR)} | changes
    return create_app(settings_for(place.settings.state_dir, place.url, **changes), place.url)


def token(client: FlaskClient, path: str, **headers: str) -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', client.get(path, headers=headers).get_data(as_text=True))
    assert found
    return found[1]


def sign_in(client: FlaskClient, password: str = OPERATOR, **headers: str) -> int:
    headers = {"Origin": "http://localhost"} | headers
    data = {"password": password, "csrf_token": token(client, "/login", **headers)}
    return client.post("/login", data=data, headers=headers).status_code


def test_a_copy_of_the_cookie_opens_nothing_after_the_logout(place: ConsoleInstallation) -> None:
    client = app_of(place).test_client()
    assert sign_in(client) == 302
    name = client.application.config["SESSION_COOKIE_NAME"]
    cookie = client.get_cookie(name)
    assert cookie is not None
    thief = client.application.test_client()
    thief.set_cookie(name, cookie.value)
    assert thief.get("/").status_code == 200
    out = {"csrf_token": token(client, "/models/rollback")}
    assert client.post("/logout", data=out, headers={"Origin": "http://localhost"}).status_code == 302
    assert thief.get("/").status_code == 302


def test_a_session_ends_by_itself_and_their_number_is_bounded() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    name = sessions.open(Visitor("viewer"))
    clock.now += LIFETIME_S - 1
    assert sessions.visitor(name) == Visitor("viewer")
    clock.now += 1
    assert sessions.visitor(name) is None
    first = sessions.open(Visitor("operator", "ann"))
    for _ in range(1_000):
        sessions.open(Visitor("viewer"))
    assert sessions.visitor(first) is None
    assert sessions.visitor(None) is None


def test_waits_grow_by_address_and_are_forgotten() -> None:
    clock = Clock()
    tries = SignInTries(clock)
    for _ in range(FREE_TRIES - 1):
        tries.failed("2001:db8::1")
    assert tries.wait_s("2001:db8::1") == 0
    tries.failed("2001:db8::2")
    assert tries.wait_s("2001:db8::ffff") == 2
    assert tries.wait_s("2001:db8:0:1::1") == tries.wait_s("192.0.2.1") == 0
    clock.now += 2
    tries.failed("2001:db8::1")
    assert tries.wait_s("2001:db8::1") == 4
    for _ in range(100):
        tries.failed("2001:db8::1")
    assert tries.wait_s("2001:db8::1") == 300
    clock.now += 901
    tries.failed("2001:db8::1")
    assert tries.wait_s("2001:db8::1") == 0


def test_two_consoles_on_a_host_have_cookies_of_their_own(place: ConsoleInstallation) -> None:
    names = {app_of(place, console_port=port).config["SESSION_COOKIE_NAME"] for port in (8700, 8701)}
    assert len(names) == 2


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("https://desk.example", "desk.example", True),
        ("https://desk.example", "desk.example:443", True),
        ("https://desk.example:8443", "desk.example", True),
        ("https://desk.example:8443", "desk.example:8443", True),
        ("http://[::1]:8700", "[::1]:8700", True),
        ("https://desk.example:8443", "desk.example:8700", False),
        ("https://evil.example", "desk.example", False),
        ("https://desk.example.evil", "desk.example", False),
        ("null", "desk.example", False),
        ("", "desk.example", False),
        ("https://desk.example:x", "desk.example", False),
    ],
)
def test_a_page_is_ours_by_its_host_with_or_without_a_port(origin: str, host: str, same: bool) -> None:
    assert _same_host(origin, host) is same


def test_behind_a_proxy_addresses_and_a_path_of_its_own_are_the_browser_s(place: ConsoleInstallation) -> None:
    proxied = {
        "X-Forwarded-For": "203.0.113.9",
        "X-Forwarded-Host": "desk.example",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Prefix": "/refinery",
        "Origin": "https://desk.example",
    }
    client = app_of(place, console_proxies=1).test_client()
    asked = client.get("/models?type=signal_quality", headers=proxied)
    assert asked.headers["Location"].startswith("/refinery/login?next=/refinery/models")
    page = client.get("/login", headers=proxied).get_data(as_text=True)
    assert "/refinery/static/" in page
    for _ in range(FREE_TRIES):
        assert sign_in(client, "a wrong password", **proxied) == 401
    assert sign_in(client, **proxied) == 429
    elsewhere = proxied | {"X-Forwarded-For": "198.51.100.4"}
    assert sign_in(client, **elsewhere) == 302
    jobs = client.get("/jobs", headers=elsewhere).get_data(as_text=True)
    assert not re.search(r'(href|src|action)="/(?!refinery/)', jobs)
    # Without the setting a client's own word about itself is not believed.
    plain = app_of(place).test_client()
    assert plain.get("/models", headers=proxied).headers["Location"].startswith("/login")
