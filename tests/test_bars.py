"""Bars: the cut by time, and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from trading_system.ml_refinement.bars import Bars, BarsError
from trading_system.ml_refinement.features.checks import sample_bars

AT = 1_704_142_800_000_000  # 2024-01-01T21:00:00Z
COLUMNS = {
    "timestamp": [AT + 1_000, AT + 2_000, AT + 3_000],
    "open": [10.0, 11.0, 12.0],
    "high": [11.0, 12.0, 13.0],
    "low": [9.0, 10.0, 11.0],
    "close": [10.5, 11.5, 12.5],
    "volume": [5, 0, 7],
}


def test_a_cut_holds_the_bars_that_had_closed() -> None:
    bars = Bars.from_columns(COLUMNS)
    assert [len(bars.as_of(us)) for us in (AT + 999, AT + 1_000, AT + 1_001, AT + 2_999, AT + 3_000, 10**18)] == [
        0,
        1,
        1,
        2,
        3,
        3,
    ]


@pytest.mark.parametrize("cut", range(0, 301, 7))
def test_a_cut_is_the_frame_cut_in_pandas(cut: int) -> None:
    bars = sample_bars(1)
    frame, when = bars.to_frame(), int(bars.timestamp[min(cut, 299)]) + cut % 3 - 1
    expected = frame[frame.index <= pd.Timestamp(when, unit="us", tz="UTC")]
    pd.testing.assert_frame_equal(bars.as_of(when).to_frame(), expected)


def test_tail_and_first_are_views() -> None:
    bars = sample_bars(1)
    assert np.shares_memory(bars.tail(5).close, bars.close)
    assert bars.tail(5).close.tolist() == bars.close[-5:].tolist()
    assert (len(bars.tail(0)), len(bars.tail(999)), len(bars.first(0)), len(bars.first(999))) == (0, 300, 0, 300)
    assert len(Bars.empty()) == 0
    assert len(Bars.empty().as_of(5)) == 0


def test_a_frame_and_back() -> None:
    bars = sample_bars(2)
    back = Bars.from_frame(bars.to_frame())
    for name in ("timestamp", "open", "high", "low", "close", "volume"):
        assert np.array_equal(getattr(back, name), getattr(bars, name))


@pytest.mark.parametrize(
    "times",
    [
        ["2024-01-01T16:00:00-05:00", "2024-01-02T16:00:00-05:00", "2024-01-03T16:00:00-05:00"],
        pd.to_datetime(["2024-01-01 21:00", "2024-01-02 21:00", "2024-01-03 21:00"]),
        pd.to_datetime(["2024-01-01 21:00", "2024-01-02 21:00", "2024-01-03 21:00"]).tz_localize("UTC"),
        pd.to_datetime(["2024-01-01 21:00", "2024-01-02 21:00", "2024-01-03 21:00"]).as_unit("s"),
    ],
)
def test_times_of_a_frame_may_be_a_column_or_the_index_and_naive_means_utc(times: object) -> None:
    columns = {name: values for name, values in COLUMNS.items() if name != "timestamp"}
    expected = [1_704_142_800_000_000 + day * 86_400_000_000 for day in range(3)]
    assert Bars.from_frame(pd.DataFrame(columns, index=times)).timestamp.tolist() == expected
    assert Bars.from_frame(pd.DataFrame({**columns, "timestamp": times})).timestamp.tolist() == expected


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("unequal_lengths", {"close": [1.0, 2.0]}),
        ("unequal_lengths", {"timestamp": [AT, AT + 1]}),
        ("unsorted", {"timestamp": [AT, AT + 2, AT + 1]}),
        ("unsorted", {"timestamp": [AT, AT, AT + 1]}),
        ("not_a_number", {"close": [10.5, float("nan"), 12.5]}),
        ("not_a_number", {"volume": [5, float("inf"), 7]}),
        ("not_a_number", {"open": ["10", "11", "12"]}),
        ("not_a_number", {"open": [True, True, True]}),
        ("not_a_number", {"open": [[10.0], [11.0], [12.0]]}),
        ("price_not_positive", {"low": [9.0, 0.0, 11.0]}),
        ("price_not_positive", {"low": [9.0, -10.0, 11.0]}),
        ("negative_volume", {"volume": [5, -1, 7]}),
        ("high_below_low", {"high": [11.0, 9.5, 13.0]}),
        ("bad_timestamp", {"timestamp": [1.5, 2.5, 3.5]}),
    ],
)
def test_bars_that_break_a_rule_are_refused_with_its_code(code: str, change: dict[str, object]) -> None:
    with pytest.raises(BarsError) as caught:
        Bars.from_columns({**COLUMNS, **change})
    assert caught.value.code == code


def test_a_missing_column_or_time_is_refused_with_its_code() -> None:
    frame = pd.DataFrame(COLUMNS)
    for code, bad in [
        ("missing_column", frame.drop(columns="volume")),
        ("bad_timestamp", frame.assign(timestamp=pd.to_datetime(["2024-01-01", None, "2024-01-03"]))),
        ("bad_timestamp", frame.assign(timestamp=["yesterday", "today", "tomorrow"])),
    ]:
        with pytest.raises(BarsError) as caught:
            Bars.from_frame(bad)
        assert caught.value.code == code


SECONDS = np.array([1_717_185_600, 1_717_272_000, 1_717_358_400])
PRICES_OF_THREE = {name: values for name, values in COLUMNS.items() if name != "timestamp"}
UNITS = {"s": 1, "ms": 10**3, "ns": 10**9}


@pytest.mark.parametrize("unit", UNITS)
def test_whole_numbers_of_another_unit_are_refused_with_the_way_to_times(unit: str) -> None:
    times = SECONDS * UNITS[unit]
    column = pd.DataFrame({**PRICES_OF_THREE, "timestamp": times})
    index = pd.DataFrame(PRICES_OF_THREE, index=times)
    wrong = (column, index, index.rename_axis("timestamp"), pd.DataFrame(PRICES_OF_THREE, index=times.astype(object)))
    for frame in wrong:
        with pytest.raises(BarsError, match=rf"pd.to_datetime\(..., unit='{unit}', utc=True\)") as caught:
            Bars.from_frame(frame)
        assert caught.value.code == "bad_time_unit"
    with pytest.raises(BarsError, match=f"unit='{unit}'"):
        Bars.from_columns({**COLUMNS, "timestamp": times})
    repaired = column.assign(timestamp=pd.to_datetime(times, unit=unit, utc=True))
    assert Bars.from_frame(repaired).timestamp.tolist() == (SECONDS * 10**6).tolist()


@pytest.mark.parametrize("times", [[20240529, 20240530, 20240531], [1, 2, 3], [-3, 2, 10**17]])
def test_a_column_of_other_whole_numbers_is_no_column_of_times(times: list[int]) -> None:
    with pytest.raises(BarsError, match="no time in microseconds since 1970"):
        Bars.from_frame(pd.DataFrame({**PRICES_OF_THREE, "timestamp": times}))


def test_microseconds_are_times_in_a_column_and_no_positions_in_an_index() -> None:
    assert Bars.from_frame(pd.DataFrame(COLUMNS)).timestamp.tolist() == COLUMNS["timestamp"]
    before = [-2_000_000_000_000_000, -1, 1]  # from 1906 on
    assert Bars.from_frame(pd.DataFrame({**COLUMNS, "timestamp": before})).timestamp.tolist() == before
    for index in (COLUMNS["timestamp"], [20240529, 20240530, 20240531]):
        with pytest.raises(BarsError, match=r"in the index is no position; pd\.to_datetime"):
            Bars.from_frame(pd.DataFrame(PRICES_OF_THREE, index=index))
    for positions in (
        [0, 1, 2],
        [5, 9, 10],
        [20_240_530, 20_240_531, 20_240_532],
        [99_999_997, 99_999_998, 99_999_999],
    ):
        assert Bars.from_frame(pd.DataFrame(PRICES_OF_THREE, index=positions)).timestamp[-1] == 0


def test_of_a_frame_of_nothing_but_bars_the_column_without_numbers_is_named() -> None:
    index = pd.date_range("2024-01-01", periods=3, tz="UTC")
    frame = pd.DataFrame({**PRICES_OF_THREE, "volume": ["many", "few", "none"]}, index=index)
    assert frame.shape == (3, 5)
    with pytest.raises(BarsError, match="not_a_number: volume is not a column of numbers"):
        Bars.from_frame(frame)
