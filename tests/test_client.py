"""What the client takes as desks have it, what it refuses, and the scores that it reads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pytest
import redis

from tests.support.events import SCORES, SIGNALS, TRADES, bars
from tests.support.waiting import HANGS_AFTER_S
from worker.client import RefineryClient
from worker.errors import DecodeError, TransientError
from worker.events.decoding import SignalScored

NOW = datetime.now(UTC)
LEAST: dict[str, Any] = {"signal_id": "s-1", "symbol": "ACME", "asset_class": "equity", "signal_type": "breakout"}


@pytest.fixture
def client(valkey_url: str, valkey: redis.Redis) -> Iterator[RefineryClient]:
    with RefineryClient(valkey_url) as one:
        yield one


def last(valkey: redis.Redis, stream: str) -> dict[str, Any]:
    rows: Any = valkey.xrevrange(stream, count=1)
    event: dict[str, Any] = orjson.loads(rows[0][1][b"data"])
    return event


def test_a_frame_timestamps_decimals_and_numpy_numbers_say_what_plain_values_say(
    client: RefineryClient, valkey: redis.Redis
) -> None:
    columns = bars(30, end=NOW)
    numbers = {name: column for name, column in columns.items() if name != "timestamp"}
    times = pd.DatetimeIndex(columns["timestamp"])
    by_index = pd.DataFrame({name.capitalize(): column for name, column in numbers.items()}, index=times)
    by_column = pd.DataFrame({"timestamp": times, **numbers})
    arrays = {name: np.array(column) for name, column in numbers.items()} | {"timestamp": list(times)}
    said = []
    for frame in (columns, by_index, by_column, arrays):
        client.signal_created(
            **LEAST,
            timestamp=pd.Timestamp(NOW),
            entry_price=Decimal("128.50"),
            technical_score=np.float64(7.5),
            position_size_pct=np.int64(2),
            bars=frame,
            features=pd.Series({"edge": 0.25}),
            news=[{"published_at": pd.Timestamp(NOW), "sentiment": Decimal("0.5")}],
        )
        event = last(valkey, SIGNALS)
        event["bars"]["timestamp"] = [datetime.fromisoformat(one) for one in event["bars"]["timestamp"]]
        said.append(event)
    assert said[0]["entry_price"] == 128.5
    assert (said[0]["position_size_pct"], said[0]["features"]) == (2, {"edge": 0.25})
    assert all(event == said[0] for event in said)
    client.trade_closed(signal_id="s-1", closed_at=pd.Timestamp(NOW), r_multiple=Decimal("1.25"), revision=1)
    assert (last(valkey, TRADES)["r_multiple"], last(valkey, TRADES)["revision"]) == (1.25, 1)


def test_a_misspelt_keyword_is_refused_by_name_and_a_field_of_ones_own_is_said_to_be_one(
    client: RefineryClient, valkey: redis.Redis
) -> None:
    with pytest.raises(TypeError, match="entry_prise"):
        client.signal_created(**LEAST, timestamp=NOW, entry_prise=1.0)
    with pytest.raises(TypeError, match="r_multipel"):
        client.trade_closed(signal_id="s-1", closed_at=NOW, r_multiple=1.0, r_multipel=1.0)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"entry_price is a field of signal\.created"):
        client.signal_created(**LEAST, timestamp=NOW, extra={"entry_price": 1.0})
    assert not valkey.exists(SIGNALS)
    client.signal_created(**LEAST, timestamp=NOW, extra={"desk": "7"})
    assert last(valkey, SIGNALS)["desk"] == "7"


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("entry_price", Decimal("NaN"), "entry_price: nan is not a finite number"),
        ("entry_price", pd.NA, "entry_price: <NA> is no value"),
        ("timestamp", pd.NaT, "timestamp: NaT is no value"),
        ("technical_score", np.float32("inf"), "technical_score: inf is not a finite number"),
        ("features", {"edge": pd.NA}, "features.edge: <NA> is no value"),
        ("timestamp", pd.Timestamp("2024-01-01"), "timestamp: .*offset"),
        (
            "bars",
            pd.DataFrame(bars(3, end=NOW)).assign(open=[1.0, float("nan"), 1.0]),
            r"bars: open\[1\] is not a number",
        ),
        ("entry_price", "128", "entry_price"),
    ],
)
def test_what_json_would_lose_or_the_worker_would_refuse_is_not_sent(
    field: str, value: Any, why: str, client: RefineryClient, valkey: redis.Redis
) -> None:
    with pytest.raises(DecodeError, match=why):
        client.signal_created(**{**LEAST, "timestamp": NOW, field: value})
    assert not valkey.exists(SIGNALS)


def score(number: int) -> bytes:
    at = NOW.isoformat()
    return SignalScored(
        signal_id=f"s-{number}", status="cold_start", proven=False, feature_version="v", scored_at=at
    ).to_bytes()


def test_scores_are_read_from_now_from_an_id_or_from_the_first(client: RefineryClient, valkey: redis.Redis) -> None:
    ids: list[Any] = [valkey.xadd(SCORES, {"data": score(number)}) for number in range(500)]
    everything = list(client.scores(after="0", wait_s=0))
    assert [entry.score.signal_id for entry in everything] == [f"s-{number}" for number in range(500)]
    assert [entry.entry_id.encode() for entry in everything] == ids
    assert everything[0].score.quality_score is None
    assert [e.score.signal_id for e in client.scores(after=ids[497].decode(), wait_s=0)] == ["s-498", "s-499"]
    assert list(client.scores(wait_s=0)) == []
    from_now = client.scores(wait_s=HANGS_AFTER_S)
    valkey.xadd(SCORES, {"data": score(500)})  # between the call and the first look
    assert next(from_now).score.signal_id == "s-500"


def test_a_score_that_is_waited_for_is_had_when_it_comes(client: RefineryClient, valkey: redis.Redis) -> None:
    waiting = client.scores()
    sender = threading.Timer(0.2, lambda: valkey.xadd(SCORES, {"data": score(7)}))
    sender.start()
    assert next(waiting).score.signal_id == "s-7"
    sender.join()
    began = datetime.now(UTC)
    assert list(client.scores(wait_s=0.3)) == []
    assert datetime.now(UTC) - began >= timedelta(seconds=0.3)


def test_scores_of_a_stream_of_another_name_and_a_wrong_place_to_begin(client: RefineryClient) -> None:
    with pytest.raises(ValueError, match="after has to be 'now', '0' or an entry id"):
        client.scores(after="yesterday")
    with pytest.raises(TransientError):
        RefineryClient("redis://127.0.0.1:1/0", patience_s=0.2).scores()
