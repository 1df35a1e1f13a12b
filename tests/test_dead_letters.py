"""Dead letters: what they keep, and that work on them has one effect, whoever is killed or does it twice."""

from __future__ import annotations

import json
import signal as signals
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.desk import Desk, desk, pending, send, settings_for
from tests.support.events import SIGNALS, TRADES, outcome, signal
from tests.support.waiting import HANGS_AFTER_S, join
from trading_system.ml_refinement.storage import DeadLetterRow, Filter, StoreError
from worker.dead_letters import DeadLetters, Pace, ReplayReport, difference, fingerprint
from worker.errors import RefineryError
from worker.streams.entries import append


@pytest.fixture
def worker(tmp_path: Path, valkey_url: str) -> Iterator[Desk]:
    """A worker whose market-data directory is empty: signals without bars die as `no_market_data`."""
    (tmp_path / "bars").mkdir()
    with desk(settings_for(tmp_path / "state", valkey_url, market_data_dir=tmp_path / "bars")) as built:
        yield built


def without_bars(number: int, **changes: Any) -> dict[str, Any]:
    return {name: value for name, value in signal(number, **changes).items() if name != "bars"}


def supply_bars(worker: Desk, symbol: str = "ACME") -> None:
    from tests.support.events import START, bars

    columns = bars(end=START, seed=0)
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    assert worker.settings.market_data_dir is not None
    (worker.settings.market_data_dir / f"{symbol}.csv").write_text("\n".join(lines) + "\n")


def letters_of(worker: Desk) -> DeadLetters:
    return DeadLetters(worker.store, version="test")


def replay(worker: Desk, *ids: int, pace: Pace | None = None) -> ReplayReport:
    dead = letters_of(worker)
    return dead.replay(worker.client, dead.chosen(ids, None if ids else Filter()), actor="test", pace=pace)


def everything_received_is_settled_once(worker: Desk, client: redis.Redis) -> None:
    received = sum(int(client.xlen(stream)) for stream in (SIGNALS, TRADES))  # type: ignore[arg-type]
    counts = worker.store.counts()
    assert received == counts.signals + counts.outcomes + counts.duplicates + counts.dead_letters
    assert pending(client) == 0


def test_a_replay_that_was_sent_and_never_marked_is_marked_by_the_worker(worker: Desk, valkey: redis.Redis) -> None:
    send(valkey, SIGNALS, without_bars(1))
    worker.drain()
    supply_bars(worker)
    [letter] = worker.store.dead_letters.find(payloads=True)
    append(worker.client, letter.stream, letter.payload or b"", replay=(letter.id, 1))  # killed after this
    worker.drain()
    assert worker.store.counts().signals == 1
    row = worker.store.dead_letters.get(letter.id)
    assert row is not None
    assert (row.status, row.replays) == ("replayed", 1)
    assert [entry.action for entry in worker.store.dead_letters.audit(letter.id)] == ["replayed"]
    assert replay(worker, letter.id).skipped == [letter.id]
    everything_received_is_settled_once(worker, valkey)


def test_the_same_replay_sent_three_times_has_one_effect(worker: Desk, valkey: redis.Redis) -> None:
    send(valkey, SIGNALS, without_bars(1))
    worker.drain()
    [letter] = worker.store.dead_letters.find(payloads=True)
    for _ in range(3):
        append(worker.client, letter.stream, letter.payload or b"", replay=(letter.id, 1))
    worker.drain()
    died_again = worker.store.dead_letters.find()
    assert [row.replay_of for row in died_again] == [letter.id]  # once, though it was sent three times
    assert worker.store.counts().duplicates == 2
    everything_received_is_settled_once(worker, valkey)


