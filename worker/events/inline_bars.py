"""Bars as they stand in the text of events, many at once: found by their keys, their numbers parsed into columns.

Only the form that producers' libraries write is read here: six columns and nothing else, `[` to `]`, with or without a
blank after `:` and `,`. Whatever has another form, or breaks a rule, is None here, and `decoding` says what it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson

from trading_system.ml_refinement.bar_limits import COLUMNS
from trading_system.ml_refinement.bars import MATRIX_ROWS, Bars
from trading_system.ml_refinement.typing import FloatArray
from worker.events.timestamps import columns_us

if TYPE_CHECKING:
    import simdjson

_BARS, _BENCHMARK = b'"bars":', b'"benchmark":'
_NAME_OF = {_BARS: "bars", _BENCHMARK: "benchmark"}
_LONGEST_KEY = 32
#: Texts that are parsed together have about so many bytes: they and what comes of them stay in a processor's cache.
_TOGETHER_BYTES = 1 << 18


def _spellings(before: tuple[str, ...]) -> dict[bytes, str]:
    return {f'{first}"{name}":{blank}'.encode(): name for name in COLUMNS for first in before for blank in ("", " ")}


_FIRST_KEY, _NEXT_KEY = _spellings(("",)), _spellings((",", ", "))


class ColumnTexts(NamedTuple):
    """The JSON of each column, brackets included; `numbers` in the order of `MATRIX_ROWS`."""

    times: bytes
    numbers: tuple[bytes, ...]


class CutEvent(NamedTuple):
    """An event's JSON with null in the places of its bars, and the columns that stood there, by the field's name."""

    rest: bytes
    columns: dict[str, ColumnTexts]


def cut(data: bytes) -> CutEvent | None:
    """An event whose bars are taken out of its text; None where it has none, or not in the usual form.

    `rest` is JSON where `data` is, with the same keys.
    """
    at = data.find(_BARS)
    if at < 0:
        return None
    columns: dict[str, ColumnTexts] = {}
    rest = data
    keys = (_BENCHMARK, _BARS) if data.find(_BENCHMARK, 0, at) >= 0 else (_BARS, _BENCHMARK)
    for key in keys:
        begin = rest.find(key) + len(key)
        begin += rest.startswith(b" ", begin)
        if begin < len(key) or not rest.startswith(b"{", begin):
            continue
        head = rest[:begin]
        found = _columns(rest, begin + 1) if _is_top_level(head) else None
        if found is None:
            return None
        columns[_NAME_OF[key]], end = found
        rest = b"%bnull%b" % (head, rest[end:])
    return CutEvent(rest, columns) if columns else None


def _is_top_level(head: bytes) -> bool:
    """Whether what follows `head` is a field of the outermost object.

    Where there are no escapes, every quote begins or ends a text: a key that stands there is one, or nothing is JSON.
    """
    if b"\\" in head:
        return False
    if head.count(b"{") == 1:
        return head.lstrip().startswith(b"{")
    try:
        orjson.loads(b"%bnull}" % head)
    except orjson.JSONDecodeError:
        return False
    return True


def _columns(data: bytes, begin: int) -> tuple[ColumnTexts, int] | None:
    """The columns of the object whose first key begins at `begin`, and where the text goes on behind it.

    A column ends at its first `]`, so that none with a list in it is JSON.
    """
    texts: dict[str, bytes] = {}
    spelling = _FIRST_KEY
    for _ in COLUMNS:
        opened = data.find(b"[", begin, begin + _LONGEST_KEY)
        end = data.find(b"]", opened) + 1
        name = spelling.get(data[begin:opened])
        if name is None or not end:
            return None
        texts[name] = data[opened:end]
        spelling, begin = _NEXT_KEY, end
    if len(texts) < len(COLUMNS) or not data.startswith(b"}", begin):
        return None
    return ColumnTexts(texts["timestamp"], tuple(texts[name] for name in MATRIX_ROWS)), begin + 1


def read_columns(texts: Sequence[ColumnTexts], parser: simdjson.Parser) -> list[Bars | None]:
    """The bars of each, checked; None where they are to be read one by one."""
    found: list[Bars | None] = []
    for part in _parts(texts):
        together = _read(part, parser)
        if together is None and len(part) > 1:
            for alone in part:
                found += _read([alone], parser) or [None]
        else:
            found += together or [None]
    return found


def _parts(texts: Sequence[ColumnTexts]) -> Iterator[Sequence[ColumnTexts]]:
    begin, size = 0, 0
    for end, text in enumerate(texts, 1):
        size += sum(map(len, text.numbers))
        if size > _TOGETHER_BYTES or end == len(texts):
            yield texts[begin:end]
            begin, size = end, 0


def _read(texts: Sequence[ColumnTexts], parser: simdjson.Parser) -> list[Bars | None] | None:
    times = columns_us([text.times for text in texts])
    if times is None:
        return None
    counts = [column.size for column in times]
    matrix = _matrix(texts, counts, parser)
    if matrix is None:
        return None
    return Bars.from_matrices(np.concatenate(times), matrix, [*pairwise(accumulate(counts, initial=0))])


def _matrix(texts: Sequence[ColumnTexts], counts: list[int], parser: simdjson.Parser) -> FloatArray | None:
    """The numbers, shape (5, n), the bars of one event behind those of another; None where they are not so many."""
    lists = chain.from_iterable(zip(*(text.numbers for text in texts), strict=True))
    try:
        columns: Any = parser.parse(b"[%b]" % b",".join(lists))
        lengths = list(map(len, columns))
        numbers = np.frombuffer(columns.as_buffer(of_type="d"))
    except (ValueError, TypeError, RuntimeError):  # no JSON; a value that is no number; a number beyond 64 bits
        return None
    if lengths != counts * len(MATRIX_ROWS):
        return None
    numbers.setflags(write=False)
    return numbers.reshape(len(MATRIX_ROWS), -1)
