"""Files of a desk as rows of cells: CSV as texts, Parquet as the values that it holds."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.errors import RefineryError

_DELIMITERS = ",;\t|"
_LONGEST_CELL = 1024 * 1024


class WrongFile(RefineryError):
    """A file cannot be read as a table; the line says which, and why."""


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A row and where it is: the line it ends on in a CSV, else its number from 1."""

    number: int
    cells: Sequence[Any]


@dataclass(frozen=True, slots=True)
class SourceTable:
    """A file's columns and rows."""

    name: str
    header: list[str]
    rows: list[SourceRow]


def read_table(path: Path, *, delimiter: str = "") -> SourceTable:
    """A file as a table; what ends in `.parquet` is Parquet.

    Args:
        path: of the file.
        delimiter: of CSV; empty: the most frequent of comma, semicolon, tab and bar in its first line.

    Raises:
        WrongFile: it is not there, empty, of another encoding, no table, or needs an extra.
    """
    try:
        found = _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path, delimiter)
    except OSError as error:
        raise WrongFile(f"{path}: {error.strerror or error}") from None
    if not found.rows:
        raise WrongFile(f"{path}: no row below its columns")
    return found


def _csv(path: Path, delimiter: str) -> SourceTable:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise WrongFile(f"{path}: not UTF-8 at byte {error.start}: save it as UTF-8") from None
    if not text.strip():
        raise WrongFile(f"{path}: the file is empty")
    if "\0" in text:
        raise WrongFile(f"{path}: holds zero bytes: save it as UTF-8")
    csv.field_size_limit(_LONGEST_CELL)
    rows = _rows(path, text, delimiter or _delimiter(text))
    first = next(rows)
    return SourceTable(path.name, [str(name).strip() for name in first.cells], _even(path, first, rows))


def _rows(path: Path, text: str, delimiter: str) -> Iterator[SourceRow]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield SourceRow(reader.line_num, cells)
    except csv.Error as error:
        raise WrongFile(f"{path}: line {reader.line_num}: {error}") from None


def _even(path: Path, first: SourceRow, rows: Iterator[SourceRow]) -> list[SourceRow]:
    found = []
    width = len(first.cells)
    for row in rows:
        if len(row.cells) != width:
            raise WrongFile(f"{path}: line {row.number} has {len(row.cells)} columns, and the first has {width}")
        found.append(row)
    return found


def _delimiter(text: str) -> str:
    """The sign that splits the first line most often, outside quotes."""
    line = next(line for line in text.splitlines() if line.strip())
    plain = "".join(line.split('"')[::2])
    return max(_DELIMITERS, key=plain.count)


def _parquet(path: Path) -> SourceTable:
    try:
        import pyarrow  # an extra
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise WrongFile(
            f"{path}: Parquet files need the extra `parquet`: pip install 'signal-refinery[parquet]'"
        ) from None
    try:
        with path.open("rb") as file:
            table = parquet.read_table(pyarrow.PythonFile(file))
        columns = [_values(pyarrow, column) for column in table.columns]
    except pyarrow.ArrowException as error:
        raise WrongFile(f"{path}: no Parquet file that can be read: {str(error).splitlines()[0]}") from None
    rows = [SourceRow(number, cells) for number, cells in enumerate(zip(*columns, strict=True), start=1)]
    return SourceTable(path.name, table.column_names, rows)


def _values(pyarrow: Any, column: Any) -> list[Any]:
    """A column's values as Python has them; times to the microsecond."""
    if pyarrow.types.is_timestamp(column.type) and column.type.unit == "ns":
        column = column.cast(pyarrow.timestamp("us", column.type.tz), safe=False)
    found: list[Any] = column.to_pylist()
    return found
