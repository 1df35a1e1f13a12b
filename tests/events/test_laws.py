"""Laws of the door: it reads what is there or refuses, and the digest tells content, not spelling."""

from __future__ import annotations

import copy
import json
import random
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings, strategies as st

from tests.support.valid_events import LIMITS, NOW, bars, full_signal, outcome, read_signal, signal, text
from worker.errors import DecodeError
from worker.events.decoding import Decoded, SignalCreated, TradeClosed, decode
from worker.events.instants import BadTimestamp, instant_us
from worker.events.timestamps import column_us

KINDS = ("signal.created", "trade.closed")

# --- valid events -----------------------------------------------------------------------------------------------------

offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
instants = st.datetimes(datetime(1980, 1, 2), datetime(2024, 6, 1), timezones=offsets)  # noqa: DTZ001
labels = st.text("abcxyz019_.-", min_size=1, max_size=20).map(lambda s: "a" + s)
symbols = st.text(
    st.characters(exclude_categories=("C", "Z")) | st.sampled_from(" /:&$!.="), min_size=1, max_size=64
).filter(lambda text_: text_ == text_.strip(" "))
scores = st.none() | st.floats(0, 10) | st.integers(0, 10)
prices = st.none() | st.floats(1e-6, 1e9) | st.integers(1, 10**9)


provided = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9_]{0,63}", fullmatch=True),
    st.floats(-1e15, 1e15) | st.integers(-(10**15), 10**15),
    max_size=64,
)


@st.composite
def bar_columns(draw: st.DrawFn, last: datetime) -> dict[str, list[Any]]:
    count = draw(st.integers(0, 12))
    gaps = draw(st.lists(st.integers(1, 10**12), min_size=count, max_size=count))
    ends = last - np.cumsum([0, *gaps[1:]])[::-1].astype("timedelta64[us]").astype(object) if count else []
    rows = draw(
        st.lists(st.lists(st.floats(0.01, 1e6), min_size=4, max_size=4).map(sorted), min_size=count, max_size=count)
    )
    return {
        "timestamp": [end.isoformat() for end in ends],
        "low": [row[0] for row in rows],
        "open": [row[1] for row in rows],
        "close": [row[2] for row in rows],
        "high": [row[3] for row in rows],
        "volume": draw(st.lists(st.integers(0, 10**12) | st.floats(0, 1e12), min_size=count, max_size=count)),
    }


@st.composite
def signals(draw: st.DrawFn) -> dict[str, Any]:
    at = draw(instants)
    news = st.fixed_dictionaries(
        {"published_at": instants.map(datetime.isoformat), "sentiment": st.floats(-1, 1)},
        optional={"relevance": st.floats(0, 1), "headline": st.none() | st.text(max_size=30)},
    )
    optional = {
        "direction": st.sampled_from(["long", "short"]),
        "conviction": st.sampled_from(["HIGH", "Medium", "low", None]),
        **dict.fromkeys(("technical_score", "news_score", "combined_score"), scores),
        **dict.fromkeys(("entry_price", "target_price", "stop_price"), prices),
        "position_size_pct": st.none() | st.floats(0, 100),
        "news": st.none() | st.lists(news, max_size=3),
        "bars": st.none() | bar_columns(at),
        "benchmark": st.none() | bar_columns(at),
        "features": st.none() | provided,
        "schema_version": st.sampled_from([1, 1.0]),
        "extra": st.recursive(st.none() | st.booleans() | st.text(max_size=5), st.lists, max_leaves=4),
    }
    required = {
        "signal_id": st.text("aZ09_.:-", min_size=1, max_size=128),
        "timestamp": st.just(at.isoformat()),
        "symbol": symbols,
        "asset_class": labels,
        "signal_type": labels,
    }
    return draw(st.fixed_dictionaries(required, optional=optional))


outcomes = st.fixed_dictionaries(
    {
        "signal_id": st.text("aZ09_.:-", min_size=1, max_size=128),
        "closed_at": instants.map(datetime.isoformat),
        "r_multiple": st.floats(-1e3, 1e3) | st.integers(-100, 100),
    },
    optional={
        "return_pct": st.none() | st.floats(-1e6, 1e6),
        "exit_reason": st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=50),
        "revision": st.integers(0, 1000) | st.integers(0, 1000).map(float),
    },
)

