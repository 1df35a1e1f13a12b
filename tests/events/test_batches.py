"""What is read together with others is read as it is alone: the same event to the byte, or left to the door of one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given, settings, strategies as st

from tests.events.test_laws import mutant, signals
from tests.support.valid_events import AT, LIMITS, NOW, bars, full_signal, signal, text
from worker.errors import DecodeError
from worker.events import batches
from worker.events.batches import decode_together
from worker.events.decoding import Limits, SignalCreated, decode

pytest.importorskip("simdjson", reason="without it events with bars are read one by one")

PLAIN: Sequence[Callable[[Any], bytes]] = (text, orjson.dumps)


def content(event: SignalCreated) -> list[object]:
    """All that an event says, arrays as their bytes."""
    said: list[object] = [*event[:7], *event[9:]]
    for columns in (event.bars, event.benchmark):
        arrays = [] if columns is None else [getattr(columns, name) for name in columns.__slots__]
        said.append([(array.dtype, array.tobytes()) for array in arrays])
        assert all(array.flags.c_contiguous for array in arrays)
    return said


def check_read_together(datas: Sequence[bytes], limits: Limits = LIMITS) -> list[bool]:
    """Which were read together, each as it is read alone."""
    together = decode_together(datas, now=NOW, limits=limits)
    unknown_fields = 0
    for data, found in zip(datas, together.signals, strict=True):
        if found is not None:
            try:
                alone = decode("signal.created", data, now=NOW, limits=limits)
            except DecodeError as refused:
                raise AssertionError(f"{refused} is let in with others: {data!r}") from refused
            assert isinstance(alone.event, SignalCreated)
            assert content(found) == content(alone.event), data
            unknown_fields += alone.unknown_fields
    assert together.unknown_fields == unknown_fields
    return [found is not None for found in together.signals]


def is_quick(data: bytes, limits: Limits = LIMITS) -> bool:
    """Whether the event is read together with others, sound ones on both sides of it."""
    before, found, after = check_read_together([text(full_signal()), data, orjson.dumps(full_signal())], limits)
    assert (before, after) == (True, True)
    return found


def with_number(literal: str, column: str = "volume", row: int = 2) -> bytes:
    """A signal whose bars have a number written like that."""
    value = bars()
    value[column][row] = "HERE"
    return text(signal(bars=value)).replace(b'"HERE"', literal.encode())


def with_time(written: str, row: int = 2) -> bytes:
    value = bars()
    value["timestamp"][row] = "HERE"
    return text(signal(bars=value)).replace(b'"HERE"', written.encode())


def of_times(change: Callable[[str], str], **more: Any) -> dict[str, Any]:
    """A full signal whose bars have their times written otherwise."""
    event = full_signal(**more)
    event["bars"]["timestamp"] = [change(time) for time in event["bars"]["timestamp"]]
    return event


NEWS = [{"published_at": AT, "sentiment": 0.5, "headline": 'a } in a [text] {"bars":{'}]
USUAL: dict[str, dict[str, Any]] = {
    "bars and benchmark": full_signal(),
    "bars alone": signal(bars=bars()),
    "the benchmark first": {"benchmark": bars(seed=3), **signal(bars=bars())},
    "bars first": {"bars": bars(), **signal()},
    "an object before the bars": signal(features={"edge": 1.5}, bars=bars()),
    "texts with brackets and escapes behind them": signal(bars=bars(), news=NEWS),
    "no benchmark": signal(bars=bars(), benchmark=None),
    "unknown fields": signal(bars=bars(), extra={"a": ["b", {"c": None}]}, note='a "quoted" word'),
    "one bar": signal(bars=bars(1)),
    "fractions": of_times(lambda time: time.replace("Z", ".000Z")),
    "an offset": of_times(lambda time: time.replace("20:00:00Z", "15:00:00-05:00")),
    "digits behind the microsecond": of_times(lambda time: time.replace("20:00:00Z", "19:59:59.123456789Z")),
    "different lengths": signal(bars=bars(7), benchmark=bars(3)),
    "the columns in another order": signal(bars=dict(reversed(bars().items()))),
    "a volume of 0": signal(bars={**bars(), "volume": [0, 0.0, 0, 1e20, 1]}),
    "a rounding outside": signal(
        bars={**bars(1), "open": [100.0 * (1 + 1e-10)], "close": [99.0], "high": [100.0], "low": [98.0]}
    ),
}


@pytest.mark.parametrize("written", PLAIN)
@pytest.mark.parametrize("name", USUAL)
def test_usual_events_are_read_together_and_as_they_are_alone(name: str, written: Callable[[Any], bytes]) -> None:
    assert is_quick(written(USUAL[name]))


@pytest.mark.parametrize(
    "literal",
    [
        *("0", "-0", "-0.0", "1e5", "1E+5", "0.1e-3", "9007199254740993", "9223372036854775807", "9223372036854775808"),
        *(
            "18446744073709551615",
            "1e-400",
            "2.2250738585072014e-308",
            "0.1000000000000000055511151231257827",
            "1.0e20",
        ),
    ],
)
def test_a_volume_is_the_same_number_in_both(literal: str) -> None:
    assert is_quick(with_number(literal))


@pytest.mark.parametrize(
    "literal",
    [
        *("18446744073709551616", "1e400", "-1", "1e21", "NaN", "Infinity", "-Infinity", "nan", "01", "1.", ".5", "+1"),
        *("0x1", "1_0", "1.5e", "1e5e5", "--1", "-", "true", "false", "null", '"1.5"', "[1]", "[]", "{}", "1,", ",1"),
        *("1 1", "", "1/**/", "1\\u0030", "é", "1]", "[1", "1], [1", "\x00"),
    ],
)
@pytest.mark.parametrize("column", ["open", "volume"])
def test_what_is_no_volume_and_no_price_is_left_to_the_door_of_one(literal: str, column: str) -> None:
    for row in (0, 2, 4):
        assert not is_quick(with_number(literal, column, row))


#: Sound times, and in which row of the column they stand in order.
IN_ORDER = {'"2024-05-01T20:00:00Z"': 0, '"2024-05-29T20:00:00Z" ': 2}


@pytest.mark.parametrize(
    "written",
    [
        *('""', "7", "20", "null", "[]", '"2024-05-29"', '"2024-05-29T20:00:00"', '"2024-05-29 20:00:00Z"'),
        *('"2024-02-30T20:00:00Z"', '"2024-05-29T24:00:00Z"', '"2024-05-29T20:00:60Z"', '"2024-05-29t20:00:00Z"'),
        *('"2024-05-29T20:00:00z"', '"2024-05-29T20:00:00Z "', '"2024-05-29T20:00:00é"', '"2024-05-29T20:00:00.5Z"'),
        *(
            '"2024-05-29T20:00:00\\u005a"',
            '"2024-05-29T20:00:00\\"',
            '"2024-05-29T20:00:00Z",',
            "'2024-05-29T20:00:00Z'",
        ),
        *('"2024-05-29T20:00:00+24:00"', '"1969-12-31T23:59:59Z"', '"2101-01-01T00:00:00Z"', '"2024-05-29T20:00:00Z"]'),
        *('"2024-05-01T20:00:00Z"', '"2024-05-28T20:00:00Z"', '"2024-05-29T20:00:00Z" '),
        '"2024-05-29T20:00:00Z" ,"2024-05-29T20:00:01Z"',
    ],
)
def test_what_is_no_time_of_the_column_s_form_is_left_to_the_door_of_one(written: str) -> None:
    for row in (0, 2, 4):
        assert not is_quick(with_time(written, row)) or (written in IN_ORDER and row == IN_ORDER[written])


SHORT = {**bars(), "open": bars(4)["open"]}
B = orjson.dumps(bars())
UNUSUAL: dict[str, bytes] = {
    "no bars": text(signal()),
    "null": text(signal(bars=None)),
    "zero bars": text(signal(bars=bars(0))),
    "a list": text(signal(bars=[bars()])),
    "a column more": text(signal(bars={**bars(), "vwap": [1.0] * 5})),
    "a column less": text(signal(bars={name: column for name, column in bars().items() if name != "open"})),
    "a column that is a number": text(signal(bars={**bars(), "open": 1.0})),
    "a column that is shorter": text(signal(bars=SHORT)),
    "columns of which one has what another lacks": text(signal(bars={**SHORT, "close": bars(6)["close"]})),
    "no equal bars": text(signal(bars={**bars(), "high": bars()["low"]})),
    "times turned round": text(signal(bars={**bars(), "timestamp": bars()["timestamp"][::-1]})),
    "a bar after the signal": text(signal(bars=bars(last="2024-05-31T20:00:01Z"))),
    "bars in an unknown object": text(signal(extra={"bars": bars()})),
    "bars in an unknown object and null above": text(signal(bars=None, extra={"bars": bars()})),
    "bars in an unknown object and null below": text({"extra": {"bars": bars()}, **signal(bars=None)}),
    "bars in an object with a brace in a text": text({"extra": {"s": "}", "bars": bars()}, **signal(bars=None)}),
    "bars in a list": text({"extra": [{"bars": bars()}], **signal()}),
    "bars twice": orjson.dumps(signal(bars=bars()))[:-1] + b',"bars":' + B + b"}",
    "bars, then null": orjson.dumps(signal(bars=bars()))[:-1] + b',"bars":null}',
    "bars, then null under another spelling": orjson.dumps(signal(bars=bars()))[:-1] + b',"b\\u0061rs":null}',
    "null, then bars": b'{"bars":null,' + orjson.dumps(signal(bars=bars()))[1:],
    "a key twice": b'{"symbol":"A",' + orjson.dumps(signal(bars=bars()))[1:],
    "a key twice in an unknown object": orjson.dumps(signal(bars=bars()))[:-1] + b',"x":{"a":1,"a":2}}',
    "a column twice": orjson.dumps(signal(bars=bars())).replace(b'"close"', b'"open"'),
    "a column twice and all six": orjson.dumps(signal(bars=bars())).replace(b'"close":', b'"open":[1.0],"close":'),
    "a key with an escape": orjson.dumps(signal(bars=bars())).replace(b'"open"', b'"op\\u0065n"'),
    "an escape before the bars": orjson.dumps({"note": 'a "word"', **signal(bars=bars())}),
    "bars in a text": orjson.dumps(signal(headline='"bars":{' + B.decode()[1:], bars=None)),
    "a comma first": orjson.dumps(signal(bars=bars())).replace(b'"bars":{', b'"bars":{,'),
    "a comma last": orjson.dumps(signal(bars=bars())).replace(b"]}", b"],}"),
    "no comma": orjson.dumps(signal(bars=bars())).replace(b'],"open"', b']"open"'),
    "no colon": orjson.dumps(signal(bars=bars())).replace(b'"open":', b'"open"'),
    "two colons": orjson.dumps(signal(bars=bars())).replace(b'"open":', b'"open"::'),
    "an upper-case key": orjson.dumps(signal(bars=bars())).replace(b'"open"', b'"Open"'),
    "indents": json.dumps(signal(bars=bars()), indent=1).encode(),
    "rubbish behind": orjson.dumps(signal(bars=bars())) + b"x",
    "two documents": orjson.dumps(signal(bars=bars())) * 2,
    "a brace less": orjson.dumps(signal(bars=bars()))[:-1],
    "cut in the bars": orjson.dumps(signal(bars=bars()))[:400],
    "a byte order mark": b"\xef\xbb\xbf" + orjson.dumps(signal(bars=bars())),
    "a list of one": b"[" + orjson.dumps(signal(bars=bars())) + b"]",
    "not UTF-8 in a column": orjson.dumps(signal(bars=bars())).replace(b'"open":[', b'"open":[\xff'),
    "not UTF-8 elsewhere": orjson.dumps(signal(bars=bars(), note="here")).replace(b"here", b"\xff"),
    "half a pair": orjson.dumps(signal(bars=bars(), note="here")).replace(b"here", b"\\ud800"),
    "a NUL": orjson.dumps(signal(bars=bars())).replace(b'"open":[', b'"open":[\x00'),
    "NaN elsewhere": text(signal(bars=bars(), technical_score=float("nan"))),
    "a bad score": text(signal(bars=bars(), technical_score=11)),
    "another version": text(signal(bars=bars(), schema_version=2)),
    "a time that has no offset": text(signal(bars=bars(), timestamp="2024-05-31T20:00:00")),
    "deep": orjson.dumps(signal(bars=bars(), x="here")).replace(b'"here"', b"[" * 70 + b"]" * 70),
    "a bad benchmark": text(signal(bars=bars(), benchmark={**bars(), "open": [1.0] * 5})),
    "a benchmark that is none": text(signal(bars=bars(), benchmark=7)),
}  # fmt: skip


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_is_unusual_is_left_to_the_door_of_one(name: str) -> None:
    assert not is_quick(UNUSUAL[name])


@pytest.mark.parametrize("limits", [Limits(max_bytes=700), Limits(max_bars=4), Limits(earliest_us=10**16)])
def test_limits_hold_for_events_that_are_read_together(limits: Limits) -> None:
    small = orjson.dumps(signal(bars=bars(3)))
    refused = orjson.dumps(signal(bars=bars(12 if limits.max_bytes < 1000 else 5)))
    assert check_read_together([small, refused, small], limits) == [
        limits.earliest_us < 10**16,
        False,
        limits.earliest_us < 10**16,
    ]


SWAPPED = b'"\\,:{}[]0 -.eTZ\n\x00\x80a'


@pytest.mark.parametrize("written", PLAIN)
def test_an_event_with_any_one_byte_changed_dropped_or_added_is_read_as_it_is_alone(
    written: Callable[[Any], bytes],
) -> None:
    data = written(signal(bars=bars(2), extra={"bars": 1}))
    changed = [data]
    for at in range(len(data)):
        changed.append(data[:at] + data[at + 1 :])
        changed += [data[:at] + bytes([byte]) + data[at + 1 :] for byte in SWAPPED]
        changed += [data[:at] + bytes([byte]) + data[at:] for byte in SWAPPED[:8]]
    quick = check_read_together(changed)
    assert len(quick) / 20 < sum(quick) < len(quick) / 2


@given(st.lists(signals(), min_size=1, max_size=20), st.sampled_from(PLAIN))
@settings(max_examples=60, deadline=None)
def test_any_valid_events_are_read_as_they_are_alone(
    events: list[dict[str, Any]], written: Callable[[Any], bytes]
) -> None:
    check_read_together([written(event) for event in events])


@pytest.mark.parametrize("block", range(3))
def test_mutated_events_are_read_as_they_are_alone(block: int) -> None:
    quick = check_read_together([mutant(seed) for seed in range(block * 1_000, (block + 1) * 1_000)])
    assert sum(quick) > 50


def test_one_bad_event_costs_its_neighbours_nothing_but_time() -> None:
    sound = [orjson.dumps(full_signal(signal_id=f"s-{number}")) for number in range(40)]
    for bad in (with_number("true"), with_number("-1"), with_time('"x"'), UNUSUAL["a bad benchmark"]):
        mixed = [*sound[:17], bad, *sound[17:]]
        assert check_read_together(mixed) == [True] * 17 + [False] + [True] * 23


def test_without_the_parser_of_columns_events_with_bars_are_left_to_the_door_of_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batches, "simdjson", None)
    plain = [orjson.dumps(signal(signal_id=f"s-{number}")) for number in range(10)]
    assert check_read_together([*plain, text(full_signal())]) == [True] * 10 + [False]


def test_a_bar_after_its_signal_is_refused_in_a_batch_too() -> None:
    sound = [orjson.dumps(signal(signal_id=f"s-{number}", bars=bars())) for number in range(40)]
    ahead = orjson.dumps(signal(bars=bars(last="2024-05-31T20:00:01Z")))
    assert check_read_together([*sound[:20], ahead, *sound[20:]]) == [True] * 20 + [False] + [True] * 20
