"""What the door lets in, and what becomes of it."""

from __future__ import annotations

import re
import unicodedata
from datetime import datetime
from typing import Any

import numpy as np
import orjson
import pytest
from pydantic import TypeAdapter, ValidationError

from tests.support.valid_events import (
    AT,
    bars,
    full_signal,
    outcome,
    read,
    read_outcome,
    read_signal,
    signal,
    text,
    with_bars,
)
from trading_system.ml_refinement.bars import Bars
from worker.errors import DecodeError, Reason
from worker.events.decoding import SignalScored, json_schema
from worker.events.models import Symbol


def us(instant: str) -> int:
    return round(datetime.fromisoformat(instant).timestamp() * 1_000_000)


def test_a_small_signal_has_defaults_and_no_bars() -> None:
    event = read_signal(signal())
    assert (event.signal_id, event.symbol, event.asset_class, event.signal_type) == (
        "sig-1",
        "AAPL",
        "equity",
        "breakout",
    )
    assert event.direction == event.metadata.direction == "long"
    assert event.timestamp_us == us(AT)
    assert event.bars is None
    assert event.benchmark is None
    assert event.news == ()
    assert event.metadata.entry_price is None


def test_every_field_of_a_full_signal_arrives() -> None:
    event = read_signal(full_signal())
    assert event.metadata._asdict() == {
        "technical_score": 7.5,
        "news_score": 3.0,
        "combined_score": 6.25,
        "conviction": "HIGH",
        "entry_price": 187.25,
        "target_price": 175.0,
        "stop_price": 193.5,
        "position_size_pct": 1.5,
        "asset_class": "equity",
        "signal_type": "breakout",
        "direction": "short",
    }
    assert type(event.metadata.news_score) is float
    assert [(n.published_us, n.sentiment, n.relevance) for n in event.news] == [
        (us("2024-05-31T19:00:00Z"), 0.4, 0.9),
        (us("2024-05-30T19:00:00Z"), -1.0, 1.0),
    ]
    for given, got in ((bars(), event.bars), (bars(seed=8), event.benchmark)):
        assert got is not None
        assert got.timestamp.tolist() == [us(time) for time in given["timestamp"]]
        for name in ("open", "high", "low", "close", "volume"):
            assert getattr(got, name).tolist() == given[name]
            assert getattr(got, name).dtype == np.float64


def test_an_outcome_arrives() -> None:
    event = read_outcome(outcome(revision=3))
    assert tuple(event) == ("sig-1", us("2024-06-02T20:00:00Z"), 1.75, 3.5, "target", 3)
    least = read_outcome(outcome(return_pct=..., exit_reason=..., revision=..., r_multiple=-1))
    assert tuple(least) == ("sig-1", us("2024-06-02T20:00:00Z"), -1.0, None, None, 0)


@pytest.mark.parametrize(
    "symbol",
    [
        "BTC/USDT:USDT",
        "M&M.NS",
        "BINANCE:BTCUSDT.P",
        "ES1!",
        "BRK B",
        "$SPX",
        "7203 トヨタ",
        "a\\b",
        "é" * 64,
        "^",
        "🚀",
    ],
)
def test_a_symbol_is_as_the_vendor_writes_it(symbol: str) -> None:
    assert read_signal(signal(symbol=symbol)).symbol == symbol


def test_a_symbol_is_shown_on_a_terminal_as_it_is() -> None:
    """Of all signs of the first plane, no other one is let in that the terminal would have to write out."""
    of_symbols = TypeAdapter(Symbol)
    assigned = (chr(code) for code in range(0x10000) if unicodedata.category(chr(code)) not in ("Cn", "Cs"))
    for sign in assigned:
        try:
            of_symbols.validate_python(f"A{sign}B")
        except ValidationError:
            assert not sign.isprintable(), hex(ord(sign))
        else:
            assert sign.isprintable(), hex(ord(sign))


def test_a_refused_symbol_is_told_the_rule() -> None:
    with pytest.raises(DecodeError, match="symbol: must be 1 to 64 printable characters, no blank at either end"):
        read_signal(signal(symbol="A "))


def test_a_whole_number_may_be_written_with_a_point() -> None:
    event = read_outcome(outcome(revision=3.0, schema_version=1.0))
    assert (event.revision, type(event.revision)) == (3, int)
    assert read_signal(signal(schema_version=1.0)).digest == read_signal(signal()).digest


def test_prices_of_the_smallest_coins_and_volumes_of_the_largest_are_read() -> None:
    columns = {**bars(), **{name: [4e-16] * 5 for name in ("open", "high", "low", "close")}, "volume": [3e17] * 5}
    event = read_signal(signal(bars=columns, entry_price=4e-16))
    assert event.bars is not None
    assert (event.metadata.entry_price, event.bars.close[0], event.bars.volume[0]) == (4e-16, 4e-16, 3e17)


