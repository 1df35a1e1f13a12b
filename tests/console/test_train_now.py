"""A training asked for in the console: in the name of who asks, and not where it would be one too many."""

from __future__ import annotations

import re

import pytest
import redis
from flask.testing import FlaskClient
from rq import Worker
from rq.serializers import JSONSerializer

from tests.support.console_installation import ConsoleInstallation
from worker.console.application import create_app
from worker.retraining.queue import connect_queue


@pytest.fixture
def client(place: ConsoleInstallation) -> FlaskClient:
    return create_app(place.settings, place.url).test_client()


def ask(client: FlaskClient) -> tuple[int, str]:
    page = client.get("/jobs").get_data(as_text=True)
    found = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert found
    answer = client.post("/jobs/train", data={"csrf_token": found[1]}, headers={"Origin": "http://localhost"})
    return answer.status_code, answer.get_data(as_text=True)


def test_a_training_is_asked_for_once_in_the_operator_s_name(client: FlaskClient, place: ConsoleInstallation) -> None:
    queue = place.settings.queue_name
    assert ask(client)[0] == 409, "no trainer runs"
    assert "No trainer is running" in client.get("/jobs").get_data(as_text=True)
    rq = connect_queue(place.url)
    trainer = Worker([queue], connection=rq, serializer=JSONSerializer, name="a-trainer")
    trainer.register_birth()
    try:
        assert ask(client)[0] == 302
        waiting = rq.lrange(f"rq:queue:{queue}", 0, -1)
        assert len(waiting) == 1
        assert b"console (operator)" in rq.hget(f"rq:job:{waiting[0].decode()}", "description")
        status, said = ask(client)
        assert status == 409
        assert "waits for the trainer already" in said
        assert rq.llen(f"rq:queue:{queue}") == 1
    finally:
        trainer.register_death()
        rq.delete(f"rq:queue:{queue}")


def test_nothing_is_asked_for_without_the_session_s_token(client: FlaskClient, place: ConsoleInstallation) -> None:
    assert client.post("/jobs/train", headers={"Origin": "http://localhost"}).status_code == 403
    assert client.get("/jobs/train").status_code == 405
    assert redis.Redis.from_url(place.url).llen(f"rq:queue:{place.settings.queue_name}") == 0
