"""One set of rules for bars: what a notebook may compute with is what the worker lets in, as event and as file."""

from __future__ import annotations

import csv
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from tests.support.valid_events import bars, read, with_bars
from trading_system.ml_refinement.bars import Bars, BarsError
from trading_system.ml_refinement.features import FeaturePipeline
from worker.errors import DecodeError, Reason
from worker.events.timestamps import column_us
from worker.market_data.files import BadFileError, read_bars

Columns = dict[str, list[Any]]
NAMES = ("timestamp", "open", "high", "low", "close", "volume")


def with_cell(name: str, row: int, value: Any) -> Columns:
    """Sound columns of five bars with one value changed."""
    columns = bars()
    columns[name][row] = value
    return columns


class Incomplete(Exception):
    """A vector that will not be trained on."""


def from_columns(columns: Columns, _: Path) -> Bars:
    return Bars.from_columns({**columns, "timestamp": column_us(columns["timestamp"])})


def from_frame(columns: Columns, _: Path) -> Bars:
    return Bars.from_frame(pd.DataFrame(columns))


def from_pipeline(columns: Columns, _: Path) -> Bars:
    """What a notebook computes the vectors of a training from."""
    frame = pd.DataFrame(columns)
    if why := FeaturePipeline().extract_features("sig-1", frame, {"technical_score": 5}).incomplete:
        raise Incomplete(why)
    return Bars.from_frame(frame)


def from_event(columns: Columns, _: Path) -> Bars:
    found: Bars = read("signal.created", with_bars(**columns)).event.bars
    return found


def from_csv(columns: Columns, place: Path) -> Bars:
    with (place / "AAPL.csv").open("w", newline="") as file:
        rows = zip(*(columns[name] for name in NAMES), strict=True)
        csv.writer(file).writerows([NAMES, *rows])
    return read_bars(place / "AAPL.csv").bars


def from_parquet(columns: Columns, place: Path) -> Bars:
    pd.DataFrame(columns).astype(dict.fromkeys(NAMES[1:], float)).to_parquet(place / "AAPL.parquet")
    return read_bars(place / "AAPL.parquet").bars


WAYS_IN: tuple[Callable[[Columns, Path], Bars], ...] = (
    from_columns,
    from_frame,
    from_pipeline,
    from_event,
    from_csv,
    from_parquet,
)
REFUSALS = (BarsError, DecodeError, BadFileError, Incomplete)

#: The columns, the library's code and the event's reason.
FAULTS: dict[str, tuple[Columns, str, Reason]] = {
    "a close above high": (with_cell("close", 1, 500.0), "not_enclosed", Reason.BAD_BARS),
    "an open below low": (with_cell("open", 1, 5.0), "not_enclosed", Reason.BAD_BARS),
    "high below low": (with_cell("high", 1, 1.0), "high_below_low", Reason.BAD_BARS),
    "a bar twice": (with_cell("timestamp", 1, bars()["timestamp"][0]), "unsorted", Reason.BAD_BARS),
    "bars out of order": ({**bars(), "timestamp": bars()["timestamp"][::-1]}, "unsorted", Reason.BAD_BARS),
    "a price that is NaN": (with_cell("close", 4, float("nan")), "not_a_number", Reason.BAD_NUMBER),
    "a volume that is infinite": (with_cell("volume", 4, float("inf")), "not_a_number", Reason.BAD_NUMBER),
    "a price of 0": (with_cell("low", 0, 0.0), "price_not_positive", Reason.BAD_BARS),
    "a price below 0": (with_cell("low", 0, -3.0), "price_not_positive", Reason.BAD_BARS),
    "a price of 1e-19": (with_cell("low", 0, 1e-19), "absurd_price", Reason.BAD_NUMBER),
    "a price of 1e13": (with_cell("high", 0, 1e13), "absurd_price", Reason.BAD_NUMBER),
    "a volume below 0": (with_cell("volume", 2, -1), "negative_volume", Reason.BAD_BARS),
    "a volume of 1e21": (with_cell("volume", 2, 1e21), "absurd_volume", Reason.BAD_NUMBER),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_bar_that_breaks_a_rule_is_refused_by_library_events_and_files_alike(name: str, tmp_path: Path) -> None:
    columns, code, reason = FAULTS[name]
    for way in (from_columns, from_frame):
        with pytest.raises(BarsError) as by_library:
            way(columns, tmp_path)
        assert by_library.value.code == code
    with pytest.raises(Incomplete, match=f"bars: {code}: "):
        from_pipeline(columns, tmp_path)
    with pytest.raises(DecodeError) as by_door:
        from_event(columns, tmp_path)
    assert by_door.value.reason is reason
    for way in (from_csv, from_parquet):
        with pytest.raises(BadFileError):
            way(columns, tmp_path)


def test_columns_of_unequal_length_are_refused_by_library_and_events_alike(tmp_path: Path) -> None:
    columns = {**bars(), "close": [1.0]}
    with pytest.raises(BarsError, match="unequal_lengths"):
        from_columns(columns, tmp_path)
    with pytest.raises(DecodeError, match="bad_bars: bars: columns of unequal length"):
        from_event(columns, tmp_path)


# Around each bound, and what adjusted prices differ by.
PRICES = (1e-18, 9e-19, 1e-9, 99.0, 100.0, 100.0 * (1 + 1e-10), 100.0 * (1 + 1e-8), 101.0, 1e12, 1.1e12, 0.0, -1.0)
VOLUMES = (0.0, 1.0, -1.0, 1e15, 1e20, 1.1e20)
changes = st.one_of(
    st.tuples(st.sampled_from(NAMES[1:5]), st.integers(0, 2), st.sampled_from(PRICES)),
    st.tuples(st.just("volume"), st.integers(0, 2), st.sampled_from(VOLUMES)),
    st.tuples(st.just("timestamp"), st.integers(0, 2), st.integers(0, 4)),
)


def instant(hour: int) -> str:
    return (datetime(2024, 5, 1, tzinfo=UTC) + timedelta(hours=hour)).strftime("%Y-%m-%dT%H:%M:%SZ")


def keeps_the_rules(columns: Columns) -> bool:
    """The rules as one would say them, bar by bar."""
    times = columns["timestamp"]
    if any(later <= earlier for earlier, later in pairwise(times)):
        return False
    for open_, high, low, close, volume in zip(*(columns[name] for name in NAMES[1:]), strict=True):
        slack = high * 1e-9
        if not all(1e-18 <= price <= 1e12 for price in (open_, high, low, close)) or not 0 <= volume <= 1e20:
            return False
        if low > high or not all(low - slack <= price <= high + slack for price in (open_, close)):
            return False
    return True


@given(changed=st.lists(changes, max_size=3))
@settings(max_examples=150, deadline=None)
def test_every_way_in_lets_in_the_same_bars(tmp_path_factory: pytest.TempPathFactory, changed: list[Any]) -> None:
    columns: Columns = {name: [100.0] * 3 for name in NAMES[1:]} | {"timestamp": [instant(row) for row in range(3)]}
    for name, row, value in changed:
        columns[name][row] = instant(value) if name == "timestamp" else value
    place = tmp_path_factory.mktemp("bars")
    for way in WAYS_IN:
        try:
            found = way(columns, place)
        except REFUSALS:
            assert not keeps_the_rules(columns), way.__name__
        else:
            assert keeps_the_rules(columns), way.__name__
            assert [getattr(found, name).tolist() for name in NAMES[1:]] == [columns[name] for name in NAMES[1:]]