def test_a_number_beyond_its_bounds_is_refused_with_them() -> None:
    for event, bound in (
        (signal(entry_price=9e-19), "allowed: 1e-18 to 1e+12"),
        (signal(entry_price=2e12), "allowed: 1e-18 to 1e+12"),
        (signal(bars={**bars(), "volume": [1e21] * 5}), "allowed: 0 to 1e+20"),
        (signal(bars={**bars(), "low": [1e-19] * 5}), "allowed: 1e-18 to 1e+12"),
    ):
        with pytest.raises(DecodeError, match=re.escape(bound)) as refused:
            read_signal(event)
        assert refused.value.reason is Reason.BAD_NUMBER


def test_an_optional_field_that_is_null_is_a_field_that_is_not_there() -> None:
    optional = ["conviction", "technical_score", "news_score", "combined_score", "entry_price", "target_price"]
    optional += ["stop_price", "position_size_pct", "bars", "benchmark", "news", "features"]
    assert read_signal(signal(**dict.fromkeys(optional))).digest == read_signal(signal()).digest
    assert read_outcome(outcome(return_pct=None, exit_reason=None)).exit_reason is None


def test_what_the_desk_provides_arrives_as_numbers_by_name() -> None:
    told = read_signal(signal(features={"b": 1, "a": -2.5, "huge": 1e15, "tiny": 1e-320, "zero": -0.0})).features
    assert told == {"b": 1.0, "a": -2.5, "huge": 1e15, "tiny": 1e-320, "zero": 0.0}
    assert list(map(type, told.values())) == [float] * 5
    most = {f"f{number:063d}": number for number in range(64)}
    assert read_signal(signal(features=most)).features == most
    assert read_signal(signal()).features == {}


def test_the_digest_of_an_event_without_features_is_what_it_was_before_there_were_any() -> None:
    assert read_signal(signal()).digest.hex() == "a219f527aa8fc317fb2912f3dfc42505"
    assert read_signal(full_signal(features=...)).digest.hex() == "fb6207c4292707ef8696550e6a9653bd"
    assert read_signal(signal(features={})).digest == read_signal(signal()).digest


def test_the_digest_tells_what_was_provided_and_not_how_it_is_written() -> None:
    one = read_signal(signal(features={"a": 1, "b": -0.0})).digest
    assert read_signal(b" " + text(signal(features={"b": 0, "a": 1.0}))).digest == one
    others = ({"a": 1}, {"a": 1, "b": 1e-9}, {"a": 1, "c": 0}, {"a": 0, "b": 1})
    assert len({one, *(read_signal(signal(features=told)).digest for told in others)}) == 5


def test_fields_that_are_none_of_ours_are_passed_over_and_counted_wherever_they_are() -> None:
    event = full_signal(strategy="s", nested={"a": [{"b": "c"}, None]})
    event["bars"]["vwap"] = ["x", 1, None]
    event["benchmark"].update(a=1, b="2")
    event["news"][0]["url"] = "https://example.org"
    assert read("signal.created", event).unknown_fields == 2 + 1 + 2 + 1
    assert read("signal.created", full_signal()).unknown_fields == 0
    assert read("trade.closed", outcome(fees=1.5, venue="X")).unknown_fields == 2


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2024-05-31T20:00:00+00:00", AT),
        ("2024-05-31T20:00:00-00:00", AT),
        ("2024-05-31t20:00:00z", AT),
        ("2024-05-31T16:00:00-04:00", AT),
        ("2024-06-01T05:45:00+09:45", AT),
        ("2024-05-31T20:00:00.5Z", "2024-05-31T20:00:00.500000Z"),
        ("2024-05-31T20:00:00.123456Z", "2024-05-31T20:00:00.123456Z"),
        ("2024-05-31T20:00:00.123456789Z", "2024-05-31T20:00:00.123456Z"),
        ("2024-02-29T20:00:00Z", "2024-02-29T20:00:00Z"),
        ("1980-01-01T00:00:00Z", "1980-01-01T00:00:00Z"),
    ],
)
def test_a_time_may_be_written_in_every_way_of_rfc_3339(written: str, meant: str) -> None:
    assert read_signal(signal(timestamp=written)).timestamp_us == us(meant)
    columns = bars(1)
    columns["timestamp"] = [written]
    found = read_signal(signal(timestamp="2024-06-01T12:00:00Z", bars=columns)).bars
    assert found is not None
    assert found.timestamp.tolist() == [us(meant)]


def test_a_timestamp_may_be_five_minutes_ahead() -> None:
    assert read_signal(signal(timestamp="2024-06-03T12:05:00Z")).timestamp_us == us("2024-06-03T12:05:00Z")


def test_a_bar_may_close_with_the_signal() -> None:
    found = read_signal(with_bars()).bars
    assert found is not None
    assert found.timestamp[-1] == us(AT)


