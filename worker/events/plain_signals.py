"""Many signals at once that say nothing but the plain fields: what `decode` reads in each, in a third of the time.

Their values are held to the same rules, those of `SignalCreatedJson`, a field of all events at a time. Whatever is not
read here (news, provided values, bars that nobody read before, anything wrong) is left to `decode`, which says what it
is.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache, lru_cache
from itertools import repeat
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

import numpy as np
import orjson
from pydantic import TypeAdapter, ValidationError

from trading_system.ml_refinement.bars import Bars
from trading_system.ml_refinement.features.extractors.signal_metadata import SignalMetadata
from trading_system.ml_refinement.typing import AnyArray, IntArray
from worker.events.decoding import Limits, SignalCreated, plain_digest
from worker.events.instants import END_US, FIRST_YEAR, LAST_YEAR, BadTimestamp, instant_us
from worker.events.models import SCHEMA_VERSION, SignalCreatedJson

#: Fewer are read one by one as quickly.
_FEW = 8
#: The plain fields alone need no more, and larger events are not worth being parsed twice.
_MOST_BYTES = 1_024
_QUOTE = ord('"')
_DAY_S = 86_400

_FIELDS = SignalCreatedJson.model_fields
_REQUIRED = frozenset(name for name, field in _FIELDS.items() if field.is_required())
#: Left to `decode` where they hold something.
_NOT_PLAIN = frozenset(("bars", "benchmark", "news", "features"))
_VERSION = "schema_version"
#: Fields whose values are hardly ever the same in two events, and numbers, which are made floats.
_OPEN_OR_NUMBERS = frozenset(_FIELDS) - _NOT_PLAIN - {"symbol", "asset_class", "signal_type", "direction", "conviction"}
#: Of an unknown field: what holds no strings of its own but itself.
_SCALARS = frozenset((str, int, float, bool, type(None)))

_SECONDS_LEAST, _SECONDS_MOST = b"0000-00-00T00:00:00", b"9999-19-39T29:59:59"
_SECONDS_LEN = len(_SECONDS_LEAST)
_TAIL = re.compile(r"(?:\.([0-9]{1,9}))?([Zz]|[+-][0-9]{2}:[0-9]{2})")

#: Bars and benchmark that were read apart from an event's other fields: checked, and not empty.
Brought = tuple[Bars | None, Bars | None]
_NO_BARS: Brought = (None, None)
_NOTHING_BROUGHT: Mapping[int, Brought] = MappingProxyType({})

Raw = dict[str, Any]
#: Where it stands in the batch, its bytes, and what they say.
Row = tuple[int, bytes, Raw]


class PlainSignals(NamedTuple):
    """The signals of a batch by place, None where one is left to `decode`, and the unknown fields of those read."""

    signals: list[SignalCreated | None]
    unknown_fields: int


def plain_signals(
    datas: Sequence[bytes | None], *, now: datetime, limits: Limits, brought: Mapping[int, Brought] = _NOTHING_BROUGHT
) -> PlainSignals:
    """What `decode` gives of those that it would take, and that say nothing but the plain fields.

    Args:
        datas: as received; None for what is left to others.
        now: the worker's clock.
        limits: what the door lets in.
        brought: by place, the bars for which null stands in an event.
    """
    found: list[SignalCreated | None] = [None] * len(datas)
    unknown_fields = 0
    if len(datas) >= _FEW:
        for shape, rows in _by_shape(datas, min(limits.max_bytes, _MOST_BYTES)).items():
            if _REQUIRED.issubset(shape):
                unknown_fields += _read(shape, _only_plain(shape, rows), brought, found, now, limits)
    return PlainSignals(found, unknown_fields)


def _by_shape(datas: Sequence[bytes | None], max_bytes: int) -> dict[tuple[str, ...], list[Row]]:
    """The objects among them, by their names in the order they were written in."""
    shapes: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    loads = orjson.loads
    for at, data in enumerate(datas):
        if data is None or len(data) > max_bytes:
            continue
        try:
            raw = loads(data)
        except orjson.JSONDecodeError:
            continue
        if type(raw) is dict:
            shapes[tuple(raw)].append((at, data, raw))
    return shapes


def _only_plain(shape: tuple[str, ...], rows: list[Row]) -> list[Row]:
    """Without those that hold more than the plain fields, or text with escapes, whose quotes are counted otherwise."""
    if names := _NOT_PLAIN.intersection(shape):
        rows = [row for row in rows if all(row[2][name] is None for name in names)]
    if b"\\" in b"".join([row[1] for row in rows]):
        rows = [row for row in rows if b"\\" not in row[1]]
    return rows


def _read(
    shape: tuple[str, ...],
    rows: list[Row],
    brought: Mapping[int, Brought],
    found: list[SignalCreated | None],
    now: datetime,
    limits: Limits,
) -> int:
    """Enter the signals of these rows, in halves and halves of those where one is odd; how many unknown fields."""
    read, parts = 0, [rows]
    while parts:
        part = parts.pop()
        if len(part) < _FEW:
            continue
        signals = _signals(shape, part, brought, now, limits)
        if signals is None:
            half = len(part) // 2
            parts += [part[:half], part[half:]]
            continue
        read += len(part)
        for (at, _, _), signal in zip(part, signals, strict=True):
            found[at] = signal
    return read * sum(name not in _FIELDS for name in shape)


def _signals(
    shape: tuple[str, ...], rows: list[Row], brought: Mapping[int, Brought], now: datetime, limits: Limits
) -> list[SignalCreated] | None:
    """The signals of these rows; None where `decode` would refuse one, or may."""
    columns = dict(zip(shape, zip(*[raw.values() for _, _, raw in rows], strict=True), strict=True))
    try:
        fields = {name: _checked(name, column) for name, column in columns.items() if name not in _NOT_PLAIN}
    except (ValidationError, TypeError):
        return None
    us = _instants_us(fields["timestamp"])
    if us is None or us.max() > (now.timestamp() + limits.max_future_s) * 1e6 or us.min() < limits.earliest_us:
        return None
    strings = len(shape) * len(rows) + sum(list(map(type, column)).count(str) for column in columns.values())
    quotes = np.count_nonzero(np.frombuffer(b"".join([data for _, data, _ in rows]), np.uint8) == _QUOTE)
    if quotes != 2 * strings:  # a key is doubled: see `refuse_double_keys`
        return None
    bars = [brought.get(at, _NO_BARS) for at, _, _ in rows] if brought else None
    return _made(fields, us.tolist(), bars)


def _made(fields: dict[str, Sequence[Any]], us: list[int], brought: list[Brought] | None) -> list[SignalCreated] | None:
    """The signals, made of columns: a call in Python for each would cost as much again."""
    count = len(us)
    missing = (None,) * count
    ids, symbols = fields["signal_id"], fields["symbol"]
    asset_classes, signal_types = fields["asset_class"], fields["signal_type"]
    directions = fields.get("direction") or (_FIELDS["direction"].default,) * count
    convictions = fields.get("conviction", missing)
    upper = {text: text and text.upper() for text in set(convictions)}
    said = (
        *(fields.get(name, missing) for name in ("technical_score", "news_score", "combined_score")),
        [upper[text] for text in convictions],
        *(fields.get(name, missing) for name in ("entry_price", "target_price", "stop_price", "position_size_pct")),
        asset_classes,
        signal_types,
        directions,
    )
    metadata = map(SignalMetadata._make, zip(*said, strict=True))
    values = zip(ids, us, symbols, *said, repeat([], count), strict=True)
    if brought is None:
        bars = benchmarks = missing
        digests = map(plain_digest, values)
    else:
        if any(map(_is_ahead, brought, us)):
            return None
        bars, benchmarks = zip(*brought, strict=True)
        digests = map(plain_digest, values, bars, benchmarks)
    own = (asset_classes, signal_types, directions, metadata, bars, benchmarks, repeat((), count))
    features: list[dict[str, float]] = [{} for _ in us]
    return list(map(SignalCreated._make, zip(ids, us, symbols, *own, features, digests, strict=True)))


def _is_ahead(brought: Brought, us: int) -> bool:
    """Whether a bar closed after the signal's time."""
    return any(bars is not None and bars.timestamp[-1] > us for bars in brought)