# --- what an accepted event must agree with ---------------------------------------------------------------------------


def no_double_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len({key for key, _ in pairs}) == len(pairs), "a doubled key was let in"
    return dict(pairs)


def us(text_: str) -> int:
    return (datetime.fromisoformat(text_.upper()) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def check_number(given_: Any, got: float | None) -> None:
    assert type(given_) in (int, float, type(None))
    assert given_ == got


def check_whole(plain: dict[str, Any], name: str) -> None:
    """`1` and `1.0` are whole numbers; true and a text are none."""
    value = plain.get(name, 0)
    assert type(value) in (int, float)
    assert value == int(value)


def check_bars(given_: Any, got: Any) -> None:
    if given_ is None:
        assert got is None
        return
    assert got.timestamp.tolist() == [us(time) for time in given_["timestamp"]]
    for name in ("open", "high", "low", "close", "volume"):
        assert {type(value) for value in given_[name]} <= {int, float}
        assert getattr(got, name).tolist() == given_[name]


def check_read(kind: str, data: bytes, decoded: Decoded) -> None:
    """What came out is what a plain reader of the same bytes sees; nothing coerced, repaired or made up."""
    plain = json.loads(data, object_pairs_hook=no_double_keys)
    event = decoded.event
    assert event.signal_id == plain["signal_id"]
    check_whole(plain, "schema_version")
    if isinstance(event, TradeClosed):
        assert kind == "trade.closed"
        assert event.closed_at_us == us(plain["closed_at"])
        check_number(plain["r_multiple"], event.r_multiple)
        check_number(plain.get("return_pct"), event.return_pct)
        assert event.exit_reason == plain.get("exit_reason")
        assert event.revision == plain.get("revision", 0)
        check_whole(plain, "revision")
        assert type(event.revision) is int
        return
    assert kind == "signal.created"
    assert event.timestamp_us == us(plain["timestamp"])
    assert (event.symbol, event.asset_class) == (plain["symbol"], plain["asset_class"])
    assert event.direction == plain.get("direction", "long")
    for name in ("technical_score", "entry_price", "target_price", "stop_price", "position_size_pct", "news_score"):
        check_number(plain.get(name), getattr(event.metadata, name))
    check_bars(plain.get("bars"), event.bars)
    check_bars(plain.get("benchmark"), event.benchmark)
    told = plain.get("features") or {}
    assert {type(value) for value in told.values()} <= {int, float}
    assert event.features == told
    assert {type(value) for value in event.features.values()} <= {float}
    assert [n.sentiment for n in event.news] == [n["sentiment"] for n in plain.get("news") or ()]
    for columns in (event.bars, event.benchmark):
        assert columns is None or not len(columns) or columns.timestamp[-1] <= event.timestamp_us


def check_refused_or_read(data: bytes) -> bool:
    """Whether either door let it in."""
    return sum(let_in(kind, data) for kind in KINDS) > 0


def _check_short(refused: DecodeError) -> bool:
    assert refused.detail
    assert len(refused.faults) <= 40
    assert all(len(fault) < 300 for fault in refused.faults)
    return False


def let_in(kind: str, data: bytes) -> bool:
    try:
        decoded = decode(kind, data, now=NOW, limits=LIMITS)
    except DecodeError as refused:
        return _check_short(refused)
    check_read(kind, data, decoded)
    return True


@given(signals())
@settings(max_examples=120, deadline=None)
def test_a_valid_signal_is_read_as_it_was_written(event: dict[str, Any]) -> None:
    for data in (text(event), orjson.dumps(event), json.dumps(event, indent=1, ensure_ascii=False).encode()):
        check_read("signal.created", data, decode("signal.created", data, now=NOW, limits=LIMITS))


@given(outcomes)
@settings(max_examples=150, deadline=None)
def test_a_valid_outcome_is_read_as_it_was_written(event: dict[str, Any]) -> None:
    check_read("trade.closed", text(event), decode("trade.closed", text(event), now=NOW, limits=LIMITS))


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda s: s.encode("utf-8", "surrogatepass")))
@settings(max_examples=400, deadline=None)
def test_any_bytes_are_refused_with_a_reason(data: bytes) -> None:
    check_refused_or_read(data)


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5) | st.just("bars"), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(any_json)
@settings(max_examples=200, deadline=None)
def test_any_json_is_refused_with_a_reason(value: Any) -> None:
    assert not check_refused_or_read(json.dumps(value).encode())


