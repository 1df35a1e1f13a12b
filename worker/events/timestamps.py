"""Columns of RFC 3339 texts to microseconds since the epoch, UTC, at once; `instants` reads one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
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
_MOST_WIDTH = 64


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


def columns_us(columns: Sequence[bytes]) -> list[IntArray] | None:
    """Columns as JSON, each like `["2024-01-31T21:00:00Z","2024-02-01T21:00:00Z"]`, as `column_us` reads them, at once.

    Each has shape (n,), with an n of its own, and is not to be written to. None where one column is no list of texts of
    one form, has none in it, or one that is no instant.
    """
    first_with: dict[tuple[bytes, bytes, int], int] = {}  # symbols of one market and their benchmark share their times
    alike: dict[tuple[bytes, bytes], list[int]] = {}
    sources = []
    for position, column in enumerate(columns):
        quote = column.find(b'"', 2)
        if quote < _SECONDS_LEN + 2:
            return None
        source = first_with.setdefault((column[:quote], column[-quote:], len(column)), position)
        if source == position or columns[source] != column:
            source = position
            separator = b", " if column.startswith(b", ", quote + 1) else b","
            alike.setdefault((column[_SECONDS_LEN + 2 : quote + 1], separator), []).append(position)
        sources.append(source)
    found: dict[int, IntArray] = {}
    for (ending, separator), positions in alike.items():
        instants = _of_one_form([columns[position][1:-1] for position in positions], ending, separator)
        if instants is None:
            return None
        found |= zip(positions, instants, strict=True)
    return [found[source] for source in sources]


def _of_one_form(columns: list[bytes], ending: bytes, separator: bytes) -> list[IntArray] | None:
    """Columns whose texts all end alike, between quotes and with the same separator between them."""
    tail = ending + separator
    width = 1 + _SECONDS_LEN + len(tail)
    counts, rests = zip(*(divmod(len(column) + len(separator), width) for column in columns), strict=True)
    first = columns[0][1 : width - 1 - len(separator)]
    if any(rests) or len(tail) > _MOST_WIDTH or not first.isascii():
        return None
    us = _rows_us(separator.join([*columns, b""]), b'"', tail, first.decode())
    return None if us is None else np.split(us, list(accumulate(counts[:-1])))


@lru_cache(maxsize=32)  # symbols of one market and their benchmark share their times
def _same_form(joined: str, suffix: str, first: str, count: int) -> IntArray | None:
    """The column whose texts all end in `suffix`; None when one of them does not, or is no instant.

    The separator makes it safe to look only at the joined text: `count` texts of one length put it in fixed places, and
    none of them can hold it.
    """
    width = _SECONDS_LEN + len(suffix) + 1
    if len(joined) + 1 != count * width or width > _MOST_WIDTH:
        return None
    return _rows_us(f"{joined}\n".encode("ascii"), b"", f"{suffix}\n".encode("ascii"), first)


def _rows_us(rows: bytes, head: bytes, tail: bytes, first: str) -> IntArray | None:
    """The instants between `head` and `tail` in each row, whose fraction and offset, in `tail`, `first` shares."""
    width = len(head) + _SECONDS_LEN + len(tail)
    count = len(rows) // width
    least, room, parts = _form(head, tail, 1 << (count - 1).bit_length())
    digits = np.frombuffer(rows, np.uint8) - least[: len(rows)]
    if np.count_nonzero(digits > room[: len(rows)]):
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


@lru_cache(maxsize=8)
def _form(head: bytes, tail: bytes, count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]:
    """Of `count` rows: the least bytes, how much more each may be, and the weights of (yyyymm, day, second of day)."""
    least = np.frombuffer(head + _LEAST + tail, np.uint8)
    room = np.frombuffer(head + _MOST + tail, np.uint8) - least
    parts = np.zeros((3, least.size), np.float32)
    digits = parts[:, len(head) :]
    digits[0, [0, 1, 2, 3, 5, 6]] = 100_000, 10_000, 1_000, 100, 10, 1
    digits[1, [8, 9]] = 10, 1
    digits[2, [11, 12, 14, 15, 17, 18]] = 36_000, 3_600, 600, 60, 10, 1
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
