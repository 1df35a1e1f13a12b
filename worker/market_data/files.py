"""A symbol's file of bars, CSV or Parquet, to checked `Bars`. A file that breaks a rule is refused, never repaired."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from trading_system.ml_refinement.bar_limits import COLUMNS
from trading_system.ml_refinement.bars import MATRIX_ROWS, Bars, BarsError
from trading_system.ml_refinement.typing import FloatArray, IntArray
from worker.events.bar_columns import matrix_of
from worker.events.instants import BadTimestamp
from worker.events.timestamps import column_us

SUFFIXES = (".csv", ".parquet")

_NO_COMMAS = (";", "\t", "|")
_FIRST_LINE = 2  # of the first bar in a CSV file, after the header
_ROWS_AT_ONCE = 20_000  # as text a row takes ten times the memory of its numbers


class BadFileError(ValueError):
    """A file of bars cannot be used; the message says where and why."""


#: What a file's metadata say of its content: time of the last write, of the last change of any kind, size, inode.
FileVersion = tuple[int, int, int, int]


def version_of(stat: os.stat_result) -> FileVersion:
    """What differs once a file was written or replaced.

    The time of the last change of any kind too: a file repaired in place can have the former time of its content.
    """
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino


def file_stem(symbol: str) -> str:
    """The file name of a symbol, without its suffix: itself, with `/` and other unsafe characters percent-encoded."""
    return quote(symbol, safe="^=")


@dataclass(frozen=True, slots=True)
class BarFile:
    """The bars of a file, and what it takes to see that bars were appended to it and nothing else."""

    bars: Bars
    #: Bytes of a CSV file that ended with a whole row, and their digest; 0 where it cannot be read on from its end.
    size: int = 0
    digest: bytes = b""


def read_bars(path: Path, before: BarFile | None = None) -> BarFile:
    """All bars of a file, by the same rules and to the bit the same, whether it was read before or not.

    Args:
        path: of the file.
        before: what was read of it last. Where it begins with the same bytes, only what follows is parsed.

    Raises:
        BadFileError: what it holds breaks a rule.
        FileNotFoundError: it is gone.
        OSError: it cannot be read now; nothing is known of what it holds.
    """
    data = path.read_bytes()
    return _read_csv(data, before) if path.suffix == ".csv" else BarFile(_read_parquet(data))


def _read_csv(data: bytes, before: BarFile | None) -> BarFile:
    known = before if before is not None and _goes_on(data, before) else BarFile(Bars.empty())
    try:
        header = next(_rows(data), None)
        if header is None:
            raise BadFileError("empty, without a header")
        if len(header) == 1 and (other := next((sign for sign in _NO_COMMAS if sign in header[0]), None)):
            raise BadFileError(f"line 1 is separated by {other!r}, and columns are by commas")
        rows = _rows(data, known.size)
        if known.size == 0:
            next(rows)
        bars = _bars(rows, len(header), _places(header), known.bars)
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadFileError(f"no CSV file in UTF-8: {error}") from error
    if not data.endswith(b"\n") or data.endswith((b"\n\n", b"\n\r\n")):
        return BarFile(bars)
    return BarFile(bars, len(data), _digest(data))


def _goes_on(data: bytes, before: BarFile) -> bool:
    """Whether the file begins with what was read of it before."""
    return 0 < before.size <= len(data) and _digest(memoryview(data)[: before.size]) == before.digest


def _digest(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=32).digest()


def _rows(data: bytes, start: int = 0) -> Iterator[list[str]]:
    encoding = "utf-8" if start else "utf-8-sig"
    text = io.TextIOWrapper(io.BytesIO(data), encoding, newline="")
    if start:
        text.buffer.seek(start)
    return csv.reader(text, strict=True)


def _bars(rows: Iterator[list[str]], fields: int, places: dict[str, int], known: Bars) -> Bars:
    """Checked bars: those that are known, and those of the rows, which are parsed a few at a time."""
    times, matrices = [known.timestamp], [np.stack([getattr(known, name) for name in MATRIX_ROWS])]
    line = len(known) + _FIRST_LINE
    while chunk := list(islice(rows, _ROWS_AT_ONCE)):
        read = len(chunk)
        while chunk and not chunk[-1]:
            chunk.pop()
        for at, row in enumerate(chunk, line):
            if len(row) != fields:
                raise BadFileError(f"line {at} has {len(row)} fields, the header {fields}")
        if len(chunk) < read and any(rows):  # empty lines are let be at the end
            raise BadFileError(f"line {line + len(chunk)} has 0 fields, the header {fields}")
        columns = {name: [row[place] for row in chunk] for name, place in places.items()}
        prices = {name: _numbers(name, columns[name], line) for name in COLUMNS[1:]}
        times.append(_instants(columns["timestamp"], line - _FIRST_LINE))
        matrices.append(matrix_of(prices))
        line += len(chunk)
    return _checked(np.concatenate(times), np.concatenate(matrices, axis=1), "bar 0 is line 2")


def _places(header: list[str]) -> dict[str, int]:
    for name in COLUMNS:
        if header.count(name) != 1:
            raise BadFileError(f"column {name} is {'doubled' if name in header else 'missing'}")
    return {name: header.index(name) for name in COLUMNS}


def _numbers(name: str, texts: list[str], line: int) -> list[float]:
    numbers = []
    for at, text in enumerate(texts, line):
        try:
            number = float(text)
        except ValueError:
            number = None
        if number is None or "_" in text or not text.isascii():
            raise BadFileError(f"{name} in line {at} is no number")
        numbers.append(number)
    return numbers


def _instants(texts: list[Any], bar: int = 0) -> IntArray:
    try:
        return column_us(texts)
    except BadTimestamp as error:
        raise BadFileError(f"timestamp of bar {bar + error.row} is {error} (bars count from 0)") from None


def _checked(timestamp: IntArray, matrix: FloatArray, counting: str) -> Bars:
    for array in (timestamp, matrix):
        array.flags.writeable = False
    try:
        return Bars.from_matrix(timestamp, matrix)
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
    matrix = np.empty((len(MATRIX_ROWS), len(timestamp)))
    for name, row in zip(MATRIX_ROWS, matrix, strict=True):
        row[:] = wanted[name].to_numpy()
    return _checked(timestamp, matrix, "bars count from 0")
