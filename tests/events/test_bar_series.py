"""Bars that events repeat are read once, and each event has the bars that it would have alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings, strategies as st

from tests.events.test_batches import check_read_together
from tests.support.valid_events import LIMITS, NOW, bars, signal, text
from trading_system.ml_refinement.bars import Bars
from worker.events.batches import decode_together

pytest.importorskip("simdjson", reason="without it events with bars are read one by one")

HISTORY = bars(100)


def window(begin: int, end: int, history: dict[str, list[Any]] = HISTORY) -> dict[str, list[Any]]:
    return {name: column[begin:end] for name, column in history.items()}


def read(*events: dict[str, Any]) -> list[Bars]:
    """The bars of these events, read together."""
    found = decode_together([text(event) for event in events], now=NOW, limits=LIMITS).signals
    every = [event.bars for event in found if event is not None and event.bars is not None]
    assert len(every) == len(events)
    return every


def shared(first: Bars, second: Bars) -> bool:
    return np.shares_memory(first.close, second.close) and np.shares_memory(first.timestamp, second.timestamp)


@pytest.mark.parametrize(("begin", "end"), [(0, 60), (0, 61), (1, 60), (1, 61), (20, 100), (59, 70)])
def test_what_an_event_repeats_is_read_once(begin: int, end: int) -> None:
    first, second = read(signal(bars=window(0, 60)), signal(bars=window(begin, end)))
    assert shared(first, second) == (end - begin > 1 and begin < 59)
    assert second.close.tolist() == HISTORY["close"][begin:end]
    assert len(second) == end - begin


def test_a_symbol_between_two_events_of_another_one_does_not_part_them() -> None:
    first, _, second = read(
        signal(bars=window(0, 60)),
        signal(symbol="MSFT", bars=bars(60, seed=9)),
        signal(bars=window(1, 61)),
    )
    assert shared(first, second)


def test_a_benchmark_is_repeated_as_bars_are() -> None:
    events = [signal(bars=bars(5, seed=n), benchmark=window(n, 60 + n)) for n in range(3)]
    found = decode_together([text(event) for event in events], now=NOW, limits=LIMITS).signals
    benchmarks = [event.benchmark for event in found if event is not None and event.benchmark is not None]
    assert shared(benchmarks[0], benchmarks[1])
    assert shared(benchmarks[1], benchmarks[2])


def test_a_bar_that_was_still_open_is_not_taken_for_the_same() -> None:
    grown = window(0, 60)
    grown["close"] = [*grown["close"][:-1], grown["close"][-1] + 0.0001]
    first, second = read(signal(bars=window(0, 60)), signal(bars=grown))
    assert not shared(first, second)
    assert second.close[-1] == grown["close"][-1] != first.close[-1]


@pytest.mark.parametrize("column", ["open", "volume"])
def test_a_longer_number_in_a_shorter_one_s_place_is_another_one(column: str) -> None:
    """`15` begins as `1` does, and ends as `5` does."""
    short, long = window(0, 5), window(0, 5)
    short[column][-1] = long[column][-1] = "HERE"
    at = f"{HISTORY[column][4]}".encode()
    datas = [text(signal(bars=value)).replace(b'"HERE"', at + more) for value, more in ((short, b""), (long, b"5"))]
    assert check_read_together(datas) == [True, True] if column == "volume" else [True, False]


#: What stands at some place of a column: a number written otherwise, or what is none.
LITERALS = ("1", "1.0", "1e2", "-0.0", "0", "100.0", "1E400", "true", "null", '"1"', "[1]", " 5", "5 ", "1,2", "", "01")


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=2, max_size=12),
    st.lists(
        st.tuples(
            st.integers(0, 11),
            st.sampled_from([*HISTORY]),
            st.sampled_from([0, 1, 6, -2, -1]),
            st.sampled_from(LITERALS),
        ),
        max_size=3,
    ),
    st.sampled_from((text, orjson.dumps)),
    st.booleans(),
)
@settings(max_examples=400, deadline=None)
def test_events_that_nearly_repeat_each_other_are_read_as_they_are_alone(
    windows: list[tuple[int, int]], changes: list[tuple[int, str, int, str]], written: Any, flat: bool
) -> None:
    """Flat: all values of a column are the same, so that only the times tell where an event goes on."""
    level = {"open": 100.0, "high": 100.5, "low": 99.5, "close": 100.0, "volume": 0}
    history = {name: [level[name]] * 100 if flat and name in level else column for name, column in HISTORY.items()}
    datas = []
    for number, (begin, size) in enumerate(windows):
        value = window(begin, begin + size, history)
        placed = []
        for event, column, row, literal in changes:
            if event == number and size and -size <= row < size:
                value[column] = [*value[column]]
                value[column][row] = f"HERE{len(placed)}"
                placed.append(literal)
        data = written(signal(signal_id=f"s-{number}", bars=value))
        for at, literal in enumerate(placed):
            data = data.replace(f'"HERE{at}"'.encode(), literal.encode())
        datas.append(data)
    check_read_together(datas)


def test_a_bad_event_costs_those_that_repeat_its_bars_nothing_but_time() -> None:
    datas = [text(signal(signal_id=f"s-{n}", bars=window(n, 60 + n))) for n in range(30)]
    broken = window(11, 71)
    broken["high"] = [*broken["high"][:-1], 1.0]
    datas[11] = text(signal(signal_id="s-11", bars=broken))
    assert check_read_together(datas) == [True] * 11 + [False] + [True] * 18


def test_more_than_waits_at_once_is_read_too() -> None:
    events = [signal(signal_id=f"s-{n}", symbol=f"S{n % 40}", bars=bars(90, seed=n % 40)) for n in range(400)]
    every = read(*events)
    assert all(shared(first, later) for first, later in zip(every[:40], every[360:], strict=True))
