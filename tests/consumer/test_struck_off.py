"""Entries that somebody else takes away while they are pending: each has its effect, or its dead letter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.desk import Desk, desk, pending, scored, send, settings_for
from tests.support.events import GROUP, SIGNALS, TRADES, signal
from worker.consumer.batch_handler import BatchHandler
from worker.errors import TransientError


@pytest.fixture(params=["with archive", "without archive"])
def archive(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "with archive")


def trim(client: redis.Redis) -> None:
    client.xtrim(SIGNALS, maxlen=0, approximate=False)


def delete(client: redis.Redis) -> None:
    rows: Any = client.xrange(SIGNALS)
    client.xdel(SIGNALS, *[entry_id for entry_id, _ in rows])


def trim_and_strike_off(client: redis.Redis) -> None:
    """As XTRIM with ACKED or DELREF does on servers that have it."""
    rows: Any = client.xrange(SIGNALS)
    trim(client)
    client.xack(SIGNALS, GROUP, *[entry_id for entry_id, _ in rows])


def delete_consumers(client: redis.Redis) -> None:
    consumers: Any = client.xinfo_consumers(SIGNALS, GROUP)
    for consumer in consumers:
        client.xgroup_delconsumer(SIGNALS, GROUP, consumer["name"])


def destroy_group_and_trim(client: redis.Redis) -> None:
    client.xgroup_destroy(SIGNALS, GROUP)
    trim(client)


def make_group_at_the_end(client: redis.Redis) -> None:
    client.xgroup_destroy(SIGNALS, GROUP)
    client.xgroup_create(SIGNALS, GROUP, id="$")


def delete_the_stream(client: redis.Redis) -> None:
    client.delete(SIGNALS)


ALL = [
    trim,
    delete,
    trim_and_strike_off,
    delete_consumers,
    destroy_group_and_trim,
    make_group_at_the_end,
    delete_the_stream,
]


def held(worker: Desk, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, *, numbers: range = range(5)) -> Any:
    """The events are read, archived, and in hand of a worker whose store does not take them."""
    commit = BatchHandler._apply

    def locked(*_: object) -> None:
        raise TransientError("locked")

    monkeypatch.setattr(BatchHandler, "_apply", locked)
    for number in numbers:
        send(client, SIGNALS, signal(number))
    worker.consumer._own_due = 1e12
    worker.drain(rounds=2)
    assert pending(client) == len(numbers)
    return lambda: monkeypatch.setattr(BatchHandler, "_apply", commit)


@pytest.mark.parametrize("take_away", ALL)
def test_what_a_worker_has_in_hand_outlives_whatever_is_done_to_the_stream(
    take_away: Callable[[redis.Redis], None],
    archive: bool,
    tmp_path: Path,
    valkey_url: str,
    valkey: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with desk(settings_for(tmp_path, valkey_url, archive={"enabled": archive})) as worker:
        worker.drain()
        heal = held(worker, valkey, monkeypatch)
        take_away(valkey)
        heal()
        worker.drain(rounds=3)
        assert worker.store.counts().signals == 5
        assert worker.store.counts().dead_letters == 0
    assert len(scored(valkey)) == 5


@pytest.mark.parametrize("take_away", ALL)
def test_what_was_read_before_is_taken_from_the_archive_by_the_next_worker(
    take_away: Callable[[redis.Redis], None],
    tmp_path: Path,
    valkey_url: str,
    valkey: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    warnings_logged: list[str],
) -> None:
    with desk(settings_for(tmp_path, valkey_url)) as worker:
        worker.drain()
        heal = held(worker, valkey, monkeypatch)
        take_away(valkey)
    heal()
    with desk(settings_for(tmp_path, valkey_url, consumer_slot=1)) as worker:
        for _ in range(3):
            worker.consumer._claim_due = 0.0
            worker.drain(rounds=2)
        assert worker.store.counts().signals == 5
        assert worker.store.counts().dead_letters == 0
        assert sum(batch.restored for batch in worker.handled) == 5
    assert len(scored(valkey)) == 5


@pytest.mark.parametrize("take_away", [trim, delete])
def test_without_an_archive_what_nobody_has_any_more_is_a_dead_letter_each(
    take_away: Callable[[redis.Redis], None],
    tmp_path: Path,
    valkey_url: str,
    valkey: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopping gives entries back, and giving one back that is gone must not strike it off."""
    settings = settings_for(tmp_path, valkey_url, archive={"enabled": False}, claim_idle_ms=1000)
    with desk(settings) as worker:
        worker.drain()
        heal = held(worker, valkey, monkeypatch)
        take_away(valkey)
        worker.consumer._reader.renew_claims(worker.consumer._kept)
        worker.consumer._release()
        assert pending(valkey) == 5
    heal()
    with desk(settings) as worker:
        worker.drain()
        letters = worker.store.dead_letters.find()
        assert [letter.reason for letter in letters] == ["payload_lost"] * 5
    assert pending(valkey) == 0


def test_a_settled_archive_is_looked_through_once(
    tmp_path: Path, valkey_url: str, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    with desk(settings_for(tmp_path, valkey_url)) as worker:
        worker.drain()
        for number in range(7):
            send(valkey, SIGNALS, signal(number))
        send(valkey, SIGNALS, signal(3))
        send(valkey, TRADES, b"no event")
        worker.drain()
        worker.consumer._claim_due = 0.0
        worker.drain()
        assert worker.store.marks.get("archive_settled") == 9
        assert worker.store.counts().duplicates == 1
