"""How the archive writes what it keeps: compressed alone, or together with others and then named by its place."""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, NamedTuple

try:
    zstd: Any = import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
except ModuleNotFoundError:  # where there are no wheels of it: larger and slower, and what zstd wrote cannot be read
    zstd = None

_LEVEL = 1
_ZSTD, _PLACE = b"\x28\xb5\x2f\xfd", b"\x00"  # what a frame of zstd begins with, and a place: no stream of zlib does
_PLACE_FORM = struct.Struct(">cQII")
#: A block ends behind so many events or bytes: to read one of its events, all are unpacked.
_MOST_EVENTS, _MOST_BYTES = 64, 1 << 20


class Damaged(Exception):
    """Bytes that cannot be unpacked."""


class Place(NamedTuple):
    """Where an event stands: the block's id, and from which of its bytes on how many are the event's."""

    block: int
    begin: int
    size: int

    def packed(self) -> bytes:
        """What is written in place of the event's bytes."""
        return _PLACE_FORM.pack(_PLACE, *self)


def place_of(packed: bytes) -> Place | None:
    """The place that was written in place of an event's bytes; None where they are its own.

    Raises:
        Damaged: it names none.
    """
    if not packed.startswith(_PLACE):
        return None
    try:
        return Place(*_PLACE_FORM.unpack(packed)[1:])
    except struct.error as error:
        raise Damaged(str(error)) from None


def parts(payloads: Sequence[bytes]) -> Iterator[slice]:
    """Which of the payloads are kept together, in their order."""
    begin, size = 0, 0
    for end, payload in enumerate(payloads, 1):
        size += len(payload)
        if size >= _MOST_BYTES or end - begin == _MOST_EVENTS or end == len(payloads):
            yield slice(begin, end)
            begin, size = end, 0


def pack(data: bytes) -> bytes:
    """The bytes, compressed."""
    if zstd is None:
        return zlib.compress(data, 1)
    parameter = zstd.CompressionParameter
    return bytes(zstd.compress(data, options={parameter.compression_level: _LEVEL, parameter.checksum_flag: 1}))


def unpack(packed: bytes) -> bytes:
    """What `pack` was given, this one or an earlier release's.

    Raises:
        Damaged: the bytes are of no such form.
    """
    if not packed.startswith(_ZSTD):
        try:
            return zlib.decompress(packed)
        except zlib.error as error:
            raise Damaged(str(error)) from None
    if zstd is None:
        raise Damaged("packed by zstd: install backports.zstd")
    try:
        return bytes(zstd.decompress(packed))
    except zstd.ZstdError as error:
        raise Damaged(str(error)) from None
