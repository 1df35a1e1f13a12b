"""What happens when something breaks: nothing is lost, nothing is applied twice, and the events around it go on."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.desk import Desk, desk, pending, scored, send, settings_for
from tests.support.events import GROUP, SIGNALS, TRADES, outcome, signal
from tests.support.waiting import answers, join, wait_until
from trading_system.ml_refinement.storage import FeatureDatabase
from worker.consumer.batch_handler import BatchHandler, BatchResult
from worker.consumer.loop import FailureAction, after_failure
from worker.errors import EventRejected, Reason, StoreUnusable, TransientError
from worker.redis_server.embedded import EmbeddedServer
from worker.streams.entries import Entry


@pytest.fixture
def worker(tmp_path: Path, valkey_url: str) -> Iterator[Desk]:
    with desk(settings_for(tmp_path, valkey_url, max_deliveries=3)) as built:
        yield built


@pytest.mark.parametrize(
    ("error", "deliveries", "decision"),
    [
        (TransientError("locked"), 1, FailureAction.PAUSE),
        (TransientError("locked"), 1000, FailureAction.PAUSE),
        (StoreUnusable("damaged"), 1000, FailureAction.STOP),
        (EventRejected(Reason.SCHEMA, "x"), 1, FailureAction.DEAD_LETTER),
        (RuntimeError("x"), 1, FailureAction.RETRY),
        (RuntimeError("x"), 2, FailureAction.RETRY),
        (RuntimeError("x"), 3, FailureAction.DEAD_LETTER),
    ],
)
def test_a_fault_of_our_own_is_never_charged_to_the_event(
    error: Exception, deliveries: int, decision: FailureAction
) -> None:
    assert after_failure(error, deliveries, 3) is decision


def test_an_event_that_always_fails_is_retried_and_then_dead_lettered_alone(
    worker: Desk, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = BatchHandler.handle

    def poisoned(self: BatchHandler, entries: Sequence[Entry]) -> BatchResult:
        if any(b"s-2" in (entry.data or b"") for entry in entries):
            raise ZeroDivisionError("a defect of ours")
        return handle(self, entries)

    monkeypatch.setattr(BatchHandler, "handle", poisoned)
    for number in (1, 2, 3):
        send(valkey, SIGNALS, signal(number))

    def dead_lettered() -> bool:
        worker.consumer._own_due = 0.0
        worker.drain(rounds=5)
        return worker.store.counts().dead_letters_open > 0

    wait_until(dead_lettered)
    [letter] = worker.store.dead_letters.find()
    assert (letter.reason, letter.signal_id, letter.attempts) == ("handler_error", "s-2", 3)
    assert "a defect of ours" in (letter.traceback or "")
    assert worker.store.counts().signals == 2
    assert pending(valkey) == 0


def test_a_locked_store_pauses_the_worker_and_nothing_is_acknowledged(
    worker: Desk, valkey: redis.Redis, errors_logged: list[str]
) -> None:
    worker.drain()
    stop = threading.Event()
    running = threading.Thread(target=worker.consumer.run, args=(stop,))
    with FeatureDatabase(worker.settings.store_place) as other, other.atomic():
        send(valkey, SIGNALS, signal(1))
        running.start()
        wait_until(lambda: any("paused, nothing is lost" in line for line in errors_logged))
        assert pending(valkey) == 1
        assert scored(valkey) == []
    wait_until(lambda: len(scored(valkey)) == 1)
    stop.set()
    join(running)
    assert worker.store.counts().signals == 1
    assert worker.store.counts().dead_letters_open == 0


def test_a_destroyed_group_is_made_again_and_the_events_have_one_effect(worker: Desk, valkey: redis.Redis) -> None:
    send(valkey, SIGNALS, signal(1))
    worker.drain()
    valkey.xgroup_destroy(SIGNALS, GROUP)
    send(valkey, SIGNALS, signal(2))
    worker.drain()
    worker.drain()
    counts = worker.store.counts()
    assert (counts.signals, counts.duplicates, counts.dead_letters_open) == (2, 0, 0)


def test_what_a_dead_worker_held_is_taken_over(tmp_path: Path, valkey_url: str, valkey: redis.Redis) -> None:
    settings = settings_for(tmp_path, valkey_url, claim_idle_ms=1000)
    with desk(settings) as worker:
        worker.drain()
        send(valkey, SIGNALS, signal(1))
        trimmed = send(valkey, SIGNALS, signal(2))
        valkey.xreadgroup(GROUP, "dead", {SIGNALS: ">"})
        valkey.xdel(SIGNALS, trimmed)

        def idle_ms() -> int:
            rows: Any = valkey.xpending_range(SIGNALS, GROUP, "-", "+", 10)
            return min(int(row["time_since_delivered"]) for row in rows)

        wait_until(lambda: idle_ms() > settings.claim_idle_ms)
        worker.consumer._claim_due = 0.0
        worker.drain()
        assert worker.store.counts().signals == 1
        assert [letter.reason for letter in worker.store.dead_letters.find()] == ["payload_lost"]
        assert pending(valkey) == 0


def test_the_server_is_killed_and_comes_back_and_every_event_has_one_effect(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "valkey", join=False) as server:
        client = redis.Redis.from_url(server.url)
        settings = settings_for(tmp_path / "state", server.url)
        stop = threading.Event()
        with desk(settings) as worker:
            running = threading.Thread(target=worker.consumer.run, args=(stop,))
            running.start()
            for number in range(20):
                send(client, SIGNALS, signal(number))
            first = server.pid
            assert first is not None
            os.kill(first, 9)
            wait_until(lambda: server.pid not in (first, None) and answers(client))
            for number in range(20):
                send(client, TRADES, outcome(number))
            wait_until(lambda: worker.store.counts().labelled == 20)
            stop.set()
            join(running)
            counts = worker.store.counts()
            assert (counts.signals, counts.outcomes, counts.dead_letters_open) == (20, 20, 0)


def test_two_workers_share_the_load_and_nothing_is_lost_or_doubled(
    tmp_path: Path, valkey_url: str, valkey: redis.Redis
) -> None:
    stop = threading.Event()
    errors: list[BaseException] = []

    def run(slot: int) -> None:
        try:
            with desk(settings_for(tmp_path, valkey_url, consumer_slot=slot, batch_size=8)) as worker:
                worker.consumer.run(stop)
        except BaseException as error:  # noqa: BLE001  shown by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(slot,)) for slot in (0, 1)]
    for thread in threads:
        thread.start()
    for number in range(60):
        send(valkey, SIGNALS, signal(number))
        send(valkey, SIGNALS, signal(number))
        send(valkey, TRADES, outcome(number))
    with desk(settings_for(tmp_path, valkey_url, consumer_slot=9)) as observer:

        def all_settled() -> bool:
            counts = observer.store.counts()
            return counts.signals + counts.outcomes + counts.duplicates == 180 and not pending(valkey)

        wait_until(lambda: errors or all_settled())
        stop.set()
        join(*threads)
        assert errors == []
        _check_conservation(observer, valkey)
        counts = observer.store.counts()
        assert (counts.signals, counts.labelled, counts.duplicates) == (60, 60, 60)


def _check_conservation(worker: Desk, client: redis.Redis) -> None:
    """received = applied + duplicates + dead-lettered + pending, and every signal was answered the same each time."""
    received = sum(int(client.xlen(stream)) for stream in (SIGNALS, TRADES))  # type: ignore[arg-type]
    counts = worker.store.counts()
    assert received == counts.signals + counts.outcomes + counts.duplicates + counts.dead_letters + pending(client)
    answers: dict[str, set[str]] = {}
    for answer in scored(client):
        answers.setdefault(answer["signal_id"], set()).add(str(answer))
    assert len(answers) == counts.signals
    assert all(len(said) == 1 for said in answers.values())
