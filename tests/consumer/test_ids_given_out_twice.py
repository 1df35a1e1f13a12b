"""Ids that a server gives out twice, as a replica that lacked entries when it took over: other bytes, another event."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from tests.consumer.test_struck_off import delete_consumers, delete_the_stream
from tests.support.desk import Desk, desk, pending, scored, send, settings_for
from tests.support.events import GROUP, SIGNALS, TRADES, outcome, signal
from worker import app
from worker.consumer.batch_handler import BatchHandler
from worker.errors import TransientError
from worker.installation import open_archive
from worker.settings.schema import Settings
from worker.streams.entries import Entry

HANDLED: list[tuple[str, Any]] = [
    (SIGNALS, signal(1)),
    (TRADES, outcome(1)),
    (SIGNALS, signal(1)),
    (SIGNALS, b"no event"),
]
REFUSED = b'{"schema_version": 1, "and": "other garbage"}'


def forget_and_give_out_again(client: redis.Redis, fields: dict[bytes, bytes]) -> int:
    """Each id of both streams again, with these fields; how many."""
    given = 0
    for stream in (SIGNALS, TRADES):
        rows: Any = client.xrange(stream)
        client.delete(stream)
        for entry_id, _ in rows:
            client.xadd(stream, fields, id=entry_id)  # type: ignore[arg-type]
            given += 1
    return given


@pytest.mark.parametrize("fields", [{b"data": REFUSED}, {b"other": b"field"}])
def test_a_refused_event_whose_id_was_handled_with_other_content_gets_its_dead_letter(
    fields: dict[bytes, bytes], tmp_path: Path, valkey_url: str, valkey: redis.Redis
) -> None:
    with desk(settings_for(tmp_path, valkey_url)) as worker:
        for stream, data in HANDLED:
            send(valkey, stream, data)
        worker.drain()
        before = worker.store.counts()
        assert (before.signals, before.outcomes, before.duplicates, before.dead_letters) == (1, 1, 1, 1)
        assert forget_and_give_out_again(valkey, fields) == len(HANDLED)
        worker.drain()
        assert pending(valkey) == 0
        letters = worker.store.dead_letters.find(payloads=True)
        assert [letter.payload for letter in letters] == [b"no event", *[fields.get(b"data", b"")] * len(HANDLED)]
        # Delivered again they are known, each by its id and its content.
        forget_and_give_out_again(valkey, fields)
        worker.drain()
        assert len(worker.store.dead_letters.find()) == 1 + len(HANDLED)


def test_a_signal_with_other_content_under_the_id_of_the_stored_one_is_a_conflict(
    tmp_path: Path, valkey_url: str, valkey: redis.Redis
) -> None:
    with desk(settings_for(tmp_path, valkey_url)) as worker:
        send(valkey, SIGNALS, signal(1))
        worker.drain()
        forget_and_give_out_again(valkey, {b"data": orjson.dumps(signal(1, symbol="OTHER"))})
        worker.drain()
        assert [letter.reason for letter in worker.store.dead_letters.find()] == ["identity_conflict"]
        # The same bytes under the same id are the same event.
        forget_and_give_out_again(valkey, {b"data": orjson.dumps(signal(1))})
        worker.drain()
        assert (worker.store.counts().duplicates, len(worker.store.dead_letters.find())) == (0, 1)


def fail_over(client: redis.Redis, events: list[dict[str, Any]]) -> None:
    """The ids of the signals given out again, by a server that knows neither them nor the group."""
    rows: Any = client.xrange(SIGNALS)
    client.delete(SIGNALS)
    for (entry_id, _), event in zip(rows, events, strict=True):
        client.xadd(SIGNALS, {"data": orjson.dumps(event)}, id=entry_id)


def read(settings: Settings, monkeypatch: pytest.MonkeyPatch, *, locked: bool) -> None:
    """A worker reads what is new and archives it; what a locked store does not take stays pending."""

    def refuse(*_: object) -> None:
        raise TransientError("locked")

    with monkeypatch.context() as patched, desk(settings) as worker:
        if locked:
            patched.setattr(BatchHandler, "_apply", refuse)
        worker.consumer._own_due = worker.consumer._claim_due = 1e12
        worker.drain(rounds=3)
        assert pending(worker.client) == (5 if locked else 0)


def look_through(worker: Desk, *, times: int = 4) -> None:
    for _ in range(times):
        worker.consumer._claim_due = 0.0
        worker.drain(rounds=2)


def kept(settings: Settings, client: redis.Redis) -> list[list[str]]:
    """The signals that the archive has under each id of the stream."""
    rows: Any = client.xrange(SIGNALS)
    with closing(open_archive(settings, read_only=True)) as archive:
        found = [archive.get_all(SIGNALS, entry_id.decode()) for entry_id, _ in rows]
    return [[orjson.loads(data)["signal_id"] for data in events] for events in found]


def looked_at(worker: Desk) -> int:
    """How many rows the archive has, all of which were looked through. PostgreSQL leaves numbers out."""
    with closing(open_archive(worker.settings, read_only=True)) as archive:
        assert worker.store.marks.get("archive_settled") == archive.last_id()
        return archive.count()


def test_events_with_one_id_are_both_applied_kept_and_rebuilt(
    tmp_path: Path, valkey_url: str, valkey: redis.Redis
) -> None:
    settings = settings_for(tmp_path, valkey_url)
    with desk(settings) as worker:
        for number in range(3):
            send(valkey, SIGNALS, signal(number))
        worker.drain()
        fail_over(valkey, [signal(number) for number in (10, 11, 2)])
        worker.drain()
        assert worker.store.counts().signals == 5
        assert worker.store.counts().duplicates == 0
    assert kept(settings, valkey) == [["s-0", "s-10"], ["s-1", "s-11"], ["s-2"]]
    with app.feature_rebuild(settings) as rebuild:
        done = rebuild.run(force=True)
    assert (done.not_rebuilt, done.rebuilt + done.unchanged) == ([], 5)


@pytest.mark.parametrize("take_away", [delete_consumers, delete_the_stream])
@pytest.mark.parametrize("handled", ["the first", "the second", "neither"])
def test_of_two_events_with_one_id_the_one_that_was_read_and_not_handled_is_found(
    handled: str,
    take_away: Callable[[redis.Redis], None],
    tmp_path: Path,
    valkey_url: str,
    valkey: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = [signal(number) for number in range(5)], [signal(number) for number in range(10, 15)]
    for event in first:
        send(valkey, SIGNALS, event)
    read(settings_for(tmp_path, valkey_url), monkeypatch, locked=handled != "the first")
    fail_over(valkey, second)
    read(settings_for(tmp_path, valkey_url, consumer_slot=1), monkeypatch, locked=handled != "the second")
    take_away(valkey)
    with desk(settings_for(tmp_path, valkey_url, consumer_slot=2)) as worker:
        look_through(worker)
        counts = worker.store.counts()
        assert (counts.signals, counts.duplicates, counts.dead_letters) == (10, 0, 0)
        assert looked_at(worker) == 10
    told = sorted(score["signal_id"] for score in scored(valkey))
    assert told == sorted(event["signal_id"] for event in first + second)


def test_duplicates_of_two_signals_with_one_id_are_noted_each(
    tmp_path: Path, valkey_url: str, valkey: redis.Redis
) -> None:
    with desk(settings_for(tmp_path, valkey_url)) as worker:
        for number in (1, 2, 1):
            send(valkey, SIGNALS, signal(number))
        worker.drain()
        for _ in range(2):
            fail_over(valkey, [signal(1), signal(2), signal(2)])
            worker.drain()
            assert (worker.store.counts().signals, worker.store.counts().duplicates) == (2, 2)
        look_through(worker)
        assert worker.store.counts().duplicates == 2
        assert looked_at(worker) == 4


def test_what_was_struck_off_acknowledges_nothing_of_what_has_its_id(
    tmp_path: Path, valkey_url: str, valkey: redis.Redis
) -> None:
    with desk(settings_for(tmp_path, valkey_url)) as worker:
        worker.drain()
        entry = Entry(SIGNALS, send(valkey, SIGNALS, signal(1)), {}, struck_off=True)
        valkey.xreadgroup(GROUP, "another", {SIGNALS: ">"})
        worker.consumer._reader.renew_claims([entry])
        worker.consumer._reader.settle([entry], [])
        left: Any = valkey.xpending(SIGNALS, GROUP)
        assert [consumer["name"] for consumer in left["consumers"]] == [b"another"]
