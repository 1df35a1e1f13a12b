"""Every page and action of the RQ dashboard over jobs that somebody else wrote: an answer, and never a 500."""

from __future__ import annotations

import re
from typing import Any

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient

from tests.support.console_installation import ConsoleInstallation
from worker.retraining.queue import QUEUE_NAME

GARBAGE = (b"\xff\x80\x04", b"{", b"9" * 400)
FIELDS = ("created_at", "enqueued_at", "started_at", "ended_at", "data", "meta", "status", "timeout", "origin")
MORE = ("result_ttl", "failure_ttl", "description", "exc_info", "dependency_ids", "retries_left", "result")
JOBS = [f"planted-{field}-{number}".replace("_", "-") for field in (*FIELDS, *MORE) for number in range(len(GARBAGE))]


def plant(server: redis.Redis) -> None:
    client = server.pipeline()
    for field in (*FIELDS, *MORE):
        for number, value in enumerate(GARBAGE):
            name = f"planted-{field}-{number}".replace("_", "-")
            whole = {"created_at": "2026-01-01T00:00:00.000000Z", "data": b"[]", "status": "failed"}
            client.hset(f"rq:job:{name}", mapping=whole | {"origin": QUEUE_NAME} | {field: value})
            client.zadd(f"rq:failed:{QUEUE_NAME}", {name: 4e9})
            client.rpush(f"rq:queue:{QUEUE_NAME}", name)
    client.sadd("rq:queues", f"rq:queue:{QUEUE_NAME}")
    client.set("rq:job:no-hash", "x")
    client.execute()


def addresses(app: Flask, job: str, method: str) -> list[str]:
    """Every address of the dashboard that takes the method."""
    made = []
    given: dict[str, Any] = {"instance_number": 0, "queue_name": QUEUE_NAME, "job_id": job, "per_page": 8, "page": 1}
    given |= {"registry_name": "failed", "order": "dsc", "filename": "none"}
    with app.test_request_context():
        adapter = app.url_map.bind("localhost")
        for rule in app.url_map.iter_rules():
            if rule.endpoint.startswith("rq_dashboard.") and method in (rule.methods or ()):
                values = {name: given[name] for name in rule.arguments if name in given}
                made.append(adapter.build(rule.endpoint, values, method=method))
    return sorted({*made})


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_page_and_no_action_over_planted_jobs_ends_in_500(
    flask_app: Flask, place: ConsoleInstallation, method: str
) -> None:
    client: FlaskClient = flask_app.test_client()
    token = re.search(r'name="csrf_token" value="([^"]+)"', client.get("/models/rollback").get_data(as_text=True))
    assert token
    headers = {"Origin": "http://localhost", "X-CSRF-Token": token[1]}
    with redis.Redis.from_url(place.url) as server:
        for job in ("no-such-job", "no-hash", *JOBS):
            for address in addresses(flask_app, job, method):
                if job not in address and job != "no-such-job":
                    continue  # the same for every job
                if method == "POST" or job == "no-such-job":
                    plant(server)
                answer = client.open(address, method=method, headers=headers)
                assert answer.status_code < 500, (address, answer.get_data(as_text=True)[:300])


def test_an_empty_queue_is_compact(flask_app: Flask, place: ConsoleInstallation) -> None:
    client = flask_app.test_client()
    token = re.search(r'name="csrf_token" value="([^"]+)"', client.get("/models/rollback").get_data(as_text=True))
    assert token
    with redis.Redis.from_url(place.url) as server:
        server.delete(f"rq:queue:{QUEUE_NAME}")
    headers = {"Origin": "http://localhost", "X-CSRF-Token": token[1]}
    answer = client.post(f"/jobs/rq/queue/{QUEUE_NAME}/compact", headers=headers)
    assert (answer.status_code, answer.get_json()) == (200, {"status": "OK"})
