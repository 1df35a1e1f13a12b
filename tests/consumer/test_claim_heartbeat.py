"""The heartbeat keeps the claim on a batch that takes long, and lets go of it where another may have it by now."""

from __future__ import annotations

import os
import signal as signals
import time
from typing import Any

import pytest
import redis

from tests.support.desk import send
from tests.support.events import GROUP, SCORES, SIGNALS, TRADES
from tests.support.processes import fork
from tests.support.waiting import wait_until
from worker.redis_server.connection import connect
from worker.streams.claim_heartbeat import ClaimHeartbeat
from worker.streams.entries import Entry
from worker.streams.reader import GroupReader

EVERY_S = 0.05


def reader_of(client: redis.Redis, consumer: str) -> GroupReader:
    return GroupReader(
        client,
        streams=(SIGNALS, TRADES),
        group=GROUP,
        consumer=consumer,
        batch_size=8,
        block_ms=10,
        claim_idle_ms=1000,
        max_event_bytes=1024,
        scores=SCORES,
        scores_maxlen=None,
    )


def claim(client: redis.Redis) -> tuple[str, int]:
    """Who has the one entry, and how long it was idle, in milliseconds."""
    rows: Any = client.xpending_range(SIGNALS, GROUP, "-", "+", 10)
    [row] = rows
    return row["consumer"].decode(), row["time_since_delivered"]


@pytest.fixture
def held(valkey: redis.Redis) -> list[Entry]:
    """One entry, in the hands of the consumer "first"."""
    reader = reader_of(valkey, "first")
    reader.ensure_groups()
    send(valkey, SIGNALS, b"{}")
    return reader.read_new()


def test_who_was_stopped_and_lost_its_batch_does_not_claim_it_back(
    valkey: redis.Redis, valkey_url: str, held: list[Entry]
) -> None:
    """A worker gets SIGSTOP, another takes its batch over, and the first one wakes up with the batch in hand."""

    def work() -> None:
        awake: list[int] = []
        signals.signal(signals.SIGCONT, lambda *_: awake.append(1))
        with (
            connect(valkey_url) as client,
            ClaimHeartbeat(reader_of(client, "first"), every_s=EVERY_S, at_most_s=3600) as heartbeat,
            heartbeat.held(held),
        ):
            while not awake:
                time.sleep(EVERY_S)
            time.sleep(20 * EVERY_S)  # a heartbeat that went on would have claimed it many times

    pid = fork(work)
    wait_until(lambda: _renewed(valkey))
    os.kill(pid, signals.SIGSTOP)
    os.waitpid(pid, os.WUNTRACED)
    time.sleep(20 * EVERY_S)
    valkey.xclaim(SIGNALS, GROUP, "second", 0, [held[0].entry_id])
    os.kill(pid, signals.SIGCONT)
    assert os.waitpid(pid, 0)[1] == 0
    assert claim(valkey)[0] == "second"


def _renewed(client: redis.Redis) -> bool:
    """Whether the entry's idle time fell while we looked: somebody claimed it anew."""
    before = claim(client)[1]
    time.sleep(EVERY_S / 2)
    return claim(client)[1] < before


def test_a_batch_that_hangs_is_kept_for_so_long_and_then_given_up(valkey: redis.Redis, held: list[Entry]) -> None:
    at_most_s = 6 * EVERY_S
    with (
        ClaimHeartbeat(reader_of(valkey, "first"), every_s=EVERY_S, at_most_s=at_most_s) as heartbeat,
        heartbeat.held(held),
    ):
        time.sleep(at_most_s + 20 * EVERY_S)
        assert claim(valkey)[1] >= 1000 * 15 * EVERY_S


def test_what_is_not_in_hand_is_not_claimed(valkey: redis.Redis, held: list[Entry]) -> None:
    with ClaimHeartbeat(reader_of(valkey, "first"), every_s=EVERY_S, at_most_s=3600) as heartbeat:
        with heartbeat.held(held):
            wait_until(lambda: _renewed(valkey))
        time.sleep(20 * EVERY_S)
        assert claim(valkey)[1] >= 1000 * 15 * EVERY_S
