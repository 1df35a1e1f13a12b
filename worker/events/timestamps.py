"""RFC 3339 texts to microseconds since the epoch, UTC: one at a time, and a column of them at once."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trading_system.ml_refinement.typing import IntArray

_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt](?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?"
    r"(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_YEAR, _LAST_YEAR = 1970, 2100
_END_US = 4_133_980_800_000_000  # 2101-01-01T00:00:00Z
_DAY_S = 86_400

# A column is read as one matrix of bytes: each has to lie between these two, and `_PARTS` adds the digits up.
_LEAST = b"0000-00-00T00:00:00"
_MOST = b"9999-19-39T29:59:59"
_SECONDS_LEN = len(_LEAST)
_FEW_SUFFIXES = 8


class BadTimestamp(ValueError):
    """A text is no instant. `row` is its position in the column, 0 for a single one."""

    def __init__(self, why: str, row: int = 0) -> None:
        super().__init__(why)
        self.row = row


def instant_us(text: str) -> int:
    """Microseconds since the epoch; digits after the sixth of a fraction are dropped.

    Raises:
        BadTimestamp: not RFC 3339 with an offset, no day of the calendar, a leap second, or not of 1970 to 2100.
    """
    if _RFC3339.fullmatch(text) is None:
        raise BadTimestamp("not RFC 3339 with an offset, such as 2024-01-31T21:00:00Z")
    try:
        since = datetime.fromisoformat(text.upper()) - _EPOCH
    except ValueError:
        raise BadTimestamp("no day of the calendar") from None
    us = (since.days * _DAY_S + since.seconds) * 1_000_000 + since.microseconds
    if not 0 <= us < _END_US:
        raise BadTimestamp(f"not in the years {_FIRST_YEAR} to {_LAST_YEAR}")
    return us


def column_us(texts: list[Any]) -> IntArray:
    """`instant_us` of every text, shape (n,), many times as fast where they share their form. Not to be written to.

    Raises:
        BadTimestamp: with the row of the first that is no text or no instant.
    """
    try:
        joined = "\n".join(texts)
    except TypeError:
        return _one_by_one(texts)
    if not texts or not joined.isascii():
        return _one_by_one(texts)
    suffix = texts[0][_SECONDS_LEN:]
    found = _same_form(joined, suffix, texts[0], len(texts))
    if found is not None:
        return found
    suffixes = {text[_SECONDS_LEN:] for text in texts}
    if not 1 < len(suffixes) <= _FEW_SUFFIXES:
        return _one_by_one(texts)
    return _by_suffix(texts, suffixes)


def _by_suffix(texts: list[str], suffixes: set[str]) -> IntArray:
    """A column of a few forms, as local times have on both sides of a change of the clocks."""
    us = np.empty(len(texts), np.int64)
    for suffix in suffixes:
        rows = [row for row, text in enumerate(texts) if text[_SECONDS_LEN:] == suffix]
        alike = [texts[row] for row in rows]
        found = _same_form("\n".join(alike), suffix, alike[0], len(alike))
        if found is None:
            return _one_by_one(texts)
        us[rows] = found
    return us


def _one_by_one(texts: list[Any]) -> IntArray:
    us = np.empty(len(texts), np.int64)
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise BadTimestamp("not a text", row)
        try:
            us[row] = instant_us(text)
        except BadTimestamp as error:
            raise BadTimestamp(str(error), row) from None
    return us


@lru_cache(maxsize=32)  # symbols of one market and their benchmark share their times
def _same_form(joined: str, suffix: str, first: str, count: int) -> IntArray | None:
    """The column whose texts all end in `suffix`; None when one of them does not, or is no instant.

    The separator makes it safe to look only at the joined text: `count` texts of one length put it in fixed places, and
    none of them can hold it.
    """
    width = _SECONDS_LEN + len(suffix) + 1
    if len(joined) + 1 != count * width or width > 64:
        return None
    least, room, parts = _form(suffix, count)
    digits = np.frombuffer(f"{joined}\n".encode("ascii"), np.uint8) - least
    if np.count_nonzero(digits > room):
        return None
    month, day, second = (parts @ digits.reshape(count, width).T.astype(np.float32)).astype(np.int64)
    month_eve, month_days = _calendar()
    day_is_sound = (day > 0) & (day <= month_days.take(month, mode="clip"))
    if np.count_nonzero(day_is_sound) < count or np.maximum.reduce(second) >= _DAY_S:
        return None
    us: IntArray = ((month_eve.take(month, mode="clip") + day) * _DAY_S + second) * 1_000_000
    try:
        shift = instant_us(first) - int(us[0])  # the fraction and the offset, which all rows share
    except BadTimestamp:
        return None
    if shift:
        us += shift
        if us.min() < 0 or us.max() >= _END_US:
            return None
    us.setflags(write=False)
    return us


@lru_cache(maxsize=16)
def _form(suffix: str, count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]:
    """Of `count` rows: the least bytes, how much more each may be, and the weights of (yyyymm, day, second of day)."""
    tail = f"{suffix}\n".encode("ascii")
    least = np.frombuffer(_LEAST + tail, np.uint8)
    room = np.frombuffer(_MOST + tail, np.uint8) - least
    parts = np.zeros((3, least.size), np.float32)
    parts[0, [0, 1, 2, 3, 5, 6]] = 100_000, 10_000, 1_000, 100, 10, 1
    parts[1, [8, 9]] = 10, 1
    parts[2, [11, 12, 14, 15, 17, 18]] = 36_000, 3_600, 600, 60, 10, 1
    parts.setflags(write=False)
    return np.tile(least, count), np.tile(room, count), parts


@lru_cache(maxsize=1)
def _calendar() -> tuple[IntArray, IntArray]:
    """By yyyymm: days from the epoch to the month's eve, and the month's length; 0 where there is no such month."""
    eve = np.zeros((_LAST_YEAR + 2) * 100, np.int64)
    length = np.zeros_like(eve)
    months = np.arange(f"{_FIRST_YEAR}-01", f"{_LAST_YEAR + 1}-02", dtype="datetime64[M]")
    starts = months.astype("datetime64[D]").astype(np.int64)
    index = months.astype(np.int64)
    yyyymm = (1970 + index // 12) * 100 + index % 12 + 1
    eve[yyyymm[:-1]] = starts[:-1] - 1
    length[yyyymm[:-1]] = np.diff(starts)
    return eve, length
