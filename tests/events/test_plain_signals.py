"""Many plain signals read at once are what each of them is alone, and whatever is odd is left to the other door."""

from __future__ import annotations

import json
import random
from typing import Any

import orjson
import pytest

from tests.events.test_laws import change_bytes, change_structure, double_a_key
from tests.support.valid_events import LIMITS, NOW, full_signal, signal, text
from worker.errors import DecodeError
from worker.events.decoding import Decoded, Limits, decode
from worker.events.plain_signals import PlainSignals, plain_signals

PLAIN = {name: value for name, value in full_signal().items() if name not in ("bars", "benchmark", "news", "features")}


def plain_mutant(seed: int) -> bytes:
    """A signal of plain fields, most of them sound, and now and then one with something odd in it."""
    rng = random.Random(seed)
    names = list(signal()) if rng.random() < 0.2 else list(PLAIN)
    event: dict[str, Any] = {name: PLAIN[name] for name in names} | {"signal_id": f"sig-{seed}"}
    event["timestamp"] = f"2024-05-31T20:00:{rng.randrange(60):02}{rng.choice(['Z', '.25Z', '+02:00', '.123456789Z'])}"
    if rng.random() < 0.1:
        event[rng.choice(["x", "y"])] = rng.choice([1, "a", None, [], {"b": "c"}, True, 'a"b'])
    if rng.random() < 0.1:
        change_structure(rng, event)
    data = json.dumps(event, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:
        data = change_bytes(rng, data)
    return double_a_key(rng, data) if rng.random() < 0.05 else data


def one_by_one(data: bytes, limits: Limits = LIMITS) -> Decoded | None:
    try:
        return decode("signal.created", data, now=NOW, limits=limits)
    except DecodeError:
        return None


def at_once(datas: list[bytes], limits: Limits = LIMITS) -> PlainSignals:
    return plain_signals(datas, now=NOW, limits=limits)


def check_both_doors(datas: list[bytes]) -> int:
    """What is read at once is what is read alone; how many were."""
    found = at_once(datas)
    alone = [one_by_one(data) for data, event in zip(datas, found.signals, strict=True) if event is not None]
    assert [one and one.event for one in alone] == [event for event in found.signals if event is not None]
    assert [repr(one and one.event) for one in alone] == [repr(e) for e in found.signals if e is not None]
    assert found.unknown_fields == sum(one.unknown_fields for one in alone if one is not None)
    return len(alone)


@pytest.mark.parametrize("block", range(4))
def test_what_is_read_at_once_is_what_is_read_alone(block: int) -> None:
    datas = [plain_mutant(seed) for seed in range(block * 1_000, (block + 1) * 1_000)]
    read = sum(check_both_doors(datas[start : start + 250]) for start in range(0, 1_000, 250))
    assert 200 < read < 900, "the mutator changes too much or too little"


def many(count: int = 40, **changes: Any) -> list[bytes]:
    return [orjson.dumps({**PLAIN, "signal_id": f"s-{at}", **changes}) for at in range(count)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bars": None, "news": None},
        {"conviction": None, "technical_score": 3},
        {"symbol": "BTC/USDT:USDT"},
        {"symbol": "Müller"},
        {"timestamp": "2024-02-29T23:59:59.000001-05:00"},
        {"timestamp": "1980-01-01T00:00:00z"},
        {"nobody_knows": "x", "nor_this": 2},
    ],
    ids=str,
)
def test_plain_signals_are_read_at_once(changes: dict[str, Any]) -> None:
    assert check_both_doors(many(**changes)) == 40


@pytest.mark.parametrize(
    "odd",
    [
        {"signal_id": "a\nb"},
        {"signal_id": ""},
        {"signal_id": "a" * 129},
        {"signal_id": None},
        {"timestamp": "2024-05-31T20:00:00"},
        {"timestamp": "2023-02-29T20:00:00Z"},
        {"timestamp": "2024-13-01T20:00:00Z"},
        {"timestamp": "2024-05-31T24:00:00Z"},
        {"timestamp": "2024-05-31 20:00:00Z"},
        {"timestamp": "2024-07-01T12:05:01Z"},
        {"timestamp": "1979-12-31T23:59:59Z"},
        {"timestamp": "2\u06624-05-31T20:00:00Z"},
        {"symbol": " AAPL"},
        {"symbol": "A\u200bPL"},
        {"symbol": ["AAPL"]},
        {"asset_class": "Equity"},
        {"signal_type": True},
        {"direction": "up"},
        {"direction": None},
        {"conviction": "highest"},
        {"technical_score": 10.1},
        {"technical_score": True},
        {"news_score": "3"},
        {"entry_price": 0},
        {"stop_price": 1e300},
        {"position_size_pct": -1},
        {"schema_version": 2},
        {"schema_version": True},
        {"schema_version": 1.0},
        {"bars": {}},
        {"news": [{"published_at": "2024-05-31T19:00:00Z", "sentiment": 0.4}]},
        {"features": {"a": 1}},
        {"nobody_knows": {"a": 1}},
    ],
    ids=str,
)
def test_an_odd_one_is_left_to_the_other_door_and_takes_few_with_it(odd: dict[str, Any]) -> None:
    datas = many()
    names = list(PLAIN)
    datas[17] = orjson.dumps({name: {**PLAIN, **odd}[name] for name in [*names, *(odd.keys() - PLAIN.keys())]})
    found = at_once(datas)
    assert found.signals[17] is None
    assert check_both_doors(datas) >= 25


def test_a_doubled_key_is_never_read_at_once() -> None:
    datas = many()
    datas[3] = datas[3].replace(b'"symbol":', b'"symbol":"EVIL","symbol":')
    assert at_once(datas).signals[3] is None
    assert check_both_doors(datas) >= 25


def test_escapes_and_what_is_not_an_object_are_left_to_the_other_door() -> None:
    datas = many()
    datas[1] = text(signal(signal_id="s-1", symbol="M\\N"))
    datas[2:5] = [b"[1]", b"{", b""]
    found = at_once(datas)
    assert found.signals[1:5] == [None] * 4
    assert check_both_doors(datas) == 36


def test_an_event_above_the_limit_of_bytes_is_left_to_the_other_door() -> None:
    size = len(many()[0])
    assert at_once(many(), Limits(max_bytes=size - 1)).signals[:10] == [None] * 10
    assert None not in at_once(many(10), Limits(max_bytes=size)).signals
