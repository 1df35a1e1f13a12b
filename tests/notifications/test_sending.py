"""Notifications reach a real receiver, whatever it does, and nothing waits for it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.support.desk import settings_for
from tests.support.receiver import Receiver, drip, receiving
from tests.support.rows import dead
from tests.support.store_place import StoreAway
from trading_system.ml_refinement.storage import FeatureDatabase, StoreError
from trading_system.ml_refinement.storage.notifications.occasions import Occasion
from trading_system.ml_refinement.storage.times import utc_now, utc_text
from worker.installation import open_store
from worker.notifications.sender import Notifier, sending
from worker.settings.schema import Settings

NEVER = threading.Event()
SECRET = "whsec_" + base64.b64encode(b"a key of twenty-four b.").decode()


class Clock:
    """The present, moved on by hand."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return utc_now() + self.ahead


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def clock() -> Clock:
    return Clock()


def told(settings: Settings, **notify: object) -> Settings:
    return settings.model_copy(update={"notify": settings.notify.model_copy(update=notify)})


@pytest.fixture
def settings(tmp_path: Path, receiver: Receiver) -> Settings:
    notify = {"url": receiver.url, "secret": SECRET, "name": "desk one", "timeout_s": 0.5}
    return settings_for(tmp_path / "var", "redis://localhost:1", notify=notify)


@pytest.fixture
def store(settings: Settings) -> Iterator[FeatureDatabase]:
    with open_store(settings) as store:
        yield store


@pytest.fixture
def away(settings: Settings, request: pytest.FixtureRequest) -> StoreAway:
    if settings.store_url is None:
        return StoreAway(settings)
    return StoreAway(settings, request.getfixturevalue("postgres_server"))


@pytest.fixture
def sender(settings: Settings, store: FeatureDatabase, clock: Clock) -> Iterator[Notifier]:
    sender = Notifier(settings, clock=clock)
    yield sender
    sender.close()


def add(store: FeatureDatabase, *names: str, at: datetime | None = None) -> None:
    for name in names:
        store.notifications.add(Occasion.ALARM, {"alarm": name, "reason": "because"}, at=utc_text(at or utc_now()))


def test_what_waits_is_posted_in_order_as_one_line_of_json_and_once(
    sender: Notifier, store: FeatureDatabase, receiver: Receiver
) -> None:
    add(store, "a", "b", "c")
    assert sender.look(NEVER) == 3
    assert sender.look(NEVER) == 0
    assert [one.document["details"]["alarm"] for one in receiver.posted] == ["a", "b", "c"]
    first = receiver.posted[0]
    assert b"\n" not in first.content
    assert first.document["text"] == "desk one: alarm a: because"
    assert first.document["installation"] == store.installation_id()
    assert first.document["id"] == first.headers["webhook-id"]
    assert set(first.document) == {"version", "id", "kind", "at", "name", "installation", "text", "details"}
    assert (first.path, first.headers["content-type"]) == ("/hook/s3cr3t-path", "application/json")


def test_each_try_is_signed_over_id_time_and_body(sender: Notifier, store: FeatureDatabase, receiver: Receiver) -> None:
    add(store, "a")
    sender.look(NEVER)
    one = receiver.posted[0]
    signed = f"{one.headers['webhook-id']}.{one.headers['webhook-timestamp']}.".encode() + one.content
    expected = hmac.new(b"a key of twenty-four b.", signed, hashlib.sha256).digest()
    assert one.headers["webhook-signature"] == f"v1,{base64.b64encode(expected).decode()}"
    assert abs(int(one.headers["webhook-timestamp"]) - time.time()) < 300


def test_without_a_secret_nothing_is_signed(settings: Settings, store: FeatureDatabase, receiver: Receiver) -> None:
    add(store, "a")
    sender = Notifier(told(settings, secret=None))
    sender.look(NEVER)
    sender.close()
    assert "webhook-signature" not in receiver.posted[0].headers


