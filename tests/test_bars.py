"""Bars: the cut by time, and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from trading_system.ml_refinement.bars import Bars, BarsError
from trading_system.ml_refinement.features.checks import sample_bars

COLUMNS = {
    "timestamp": [1_000, 2_000, 3_000],
    "open": [10.0, 11.0, 12.0],
    "high": [11.0, 12.0, 13.0],
    "low": [9.0, 10.0, 11.0],
    "close": [10.5, 11.5, 12.5],
    "volume": [5, 0, 7],
}


def test_a_cut_holds_the_bars_that_had_closed() -> None:
    bars = Bars.from_columns(COLUMNS)
    assert [len(bars.as_of(us)) for us in (999, 1_000, 1_001, 2_999, 3_000, 10**18)] == [0, 1, 1, 2, 3, 3]


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
        ("unequal_lengths", {"timestamp": [1, 2]}),
        ("unsorted", {"timestamp": [1_000, 3_000, 2_000]}),
        ("unsorted", {"timestamp": [1_000, 1_000, 2_000]}),
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
