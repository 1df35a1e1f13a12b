"""The rules of bars without arrays are those with arrays: the same reason, or none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, strategies as st

from tests.support.valid_events import AT, bars
from worker.errors import DecodeError
from worker.events.bar_columns import bars_from_json
from worker.events.instants import instant_us
from worker.events.plain_bars import refuse_bad_bars

NOT_AFTER_US = instant_us(AT)
ODD = [None, True, "1.5", 0, -1, -0.0, 1e-20, 1e13, 1e21, 1, 100.0, 1e308, [], {}]
ODD_TIMES = [None, 7, "", "2024-05-31", "2024-05-31T20:00:00", "2024-06-30T00:00:00Z", AT, "1969-01-01T00:00:00Z"]
COLUMNS = ("open", "high", "low", "close", "volume")


def reason_of(check: Callable[..., object], value: Any) -> str | None:
    try:
        check(value, field="bars", not_after_us=NOT_AFTER_US, max_bars=6)
    except DecodeError as error:
        return error.reason.value
    return None


def agree(value: Any) -> str | None:
    expected = reason_of(bars_from_json, value)
    assert reason_of(refuse_bad_bars, value) == expected
    return expected


@pytest.mark.parametrize("row", [0, 2, 4])
@pytest.mark.parametrize(
    ("name", "odd"), [*((name, odd) for name in COLUMNS for odd in ODD), *(("timestamp", odd) for odd in ODD_TIMES)]
)
def test_one_odd_value_has_the_same_reason(name: str, odd: Any, row: int) -> None:
    value = bars()
    value[name][row] = odd
    agree(value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (bars(), None),
        (bars(0), None),
        (bars(7), "too_large"),
        ({**bars(), "vwap": ["x"]}, None),
        ({**bars(), "open": [1.0]}, "bad_bars"),
        ({**bars(), "open": 1.0}, "schema"),
        ({name: column for name, column in bars().items() if name != "volume"}, "schema"),
        ([], "schema"),
        ({**bars(), "timestamp": bars()["timestamp"][::-1]}, "bad_bars"),
        ({**bars(), "timestamp": [AT] * 5}, "bad_bars"),
        (bars(last="2024-06-01T20:00:00Z"), "lookahead"),
    ],
)
def test_a_whole_that_is_wrong_has_the_same_reason(value: Any, reason: str | None) -> None:
    assert agree(value) == reason


@given(st.lists(st.floats(0.5, 2.0), min_size=4, max_size=4), st.floats(-2e-9, 2e-9))
def test_prices_at_the_edge_of_a_rounding_are_taken_or_refused_alike(prices: list[float], shift: float) -> None:
    low, *inside, high = sorted(prices)
    value = {"timestamp": [AT], "open": [high * (1 + shift)], "high": [high], "low": [low], "close": [inside[0]]}
    agree(value | {"volume": [1.0]})
