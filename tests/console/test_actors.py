"""What an operator does in the console is kept as theirs."""

from __future__ import annotations

import re
from typing import Any

import orjson
from flask import Flask
from flask.testing import FlaskClient

from tests.support.console_installation import ConsoleInstallation
from tests.support.desk import desk
from tests.support.events import signal
from trading_system.ml_refinement.storage import FeatureDatabase, Filter

OPERATOR = "console (operator)"


def post(client: FlaskClient, path: str, **data: Any) -> None:
    found = re.search(r'name="csrf_token" value="([^"]+)"', client.get("/models/rollback").get_data(as_text=True))
    assert found
    answer = client.post(path, data=data | {"csrf_token": found[1]}, headers={"Origin": "http://localhost"})
    assert answer.status_code == 302, answer.get_data(as_text=True)


def test_every_action_in_the_console_is_the_operators(flask_app: Flask, place: ConsoleInstallation) -> None:
    client = flask_app.test_client()
    first, second = place.models
    with FeatureDatabase(place.settings.store_place) as store:
        replayed, edited, both, discarded = [row.id for row in store.dead_letters.find(limit=4)]
        post(client, "/dead-letters/replay", id=replayed)
        post(client, f"/dead-letters/{edited}/edit", payload=orjson.dumps(signal(920, bars=None)).decode())
        post(client, f"/dead-letters/{both}/edit", payload=orjson.dumps(signal(921, bars=None)).decode(), replay="1")
        post(client, "/dead-letters/discard", id=discarded, why="seen")
        with desk(place.settings) as worker:
            worker.drain()
        done = {
            number: [(e.action, e.actor) for e in store.dead_letters.audit(number)] for number in (replayed, edited)
        }
        done |= {
            number: [(e.action, e.actor) for e in store.dead_letters.audit(number)] for number in (both, discarded)
        }
        assert done == {
            replayed: [("replayed", OPERATOR)],
            edited: [("edited", OPERATOR)],
            both: [("edited", OPERATOR), ("replayed", OPERATOR)],
            discarded: [("discarded", OPERATOR)],
        }
        assert store.dead_letters.count(Filter(replay_of=both)) == 1, "the worker took it, and it died again"

        post(client, f"/models/{first}/activate", active=second, why="a try")
        post(client, "/models/rollback", active=first, why="it was none")
        ledger = [(entry.model_id, entry.reason, entry.actor) for entry in store.models.promotions(2)]
        assert ledger == [(second, "it was none", OPERATOR), (first, "a try", OPERATOR)]
        post(client, f"/models/{first}/activate", active=second, why="to stay", pin="1")
        post(client, f"/models/{first}/unpin")
        unpinned = store.models.promotions(1)[0]
        assert (unpinned.action, unpinned.model_id, unpinned.actor) == ("unpin", first, OPERATOR)
    assert OPERATOR in client.get("/models").get_data(as_text=True)
    assert OPERATOR in client.get(f"/models/{first}").get_data(as_text=True)


def test_nothing_else_can_be_done_through_the_console(flask_app: Flask) -> None:
    """Whatever is added to this list, docs/security.md has to say."""
    changing = {"POST", "PUT", "PATCH", "DELETE"}
    ours, of_rq = set(), set()
    for rule in flask_app.url_map.iter_rules():
        if changing & (rule.methods or set()):
            of = of_rq if rule.endpoint.startswith("rq_dashboard.") else ours
            of.add(rule.endpoint.partition(".")[2])
    assert ours == {"login", "logout", "replay", "discard", "edit", "activate", "rollback", "unpin", "choose", "train"}
    assert of_rq == {"delete_job_view", "requeue_job_view", "requeue_all", "empty_queue", "compact_queue"}