# --- a mutator that knows the structure -------------------------------------------------------------------------------

ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 1.5, 10**18, 2**64, 1e308, 1e-320, -0.0, float("nan"), float("inf")),
    *("", "1.5", "true", "\x00", "\ud800", "a\n", "é", "2024-05-31T20:00:00Z", "2024-05-31T20:00:00"),
    "9999-12-31T00:00:00Z",
    *([], {}, [None], [[1.0]], {"timestamp": []}, [1.0] * 5, "x" * 5000),
)  # fmt: skip


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything in a JSON value."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in ((value, key), *places(value[key]))]


def change_structure(rng: random.Random, event: dict[str, Any]) -> None:
    container, key = rng.choice(places(event))
    match rng.randrange(5):
        case 0:
            container[key] = copy.deepcopy(rng.choice(ODD_VALUES))
        case 1:
            del container[key]
        case 2 if isinstance(container, list):
            container.insert(key, copy.deepcopy(rng.choice([container[key], rng.choice(ODD_VALUES)])))
        case 3 if isinstance(container, list):
            rng.shuffle(container)
        case _:
            other, place = rng.choice(places(event))
            container[key] = json.loads(json.dumps(other[place]))


def change_bytes(rng: random.Random, data: bytes) -> bytes:
    at, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    end = min(end, at + rng.randrange(1, 40))
    match rng.randrange(4):
        case 0:
            return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        case 1:
            return data[:at] + data[end:]
        case 2:
            return data[:end] + data[at:end] + data[end:]
        case _:
            return (
                data[:at]
                + rng.choice([b'"', b"\\", b",", b":", b"{", b"}", b"e9", b"-", b"\\u0022", b'\\"'])
                + data[at:]
            )


def double_a_key(rng: random.Random, data: bytes) -> bytes:
    key = rng.choice(
        [b'"signal_id"', b'"timestamp"', b'"open"', b'"sentiment"', b'"r_multiple"', b'"symbol"', b'"desk_edge"']
    )
    return data.replace(key, key + rng.choice([b": 1, ", b':"x", ', b" : {}, "]) + key, 1)


