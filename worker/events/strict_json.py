"""Bytes to one JSON object, without what readers of JSON let pass: doubled keys, numbers that are none."""

from __future__ import annotations

import json
import sys
from typing import Any, NoReturn

import orjson

from worker.errors import DecodeError, Reason

_MAX_DEPTH = 64
_VECTOR_FROM_BYTES = 2048  # below it, bytes.count is the faster of the two
_QUOTE = ord('"')


def parse_object(data: bytes, *, max_bytes: int) -> dict[str, Any]:
    """The JSON object in `data`. Doubled keys are not noticed here: see `refuse_double_keys`.

    Raises:
        DecodeError: too_large (looked at first), bad_encoding, bad_number (NaN, Infinity, 1e400) or bad_json.
    """
    if len(data) > max_bytes:
        raise DecodeError(Reason.TOO_LARGE, f"{len(data)} bytes, at most {max_bytes} are allowed")
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        _refuse_json(data, error)
    if type(value) is not dict:
        raise DecodeError(Reason.BAD_JSON, "not an object")
    return value


def refuse_double_keys(data: bytes, strings: int) -> None:
    """Refuse JSON in which an object names a key twice.

    Args:
        data: valid JSON.
        strings: how many strings its parsed form holds, keys and values. Of doubled keys the parser drops all but one,
            so the text then has more quotes than these strings account for; that is what is counted.

    Raises:
        DecodeError: duplicate_key.
    """
    quotes = _count_quotes(data)
    if b"\\" in data:
        if b"\\\\" in data:
            _refuse_double_keys_exactly(data)
            return
        quotes -= data.count(b'\\"')
    if quotes != 2 * strings:
        _refuse_double_keys_exactly(data)


def parse_line(data: bytes) -> dict[str, Any]:
    """The JSON object in a line of a file, whatever its size, in which no key is doubled.

    Raises:
        DecodeError: as `parse_object` and `refuse_double_keys`.
    """
    value = parse_object(data, max_bytes=sys.maxsize)
    refuse_double_keys(data, count_strings(value))
    return value


def count_strings(value: Any) -> int:
    """How many strings a parsed JSON value holds, keys included.

    Raises:
        DecodeError: bad_json where it is nested deeper than anything we know.
    """
    strings = 0
    level = [value]
    for _ in range(_MAX_DEPTH):
        deeper: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is str:
                strings += 1
            elif kind is dict:
                strings += len(item)
                deeper.extend(item.values())
            elif kind is list:
                deeper.extend(item)
        if not deeper:
            return strings
        level = deeper
    raise DecodeError(Reason.BAD_JSON, f"nested deeper than {_MAX_DEPTH}")


def _count_quotes(data: bytes) -> int:
    if len(data) < _VECTOR_FROM_BYTES:
        return data.count(b'"')
    try:
        import numpy as np  # a client may be without it, and is slower then
    except ModuleNotFoundError:
        return data.count(b'"')
    return int(np.count_nonzero(np.frombuffer(data, np.uint8) == _QUOTE))


class _DoubleKeyError(Exception):
    pass


def _refuse_double_keys_exactly(data: bytes) -> None:
    try:
        json.loads(data, object_pairs_hook=_once)
    except _DoubleKeyError:
        raise DecodeError(Reason.DUPLICATE_KEY, "an object names a key twice") from None
    except RecursionError:
        raise DecodeError(Reason.BAD_JSON, f"nested deeper than {_MAX_DEPTH}") from None


def _once(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise _DoubleKeyError


class _NotFiniteError(Exception):
    pass


def _refuse_json(data: bytes, error: orjson.JSONDecodeError) -> NoReturn:
    """Say more exactly what is wrong with text that orjson refused."""
    try:
        text = data.decode()
    except UnicodeDecodeError as undecodable:
        raise DecodeError(Reason.BAD_ENCODING, f"not UTF-8 at byte {undecodable.start}") from None
    if text.startswith("\ufeff"):
        raise DecodeError(Reason.BAD_ENCODING, "begins with a byte order mark") from None
    if "surrogate" in error.msg:
        raise DecodeError(Reason.BAD_ENCODING, f"half a surrogate pair at character {error.pos}") from None
    where = f"{error.msg}, line {error.lineno} column {error.colno}"
    if "infinity" in error.msg or _names_no_number(text):
        raise DecodeError(Reason.BAD_NUMBER, f"not a finite number: {where}") from None
    raise DecodeError(Reason.BAD_JSON, where) from None


def _names_no_number(text: str) -> bool:
    """Whether the text would be JSON but for NaN or Infinity."""
    try:
        json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=lambda _: None)
    except _NotFiniteError:
        return True
    except (ValueError, RecursionError):
        return False
    return False


def _refuse_constant(_: str) -> NoReturn:
    raise _NotFiniteError
