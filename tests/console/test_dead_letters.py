"""The page of dead letters: found, sorted, chosen, sent again, and told what became of it."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.support.console_installation import ConsoleInstallation
from tests.support.desk import desk
from tests.support.events import SIGNALS, START, TRADES, bars, outcome, signal
from trading_system.ml_refinement.storage import FeatureDatabase, Filter, NewDeadLetter
from worker.console.dead_letters import listing
from worker.console.dead_letters.running import RunningAction
from worker.dead_letters import REPLAY_CAN_HELP, ReplayReport, replay_helps
from worker.errors import Reason


@pytest.fixture
def client(flask_app: Flask, place: ConsoleInstallation) -> FlaskClient:
    """The console with sixty more dead letters, alike, of a producer that is no good."""
    with FeatureDatabase(place.settings.store_place) as store:
        if not store.dead_letters.count(Filter(symbol="MANY", status=None)):
            store.dead_letters.add(
                [
                    NewDeadLetter(
                        SIGNALS, f"7-{n}", "bad_json", f"no JSON at {n}", b"{", 1 + n % 3, "0", "many",
                        signal_id=f"m-{n:02d}", symbol="MANY",
                    )
                    for n in range(60)
                ]
            )  # fmt: skip
    return flask_app.test_client()


def text_of(client: FlaskClient, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200, path
    return answer.get_data(as_text=True)


def numbers(page: str) -> list[int]:
    return [int(found) for found in re.findall(r'name="id" value="(\d+)"', page)]


def link(page: str, words: str) -> str | None:
    found = re.search(rf'href="([^"]+)">{words}</a>', page)
    return found[1].replace("&amp;", "&") if found else None


def post(client: FlaskClient, path: str, **data: Any) -> str:
    """What the page after it says."""
    found = re.search(r'name="csrf_token" value="([^"]+)"', text_of(client, "/models/rollback"))
    assert found
    answer = client.post(path, data=data | {"csrf_token": found[1]}, headers={"Origin": "http://localhost"})
    assert answer.status_code == 302, answer.get_data(as_text=True)
    return answer.headers["Location"]


def settled(client: FlaskClient, flask_app: Flask, address: str) -> str:
    """The page that tells the end, once there is one."""
    action = flask_app.extensions["refinery.actions"].get(parse_qs(urlsplit(address).query)["done"][0])
    assert action.over.wait(60)
    return text_of(client, address)


def test_the_newest_come_first_and_pages_lead_on_and_back(client: FlaskClient) -> None:
    first = text_of(client, "/dead-letters?symbol=MANY")
    shown = numbers(first)
    assert len(shown) == listing.PAGE_ROWS
    assert shown == sorted(shown, reverse=True)
    assert link(first, "Previous") is None
    following = link(first, "Next")
    assert following
    second = text_of(client, following)
    assert len(numbers(second)) == 10
    assert link(second, "Next") is None
    back = link(second, "Previous")
    assert back
    assert numbers(text_of(client, back)) == shown
    assert "symbol=MANY" in back


@pytest.mark.parametrize(("order", "descending"), [("attempts", False), ("-attempts", True), ("signal_id", False)])
def test_columns_sort_and_keep_the_filter(client: FlaskClient, order: str, descending: bool) -> None:
    page = text_of(client, f"/dead-letters?symbol=MANY&order={order}")
    name = order.removeprefix("-")
    cells = re.findall(r'data-label="Tries">(\d+)<' if name == "attempts" else r'data-label="Signal">(m-\d+)<', page)
    assert len(cells) == listing.PAGE_ROWS
    assert cells == sorted(cells, reverse=descending)
    assert f'aria-sort="{"descending" if descending else "ascending"}"' in page
    assert all("symbol=MANY" in found for found in re.findall(r'href="(/dead-letters\?[^"]*order=[^"]*)"', page))


def test_text_is_looked_for_and_causes_are_those_of_the_filter(client: FlaskClient) -> None:
    page = text_of(client, "/dead-letters?text=no+json+at")
    assert "60 match" in page
    assert page.count("letter_actions") == 0
    assert re.findall(r'data-label="Events">([\d,]+)<', page) == ["60"]
    assert re.findall(r'data-label="Events">([\d,]+)<', text_of(client, "/dead-letters?reason=lookahead")) == ["1"]
    assert "None is like that" in text_of(client, "/dead-letters?text=nobody+wrote+this")


def test_all_that_match_are_acted_on_and_none_that_came_since(
    client: FlaskClient, flask_app: Flask, place: ConsoleInstallation
) -> None:
    query = "text=no+JSON&order=-attempts"
    assert "all 60 that match" in text_of(client, f"/dead-letters?{query}")
    confirm = text_of(
        client, f"/dead-letters/confirm?action=discard&every=1&text=no+JSON&back={query.replace('&', '%26')}"
    )
    assert "Discard 60 dead letters?" in confirm
    form = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', confirm))
    form.pop("csrf_token")
    form["back"] = form["back"].replace("&amp;", "&")
    with FeatureDatabase(place.settings.store_place) as store:
        store.dead_letters.add([NewDeadLetter(SIGNALS, "8-1", "bad_json", "no JSON since", b"{", 1, "0", "many")])
        address = post(client, "/dead-letters/discard", why="that desk is closed", **form)
        page = settled(client, flask_app, address)
        assert "60 of 60 discarded." in page
        assert "text=no+JSON" in address
        assert "order=-attempts" in address
        assert "put away: that desk is closed" in page
        assert [row.error for row in store.dead_letters.find(Filter(text="no JSON"))] == ["no JSON since"]
        assert store.dead_letters.count(Filter(text="no JSON", status="discarded")) == 60


def test_more_than_a_page_looks_at_are_said_to_be_more(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "NEWEST", 3)
    page = text_of(client, "/dead-letters")
    assert len(numbers(page)) == 3
    assert "3 match" in page
    assert "are looked at here" in page


def test_the_end_of_a_replay_is_told(client: FlaskClient, flask_app: Flask, place: ConsoleInstallation) -> None:
    with desk(place.settings) as world:
        known = signal(940, bars=bars(end=START, seed=1))
        good, bad = orjson.dumps(known | {"signal_id": "again-1"}), orjson.dumps(signal(941, bars=None))
        added = [
            NewDeadLetter(SIGNALS, f"9-{n}", "no_market_data", "no bars", payload, 1, "0", "again")
            for n, payload in enumerate((good, bad))
        ]
        chosen = world.store.dead_letters.add(added)
        import threading

        stop = threading.Event()

        def handled_meanwhile() -> str:
            address = post(client, "/dead-letters/replay", id=chosen, back="reason=no_market_data")
            stop.set()
            return address

        found: list[str] = []
        thread = threading.Thread(target=lambda: found.append(handled_meanwhile()))
        thread.start()
        while not stop.is_set():
            world.drain()
        thread.join()
        action = flask_app.extensions["refinery.actions"].get(parse_qs(urlsplit(found[0]).query)["done"][0])
        while not action.over.is_set():
            world.drain()
    page = text_of(client, found[0])
    assert "2 sent: 1 applied, 1 died again." in page
    assert "reason=no_market_data" in found[0]
    assert f"sent to its stream again, as {action.report.sent[0][1]}" in page


def test_what_is_going_on_is_told_as_going_on_and_what_stopped_as_stopped() -> None:
    action = RunningAction("x", "replay", 500, ReplayReport([(n, "1-1") for n in range(120)], [7], 100, 3))
    assert action.words == (
        "120 sent: 97 applied, 3 died again, 20 not handled yet. "
        "1 passed over: not open any more, or no bytes to send. Going on: 500 were chosen."
    )
    assert not action.is_well
    action.over.set()
    assert action.words.endswith("Is a worker running?")
    action.report = ReplayReport([(1, "1-1")], [], 1, 1, "1 of 1 that were handled died again")
    assert action.words == "1 sent: 0 applied, 1 died again. Stopped: 1 of 1 that were handled died again."


def test_a_replay_is_the_first_choice_only_where_it_can_succeed(
    client: FlaskClient, place: ConsoleInstallation
) -> None:
    for reason in Reason:
        says_so = "replay" in reason.advice or "raise it" in reason.advice
        assert (reason in REPLAY_CAN_HELP) is says_so, reason
    assert replay_helps("payload_lost", edited=True) is None
    assert replay_helps("schema") is False
    assert replay_helps("schema", edited=True) is True
    with FeatureDatabase(place.settings.store_place, read_only=True) as store:
        helped = store.dead_letters.find(Filter(reason="no_market_data"))[0].id
        not_helped = store.dead_letters.find(Filter(reason="lookahead"))[0].id
    assert re.search(r'class="button primary"[^>]*>Replay…', text_of(client, f"/dead-letters/{helped}"))
    page = text_of(client, f"/dead-letters/{not_helped}")
    assert re.search(r'class="button"[^>]*>Replay…', page)
    assert re.search(r'class="button primary"[^>]*>Edit', page)
    assert "they die again" in text_of(client, f"/dead-letters/confirm?action=replay&id={not_helped}")
    assert "they die again" not in text_of(client, f"/dead-letters/confirm?action=replay&id={helped}")


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (signal(950) | {"timestamp": "yesterday"}, "bad_time"),
        (signal(951, bars=bars(end=START.replace(year=2030))), "lookahead"),
        ({"signal_id": "x"}, "schema"),
        (outcome(1, 1.0), "schema"),
    ],
)
def test_an_edit_that_the_worker_would_refuse_is_not_saved(
    client: FlaskClient, place: ConsoleInstallation, event: dict[str, Any], said: str
) -> None:
    found = re.search(r'name="csrf_token" value="([^"]+)"', text_of(client, "/models/rollback"))
    assert found
    with FeatureDatabase(place.settings.store_place, read_only=True) as store:
        row = store.dead_letters.find(Filter(reason="lookahead", stream=SIGNALS))[0]
        data = {"payload": orjson.dumps(event).decode(), "csrf_token": found[1]}
        answer = client.post(f"/dead-letters/{row.id}/edit", data=data, headers={"Origin": "http://localhost"})
        assert answer.status_code == 400
        assert said in answer.get_data(as_text=True)
        assert store.dead_letters.get(row.id) == store.dead_letters.find(Filter(reason="lookahead"), payloads=True)[0]
        assert store.dead_letters.audit(row.id) == []


def test_an_edited_outcome_is_held_to_the_contract_of_outcomes(client: FlaskClient, place: ConsoleInstallation) -> None:
    with FeatureDatabase(place.settings.store_place) as store:
        (number,) = store.dead_letters.add([NewDeadLetter(TRADES, "5-5", "schema", "?", b"{}", 1, "0", "x")])
        post(client, f"/dead-letters/{number}/edit", payload=orjson.dumps(outcome(2, 0.5)).decode())
        found = store.dead_letters.get(number)
        assert found
        assert orjson.loads(found.edited or b"") == orjson.loads(orjson.dumps(outcome(2, 0.5)))
    page = text_of(client, f"/dead-letters/{number}")
    assert "changed what a replay sends, in" in page
    assert "&#34;r_multiple&#34;: 0.5" in page


def test_signs_that_cannot_be_seen_are_written_out(client: FlaskClient, place: ConsoleInstallation) -> None:
    evil = "a\x1b[2Jb\u202ec\x00d"
    payload = orjson.dumps({"signal_id": evil})
    with FeatureDatabase(place.settings.store_place) as store:
        (number,) = store.dead_letters.add(
            [NewDeadLetter(SIGNALS, "6-6", "schema", evil, payload, 1, "0", "evil", signal_id=evil, symbol=evil)]
        )
    for path in ("/dead-letters", f"/dead-letters/{number}", f"/dead-letters/{number}/edit",
                 f"/dead-letters/confirm?action=replay&id={number}"):  # fmt: skip
        page = text_of(client, path)
        assert not set(page) & {"\x1b", "\u202e", "\x00"}, path
        assert "\\u202e" in page, path
    edit = text_of(client, f"/dead-letters/{number}/edit")
    area = re.search(r"<textarea[^>]*>(.*?)</textarea>", edit, re.DOTALL)
    assert area
    from html import unescape

    assert orjson.loads(unescape(area[1])) == {"signal_id": evil}, "what is edited is what was sent"


def test_an_action_waits_its_turn_where_too_many_go_on(client: FlaskClient, flask_app: Flask) -> None:
    known = flask_app.extensions["refinery.actions"]._known
    for name in ("a", "b", "c"):
        known[name] = RunningAction(name, "discard", 1)
    try:
        found = re.search(r'name="csrf_token" value="([^"]+)"', text_of(client, "/models/rollback"))
        assert found
        data = {"every": "1", "why": "x", "csrf_token": found[1]}
        answer = client.post("/dead-letters/discard", data=data, headers={"Origin": "http://localhost"})
        assert answer.status_code == 503
        assert "wait until one of them is over" in answer.get_data(as_text=True)
    finally:
        for name in ("a", "b", "c"):
            known.pop(name)