def test_a_receiver_that_is_down_for_a_day_gets_everything_in_order_when_it_is_back(
    settings: Settings, store: FeatureDatabase, receiver: Receiver, clock: Clock
) -> None:
    port = receiver.port
    with receiving() as gone:
        away = gone.port
    sender = Notifier(told(settings, url=type(settings.notify.url)(f"http://127.0.0.1:{away}/x")), clock=clock)
    add(store, "a", "b")
    tries = 0
    while clock.ahead < timedelta(days=1):
        sender.look(NEVER)
        tries = store.notifications.counts()["failed"]
        clock.ahead += timedelta(minutes=5)
    sender.close()
    assert 20 < tries < 60, "with growing pauses, and an hour at most"
    waiting = store.notifications.waiting()
    assert (waiting.number, waiting.error) == (2, "127.0.0.1 is not reached: Connection refused")
    assert port == receiver.port
    back = Notifier(settings, clock=clock)
    clock.ahead += timedelta(hours=1)
    assert back.look(NEVER) == 2
    back.close()
    assert [one.document["details"]["alarm"] for one in receiver.posted] == ["a", "b"]


def test_what_nobody_takes_is_given_up_in_the_end_and_counted(
    sender: Notifier, store: FeatureDatabase, receiver: Receiver, clock: Clock, errors_logged: list[str]
) -> None:
    receiver.status = 500
    add(store, "a")
    sender.look(NEVER)
    clock.ahead += timedelta(hours=73)
    sender.look(NEVER)
    assert store.notifications.waiting().number == 0
    assert store.notifications.counts() == {"sent": 0, "failed": 1, "given_up": 1, "dropped": 0}
    assert errors_logged == ["notifications given up after 72 hours: 1"]


@pytest.mark.parametrize("status", [500, 503, 404, 401, 301, 307])
def test_an_answer_that_is_no_2xx_is_tried_again_with_the_same_id_and_holds_the_others(
    status: int, sender: Notifier, store: FeatureDatabase, receiver: Receiver, clock: Clock
) -> None:
    receiver.status = status
    add(store, "a", "b")
    assert sender.look(NEVER) == 0
    assert sender.look(NEVER) == 0, "not before its pause is over"
    assert len(receiver.posted) == 1
    receiver.status = 204
    clock.ahead += timedelta(seconds=6)
    assert sender.look(NEVER) == 2
    assert receiver.ids[0] == receiver.ids[1] != receiver.ids[2]


def test_a_message_that_the_receiver_does_not_like_holds_up_no_other(
    sender: Notifier, store: FeatureDatabase, receiver: Receiver
) -> None:
    def picky(request: BaseHTTPRequestHandler) -> None:
        request.send_response(422 if receiver.posted[-1].document["details"]["alarm"] == "a" else 200)
        request.end_headers()

    receiver.answer = picky
    add(store, "a", "b")
    sender.look(NEVER)
    assert [one.state for one in store.notifications.recent()] == ["sent", "waiting"]