def mutant(seed: int) -> bytes:
    rng = random.Random(seed)
    event = rng.choice([full_signal, signal, outcome])()
    for _ in range(rng.choice([0, 0, 1, 1, 2, 3])):
        change_structure(rng, event)
    data = json.dumps(event, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    for _ in range(rng.choice([0, 0, 0, 1, 2])):
        data = change_bytes(rng, data)
    return double_a_key(rng, data) if rng.random() < 0.1 else data


@pytest.mark.parametrize("block", range(4))
def test_a_mutated_event_is_refused_or_read_as_it_is_written(block: int) -> None:
    read = sum(check_refused_or_read(mutant(seed)) for seed in range(block * 1_500, (block + 1) * 1_500))
    assert 50 < read < 1_450, "the mutator changes too much or too little"


# --- the digest -------------------------------------------------------------------------------------------------------


def shuffled(rng: random.Random, value: Any) -> Any:
    if isinstance(value, dict):
        items = list(value.items())
        rng.shuffle(items)
        return {key: shuffled(rng, inner) for key, inner in items}
    return [shuffled(rng, inner) for inner in value] if isinstance(value, list) else value


@given(signals(), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_the_digest_does_not_depend_on_how_the_event_is_written(event: dict[str, Any], rng: random.Random) -> None:
    other = {"a_field_nobody_knows": 1, **shuffled(rng, event)}
    other["timestamp"] = datetime.fromisoformat(event["timestamp"]).astimezone(timezone(timedelta(hours=3))).isoformat()
    other.setdefault("direction", "long")
    other = {name: None if value is None else value for name, value in other.items()}
    for name in ("technical_score", "entry_price"):
        if isinstance(other.get(name), int):
            other[name] = float(other[name])
    if "extra" in other:
        del other["extra"]
    assert read_signal(json.dumps(other, indent=2).encode()).digest == read_signal(orjson.dumps(event)).digest


def test_the_digest_changes_with_every_piece_of_content() -> None:
    event = full_signal()
    seen = {read_signal(event).digest}
    changes: dict[str, Any] = {
        "signal_id": "sig-2",
        "timestamp": "2024-05-31T20:00:00.000001Z",
        "symbol": "MSFT",
        "asset_class": "crypto",
        "signal_type": "momentum",
        "direction": "long",
        "conviction": "LOW",
        **dict.fromkeys(("technical_score", "news_score", "combined_score"), 5.125),
        **dict.fromkeys(("entry_price", "target_price", "stop_price", "position_size_pct"), 180.5),
        "bars": None,
        "benchmark": None,
        "news": None,
        "features": None,
    }
    assert changes.keys() == event.keys() - {"schema_version"}
    variants = [{**event, name: value} for name, value in changes.items()]
    variants += [{**event, name: None} for name in ("technical_score", "entry_price", "conviction")]
    variants += [{**event, "bars": event["benchmark"], "benchmark": event["bars"]}]
    variants += [{**event, "bars": bars(0), "benchmark": None}, {**event, "bars": None, "benchmark": bars(0)}]
    for container, key in places(full_signal()["bars"]):
        if isinstance(container, list):
            variant = full_signal()
            column = next(name for name, values in bars().items() if values == container)
            value = container[key]
            variant["bars"][column][key] = value.replace("00Z", "00.5Z") if isinstance(value, str) else value + 1e-6
            variants.append(variant | {"timestamp": "2024-05-31T20:00:01Z"})
    for name, value in (("sentiment", 0.41), ("relevance", 0.8), ("headline", "down"), ("source", "x")):
        variants.append({**event, "news": [{**event["news"][0], name: value}, event["news"][1]]})
    variants.append({**event, "news": event["news"][::-1]})
    told = event["features"]
    variants += [{**event, "features": {**told, name: value + 1e-6}} for name, value in told.items()]
    variants += [{**event, "features": {**told, "another": 0.0}}, {**event, "features": {"c2": told["c2"]}}]
    for variant in variants:
        digest = read_signal(variant).digest
        assert len(digest) == 16
        assert digest not in seen
        seen.add(digest)


# --- times ------------------------------------------------------------------------------------------------------------

fractions = st.sampled_from(["", ".5", ".000001", ".123456789", ".000"])
zones = st.sampled_from(["Z", "z", "+00:00", "-05:00", "-04:00", "+05:30", "+24:00", "", " "])
seconds = st.one_of(
    st.datetimes(datetime(1969, 12, 30), datetime(2101, 1, 3)).map(lambda t: t.strftime("%Y-%m-%dT%H:%M:%S")),  # noqa: DTZ001
    st.from_regex(r"[0-2][0-9]{3}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]", fullmatch=True),
)
written = st.tuples(seconds, fractions, zones).map("".join)
columns = st.lists(written, max_size=8) | st.tuples(st.lists(seconds, max_size=30), fractions, zones).map(
    lambda parts: [f"{second}{parts[1]}{parts[2]}" for second in parts[0]]
)


@given(columns)
@settings(max_examples=300, deadline=None)
def test_a_column_of_times_is_each_of_its_times(texts: list[str]) -> None:
    try:
        expected = [instant_us(text_) for text_ in texts]
    except BadTimestamp:
        with pytest.raises(BadTimestamp) as refused:
            column_us(texts)
        with pytest.raises(BadTimestamp):
            instant_us(texts[refused.value.row])
    else:
        assert column_us(texts).tolist() == expected


def test_every_day_of_the_calendar_is_read_right() -> None:
    days = np.arange("1970-01-01", "2101-01-01", dtype="datetime64[D]")
    texts = [f"{day}T23:59:59Z" for day in days]
    for start in range(0, len(texts), 5_000):
        expected = (days[start : start + 5_000].astype("datetime64[s]").astype(np.int64) + 86_399) * 1_000_000
        assert (column_us(texts[start : start + 5_000]) == expected).all()
    assert isinstance(read_signal(signal()), SignalCreated)
