"""Columns as PostgreSQL's binary arrays: an array a column is one parameter, however many rows there are.

The form is that of `array_recv` in PostgreSQL's `arrayfuncs.c`: number of dimensions, whether there are nulls, type of
the elements, length, lower bound, and then each element with its length before it, -1 for a null.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from psycopg.adapt import Dumper
from psycopg.pq import Format

_HEADER = struct.Struct("!iiIii")
_NULL = b"\xff\xff\xff\xff"
_LENGTHS = [struct.pack("!i", length) for length in range(4096)]


class ColumnType(NamedTuple):
    """A type of the columns that rows are inserted into: its name, the types' numbers, how elements are written."""

    name: str
    oid: int
    array_oid: int
    write: Callable[[Sequence[Any]], bytes]


class PackedColumn(NamedTuple):
    """An array in binary, and its type's number."""

    data: bytes
    oid: int


class ColumnDumper(Dumper):
    """Sends a `PackedColumn` as it is."""

    format = Format.BINARY

    def dump(self, obj: PackedColumn) -> bytes:
        return obj.data

    def get_key(self, obj: Any, format: Any) -> Any:  # noqa: A002, ARG002 - the names of the driver
        return type(obj), obj.oid

    def upgrade(self, obj: Any, format: Any) -> ColumnDumper:  # noqa: A002, ARG002 - as above
        dumper = ColumnDumper(type(obj))
        dumper.oid = obj.oid
        return dumper


def packed_column(kind: ColumnType, values: Sequence[Any]) -> PackedColumn:
    """The values of a column, None for a null.

    Raises:
        ValueError: a text holds NUL, which PostgreSQL's cannot.
        TypeError: a value is not of the column's type.
    """
    if not values:
        return PackedColumn(struct.pack("!iiI", 0, 0, kind.oid), kind.array_oid)
    header = _HEADER.pack(1, int(None in values), kind.oid, len(values), 1)
    return PackedColumn(header + kind.write(values), kind.array_oid)


def _numbers(code: str, size: int) -> Callable[[Sequence[Any]], bytes]:
    element = np.dtype([("length", ">i4"), ("value", code)])
    one = struct.Struct(f"!i{'d' if code == '>f8' else 'q' if size == 8 else 'i'}")
    as_number = float if code == ">f8" else int

    def write(values: Sequence[Any]) -> bytes:
        if None in values:
            return b"".join(_NULL if value is None else one.pack(size, as_number(value)) for value in values)
        rows = np.empty(len(values), dtype=element)
        rows["length"], rows["value"] = size, values
        return rows.tobytes()

    return write


def _texts(values: Sequence[Any]) -> bytes:
    written = [None if value is None else value.encode() for value in values]
    if any(b"\x00" in text for text in written if text is not None):
        raise ValueError("a text with NUL")
    return _bytes(written)


def _bytes(values: Sequence[Any]) -> bytes:
    return b"".join(chain.from_iterable((_NULL,) if v is None else (_length(len(v)), v) for v in values))


def _length(length: int) -> bytes:
    return _LENGTHS[length] if length < len(_LENGTHS) else struct.pack("!i", length)


TYPES = {
    kind.name: kind
    for kind in (
        ColumnType("text", 25, 1009, _texts),
        ColumnType("double precision", 701, 1022, _numbers(">f8", 8)),
        ColumnType("bigint", 20, 1016, _numbers(">i8", 8)),
        ColumnType("integer", 23, 1007, _numbers(">i4", 4)),
        ColumnType("bytea", 17, 1001, _bytes),
    )
}