def test_a_redirect_is_not_followed_and_does_not_show_where_it_leads(
    sender: Notifier, store: FeatureDatabase, receiver: Receiver
) -> None:
    def elsewhere(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("location", f"http://127.0.0.1:{receiver.port}/other/token")
        request.end_headers()

    receiver.answer = elsewhere
    add(store, "a")
    sender.look(NEVER)
    assert [one.path for one in receiver.posted] == ["/hook/s3cr3t-path"]
    said = store.notifications.recent()[0].error or ""
    assert said == f"302 Found: redirects to http://127.0.0.1:{receiver.port}/*** are not followed"


@pytest.mark.parametrize("answer", [drip, lambda _: time.sleep(3)], ids=["a byte at a time", "silent"])
def test_a_slow_receiver_is_left_in_time_and_meanwhile_the_store_can_be_written(
    answer: Callable[[BaseHTTPRequestHandler], None],
    sender: Notifier,
    store: FeatureDatabase,
    receiver: Receiver,
) -> None:
    receiver.answer = answer
    add(store, "a")
    looking = threading.Thread(target=sender.look, args=(NEVER,))
    looking.start()
    while not receiver.posted:
        time.sleep(0.01)
    add(store, "b")
    assert looking.is_alive(), "the write did not wait for the receiver"
    looking.join(30)
    assert not looking.is_alive()
    assert store.notifications.waiting().error == "no answer within 0.5 s"


def test_what_is_no_http_is_told_and_tried_again(sender: Notifier, store: FeatureDatabase, receiver: Receiver) -> None:
    receiver.answer = lambda request: request.wfile.write(b"220 smtp.example.com ESMTP\r\n")
    add(store, "a")
    sender.look(NEVER)
    assert store.notifications.waiting().error == "what came back is no HTTP (BadStatusLine)"


def test_what_was_taken_and_could_not_be_noted_is_not_sent_again(
    sender: Notifier, store: FeatureDatabase, receiver: Receiver, away: StoreAway
) -> None:
    def lose_the_store(request: BaseHTTPRequestHandler) -> None:
        away.take()  # before the answer, after which the sender goes on
        request.send_response(200)
        request.end_headers()

    receiver.answer = lose_the_store
    add(store, "a")
    with pytest.raises(StoreError):
        sender.look(NEVER)
    away.put_back()
    sender.let_go_of_store()
    receiver.answer = None
    assert sender.look(NEVER) == 0
    assert len(receiver.posted) == 1
    assert store.notifications.recent()[0].state == "sent"


def _look_until_killed(settings: Settings) -> None:
    Notifier(settings).look(NEVER)


def test_killed_between_the_answer_and_the_note_it_is_sent_again_with_the_same_id(
    sender: Notifier, settings: Settings, store: FeatureDatabase, receiver: Receiver
) -> None:
    add(store, "a", "b")
    child = multiprocessing.get_context("fork").Process(target=_look_until_killed, args=(settings,))

    def kill(request: BaseHTTPRequestHandler) -> None:
        if len(receiver.posted) == 1:
            child.kill()
            child.join()
        request.send_response(200)
        request.end_headers()

    receiver.answer = kill
    child.start()
    child.join()
    assert sender.look(NEVER) == 2
    assert receiver.ids[0] == receiver.ids[1]
    assert len(set(receiver.ids)) == 2


def test_of_two_processes_one_sends(
    sender: Notifier, settings: Settings, store: FeatureDatabase, receiver: Receiver
) -> None:
    other = Notifier(settings)
    add(store, "a")
    assert sender.look(NEVER) == 1
    add(store, "b")
    assert other.look(NEVER) == 0
    sender.close()
    assert other.look(NEVER) == 1
    other.close()
    assert len(receiver.posted) == 2


def test_kinds_that_are_not_chosen_and_all_without_an_address_are_not_told(
    settings: Settings, store: FeatureDatabase, receiver: Receiver
) -> None:
    add(store, "a")
    few = Notifier(told(settings, kinds=[Occasion.ROLLBACK]))
    assert few.look(NEVER) == 0
    few.close()
    add(store, "b")
    nobody = Notifier(told(settings, url=None))
    assert nobody.look(NEVER) == 0
    nobody.close()
    later = Notifier(settings)
    assert later.look(NEVER) == 0, "who is told from now on does not get the past"
    later.close()
    assert receiver.posted == []
    assert [one.state for one in store.notifications.recent()] == ["unwanted", "unwanted"]


def test_a_burst_of_dead_letters_is_told_once_an_hour_with_its_reasons(
    sender: Notifier, store: FeatureDatabase, receiver: Receiver, clock: Clock
) -> None:
    store.dead_letters.add([dead(f"{n}-1", reason="schema") for n in range(19)])
    sender.look(NEVER)
    assert receiver.posted == []
    store.dead_letters.add([dead(f"{n}-2", reason="bad_json") for n in range(2)])
    sender.look(NEVER)
    store.dead_letters.add([dead(f"{n}-3", reason="bad_json") for n in range(20)])
    sender.look(NEVER)
    assert receiver.kinds == ["dead_letter_burst"]
    one = receiver.posted[0].document
    assert one["details"] == {"letters": 21, "minutes": 10, "reasons": {"schema": 19, "bad_json": 2}}
    assert one["text"].endswith("21 events were dead-lettered within 10 minutes: 19 schema, 2 bad_json")
    clock.ahead += timedelta(hours=2)
    sender.look(NEVER)
    assert len(receiver.posted) == 1, "what is over is not told"


def test_a_process_sends_while_it_works(settings: Settings, store: FeatureDatabase, receiver: Receiver) -> None:
    with sending(settings):
        add(store, "a")
        while not receiver.posted:
            time.sleep(0.05)
    assert receiver.kinds == ["alarm"]


def test_no_secret_reaches_the_log_or_the_store(
    sender: Notifier, store: FeatureDatabase, receiver: Receiver, warnings_logged: list[str]
) -> None:
    receiver.status = 500
    add(store, "a")
    sender.look(NEVER)
    written = "".join(warnings_logged) + str(store.notifications.recent())
    assert "500 Internal Server Error" in written
    assert f"http://127.0.0.1:{receiver.port}/***" in written
    for secret in ("s3cr3t", SECRET, "twenty-four"):
        assert secret not in written