def test_news_after_the_signal_is_kept_for_the_features_to_leave_out() -> None:
    event = read_signal(signal(news=[{"published_at": "2024-06-01T00:00:00Z", "sentiment": 1}]))
    assert event.news[0].published_us > event.timestamp_us


def test_bars_may_be_none_one_or_five_thousand() -> None:
    for count in (0, 1, 5_000):
        found = read_signal(signal(bars=bars(count))).bars
        assert found is not None
        assert len(found) == count
        assert isinstance(found, Bars)


def test_bars_may_cross_a_change_of_the_clocks() -> None:
    times = ["2024-03-08T16:00:00-05:00", "2024-03-11T16:00:00-04:00", "2024-03-12T16:00:00-04:00"]
    columns = {**bars(3), "timestamp": times}
    found = read_signal(signal(bars=columns)).bars
    assert found is not None
    assert found.timestamp.tolist() == [us(time) for time in times]


def test_numbers_that_are_1_or_0_are_not_taken_for_true_or_false() -> None:
    columns = {name: [1, 1.0, 1] for name in ("open", "high", "low", "close")}
    found = read_signal(with_bars(timestamp=bars(3)["timestamp"], volume=[0, 1, 0.0], **columns)).bars
    assert found is not None
    assert found.volume.tolist() == [0.0, 1.0, 0.0]


def test_the_word_true_in_a_text_is_a_word() -> None:
    item = {"published_at": AT, "sentiment": 1, "headline": "true, not false"}
    assert len(read_signal(full_signal(news=[item])).news) == 1


def test_prices_adjusted_column_by_column_may_differ_by_their_last_bits() -> None:
    columns = bars()
    columns["high"][2] = columns["close"][2] * (1 - 1e-15)
    columns["open"][2] = columns["close"][2]
    assert read_signal(with_bars(**columns)).bars is not None


def test_the_arrays_cannot_be_written_to() -> None:
    found = read_signal(with_bars()).bars
    assert found is not None
    for name in ("timestamp", "open", "volume"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(found, name)[0] = 1


def test_text_with_escapes_and_quotes_is_no_double_key() -> None:
    for headline in ('say "up"', "back\\slash", 'both \\" of them', "né\u2028", "\u0000", '"' * 9, "\\" * 9):
        item = {"published_at": AT, "sentiment": 1, "headline": headline, 'odd "key\\': headline}
        assert read("signal.created", full_signal(news=[item], note=headline)).unknown_fields == 2


SCORED: dict[str, Any] = {
    "signal_id": "sig-1",
    "status": "scored",
    "proven": True,
    "not_proven": None,
    "model_id": "signal_quality-1",
    "quality_score": 0.61,
    "quality_band": "medium",
    "predicted_r": 0.4,
    "risk_r": -1.1,
    "regime": "trending",
    "confidence": 0.3,
    "out_of_distribution": False,
    "combined_score": 6.4,
    "feature_version": "standard-3f9a1c2b",
    "scored_at": "2024-05-31T20:00:01.000000Z",
}


def test_a_score_is_published_with_all_its_fields_in_their_order() -> None:
    assert orjson.loads(SignalScored(**SCORED).to_bytes()) == SCORED
    assert list(orjson.loads(SignalScored(**SCORED).to_bytes())) == list(SCORED)


def test_what_no_model_says_is_null() -> None:
    cold = SignalScored(signal_id="a", status="cold_start", proven=False, feature_version="v", scored_at=AT)
    assert orjson.loads(cold.to_bytes())["quality_score"] is None
    assert orjson.loads(cold.to_bytes()).keys() == SCORED.keys()


@pytest.mark.parametrize("name", ["quality_score", "predicted_r", "risk_r", "confidence", "combined_score"])
def test_a_score_that_is_not_finite_is_never_published(name: str) -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValidationError):
            SignalScored(**{**SCORED, name: value})


def test_the_schema_lists_what_the_events_have() -> None:
    assert json_schema("signal.created")["properties"].keys() == full_signal().keys()
    assert json_schema("trade.closed")["properties"].keys() == {*outcome(), "schema_version"}
    assert json_schema("signal.scored")["properties"].keys() == SCORED.keys()
    assert json_schema("signal.created")["required"] == [
        "signal_id",
        "timestamp",
        "symbol",
        "asset_class",
        "signal_type",
    ]


def test_the_schema_describes_the_bars() -> None:
    for name in ("bars", "benchmark"):
        columns, absent = json_schema("signal.created")["properties"][name]["anyOf"]
        assert absent == {"type": "null"}
        assert columns["required"] == list(bars())
        assert columns["properties"]["close"]["maxItems"] == 5_000
        assert columns["properties"]["timestamp"]["items"]["format"] == "date-time"


def test_the_bytes_of_an_event_in_the_document_are_an_event() -> None:
    assert read_signal(text(full_signal())).digest == read_signal(orjson.dumps(full_signal())).digest