def _checked(name: str, column: tuple[Any, ...]) -> Sequence[Any]:
    """The field's values of all rows, as its rule gives them.

    Raises:
        ValidationError: one breaks it.
        TypeError: one is a list or an object.
    """
    if name not in _FIELDS or name == _VERSION:
        kinds = set(map(type, column))
        if not (kinds <= _SCALARS if name != _VERSION else kinds == {int} and set(column) == {SCHEMA_VERSION}):
            raise TypeError(name)
        return column
    if name in _OPEN_OR_NUMBERS:
        return _rule(name)(list(column))
    _rule(name)(list(set(column)))  # a handful of them, each of many rows
    return column


@cache
def _rule(name: str) -> Callable[[list[Any]], list[Any]]:
    """The rule of a field, for a list of values."""
    field = _FIELDS[name]
    kind: Any = field.annotation
    for rule in field.metadata:
        kind = Annotated[kind, rule]
    validated: Callable[[list[Any]], list[Any]] = TypeAdapter(
        list[kind], config=SignalCreatedJson.model_config
    ).validator.validate_python
    return validated


class _Form(NamedTuple):
    """Of a row's bytes: the least, how much more each may be, the weights of (year, month, day, second, µs)."""

    least: AnyArray
    room: AnyArray
    weights: AnyArray


