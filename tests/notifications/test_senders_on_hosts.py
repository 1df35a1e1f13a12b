"""Senders on hosts that share a store in PostgreSQL and nothing else: each message goes out once, from one of them."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.desk import settings_for
from tests.support.postgres_server import needs_postgres
from tests.support.processes import fork
from tests.support.receiver import Receiver, receiving
from tests.support.waiting import wait_until
from trading_system.ml_refinement.storage import FeatureDatabase
from trading_system.ml_refinement.storage.notifications.occasions import Occasion
from trading_system.ml_refinement.storage.times import utc_now, utc_text
from worker.notifications import right, sender
from worker.notifications.right import SENDING
from worker.notifications.sender import sending
from worker.settings.schema import Settings

pytestmark = needs_postgres


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


Host = Callable[..., int]


@pytest.fixture
def host(
    tmp_path: Path, postgres_url: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., int]]:
    """Starts a sender on a host of that name, with a state directory of its own; its process id."""
    monkeypatch.setattr(sender, "_LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(right, "LEASE_S", 1)
    monkeypatch.setattr(right, "_RENEWED_EVERY_S", 0.2)
    started: list[int] = []

    def start(name: str, first: Callable[[], None] = lambda: None) -> int:
        notify = {"url": receiver.url, "timeout_s": 0.9}
        settings = settings_for(tmp_path / name, "redis://localhost:1", store_url=postgres_url, notify=notify)
        settings.state_dir.mkdir(exist_ok=True)
        started.append(fork(lambda: _send(settings, name, first)))
        return started[-1]

    yield start
    for pid in started:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _send(settings: Settings, name: str, first: Callable[[], None]) -> None:
    socket.gethostname = lambda: name
    first()
    with sending(settings):
        threading.Event().wait()


def add(store: FeatureDatabase, *names: str) -> None:
    for name in names:
        store.notifications.add(Occasion.ALARM, {"alarm": name, "reason": "because"}, at=utc_text(utc_now()))


def told(receiver: Receiver) -> list[str]:
    return [one.document["details"]["alarm"] for one in receiver.posted]


def holder(store: FeatureDatabase) -> str | None:
    lease = store.leases.holder_of(SENDING)
    return None if lease is None else lease.holder.split()[0]


def test_of_two_hosts_one_sends_each_message_once(
    host: Host, postgres_store: FeatureDatabase, receiver: Receiver
) -> None:
    host("one"), host("other")
    names = [f"alarm-{number}" for number in range(30)]
    for name in names:
        add(postgres_store, name)
    wait_until(lambda: len(receiver.posted) >= 30 and not postgres_store.notifications.waiting().number)
    assert told(receiver) == names
    assert postgres_store.notifications.counts() == {"sent": 30, "failed": 0, "given_up": 0, "dropped": 0}


def test_a_sender_that_is_killed_is_taken_over_from_by_another_host(
    host: Host, postgres_store: FeatureDatabase, receiver: Receiver
) -> None:
    first = host("one")
    wait_until(lambda: holder(postgres_store) == "one")
    host("other")
    add(postgres_store, "a")
    wait_until(lambda: told(receiver) == ["a"] and not postgres_store.notifications.waiting().number)
    os.kill(first, signal.SIGSTOP)  # nothing of it goes on, and it cannot say that it ends
    os.kill(first, signal.SIGKILL)
    add(postgres_store, "b")
    wait_until(lambda: not postgres_store.notifications.waiting().number)
    assert told(receiver) == ["a", "b"]
    assert holder(postgres_store) == "other"


def test_one_that_stood_still_beyond_its_time_sends_nothing_that_the_other_has_sent(
    host: Host, postgres_store: FeatureDatabase, receiver: Receiver
) -> None:
    def stops_with_what_is_due_in_hand() -> None:
        sure = right._Lease.sure

        def after_a_while(lease: right._Lease, opened: Callable[[], FeatureDatabase]) -> bool:
            if opened().notifications.waiting().number:
                right._Lease.sure = sure  # type: ignore[method-assign]
                # To this thread: it would begin the next transaction before a signal to the process reached it.
                signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
            return sure(lease, opened)

        right._Lease.sure = after_a_while  # type: ignore[method-assign]

    first = host("one", stops_with_what_is_due_in_hand)
    wait_until(lambda: holder(postgres_store) == "one")
    add(postgres_store, "a", "b")
    _, status = os.waitpid(first, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    host("other")
    wait_until(lambda: not postgres_store.notifications.waiting().number)
    assert holder(postgres_store) == "other"
    os.kill(first, signal.SIGCONT)
    add(postgres_store, "c")
    wait_until(lambda: not postgres_store.notifications.waiting().number)
    assert told(receiver) == ["a", "b", "c"]
    assert holder(postgres_store) == "other"
