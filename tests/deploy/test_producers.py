"""Producers: the AsyncAPI document, the client with its outbox, and the shipped examples in three languages."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import jsonschema
import numpy as np
import orjson
import pytest
import redis

from tests.support.desk import desk, settings_for
from tests.support.events import SIGNALS, STREAMS, TRADES, bars, signal
from worker.client import USUAL_STREAMS, RefineryClient
from worker.errors import DecodeError, TransientError
from worker.events.asyncapi import document
from worker.events.decoding import Limits, decode
from worker.events.models import json_schema
from worker.events.strict_json import parse_line
from worker.redis_server.embedded import EmbeddedServer
from worker.settings.schema import StreamSettings
from worker.streams.entries import SENT_AT_ONCE_BYTES
from worker.streams.jsonl import publish_lines
from worker.streams.shards import ShardStreams, Streams

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def test_the_asyncapi_document_is_made_from_the_models() -> None:
    shipped = json.loads((ROOT / "docs" / "asyncapi.json").read_text())
    assert shipped == document(StreamSettings()), "refinery asyncapi > docs/asyncapi.json"


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "$ref":
                yield item
            else:
                yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_every_reference_of_the_asyncapi_document_leads_somewhere() -> None:
    whole = document(StreamSettings())
    found = list(references(whole))
    assert len(found) >= 10
    for reference in found:
        place = whole
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]


@pytest.mark.parametrize(
    ("given", "shards", "tagged"),
    [
        ({}, 1, False),
        ({"REFINERY_SHARDS": "3", "REFINERY_STORE_URL": "postgresql://localhost/refinery"}, 3, False),
        ({"REFINERY_REDIS_URL": "rediss+cluster://one,two", "REFINERY_QUEUE_URL": "redis://localhost"}, 1, True),
    ],
)
def test_the_asyncapi_document_names_the_streams_of_every_shard(
    given: dict[str, str], shards: int, tagged: bool
) -> None:
    command = [sys.executable, "-m", "worker", "asyncapi"]
    done = subprocess.run(command, env=os.environ | given, capture_output=True, check=True)
    channels = json.loads(done.stdout)["channels"]
    streams = Streams(ShardStreams(*USUAL_STREAMS), shards, tagged=tagged)
    for name, wanted in (
        ("signalCreated", streams.created),
        ("tradeClosed", streams.closed),
        ("signalScored", streams.scored),
    ):
        address, parameters = channels[name]["address"], channels[name].get("parameters", {})
        assert set(re.findall(r"\{(\w+)\}", address)) == parameters.keys()
        values = parameters["shard"]["enum"] if parameters else [""]
        assert tuple(address.replace("{shard}", value) for value in values) == wanted


@pytest.mark.parametrize("kind", ["signal.created", "trade.closed"])
def test_a_schema_of_the_contract_is_a_json_schema(kind: str) -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema(kind))


@pytest.mark.parametrize(
    ("features", "let_in"),
    [
        (None, True),
        ({}, True),
        ({"a": 1, "b2_c": -1e15}, True),
        ({f"f{number}": number for number in range(64)}, True),
        ({f"f{number}": number for number in range(65)}, False),
        ({"a": 1.1e15}, False),
        ({"a": None}, False),
        ({"a": "1"}, False),
        ({"A": 1}, False),
        ({"a" * 65: 1}, False),
        ([1], False),
    ],
)
def test_schema_and_door_say_the_same_of_features(features: Any, let_in: bool) -> None:
    event = signal(1, features=features)
    assert jsonschema.Draft202012Validator(json_schema("signal.created")).is_valid(event) is let_in
    try:
        decode("signal.created", orjson.dumps(event), now=datetime.now(UTC), limits=Limits())
    except DecodeError:
        assert not let_in
    else:
        assert let_in


@pytest.mark.parametrize(
    ("symbol", "let_in"),
    [
        *((symbol, True) for symbol in ("BTC/USDT:USDT", "M&M.NS", "ES1!", "BRK B", "$SPX", "^", "トヨタ", "é" * 64)),
        *((symbol, False) for symbol in ("", " ", " A", "A ", "A" * 65, "A\nB", "A\x9bB", "A\xa0B", "A\xadB", 7, None)),
    ],
)
def test_schema_and_door_say_the_same_of_symbols(symbol: Any, let_in: bool) -> None:
    event = signal(1, symbol=symbol)
    assert jsonschema.Draft202012Validator(json_schema("signal.created")).is_valid(event) is let_in
    try:
        decode("signal.created", orjson.dumps(event), now=datetime.now(UTC), limits=Limits())
    except DecodeError:
        assert not let_in
    else:
        assert let_in


@pytest.mark.parametrize("value", [0, 3, 3.0, 3.5, True, "3"])
def test_schema_and_door_say_the_same_of_whole_numbers(value: Any) -> None:
    event = {"signal_id": "s", "closed_at": "2024-06-01T00:00:00Z", "r_multiple": 1, "revision": value}
    let_in = jsonschema.Draft202012Validator(json_schema("trade.closed")).is_valid(event)
    try:
        decode("trade.closed", orjson.dumps(event), now=datetime.now(UTC), limits=Limits())
    except DecodeError:
        assert not let_in
    else:
        assert let_in


def sent(client: redis.Redis, stream: str) -> list[dict[str, Any]]:
    rows: Any = client.xrange(stream)
    return [orjson.loads(fields[b"data"]) for _, fields in rows]


def test_the_client_sends_what_the_worker_takes(valkey: redis.Redis, valkey_url: str, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    with RefineryClient(valkey_url) as client:
        event = signal(1, timestamp=now, bars=bars(end=now))
        assert client.signal_created(**event)
        assert client.trade_closed(signal_id="s-1", closed_at=datetime.now(UTC), r_multiple=1.5)
    with desk(settings_for(tmp_path / "var", valkey_url)) as world:
        handled = world.drain()
    assert (handled.signals, handled.labelled, handled.dead_lettered) == (1, 1, 0)


def test_the_client_refuses_what_the_worker_would_refuse_and_sends_nothing(
    valkey: redis.Redis, valkey_url: str, tmp_path: Path
) -> None:
    with RefineryClient(valkey_url, outbox=tmp_path / "outbox.db") as client:
        with pytest.raises(DecodeError) as caught:
            client.trade_closed(signal_id="s-1", closed_at="2024-01-01T00:00:00", r_multiple=1.0)
        assert caught.value.reason == "bad_time"
        assert client.flush() == 0
    assert not valkey.exists(TRADES)


def test_the_client_takes_features_and_refuses_what_json_would_lose(
    valkey: redis.Redis, valkey_url: str, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    with RefineryClient(valkey_url) as client:
        for name, number in (("f32", np.float32("nan")), ("f64", np.float64("inf")), ("plain", float("-inf"))):
            with pytest.raises(DecodeError, match=f"features.{name}: .* is not a finite number") as caught:
                client.signal_created(**signal(1, timestamp=now, bars=None), features={"sound": 1.0, name: number})
            assert caught.value.reason == "bad_number"
        for field in ("technical_score", "entry_price", "position_size_pct"):
            with pytest.raises(DecodeError, match=f"{field}: nan is not a finite number"):
                client.signal_created(**signal(1, timestamp=now, bars=None) | {field: float("nan")})
        with pytest.raises(DecodeError, match="return_pct: inf is not a finite number"):
            client.trade_closed(signal_id="s-1", closed_at=now, r_multiple=1.0, return_pct=float("inf"))
        for wrong in ({"a": None}, {"a": "1"}, {"A": 1.0}):
            with pytest.raises(DecodeError, match=r"^schema: features"):
                client.signal_created(**signal(1, timestamp=now, bars=None), features=wrong)  # type: ignore[arg-type]
        assert not valkey.exists(SIGNALS)
        assert not valkey.exists(TRADES)
        told = {"edge": 2, "funding": np.float64(-0.5), "flow": np.float32(0.25), "rank": np.int64(7)}
        assert client.signal_created(**signal(1, timestamp=now, bars=None), features=told)
    assert sent(valkey, SIGNALS)[0]["features"] == {"edge": 2, "funding": -0.5, "flow": 0.25, "rank": 7}


def test_without_an_outbox_a_client_gives_up_in_time() -> None:
    client = RefineryClient("redis://127.0.0.1:1/0", patience_s=0.2)
    with pytest.raises(TransientError):
        client.trade_closed(signal_id="s-1", closed_at=datetime.now(UTC), r_multiple=1.0)


def test_an_outbox_keeps_events_in_order_until_the_server_is_there(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "valkey", join=False) as server:
        url = server.url
    client = RefineryClient(url, outbox=tmp_path / "outbox.db")
    for number in range(5):
        assert client.trade_closed(signal_id=f"s-{number}", closed_at=datetime.now(UTC), r_multiple=1.0) is None
    assert client.flush() == 5
    client._client.close()  # as a process ends that is killed: the outbox is not closed
    client._outbox.close()  # type: ignore[union-attr]
    with EmbeddedServer(tmp_path / "valkey", join=False), RefineryClient(url, outbox=tmp_path / "outbox.db") as again:
        assert again.flush() == 0
        events = sent(again._client, TRADES)
    assert [event["signal_id"] for event in events] == [f"s-{number}" for number in range(5)]


class Counted(redis.UnixDomainSocketConnection):
    """A connection that notes how many bytes were sent at once."""

    sent: ClassVar[list[int]] = []

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        self.sent.append(sum(map(len, command)))
        super().send_packed_command(command, check_health)


@pytest.fixture
def counting(valkey_url: str) -> redis.Redis:
    Counted.sent.clear()
    pool = redis.ConnectionPool(connection_class=Counted, path=urlsplit(valkey_url).path)
    return redis.Redis(connection_pool=pool)


def test_an_outbox_and_a_file_of_large_events_are_sent_in_parts(
    valkey: redis.Redis, counting: redis.Redis, tmp_path: Path
) -> None:
    now = datetime.now(UTC).isoformat()
    events = [
        {"signal_id": f"s-{number}", "closed_at": now, "r_multiple": 1.0, "note": "x" * size}
        for number, size in enumerate([1_000_000] * 11 + [10] * 1200)
    ]
    with RefineryClient("redis://127.0.0.1:1/0", outbox=tmp_path / "outbox.db") as client:
        for event in events[:30]:
            client._outbox.keep(TRADES, orjson.dumps(event))  # type: ignore[union-attr]
        client._client = counting
        assert client.flush() == 0
    assert [event["signal_id"] for event in sent(valkey, TRADES)] == [f"s-{number}" for number in range(30)]
    assert 3 <= sum(size > 1_000_000 for size in Counted.sent) <= 4
    valkey.delete(TRADES)
    lines = [orjson.dumps({"type": "trade.closed", **event}) + b"\n" for event in events]
    published = publish_lines(counting, lines, streams=STREAMS, parse=parse_line)
    assert (published.events, published.refused) == (len(events), ())
    assert [event["signal_id"] for event in sent(valkey, TRADES)] == [f"s-{number}" for number in range(len(events))]
    assert max(Counted.sent) < SENT_AT_ONCE_BYTES + 500 * 100, "what XADD itself says of each event comes on top"


def test_an_event_is_on_disk_before_the_call_returns(tmp_path: Path) -> None:
    """The process is killed without any farewell right after the call."""
    code = (
        "import os, sys; from datetime import datetime, UTC; from worker.client import RefineryClient\n"
        "client = RefineryClient('redis://127.0.0.1:1/0', outbox=sys.argv[1])\n"
        "client.trade_closed(signal_id='s-1', closed_at=datetime.now(UTC), r_multiple=1.0)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "outbox.db")])
    client = RefineryClient("redis://127.0.0.1:1/0", outbox=tmp_path / "outbox.db")
    assert client.flush() == 1