def _instants_us(texts: Sequence[str]) -> IntArray | None:
    """`instant_us` of every text, shape (n,); None where one is no instant, or they are of more than a few forms."""
    us = _of_one_form(texts)
    if us is not None:
        return us
    forms: dict[tuple[int, str], list[int]] = defaultdict(list)
    for row, text in enumerate(texts):
        tail = _TAIL.fullmatch(text, _SECONDS_LEN)
        if tail is None:
            return None
        forms[len(text), tail[2]].append(row)
    if not 1 < len(forms) <= _FEW:
        return None
    us = np.empty(len(texts), np.int64)
    for rows in forms.values():
        alike = _of_one_form([texts[row] for row in rows])
        if alike is None:
            return None
        us[rows] = alike
    return us


def _of_one_form(texts: Sequence[str]) -> IntArray | None:
    """The same of texts with as many digits and one offset; None for others."""
    joined = "\n".join(texts)
    tail = _TAIL.fullmatch(texts[0], _SECONDS_LEN)
    if tail is None or not joined.isascii():
        return None
    form = _form(len(tail[1] or ""), tail[2])
    width = form.least.size
    if len(joined) + 1 != width * len(texts):
        return None
    digits = np.frombuffer(f"{joined}\n".encode("ascii"), np.uint8).reshape(-1, width) - form.least
    if np.count_nonzero(digits > form.room):
        return None
    year, month, day, second, micro = (form.weights @ digits.T.astype(np.float32)).astype(np.int64)
    if month.min() < 1 or month.max() > 12 or year.min() < FIRST_YEAR or year.max() > LAST_YEAR:
        return None
    months = (year - 1970) * 12 + month - 1
    first, after = (at.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64) for at in (months, months + 1))
    if np.count_nonzero((day < 1) | (day > after - first)) or second.max() >= _DAY_S:
        return None
    us: IntArray = ((first + day - 1) * _DAY_S + second) * 1_000_000 + micro
    try:
        us += instant_us(texts[0]) - int(us[0])  # the offset, which all rows share
    except BadTimestamp:
        return None
    return us if us.min() >= 0 and us.max() < END_US else None


@lru_cache(maxsize=64)
def _form(digits: int, offset: str) -> _Form:
    """Of times with so many digits after the second, or none, and this offset."""
    dot = "." if digits else ""
    least = np.frombuffer(_SECONDS_LEAST + f"{dot}{'0' * digits}{offset}\n".encode("ascii"), np.uint8)
    most = np.frombuffer(_SECONDS_MOST + f"{dot}{'9' * digits}{offset}\n".encode("ascii"), np.uint8)
    weights = np.zeros((5, least.size), np.float32)
    weights[0, :4] = 1_000, 100, 10, 1
    weights[1, 5:7] = weights[2, 8:10] = 10, 1
    weights[3, [11, 12, 14, 15, 17, 18]] = 36_000, 3_600, 600, 60, 10, 1
    kept = min(digits, 6)  # digits after the sixth are dropped
    weights[4, 20 : 20 + kept] = [10.0 ** (5 - at) for at in range(kept)]
    return _Form(least, most - least, weights)
