"""Replicas of one console behind a balancer: one secret, one session, one sign-out; and how a secret is exchanged."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from flask.testing import FlaskClient
from itsdangerous import timed
from pydantic import SecretStr

from tests.console.test_sessions import OPERATOR, Clock, app_of, sign_in, token
from tests.support.console_installation import ConsoleInstallation
from worker.console.access.keys import Keys
from worker.console.access.sessions import LIFETIME_S, Visitor
from worker.console.access.shared_sessions import SharedSessions
from worker.console.application import create_app
from worker.errors import ConfigurationError
from worker.settings.passwords import hash_password
from worker.settings.schema import load_settings

FIRST, SECOND = SecretStr("first-secret-" * 3), SecretStr("second-secret-" * 3)
ORIGIN = {"Origin": "http://localhost"}


def replica(place: ConsoleInstallation, **changes: object) -> FlaskClient:
    return app_of(place, **({"console_secret": FIRST} | changes)).test_client()


def hand_over(browser: FlaskClient, other: FlaskClient) -> None:
    """Let the next request of the same browser go to another replica."""
    name = browser.application.config["SESSION_COOKIE_NAME"]
    cookie = browser.get_cookie(name)
    assert cookie is not None
    other.set_cookie(name, cookie.value)


def test_replicas_with_one_secret_accept_each_others_sessions_and_forms(place: ConsoleInstallation) -> None:
    one, other = replica(place), replica(place, console_port=8701)
    assert sign_in(one) == 302
    hand_over(one, other)
    assert other.get("/").status_code == 200
    form = {"csrf_token": token(one, "/models/rollback")}
    hand_over(one, other)
    assert other.post("/logout", data=form, headers=ORIGIN).status_code == 302
    assert other.get("/").status_code == 302
    assert one.get("/").status_code == 302, "who signed out at one replica is signed out at all"


def test_a_console_without_the_secret_or_with_another_knows_no_session_of_it(place: ConsoleInstallation) -> None:
    one = replica(place)
    assert sign_in(one) == 302
    for changes in ({"console_secret": SECOND}, {"console_secret": None}):
        stranger = replica(place, **changes)
        stranger.set_cookie(
            stranger.application.config["SESSION_COOKIE_NAME"],
            one.get_cookie(one.application.config["SESSION_COOKIE_NAME"]).value,
        )
        assert stranger.get("/").status_code == 302


def test_a_secret_is_exchanged_while_everybody_stays_signed_in(place: ConsoleInstallation) -> None:
    before = replica(place, console_previous_secret=SECOND)
    assert sign_in(before) == 302
    after = replica(place, console_secret=SECOND, console_previous_secret=FIRST)
    hand_over(before, after)
    assert after.get("/").status_code == 200
    assert sign_in(after) == 302
    hand_over(after, before)
    assert before.get("/").status_code == 200
    hand_over(after, alone := replica(place, console_secret=SECOND))
    assert alone.get("/").status_code == 200


def test_a_session_ends_with_its_time_its_password_and_its_role(
    place: ConsoleInstallation, valkey: redis.Redis
) -> None:
    def keys(**changes: object) -> Keys:
        given = {"console_operators": {"ann": SecretStr(HASH)}, "console_operator_password": SecretStr(OPERATOR)}
        return Keys.of(place.settings.model_copy(update=given | changes))

    def sessions(known: Keys) -> SharedSessions:
        return SharedSessions(known, ["s" * 32], valkey, clock)

    clock = Clock()
    ann, nameless = Visitor("operator", "ann"), Visitor("operator")
    hers, theirs = sessions(keys()).open(ann), sessions(keys()).open(nameless)
    assert [sessions(keys()).visitor(held) for held in (hers, theirs)] == [ann, nameless]
    changed = SecretStr(hash_password("another one of hers"))
    assert sessions(keys(console_operators={"ann": changed})).visitor(hers) is None
    assert sessions(keys(console_operators={}, console_viewers={"ann": SecretStr(HASH)})).visitor(hers) is None
    assert sessions(keys(console_operators={})).visitor(hers) is None
    assert sessions(keys(console_operator_password=SecretStr("another password"))).visitor(theirs) is None
    assert sessions(keys(console_operator_password=None)).visitor(theirs) is None
    clock.now += LIFETIME_S
    assert sessions(keys()).visitor(hers) is None
    for nonsense in (None, "", "[]", "x", '["a"]', "7", "\udcff"):
        assert sessions(keys()).visitor(nonsense) is None
        sessions(keys()).close(nonsense)


HASH = hash_password("a password of hers")


def test_while_redis_is_away_the_console_knows_who_is_signed_in(place: ConsoleInstallation, tmp_path: Path) -> None:
    away = redis.Redis(unix_socket_path=str(tmp_path / "nobody"))
    keys = Keys.of(place.settings.model_copy(update={"console_operator_password": SecretStr(OPERATOR)}))
    sessions = SharedSessions(keys, ["s" * 32], away)
    held = sessions.open(Visitor("operator"))
    assert sessions.visitor(held) == Visitor("operator")
    sessions.close(held)
    assert sessions.visitor(held) is None


def test_a_replica_whose_clock_is_behind_takes_the_cookie_of_one_that_is_ahead(
    place: ConsoleInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, behind = replica(place), replica(place)
    assert sign_in(one) == 302
    hand_over(one, behind)
    real = timed.time.time
    monkeypatch.setattr(timed.time, "time", lambda: real() - 120)
    assert behind.get("/").status_code == 200
    monkeypatch.setattr(timed.time, "time", lambda: real() + LIFETIME_S + 60)
    assert behind.get("/").status_code == 302


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"SECRET": "tooshort-tooshort"}, "REFINERY_CONSOLE_SECRET"),
        ({"PREVIOUS_SECRET": "long-enough-" * 4}, "needs REFINERY_CONSOLE_SECRET"),
    ],
)
def test_a_secret_that_is_short_or_alone_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], says: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"REFINERY_CONSOLE_{name}", value)
    with pytest.raises(ConfigurationError, match=says) as refused:
        load_settings()
    assert "tooshort" not in str(refused.value)
    assert "long-enough" not in str(refused.value)


def test_the_secrets_are_shown_nowhere_in_the_settings(place: ConsoleInstallation) -> None:
    settings = place.settings.model_copy(update={"console_secret": FIRST, "console_previous_secret": SECOND})
    assert "secret-first" not in repr(settings)
    assert "secret-second" not in repr(settings)
    assert "secret-first" not in settings.model_dump_json()
    assert create_app(settings, place.url).config["SECRET_KEY"] == FIRST.get_secret_value()
