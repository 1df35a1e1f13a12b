"""Columns of bars, as JSON or a file gives them, to checked `Bars`: strict as the contract, quick as numpy."""

from __future__ import annotations

import struct
from typing import Any, Literal, NamedTuple

import numpy as np

from trading_system.ml_refinement.bars import Bars, BarsError
from trading_system.ml_refinement.typing import BoolArray, FloatArray, IntArray
from worker.errors import DecodeError, Reason
from worker.events.bar_limits import COLUMNS, PRICE_MAX, PRICE_MIN, VOLUME_MAX
from worker.events.strict_json import count_strings
from worker.events.timestamps import BadInstant, column_us

# The rows of a matrix stand in this order, so that "between low and high" is two comparisons of two rows each.
_ROWS = ("open", "close", "high", "low", "volume")
_ROUNDING = 1e-9  # relative: prices that were adjusted column by column differ in their last bits


class BadBarsError(ValueError):
    """Bars that break a rule, with the reason code an event with such bars is dead-lettered under."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class JsonBars(NamedTuple):
    """Bars of an event, how many strings their JSON holds (keys included), and how many columns nobody knows."""

    bars: Bars
    strings: int
    unknown_fields: int


def bars_from_json(value: Any, *, field: Literal["bars", "benchmark"], not_after_us: int, max_bars: int) -> JsonBars:
    """The bars in a parsed JSON value.

    Args:
        value: anything JSON can be.
        field: its name, for the error.
        not_after_us: the signal's timestamp; a bar that closed later was not known then.
        max_bars: more are refused.

    Raises:
        DecodeError: schema, too_large, bad_time, bad_number, bad_bars or lookahead.
    """
    columns = _columns(value, field, max_bars)
    try:
        timestamp = column_us(columns["timestamp"])
    except BadInstant as error:
        raise DecodeError(Reason.BAD_TIME, f"{field}.timestamp[{error.row}]: {error}") from None
    try:
        bars = checked_bars(timestamp, _matrix(columns))
    except BadBarsError as error:
        raise DecodeError(error.reason, f"{field}: {error.detail}") from None
    if len(bars) and timestamp[-1] > not_after_us:
        row = int(timestamp.searchsorted(not_after_us, side="right"))
        raise DecodeError(Reason.LOOKAHEAD, f"{field}.timestamp[{row}] is later than the signal's timestamp")
    strings = len(bars) + len(COLUMNS)
    unknown = value.keys() - columns.keys() if len(value) > len(COLUMNS) else ()
    strings += sum(1 + count_strings(value[name]) for name in unknown)
    return JsonBars(bars, strings, len(unknown))


def checked_bars(timestamp: IntArray, matrix: FloatArray) -> Bars:
    """Bars of a matrix with the rows open, close, high, low, volume.

    Raises:
        BadBarsError: bad_bars or bad_number, with the first bar that breaks the first rule broken.
    """
    bars = Bars(timestamp, matrix[0], matrix[2], matrix[3], matrix[1], matrix[4])
    if timestamp.size and not _is_sound(timestamp, matrix):
        _refuse_faults(bars)
    return bars


def _is_sound(timestamp: IntArray, matrix: FloatArray) -> bool:
    """The rules at once, for the usual case. Comparisons are False for NaN; what is between sound numbers is sound."""
    body, high, low = matrix[:2], matrix[2], matrix[3]
    low_min, volume_min = np.minimum.reduce(matrix[3:], axis=1)
    high_max, volume_max = np.maximum.reduce(matrix[2::2], axis=1)
    return bool(
        np.count_nonzero(body >= low) == body.size
        and np.count_nonzero(body <= high) == body.size
        and np.count_nonzero(timestamp[1:] > timestamp[:-1]) == timestamp.size - 1
        and low_min >= PRICE_MIN
        and high_max <= PRICE_MAX
        and volume_min >= 0
        and volume_max <= VOLUME_MAX
    )


def matrix_of(columns: dict[str, list[float]]) -> FloatArray:
    """Columns of one length as the read-only matrix that `checked_bars` takes.

    Raises:
        struct.error: a value is no number.
    """
    count = len(columns["open"])
    # Packing takes floats and whole numbers alone, and costs half of what numpy takes to look at each value.
    packed = struct.pack(
        f"{count * len(_ROWS)}d",
        *columns["open"],
        *columns["close"],
        *columns["high"],
        *columns["low"],
        *columns["volume"],
    )
    return np.frombuffer(packed, np.float64).reshape(len(_ROWS), count)


def _columns(value: Any, field: str, max_bars: int) -> dict[str, list[Any]]:
    if type(value) is not dict:
        raise DecodeError(Reason.SCHEMA, f"{field}: not an object of columns")
    columns = {}
    for name in COLUMNS:
        column = value.get(name)
        if type(column) is not list:
            raise DecodeError(Reason.SCHEMA, f"{field}.{name}: {'missing' if name not in value else 'not a list'}")
        columns[name] = column
    count = len(columns["timestamp"])
    if any(len(column) != count for column in columns.values()):
        lengths = {name: len(column) for name, column in columns.items()}
        raise DecodeError(Reason.BAD_BARS, f"{field}: columns of unequal length, {lengths}")
    if count > max_bars:
        raise DecodeError(Reason.TOO_LARGE, f"{field}: {count} bars, at most {max_bars} are allowed")
    return columns


def _matrix(columns: dict[str, list[Any]]) -> FloatArray:
    try:
        matrix = matrix_of(columns)
    except struct.error:
        _refuse_no_numbers(columns, _ROWS)
        raise
    # Packing takes true and false for 1 and 0: only columns with such a value have to be looked at.
    if matrix.size and not np.minimum.reduce(matrix, axis=None) > 1.0:
        _refuse_no_numbers(columns, [name for name, row in zip(_ROWS, matrix, strict=True) if row.min() <= 1.0])
    return matrix


def _refuse_no_numbers(columns: dict[str, list[Any]], names: tuple[str, ...] | list[str]) -> None:
    for name in names:
        if set(map(type, columns[name])) <= {float, int}:
            continue
        row = next(row for row, value in enumerate(columns[name]) if type(value) not in (float, int))
        raise BadBarsError(Reason.SCHEMA, f"{name}[{row}] is not a number")


def _refuse_faults(bars: Bars) -> None:
    try:
        bars.check()
    except BarsError as error:
        reason = Reason.BAD_NUMBER if error.code == "not_a_number" else Reason.BAD_BARS
        raise BadBarsError(reason, str(error)) from None
    for name in ("open", "high", "low", "close"):
        price = getattr(bars, name)
        _refuse(Reason.BAD_NUMBER, (price < PRICE_MIN) | (price > PRICE_MAX), f"{name} is absurd")
    _refuse(Reason.BAD_NUMBER, bars.volume > VOLUME_MAX, "volume is absurd")
    slack = bars.high * _ROUNDING
    for name in ("open", "close"):
        price = getattr(bars, name)
        outside = (price < bars.low - slack) | (price > bars.high + slack)
        _refuse(Reason.BAD_BARS, outside, f"{name} is not between low and high")


def _refuse(reason: Reason, broken: BoolArray, why: str) -> None:
    if broken.any():
        raise BadBarsError(reason, f"{why}, bar {int(broken.argmax())}")
