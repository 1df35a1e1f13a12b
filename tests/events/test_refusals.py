"""The catalogue: what is refused at the door, and under which reason."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.support.valid_events import AT, LIMITS, bars, full_signal, outcome, read, signal, text, with_bars
from worker.errors import DecodeError, Reason
from worker.events.decoding import Limits

R = Reason
SIGNAL = text(signal())
INNER = SIGNAL[1:-1]


def news(**changes: Any) -> dict[str, Any]:
    item = {"published_at": AT, "sentiment": 0.5, **changes}
    return signal(news=[{name: value for name, value in item.items() if value is not ...}])


def changed(column: str, row: int, value: Any) -> dict[str, Any]:
    columns = bars()
    columns[column][row] = value
    return with_bars(**columns)


def raw_number(name: str, number: bytes) -> bytes:
    return b'{"%b": %b, %b}' % (name.encode(), number, INNER)


ENCODINGS = {
    "nothing at all": (b"", R.BAD_JSON),
    "blanks": (b" \n", R.BAD_JSON),
    "a NUL": (b"\x00", R.BAD_JSON),
    "a NUL at the end": (SIGNAL + b"\x00", R.BAD_JSON),
    "bytes that are no UTF-8": (SIGNAL.replace(b"AAPL", b"AA\xffL"), R.BAD_ENCODING),
    "an overlong form": (SIGNAL.replace(b"AAPL", b"AA\xc0\xafL"), R.BAD_ENCODING),
    "a surrogate in UTF-8": (SIGNAL.replace(b"AAPL", b"\xed\xa0\x80"), R.BAD_ENCODING),
    "half a surrogate pair, escaped": (SIGNAL.replace(b"AAPL", rb"\ud800"), R.BAD_ENCODING),
    "the second half of a pair, escaped": (SIGNAL.replace(b"AAPL", rb"\udc00"), R.BAD_ENCODING),
    "half a pair in a field nobody knows": (b'{"x": "\\ud800", ' + INNER + b"}", R.BAD_ENCODING),
    "a byte order mark": (b"\xef\xbb\xbf" + SIGNAL, R.BAD_ENCODING),
    "UTF-16": (SIGNAL.decode().encode("utf-16"), R.BAD_ENCODING),
    "UTF-16 without its mark": (SIGNAL.decode().encode("utf-16-le"), R.BAD_JSON),
    "a control character in a string": (SIGNAL.replace(b"AAPL", b"AA\nL"), R.BAD_JSON),
    "half an event": (SIGNAL[:-10], R.BAD_JSON),
    "something after it": (SIGNAL + b"x", R.BAD_JSON),
    "two events": (SIGNAL + b"\n" + SIGNAL, R.BAD_JSON),
    "a comma too many": (SIGNAL[:-1] + b",}", R.BAD_JSON),
    "single quotes": (SIGNAL.replace(b'"', b"'"), R.BAD_JSON),
    "a comment": (SIGNAL + b"// hi", R.BAD_JSON),
    "a list": (b"[" + SIGNAL + b"]", R.BAD_JSON),
    "null": (b"null", R.BAD_JSON),
    "a string with an event in it": (orjson.dumps(SIGNAL.decode()), R.BAD_JSON),
    "a pickle": (b"\x80\x04\x95\x0f\x00\x00\x00.", R.BAD_ENCODING),
    "lists inside lists": (b"[" * 100_000, R.BAD_JSON),
}

NESTING = {
    "deep nesting in an unknown field": (b'{"x": ' + b"[" * 200 + b"]" * 200 + b", " + INNER + b"}", R.BAD_JSON),
    "deep nesting in bars": (
        text(signal(bars=...))[:-1] + b', "bars": ' + b"[" * 3000 + b"]" * 3000 + b"}",
        R.BAD_JSON,
    ),
    "deep nesting in an unknown column": (
        text(with_bars(x=[[[[[[0]]]]]])).replace(b"[0]", b"[" * 99 + b"]" * 99),
        R.BAD_JSON,
    ),
}

DOUBLED = {
    "a field": (b'{"symbol": "MSFT", ' + INNER + b"}", R.DUPLICATE_KEY),
    "a field with the same value": (b'{"symbol": "AAPL", ' + INNER + b"}", R.DUPLICATE_KEY),
    "a number": (b'{"news_score": 1, "news_score":2, ' + INNER + b"}", R.DUPLICATE_KEY),
    "a field, once spelled with an escape": (b'{"s\\u0079mbol": "AAPL", ' + INNER + b"}", R.DUPLICATE_KEY),
    "a field beside an escaped quote": (b'{"symbol": "A", "x": "a\\"b", ' + INNER + b"}", R.DUPLICATE_KEY),
    "a field beside an escaped backslash": (b'{"symbol": "A", "x": "a\\\\", ' + INNER + b"}", R.DUPLICATE_KEY),
    "a field beside two quotes that hide it": (
        b'{"x": "\\"\\"\\"\\"", "symbol": "A", ' + INNER + b"}",
        R.DUPLICATE_KEY,
    ),
    "a field nobody knows": (b'{"x": 1, "x": 2, ' + INNER + b"}", R.DUPLICATE_KEY),
    "inside a field nobody knows": (b'{"x": [{"y": {"z": 1, "z": 2}}], ' + INNER + b"}", R.DUPLICATE_KEY),
    "the whole bars": (b'{"bars": {}, ' + text(with_bars())[1:], R.DUPLICATE_KEY),
    "a column": (text(with_bars()).replace(b'"open"', b'"close": [1], "open"'), R.DUPLICATE_KEY),
    "a column nobody knows": (text(with_bars(vwap=[1])).replace(b'"vwap"', b'"vwap": 0, "vwap"'), R.DUPLICATE_KEY),
    "a field of a news item": (text(news()).replace(b'"sentiment"', b'"sentiment": 1, "sentiment"'), R.DUPLICATE_KEY),
}

FIELDS = {
    **{
        f"no {name}": (signal(**{name: ...}), R.SCHEMA)
        for name in ("signal_id", "timestamp", "symbol", "asset_class", "signal_type")
    },
    "an empty object": (b"{}", R.SCHEMA),
    "an id that is a number": (signal(signal_id=17), R.SCHEMA),
    "an id that is null": (signal(signal_id=None), R.SCHEMA),
    "an empty id": (signal(signal_id=""), R.SCHEMA),
    "an id of 129 characters": (signal(signal_id="a" * 129), R.SCHEMA),
    "an id with a blank": (signal(signal_id="a b"), R.SCHEMA),
    "an id that ends in a newline": (signal(signal_id="a\n"), R.SCHEMA),
    "an id with a slash": (signal(signal_id="../a"), R.SCHEMA),
    "an id with a NUL": (signal(signal_id="a\x00"), R.SCHEMA),
    "an id with a letter that only looks like one": (signal(signal_id="\u0430bc"), R.SCHEMA),
    "an id with other digits": (signal(signal_id="١٢"), R.SCHEMA),
    "a symbol of 65 characters": (signal(symbol="A" * 65), R.SCHEMA),
    "an empty symbol": (signal(symbol=""), R.SCHEMA),
    "a blank for a symbol": (signal(symbol=" "), R.SCHEMA),
    "a symbol with a blank before it": (signal(symbol=" AAPL"), R.SCHEMA),
    "a symbol with a blank after it": (signal(symbol="AAPL "), R.SCHEMA),
    "a symbol with an escape sequence": (signal(symbol="A\x1b[2JB"), R.SCHEMA),
    "a symbol with a C1 control": (signal(symbol="A\x9bB"), R.SCHEMA),
    "a symbol that is turned around": (signal(symbol="A\u202eB"), R.SCHEMA),
    "a symbol with a sign of no width": (signal(symbol="A\u200bB"), R.SCHEMA),
    "a symbol with a blank that does not break": (signal(symbol="A\u00a0B"), R.SCHEMA),
    "a symbol of two lines": (signal(symbol="A\u2028B"), R.SCHEMA),
    "a symbol that is a number": (signal(symbol=700), R.SCHEMA),
    "a symbol that ends in a newline": (signal(symbol="AAPL\n"), R.SCHEMA),
    "an asset class in upper case": (signal(asset_class="Equity"), R.SCHEMA),
    "a long asset class": (signal(asset_class="e" * 33), R.SCHEMA),
    "an empty signal type": (signal(signal_type=""), R.SCHEMA),
    "another direction": (signal(direction="flat"), R.SCHEMA),
    "no direction but null": (signal(direction=None), R.SCHEMA),
    "another conviction": (signal(conviction="VERY HIGH"), R.SCHEMA),
    "a conviction with a newline": (signal(conviction="high\n"), R.SCHEMA),
    "a version that is text": (signal(schema_version="1"), R.SCHEMA),
    "a version that is true": (signal(schema_version=True), R.SCHEMA),
    "a version that is 1.5": (signal(schema_version=1.5), R.SCHEMA),
    "a version that is null": (signal(schema_version=None), R.SCHEMA),
    "version 2": (signal(schema_version=2), R.UNKNOWN_VERSION),
    "version 2.0": (signal(schema_version=2.0), R.UNKNOWN_VERSION),
    "version 0": (signal(schema_version=0), R.UNKNOWN_VERSION),
    "version 2 with another shape": (b'{"schema_version": 2, "payload": {}}', R.UNKNOWN_VERSION),
}

NUMBERS = {
    "NaN": (signal(news_score=float("nan")), R.BAD_NUMBER),
    "Infinity": (signal(entry_price=float("inf")), R.BAD_NUMBER),
    "minus Infinity in a field nobody knows": (signal(x=float("-inf")), R.BAD_NUMBER),
    "1e400": (raw_number("entry_price", b"1e400"), R.BAD_NUMBER),
    "-1e400": (raw_number("entry_price", b"-1e400"), R.BAD_NUMBER),
    "1e308": (signal(entry_price=1e308), R.BAD_NUMBER),
    "1e-320": (signal(entry_price=1e-320), R.BAD_NUMBER),
    "a price of 2^64": (signal(target_price=2**64), R.BAD_NUMBER),
    "a price of 2^53 + 1": (signal(target_price=2**53 + 1), R.BAD_NUMBER),
    "an absurd size": (signal(position_size_pct=1e12), R.BAD_NUMBER),
    "a leading zero": (raw_number("news_score", b"01"), R.BAD_JSON),
    "a leading plus": (raw_number("news_score", b"+1"), R.BAD_JSON),
    "no digit before the point": (raw_number("news_score", b".5"), R.BAD_JSON),
    "no digit after the point": (raw_number("news_score", b"5."), R.BAD_JSON),
    "a hexadecimal": (raw_number("news_score", b"0x1"), R.BAD_JSON),
    "an underscore": (raw_number("news_score", b"1_0"), R.BAD_JSON),
    "a number as text": (signal(news_score="1.5"), R.SCHEMA),
    "true for a number": (signal(news_score=True), R.SCHEMA),
    "a list for a number": (signal(news_score=[1.5]), R.SCHEMA),
    "a score above 10": (signal(technical_score=10.01), R.SCHEMA),
    "a score below 0": (signal(combined_score=-0.1), R.SCHEMA),
    "a price of 0": (signal(entry_price=0), R.SCHEMA),
    "a price below 0": (signal(stop_price=-5), R.SCHEMA),
    "a size below 0": (signal(position_size_pct=-1), R.SCHEMA),
}

TIMES = {
    time: (signal(timestamp=time), R.BAD_TIME)
    for time in (
        "",
        "yesterday",
        "2024-05-31",
        "2024-05-31T20:00:00",
        "2024-05-31 20:00:00Z",
        "2024-05-31T20:00Z",
        "2024-05-31T20:00:00Z\n",
        " 2024-05-31T20:00:00Z",
        "2024-05-31T20:00:00.Z",
        "2024-05-31T20:00:00,5Z",
        "2024-05-31T20:00:00.1234567890Z",
        "2024-05-31T20:00:00+0000",
        "2024-05-31T20:00:00+00",
        "2024-05-31T20:00:00+24:00",
        "2024-05-31T20:00:00 UTC",
        "2024-05-31T24:00:00Z",
        "2024-05-31T20:60:00Z",
        "2024-05-31T20:00:60Z",
        "2016-12-31T23:59:60Z",
        "2024-02-30T20:00:00Z",
        "2023-02-29T20:00:00Z",
        "2024-13-01T20:00:00Z",
        "2024-00-01T20:00:00Z",
        "2024-05-00T20:00:00Z",
        "20240531T200000Z",
        "2024-W22-5T20:00:00Z",
        "24-05-31T20:00:00Z",
        "٢٠٢٤-05-31T20:00:00Z",
        "1717185600",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+14:00",
        "1969-12-31T23:59:59Z",
        "1970-01-01T00:00:00+00:01",
        "2101-01-01T00:00:00Z",
        "2100-12-31T23:59:59-00:01",
        "9999-12-31T23:59:59Z",
    )
} | {
    "a number for a time": (signal(timestamp=1717185600), R.SCHEMA),
    "null for a time": (signal(timestamp=None), R.SCHEMA),
    "five minutes and a second ahead": (signal(timestamp="2024-07-01T12:05:01Z"), R.FUTURE_TIMESTAMP),
    "ahead by its offset": (signal(timestamp="2024-07-01T11:59:00-01:00"), R.FUTURE_TIMESTAMP),
    "of 1970": (signal(timestamp="1970-01-01T00:00:00Z"), R.BAD_TIME),
    "of 2099": (signal(timestamp="2099-01-01T00:00:00Z"), R.FUTURE_TIMESTAMP),
}

BARS = {
    "text": (signal(bars="none"), R.SCHEMA),
    "a list of bars": (signal(bars=[{"open": 1}]), R.SCHEMA),
    "no columns": (signal(bars={}), R.SCHEMA),
    **{f"without {name}": (with_bars(**{name: ...}), R.SCHEMA) for name in bars()},
    "a column that is null": (with_bars(close=None), R.SCHEMA),
    "a column that is a number": (with_bars(close=5), R.SCHEMA),
    "unequal lengths": (with_bars(close=[1.0]), R.BAD_BARS),
    "a price as text": (changed("open", 2, "100"), R.SCHEMA),
    "a price that is null": (changed("high", 0, None), R.SCHEMA),
    "a price that is true": (with_bars(**{name: [True] * 5 for name in ("open", "high", "low", "close")}), R.SCHEMA),
    "a volume that is true": (changed("volume", 4, True), R.SCHEMA),
    "a volume that is false": (changed("volume", 4, False), R.SCHEMA),
    "a price that is a list": (changed("low", 1, [1.0]), R.SCHEMA),
    "a price that is NaN": (changed("close", 1, float("nan")), R.BAD_NUMBER),
    "a price that is infinite": (changed("high", 1, float("inf")), R.BAD_NUMBER),
    "a price of 1e400": (text(changed("high", 1, 777.0)).replace(b"777.0", b"1e400"), R.BAD_NUMBER),
    "a price of 1e308": (changed("high", 1, 1e308), R.BAD_NUMBER),
    "a price of 1e-320": (changed("low", 1, 1e-320), R.BAD_NUMBER),
    "a volume of 1e300": (changed("volume", 1, 1e300), R.BAD_NUMBER),
    "a volume of 2^67": (changed("volume", 1, 2**67), R.BAD_NUMBER),
    "a volume of 1e21": (changed("volume", 1, 1e21), R.BAD_NUMBER),
    "a price of 0": (changed("low", 1, 0), R.BAD_BARS),
    "a price below 0": (changed("low", 1, -1.5), R.BAD_BARS),
    "a volume below 0": (changed("volume", 1, -1), R.BAD_BARS),
    "high below low": (changed("high", 1, 1.0), R.BAD_BARS),
    "close above high": (changed("close", 1, 500.0), R.BAD_BARS),
    "open below low": (changed("open", 1, 5.0), R.BAD_BARS),
    "unsorted": (with_bars(timestamp=bars()["timestamp"][::-1]), R.BAD_BARS),
    "a bar twice": (changed("timestamp", 1, bars()["timestamp"][0]), R.BAD_BARS),
    "the same instant in another offset": (changed("timestamp", 1, "2024-05-27T21:00:00+01:00"), R.BAD_BARS),
    "a bar after the signal": (changed("timestamp", 4, "2024-05-31T20:00:00.000001Z"), R.LOOKAHEAD),
    "a bar after the signal by its offset": (changed("timestamp", 4, "2024-05-31T20:00:00-00:01"), R.LOOKAHEAD),
    "a benchmark bar after the signal": (signal(benchmark=bars(last="2024-06-01T20:00:00Z")), R.LOOKAHEAD),
    "a time without offset": (changed("timestamp", 2, "2024-05-29T20:00:00"), R.BAD_TIME),
    "a time that is a number": (changed("timestamp", 2, 1717185600), R.BAD_TIME),
    "a time that is null": (changed("timestamp", 0, None), R.BAD_TIME),
    "a time that is empty": (changed("timestamp", 0, ""), R.BAD_TIME),
    "a day that is none": (changed("timestamp", 0, "2024-02-30T20:00:00Z"), R.BAD_TIME),
    "an hour that is none": (changed("timestamp", 0, "2024-02-03T24:00:00Z"), R.BAD_TIME),
    "two times run into each other": (
        with_bars(timestamp=["2024-05-27T20:00:00", "Z2024-05-28T20:00:00Z", *bars()["timestamp"][2:]]),
        R.BAD_TIME,
    ),
    "5,001 bars": (signal(bars={name: [0] * 5001 for name in bars()}), R.TOO_LARGE),
    "10,000 benchmark bars": (signal(benchmark={name: [0] * 10_000 for name in bars()}), R.TOO_LARGE),
}

NEWS = {
    "an object": (signal(news={}), R.BAD_NEWS),
    "text in it": (signal(news=["up"]), R.BAD_NEWS),
    "without a time": (news(published_at=...), R.BAD_NEWS),
    "without a sentiment": (news(sentiment=...), R.BAD_NEWS),
    "a sentiment above 1": (news(sentiment=1.5), R.BAD_NEWS),
    "a sentiment that is text": (news(sentiment="0.5"), R.BAD_NEWS),
    "a relevance below 0": (news(relevance=-0.1), R.BAD_NEWS),
    "a relevance that is null": (news(relevance=None), R.BAD_NEWS),
    "a headline that is a number": (news(headline=5), R.BAD_NEWS),
    "a time without offset": (news(published_at="2024-05-31T20:00:00"), R.BAD_TIME),
}

FEATURES = {
    "a list": (signal(features=[1.0, 2.0]), R.SCHEMA),
    "text": (signal(features="a"), R.SCHEMA),
    "a number": (signal(features=1.5), R.SCHEMA),
    "true": (signal(features=True), R.SCHEMA),
    "a value that is text": (signal(features={"a": 1, "b": "1.5"}), R.SCHEMA),
    "a value that is true": (signal(features={"a": 1, "b": True}), R.SCHEMA),
    "a value that is null": (signal(features={"a": 1, "b": None}), R.SCHEMA),
    "a value that is a list": (signal(features={"a": [1]}), R.SCHEMA),
    "a value that is an object": (signal(features={"a": {"b": 1}}), R.SCHEMA),
    "a value that is nested deeply": (
        text(signal(features={"a": [0]})).replace(b"[0]", b"[" * 300 + b"]" * 300),
        R.SCHEMA,
    ),
    "NaN": (signal(features={"a": float("nan")}), R.BAD_NUMBER),
    "Infinity": (signal(features={"a": float("inf")}), R.BAD_NUMBER),
    "1e400": (text(signal(features={"a": 777.0})).replace(b"777.0", b"-1e400"), R.BAD_NUMBER),
    "1e308": (signal(features={"a": 0, "b": -1e308}), R.BAD_NUMBER),
    "2^64": (signal(features={"a": 2**64}), R.BAD_NUMBER),
    "a little too much": (signal(features={"a": 1.0000001e15}), R.BAD_NUMBER),
    "65 values": (signal(features={f"f{n}": n for n in range(65)}), R.TOO_LARGE),
    "a name twice": (text(signal(features={"abc": 1})).replace(b'"abc"', b'"abc": 1, "abc"'), R.DUPLICATE_KEY),
    "a name twice, once escaped": (
        text(signal(features={"abc": 1})).replace(b'"abc"', b'"\\u0061bc": 2, "abc"'),
        R.DUPLICATE_KEY,
    ),
    "the whole object twice": (b'{"features": {"a": 1}, ' + text(signal(features={"a": 1}))[1:], R.DUPLICATE_KEY),
    **{
        f"the name {name[:70]!r}": (signal(features={"a": 1, name: 1.0}), R.SCHEMA)
        for name in (
            "",
            "A",
            "aB",
            "1a",
            "_a",
            "a b",
            "a-b",
            "a.b",
            "a\n",
            "a\x00",
            "é",
            "\u0430",
            "a" * 65,
            "a" * 9_000,
        )
    },
}

OUTCOMES = {
    **{f"no {name}": (outcome(**{name: ...}), R.SCHEMA) for name in ("signal_id", "closed_at", "r_multiple")},
    "a closing time without offset": (outcome(closed_at="2024-06-02T20:00:00"), R.BAD_TIME),
    "an R that is null": (outcome(r_multiple=None), R.SCHEMA),
    "an R that is text": (outcome(r_multiple="1.5"), R.SCHEMA),
    "an R that is true": (outcome(r_multiple=True), R.SCHEMA),
    "an R that is NaN": (outcome(r_multiple=float("nan")), R.BAD_NUMBER),
    "an R that is infinite": (outcome(r_multiple=float("-inf")), R.BAD_NUMBER),
    "an R of 1e308": (outcome(r_multiple=1e308), R.BAD_NUMBER),
    "an R that cannot be meant": (outcome(r_multiple=-1000.5), R.BAD_NUMBER),
    "closed in 2099": (outcome(closed_at="2099-01-01T00:00:00Z"), R.FUTURE_TIMESTAMP),
    "closed by a clock that was never set": (outcome(closed_at="1970-01-01T00:00:03Z"), R.BAD_TIME),
    "a return of -1e308": (outcome(return_pct=-1e308), R.BAD_NUMBER),
    "a revision below 0": (outcome(revision=-1), R.SCHEMA),
    "a revision of 1.5": (outcome(revision=1.5), R.SCHEMA),
    "a revision of -1.0": (outcome(revision=-1.0), R.SCHEMA),
    "a revision of 1e300": (outcome(revision=1e300), R.BAD_NUMBER),
    "a revision that is true": (outcome(revision=True), R.SCHEMA),
    "a revision that is null": (outcome(revision=None), R.SCHEMA),
    "a revision of 2^31": (outcome(revision=2**31), R.BAD_NUMBER),
    "a revision of 2^64": (outcome(revision=2**64), R.BAD_NUMBER),
    "an exit reason with a NUL": (outcome(exit_reason="target\x00"), R.SCHEMA),
    "an exit reason of 1,001 characters": (outcome(exit_reason="x" * 1_001), R.SCHEMA),
    "version 7": (outcome(schema_version=7), R.UNKNOWN_VERSION),
    "a field twice": (b'{"r_multiple": -1, ' + text(outcome())[1:], R.DUPLICATE_KEY),
}


def cases(**groups: dict[str, tuple[Any, Reason]]) -> list[Any]:
    return [
        pytest.param(data if isinstance(data, bytes) else text(data), reason, id=f"{group}: {name!r}")
        for group, table in groups.items()
        for name, (data, reason) in table.items()
    ]


def refusal(kind: str, data: bytes, limits: Limits = LIMITS) -> DecodeError:
    with pytest.raises(DecodeError) as refused:
        read(kind, data, limits)
    assert all(len(fault) < 300 for fault in refused.value.faults)
    assert len(refused.value.faults) < 20
    return refused.value


@pytest.mark.parametrize(
    ("data", "reason"),
    cases(
        encodings=ENCODINGS,
        nesting=NESTING,
        doubled=DOUBLED,
        fields=FIELDS,
        numbers=NUMBERS,
        times=TIMES,
        bars=BARS,
        news=NEWS,
        features=FEATURES,
    ),
)
def test_a_signal_that_breaks_a_rule_is_refused_under_its_reason(data: bytes, reason: Reason) -> None:
    assert refusal("signal.created", data).reason is reason


@pytest.mark.parametrize(("data", "reason"), cases(encodings=ENCODINGS, outcomes=OUTCOMES))
def test_an_outcome_that_breaks_a_rule_is_refused_under_its_reason(data: bytes, reason: Reason) -> None:
    assert refusal("trade.closed", data).reason is reason


def test_size_is_looked_at_before_anything_is_parsed() -> None:
    just = SIGNAL + b" " * (1024 - len(SIGNAL))
    assert read("signal.created", just, Limits(max_bytes=1024)).event.signal_id == "sig-1"
    assert refusal("signal.created", b"\xff" * 1025, Limits(max_bytes=1024)).reason is R.TOO_LARGE


def test_the_error_names_the_field_and_does_not_repeat_the_input() -> None:
    error = refusal("signal.created", text(signal(symbol="S" * 500_000)))
    assert error.detail.startswith("symbol: ")
    assert len(error.detail) < 200


def test_the_error_names_column_and_row() -> None:
    assert "bars.timestamp[2]" in refusal("signal.created", text(changed("timestamp", 2, "soon"))).detail
    assert "open[3]" in refusal("signal.created", text(changed("open", 3, "x"))).detail
    assert "features.b" in refusal("signal.created", text(signal(features={"a": 1, "b": "x"}))).detail
    assert "features.c" in refusal("signal.created", text(signal(features={"a": 1, "c": 1e300}))).detail
    assert "news.0.sentiment" in refusal("signal.created", text(news(sentiment=7))).detail


def test_a_hundred_thousand_faults_make_one_short_error() -> None:
    many = b'{"news": [' + b",".join([b"{}"] * 100_000) + b"], " + INNER + b"}"
    assert refusal("signal.created", many).reason is R.BAD_NEWS
    unknown = b"{" + b",".join(b'"k%d": 1' % i for i in range(80_000)) + b"}"
    assert refusal("signal.created", unknown).reason is R.SCHEMA


def test_every_fault_of_bars_is_a_fault_of_the_benchmark_too() -> None:
    for name, (data, reason) in BARS.items():
        if isinstance(data, dict) and "bars" in data:
            data = {**data, "benchmark": data["bars"]}
            del data["bars"]
            assert refusal("signal.created", text(data)).reason is reason, name


def test_another_kind_is_a_fault_of_the_caller() -> None:
    with pytest.raises(ValueError, match="no event that is read here"):
        read("signal.scored", full_signal())