def test_many_who_replay_everything_at_once_replay_each_event_once(worker: Desk, valkey: redis.Redis) -> None:
    for number in range(12):
        send(valkey, SIGNALS, without_bars(number, timestamp="2024-03-01T21:00:00Z"))
    worker.drain()
    supply_bars(worker)
    letters = list(letters_of(worker).chosen([], Filter()))
    threads = [
        threading.Thread(target=lambda: letters_of(worker).replay(worker.client, list(letters), actor="test"))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    join(*threads)
    worker.drain()
    counts = worker.store.counts()
    assert (counts.signals, counts.dead_letters_open) == (12, 0)
    assert all(row.replays == 1 for row in worker.store.dead_letters.find(Filter(status=None)))
    everything_received_is_settled_once(worker, valkey)


_REPLAY_ALL = """
import sys
from tests.faults.crash_points import Fuse
from tests.support.desk import settings_for
from trading_system.ml_refinement.storage import Filter
from worker import dead_letters
from worker.installation import open_store
from worker.redis_server.connection import connect
from worker.dead_letters import DeadLetters, Pace
Fuse(nth=7).around(dead_letters, "append")
settings = settings_for(sys.argv[1], sys.argv[2])
with open_store(settings) as store, connect(settings.redis_url) as client:
    dead = DeadLetters(store, version="test")
    dead.replay(client, dead.chosen([], Filter()), actor="test", pace=Pace(give_up_after_s=0))
"""


def test_a_replay_killed_half_way_is_finished_by_the_next_one(worker: Desk, valkey: redis.Redis) -> None:
    for number in range(30):
        send(valkey, SIGNALS, without_bars(number, timestamp="2024-03-01T21:00:00Z"))
    worker.drain()
    supply_bars(worker)
    command = [sys.executable, "-c", _REPLAY_ALL, str(worker.settings.state_dir), worker.settings.redis_url or ""]
    assert subprocess.run(command, check=False).returncode == -signals.SIGKILL
    assert valkey.xlen(SIGNALS) == 30 + 7
    replay(worker)
    worker.drain()
    counts = worker.store.counts()
    assert (counts.signals, counts.dead_letters_open) == (30, 0)
    everything_received_is_settled_once(worker, valkey)


def test_an_entry_that_only_claims_to_be_a_replay_is_an_event_like_any_other(worker: Desk, valkey: redis.Redis) -> None:
    send(valkey, SIGNALS, without_bars(1))
    worker.drain()
    [letter] = worker.store.dead_letters.find()
    for text in (
        f"{letter.id}/1",
        f"{letter.id}/9",
        "77/1",
        "1/1/1",
        "-1/1",
        "9" * 40 + "/1",
        "\ud800".encode("utf-8", "surrogatepass"),
    ):
        valkey.xadd(SIGNALS, {"data": json.dumps(signal(2)), "replay_of": text})
    worker.drain()
    row = worker.store.dead_letters.get(letter.id)
    assert row is not None
    assert row.status == "open"
    assert worker.store.counts().signals == 1
    everything_received_is_settled_once(worker, valkey)


def test_a_replay_stops_by_itself_when_more_than_half_die_again(worker: Desk, valkey: redis.Redis) -> None:
    for number in range(60):
        send(valkey, SIGNALS, without_bars(number))
    worker.drain()
    stop = threading.Event()
    running = threading.Thread(target=worker.consumer.run, args=(stop,))
    running.start()
    try:
        report = replay(worker, pace=Pace(in_flight=10, give_up_after_s=HANGS_AFTER_S))
    finally:
        stop.set()
        join(running)
    assert report.stopped is not None
    assert "died again" in report.stopped
    assert len(report.sent) < 40
    assert worker.store.dead_letters.count(Filter(status="replayed")) == len(report.sent)


def test_a_replay_without_a_worker_stops_and_says_so(worker: Desk, valkey: redis.Redis) -> None:
    for number in range(15):
        send(valkey, SIGNALS, without_bars(number))
    worker.drain()
    report = replay(worker, pace=Pace(in_flight=10, give_up_after_s=0.2))
    assert len(report.sent) == 10
    assert "is one running" in (report.stopped or "")


def test_a_rate_is_kept(worker: Desk, valkey: redis.Redis) -> None:
    for number in range(5):
        send(valkey, SIGNALS, without_bars(number))
    worker.drain()
    started = time.monotonic()
    replay(worker, pace=Pace(rate=20, give_up_after_s=0))
    assert time.monotonic() - started >= 0.2


def test_an_edit_keeps_the_original_and_the_difference_and_the_replay_sends_it(
    worker: Desk, valkey: redis.Redis
) -> None:
    bad = signal(1, technical_score=75.0)
    send(valkey, SIGNALS, bad)
    worker.drain()
    [letter] = worker.store.dead_letters.find(payloads=True)
    corrected = json.dumps(bad | {"technical_score": 7.5}).encode()
    letters_of(worker).edit(letter, corrected, actor="ops")
    edited = worker.store.dead_letters.get(letter.id)
    assert edited is not None
    assert (edited.payload, edited.edited) == (letter.payload, corrected)
    [entry] = worker.store.dead_letters.audit(letter.id)
    assert (entry.action, entry.actor) == ("edited", "ops")
    assert '-"technical_score": 75.0' in entry.detail["difference"]
    assert '+"technical_score": 7.5' in entry.detail["difference"]
    with pytest.raises(RefineryError, match="not changed"):
        letters_of(worker).edit(edited, corrected, actor="ops")
    replay(worker, letter.id)
    worker.drain()
    vector = worker.store.get_feature_vector("s-1")
    assert vector is not None
    assert vector.features["technical_score"] == 0.75
    with pytest.raises(RefineryError, match="not open"):
        letters_of(worker).edit(edited, b"{}", actor="ops")
    everything_received_is_settled_once(worker, valkey)


def test_what_is_discarded_stays_and_is_not_replayed(worker: Desk, valkey: redis.Redis) -> None:
    send(valkey, SIGNALS, without_bars(1))
    worker.drain()
    rows = worker.store.dead_letters.find()
    assert letters_of(worker).discard(rows, "a test event", actor="ops") == [rows[0].id]
    assert letters_of(worker).discard(rows, "again", actor="ops") == []
    assert replay(worker, rows[0].id).skipped == [rows[0].id]
    [entry] = worker.store.dead_letters.audit(rows[0].id)
    assert entry.detail == {"reason": "a test event"}


def test_a_copy_of_a_replay_that_took_effect_is_no_dead_letter_of_its_own(worker: Desk, valkey: redis.Redis) -> None:
    """A worker that gives up on the copy finds out in time that there is nothing to give up on."""
    send(valkey, SIGNALS, without_bars(1))
    worker.drain()
    supply_bars(worker)
    [letter] = worker.store.dead_letters.find(payloads=True)
    append(worker.client, letter.stream, letter.payload or b"", replay=(letter.id, 1))
    worker.drain()
    append(worker.client, letter.stream, letter.payload or b"", replay=(letter.id, 1))
    [copy] = worker.consumer._reader.read_new()
    worker.consumer._handler.dead_letter(copy, ValueError("given up"), 5)
    worker.consumer._reader.settle([copy], [])
    counts = worker.store.counts()
    assert (counts.signals, counts.duplicates, counts.dead_letters) == (1, 1, 1)
    everything_received_is_settled_once(worker, valkey)


def test_what_has_no_bytes_is_not_sent_again(worker: Desk, valkey: redis.Redis) -> None:
    """A replay of nothing would be one more dead letter, and its own would no longer be open."""
    valkey.xadd(SIGNALS, {"payload": b"{}"})
    worker.drain()
    [letter] = worker.store.dead_letters.find()
    assert letter.reason == "missing_data"
    length = valkey.xlen(SIGNALS)
    assert replay(worker) == ReplayReport(skipped=[letter.id])
    assert valkey.xlen(SIGNALS) == length
    assert worker.store.dead_letters.get(letter.id).status == "open"  # type: ignore[union-attr]


def test_a_dead_letter_delivered_again_stays_what_it_is(worker: Desk, valkey: redis.Redis) -> None:
    """After a failover the group starts at 0: what was dead-lettered, replayed or discarded is not decided on again."""
    for number in (1, 2):
        send(valkey, SIGNALS, without_bars(number, timestamp="2024-03-01T21:00:00Z"))
    worker.drain()
    first, second = worker.store.dead_letters.find()
    letters_of(worker).discard([second], "not wanted", actor="ops")
    supply_bars(worker)
    valkey.xgroup_destroy(SIGNALS, "ml-refinement")
    worker.drain()
    worker.drain()
    assert worker.store.counts().signals == 0
    assert [row.id for row in worker.store.dead_letters.find()] == [first.id]
    everything_received_is_settled_once(worker, valkey)


def test_an_id_that_a_server_gives_out_twice_costs_no_event(worker: Desk, valkey: redis.Redis) -> None:
    for data in (b"one", b"other", b"other"):
        valkey.delete(SIGNALS)
        valkey.xadd(SIGNALS, {"data": data}, id="5-1")
        worker.drain()
    assert [row.payload for row in worker.store.dead_letters.find(payloads=True)] == [b"one", b"other"]


def test_the_audit_cannot_be_changed(worker: Desk, valkey: redis.Redis) -> None:
    send(valkey, SIGNALS, without_bars(1))
    worker.drain()
    [letter] = worker.store.dead_letters.find()
    letters_of(worker).discard([letter], "x", actor="ops")
    for sql in ("DELETE FROM dead_letter_audit", "UPDATE dead_letter_audit SET actor = 'nobody'"):
        with pytest.raises(StoreError, match="append-only"):
            worker.store._connection.run(sql)


def test_alike_failures_have_one_fingerprint() -> None:
    one = fingerprint("schema", "technical_score: 75.0 is above 10 in 's-17'")
    assert one == fingerprint("schema", "technical_score: 81.5 is above 10 in 'other-3'")
    assert one != fingerprint("schema", "news_score: 75.0 is above 10 in 's-17'")
    assert one != fingerprint("bad_number", "technical_score: 75.0 is above 10 in 's-17'")


def test_a_difference_of_what_is_no_json_is_by_lines() -> None:
    assert difference(b"\xff{", b'{"a": 1}').splitlines()[-1] == '+"a": 1'
    assert difference(b"[1]", b"[2]").splitlines()[-2:] == ["-[1]", "+[2]"]


def test_choosing_by_ids_names_those_that_are_not_there(worker: Desk) -> None:
    with pytest.raises(RefineryError, match="7, 8"):
        list(letters_of(worker).chosen([7, 8], None))


def test_choosing_pages_through_all_of_them_and_no_further_than_the_limit(worker: Desk, valkey: redis.Redis) -> None:
    for number in range(450):
        send(valkey, TRADES, outcome(number) | {"r_multiple": "1"})
    worker.drain()
    chosen: list[DeadLetterRow] = list(letters_of(worker).chosen([], Filter(reason="schema")))
    assert len({row.id for row in chosen}) == 450
    assert len(list(letters_of(worker).chosen([], Filter(), limit=201))) == 201
