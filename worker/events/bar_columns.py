"""Columns of bars, as JSON or a file gives them, to `Bars`: what is no number is found here, quick as numpy."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np

from trading_system.ml_refinement.bar_limits import COLUMNS
from trading_system.ml_refinement.bars import MATRIX_ROWS, Bars, BarsError, BarsFault
from trading_system.ml_refinement.typing import FloatArray
from worker.errors import DecodeError, Reason
from worker.events.faults import at_fault
from worker.events.instants import BadTimestamp
from worker.events.strict_json import count_strings
from worker.events.timestamps import column_us

#: The rules whose breach is a bad number and not bad bars.
_OF_NUMBERS: frozenset[BarsFault] = frozenset(("not_a_number", "absurd_price", "absurd_volume"))


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
    except BadTimestamp as error:
        said = f"{field}.timestamp[{error.row}]: {error}"
        raise DecodeError(Reason.BAD_TIME, at_fault(said, columns["timestamp"][error.row]), alike=said) from None
    matrix = _matrix(columns, field)
    try:
        bars = Bars.from_matrix(timestamp, matrix)
    except BarsError as error:
        reason = Reason.BAD_NUMBER if error.code in _OF_NUMBERS else Reason.BAD_BARS
        raise DecodeError(reason, f"{field}: {error}") from None
    if len(bars) and timestamp[-1] > not_after_us:
        row = int(timestamp.searchsorted(not_after_us, side="right"))
        raise DecodeError(Reason.LOOKAHEAD, f"{field}.timestamp[{row}] is later than the signal's timestamp")
    strings = len(bars) + len(COLUMNS)
    unknown = value.keys() - columns.keys() if len(value) > len(COLUMNS) else ()
    strings += sum(1 + count_strings(value[name]) for name in unknown)
    return JsonBars(bars, strings, len(unknown))


def matrix_of(columns: dict[str, list[float]]) -> FloatArray:
    """Columns of one length n as the read-only matrix, shape (5, n), that `Bars.from_matrix` takes.

    Raises:
        struct.error: a value is no number.
    """
    count = len(columns["open"])
    # Packing takes floats and whole numbers alone, and costs half of what numpy takes to look at each value.
    packed = struct.pack(
        f"{count * len(MATRIX_ROWS)}d",
        *columns["open"],
        *columns["close"],
        *columns["high"],
        *columns["low"],
        *columns["volume"],
    )
    return np.frombuffer(packed, np.float64).reshape(len(MATRIX_ROWS), count)


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


def _matrix(columns: dict[str, list[Any]], field: str) -> FloatArray:
    try:
        matrix = matrix_of(columns)
    except struct.error:
        _refuse_no_numbers(columns, MATRIX_ROWS, field)
        raise
    # Packing takes true and false for 1 and 0: only columns with such a value have to be looked at.
    if matrix.size and not np.minimum.reduce(matrix, axis=None) > 1.0:
        names = [name for name, row in zip(MATRIX_ROWS, matrix, strict=True) if row.min() <= 1.0]
        _refuse_no_numbers(columns, names, field)
    return matrix


def _refuse_no_numbers(columns: dict[str, list[Any]], names: Iterable[str], field: str) -> None:
    for name in names:
        if set(map(type, columns[name])) <= {float, int}:
            continue
        row = next(row for row, value in enumerate(columns[name]) if type(value) not in (float, int))
        said = f"{field}: {name}[{row}] is not a number"
        raise DecodeError(Reason.SCHEMA, at_fault(said, columns[name][row]), alike=said)
