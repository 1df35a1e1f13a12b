"""A symbol's file of bars, CSV or Parquet, to checked `Bars`. A file that breaks a rule is refused, never repaired."""

from __future__ import annotations

import csv
import io
import struct
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from trading_system.ml_refinement.bar_limits import COLUMNS
from trading_system.ml_refinement.bars import Bars, BarsError
from trading_system.ml_refinement.typing import IntArray
from worker.events.bar_columns import matrix_of
from worker.events.timestamps import BadTimestamp, column_us

SUFFIXES = (".csv", ".parquet")

_NO_COMMAS = (";", "\t", "|")
_FIRST_LINE = 2  # of the first bar in a CSV file, after the header


class BadFileError(ValueError):
    """A file of bars cannot be used; the message says where and why."""


def file_stem(symbol: str) -> str:
    """The file name of a symbol, without its suffix: itself, with `/` and other unsafe characters percent-encoded."""
    return quote(symbol, safe="^=")


def read_bars(path: Path) -> Bars:
    """All bars of a file.

    Raises:
        BadFileError: what it holds breaks a rule.
        FileNotFoundError: it is gone.
        OSError: it cannot be read now; nothing is known of what it holds.
    """
    data = path.read_bytes()
    return _read_csv(data) if path.suffix == ".csv" else _read_parquet(data)


def _read_csv(data: bytes) -> Bars:
    try:
        rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadFileError(f"no CSV file in UTF-8: {error}") from error
    if not rows:
        raise BadFileError("empty, without a header")
    header = rows[0]
    if len(header) == 1 and (other := next((sign for sign in _NO_COMMAS if sign in header[0]), None)):
        raise BadFileError(f"line 1 is separated by {other!r}, and columns are by commas")
    wanted = _places(header)
    while len(rows) > 1 and not rows[-1]:
        rows.pop()
    for line, row in enumerate(rows[1:], _FIRST_LINE):
        if len(row) != len(header):
            raise BadFileError(f"line {line} has {len(row)} fields, the header {len(header)}")
    columns = {name: [row[place] for row in rows[1:]] for name, place in wanted.items()}
    prices = {name: _numbers(name, columns[name]) for name in COLUMNS[1:]}
    return _checked(_instants(columns["timestamp"]), prices, "bar 0 is line 2")


def _places(header: list[str]) -> dict[str, int]:
    for name in COLUMNS:
        if header.count(name) != 1:
            raise BadFileError(f"column {name} is {'doubled' if name in header else 'missing'}")
    return {name: header.index(name) for name in COLUMNS}


def _numbers(name: str, texts: list[str]) -> list[float]:
    numbers = []
    for line, text in enumerate(texts, _FIRST_LINE):
        try:
            number = float(text)
        except ValueError:
            number = None
        if number is None or "_" in text or not text.isascii():
            raise BadFileError(f"{name} in line {line} is no number")
        numbers.append(number)
    return numbers


def _instants(texts: list[Any]) -> IntArray:
    try:
        return column_us(texts)
    except BadTimestamp as error:
        raise BadFileError(f"timestamp of bar {error.row} is {error} (bars count from 0)") from None


def _checked(timestamp: IntArray, columns: dict[str, list[float]], counting: str) -> Bars:
    try:
        return Bars.from_matrix(timestamp, matrix_of(columns))
    except struct.error:
        raise BadFileError("a value is no number") from None
    except BarsError as error:
        raise BadFileError(f"{error} ({counting})") from None


def _read_parquet(data: bytes) -> Bars:
    try:
        import pyarrow  # an extra
        from pyarrow import parquet
    except ImportError:
        raise BadFileError("Parquet files need the extra `parquet`: pip install 'signal-refinery[parquet]'") from None
    try:
        table = parquet.read_table(pyarrow.BufferReader(data))
    except (pyarrow.ArrowException, OSError) as error:  # of bytes in memory it is damage, whatever Arrow calls it
        raise BadFileError(f"no Parquet file: {str(error)[:200]}") from None
    wanted = {name: table.column(place) for name, place in _places(table.column_names).items()}
    for name, column in wanted.items():
        if column.null_count:
            row = column.is_null().to_pylist().index(True)
            raise BadFileError(f"{name} of bar {row} is missing (bars count from 0)")
    times = wanted.pop("timestamp")
    for name, column in wanted.items():
        if not (pyarrow.types.is_floating(column.type) or pyarrow.types.is_integer(column.type)):
            raise BadFileError(f"column {name} holds {column.type}, not numbers")
    if pyarrow.types.is_timestamp(times.type) and times.type.tz is not None:
        timestamp = times.cast(pyarrow.timestamp("us", "UTC"), safe=False).to_numpy().astype(np.int64)
    elif pyarrow.types.is_timestamp(times.type):
        raise BadFileError("timestamp has no time zone")
    else:
        timestamp = _instants(times.to_pylist())
    return _checked(timestamp, {name: column.to_pylist() for name, column in wanted.items()}, "bars count from 0")
