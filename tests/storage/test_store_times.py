from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, strategies as st

from trading_system.ml_refinement.storage.times import (
    parse_bound,
    text_from_us,
    texts_from_us,
    us_array,
    us_from_text,
    utc_now,
    utc_text,
)

LOWEST, HIGHEST = us_from_text("0001-01-01T00:00:00.000000Z"), us_from_text("9999-12-31T23:59:59.999999Z")
INSTANTS = st.integers(LOWEST, HIGHEST)


@given(INSTANTS)
def test_an_instant_survives_the_way_to_text_and_back(us: int) -> None:
    text = text_from_us(us)
    assert len(text) == 27
    assert us_from_text(text) == us
    assert us_array([text, text]).tolist() == [us, us]


@given(INSTANTS, INSTANTS)
def test_text_sorts_as_time(one: int, other: int) -> None:
    assert (text_from_us(one) < text_from_us(other)) == (one < other)


@pytest.mark.parametrize(
    ("text", "end", "expected"),
    [
        ("2023-12-31", False, "2023-12-31T00:00:00.000000Z"),
        ("2023-12-31", True, "2023-12-31T23:59:59.999999Z"),
        ("2023-12-31T10:00", True, "2023-12-31T10:00:00.000000Z"),
        ("2023-12-31T10:00:00Z", True, "2023-12-31T10:00:00.000000Z"),
        ("2024-01-01T00:30:00+02:00", False, "2023-12-31T22:30:00.000000Z"),
        ("2023-12-31 10:00:00.25-05:00", False, "2023-12-31T15:00:00.250000Z"),
    ],
)
def test_a_bound_is_normalised_and_a_date_alone_means_the_whole_day(text: str, end: bool, expected: str) -> None:
    assert parse_bound(text, end=end) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "2023-13-01", "2023-12-31T25:00", "0001-01-01T00:00:00+05:00"])
def test_a_bound_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"neither a date nor a time|calendar"):
        parse_bound(text, end=False)


@pytest.mark.parametrize(
    "text", ["2023-12-31", "2023-12-31T10:00:00Z", "2023-12-31 10:00:00.000000Z", "2023-12-31T10:00:00.000000+"]
)
def test_only_the_fixed_width_is_read_back(text: str) -> None:
    with pytest.raises(ValueError, match="fixed-width"):
        us_from_text(text)


def test_a_naive_datetime_is_utc_and_an_aware_one_is_converted() -> None:
    naive = datetime(2024, 1, 1, 12)  # noqa: DTZ001 - that is what is tested
    assert utc_text(naive) == "2024-01-01T12:00:00.000000Z"
    assert utc_text(naive.replace(tzinfo=timezone(timedelta(hours=2)))) == "2024-01-01T10:00:00.000000Z"


def test_the_default_clock_is_aware_and_utc() -> None:
    assert utc_now().tzinfo is UTC


def test_microseconds_outside_the_calendar_are_refused() -> None:
    with pytest.raises(ValueError, match="calendar"):
        text_from_us(2**62)


def test_many_instants_have_the_texts_that_each_has() -> None:
    column = [0, 1, -1, 1_700_000_000_123_456, -62_135_596_800_000_000, 253_402_300_799_999_999]
    assert texts_from_us(column) == [text_from_us(us) for us in column]
    assert texts_from_us([]) == []
    with pytest.raises(ValueError, match="outside the calendar"):
        texts_from_us([0, 253_402_300_800_000_000])
