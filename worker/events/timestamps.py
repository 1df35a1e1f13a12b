"""Columns of RFC 3339 texts to microseconds since the epoch, UTC, at once; `instants` reads one."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trading_system.ml_refinement.typing import IntArray
from worker.events.instants import END_US, FIRST_YEAR, LAST_YEAR, BadTimestamp, instant_us

_DAY_S = 86_400

# A column is read as one matrix of bytes: each has to lie between these two, and `_PARTS` adds the digits up.
_LEAST = b"0000-00-00T00:00:00"
_MOST = b"9999-19-39T29:59:59"
_SECONDS_LEN = len(_LEAST)
_FEW_SUFFIXES = 8


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
        if us.min() < 0 or us.max() >= END_US:
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
    eve = np.zeros((LAST_YEAR + 2) * 100, np.int64)
    length = np.zeros_like(eve)
    months = np.arange(f"{FIRST_YEAR}-01", f"{LAST_YEAR + 1}-02", dtype="datetime64[M]")
    starts = months.astype("datetime64[D]").astype(np.int64)
    index = months.astype(np.int64)
    yyyymm = (1970 + index // 12) * 100 + index % 12 + 1
    eve[yyyymm[:-1]] = starts[:-1] - 1
    length[yyyymm[:-1]] = np.diff(starts)
    return eve, length
