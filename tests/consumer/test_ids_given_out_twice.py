"""Ids that a server gives out twice, as a replica that lacked entries when it took over: other bytes, another event."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from tests.support.desk import desk, pending, send, settings_for
from tests.support.events import SIGNALS, TRADES, outcome, signal

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
