"""The events as the rest of the worker sees them, and the door: bytes to an event, or a `DecodeError` with a reason."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import blake2b, sha256
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import orjson
from pydantic import ValidationError

from trading_system.ml_refinement.bar_limits import PRICE_MAX, PRICE_MIN
from trading_system.ml_refinement.features.extractors.news_item import NewsItem
from trading_system.ml_refinement.features.extractors.signal_metadata import SignalMetadata
from worker.errors import DecodeError, Reason
from worker.events.faults import at_fault, fault, in_words, with_others
from worker.events.instants import BadTimestamp, instant_us
from worker.events.models import (
    ABSURD_BOUNDS,
    MAX_BARS,
    SCHEMA_VERSION,
    SYMBOL_RULE,
    SignalCreatedJson,
    SignalScored,
    TradeClosedJson,
    json_schema,
    whole_number,
)
from worker.events.provided_values import provided_from_json
from worker.events.strict_json import count_strings, parse_object, refuse_double_keys
from worker.streams.shards import EventKind

if TYPE_CHECKING:
    from trading_system.ml_refinement.bars import Bars
    from worker.events.bar_columns import JsonBars
    from worker.settings.schema import Settings

__all__ = [
    "Decoded",
    "EventKind",
    "Limits",
    "SignalCreated",
    "SignalScored",
    "TradeClosed",
    "decode",
    "decode_kept",
    "json_schema",
]

Model = TypeVar("Model", SignalCreatedJson, TradeClosedJson)

_DIGEST_ID = b"signal.created/1"  # the digest's name space: a new way to compute it gets a new one
_NOTHING = blake2b(digest_size=16, person=_DIGEST_ID)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the door lets in."""

    max_bytes: int = 1024 * 1024
    max_bars: int = MAX_BARS
    #: How far a signal's timestamp, or a trade's close, may lie ahead of our clock.
    max_future_s: int = 300
    #: No signal and no trade is older: a clock that was never set, or a time of 0, is one of 1970.
    earliest_us: int = 315_532_800_000_000  # 1980-01-01T00:00:00Z
    #: Of an outcome's R-multiple, either way.
    max_r_multiple: float = 1000.0

    @classmethod
    def from_settings(cls, settings: Settings) -> Limits:
        """Those of an installation."""
        return cls(
            max_bytes=settings.max_event_bytes,
            max_future_s=settings.max_future_s,
            max_r_multiple=settings.max_r_multiple,
        )


_NO_LIMITS = Limits(max_bytes=sys.maxsize, max_bars=sys.maxsize, earliest_us=0, max_r_multiple=sys.float_info.max)
_END_OF_TIME = datetime.max.replace(tzinfo=UTC)
_END_US = sys.maxsize


class SignalCreated(NamedTuple):
    """A signal. `metadata.conviction` is upper case; `bars` and `benchmark` hold nothing later than `timestamp_us`.

    `features` has what the desk provided, by name, whether or not anything is made of it.

    `digest` is a hash of the content: the same for every way to write it down, another for any other content.
    """

    signal_id: str
    timestamp_us: int
    symbol: str
    asset_class: str
    signal_type: str
    direction: str
    metadata: SignalMetadata
    bars: Bars | None
    benchmark: Bars | None
    news: tuple[NewsItem, ...]
    features: dict[str, float]
    digest: bytes


class TradeClosed(NamedTuple):
    """What became of a signal's trade."""

    signal_id: str
    closed_at_us: int
    r_multiple: float
    return_pct: float | None
    exit_reason: str | None
    revision: int


class Decoded(NamedTuple):
    """An event, and how many of the fields it came with are none of ours."""

    event: SignalCreated | TradeClosed
    unknown_fields: int


def decode(kind: str, data: bytes, *, now: datetime, limits: Limits) -> Decoded:
    """The event in an entry's `data`.

    Args:
        kind: `signal.created` or `trade.closed`.
        data: as received.
        now: the worker's clock.
        limits: what the door lets in.

    Raises:
        DecodeError: the bytes are no event; its detail names the field and never repeats the input at length.
        ValueError: another kind.
    """
    if kind == "signal.created":
        return _decode_signal(data, now, limits)
    if kind == "trade.closed":
        return _decode_outcome(data, now, limits)
    raise ValueError(f"{kind!r} is no event that is read here")


def decode_kept(data: bytes) -> SignalCreated:
    """The signal in bytes that were let in before: today's limits and clock are not held against them.

    Raises:
        DecodeError: this release cannot read them.
    """
    event = _decode_signal(data, _END_OF_TIME, _NO_LIMITS).event
    assert isinstance(event, SignalCreated)  # noqa: S101 - what else could it be
    return event


def decode_again(kind: str, data: bytes) -> SignalCreated | TradeClosed:
    """The event in bytes that may have been let in before, by the limits and the clock of then.

    Raises:
        DecodeError: this release cannot read them.
        ValueError: another kind.
    """
    return decode(kind, data, now=_END_OF_TIME, limits=_NO_LIMITS).event


def decode_without_bars(
    rest: bytes, bars: Bars | None, benchmark: Bars | None, *, now: datetime, limits: Limits
) -> tuple[SignalCreated, int] | None:
    """A signal whose bars were read apart from it, and its unknown fields; None: refused, for a reason `decode` finds.

    Args:
        rest: its JSON with null, as a field of its own, in the places of bars that were read.
        bars: those of the symbol, checked, not empty and not too many; None where they were not read.
        benchmark: as bars.
        now: the worker's clock.
        limits: what the door lets in.
    """
    try:
        event, unknown_fields = _signal_in(
            parse_object(rest, max_bytes=limits.max_bytes), rest, now, limits, bars, benchmark
        )
    except DecodeError:
        return None
    if any(each is not None and each.timestamp[-1] > event.timestamp_us for each in (bars, benchmark)):
        return None
    return event, unknown_fields


def _decode_signal(data: bytes, now: datetime, limits: Limits) -> Decoded:
    raw = parse_object(data, max_bytes=limits.max_bytes)
    try:
        return Decoded(*_signal_in(raw, data, now, limits))
    except DecodeError as error:
        raise with_others(error, _checks_of_signal(raw, now, limits)) from None


def _checks_of_signal(raw: dict[str, Any], now: datetime, limits: Limits) -> Iterator[Callable[[], object]]:
    """What else may be wrong with a signal, each part by itself. A bar's time is no fault where the signal's is one."""
    yield lambda: _validated(SignalCreatedJson, raw)
    timestamp = raw.get("timestamp")
    known_us = _END_US
    if isinstance(timestamp, str):
        yield lambda: _believable("timestamp", timestamp, now, limits)
        with suppress(BadTimestamp):
            known_us = instant_us(timestamp)
    names: tuple[Literal["bars", "benchmark"], ...] = ("bars", "benchmark")
    for name in names:
        yield partial(_parsed_bars, raw, name, known_us, limits)
    if (features := raw.get("features")) is not None:
        yield lambda: provided_from_json(features)


def _signal_in(
    raw: dict[str, Any],
    data: bytes,
    now: datetime,
    limits: Limits,
    bars: Bars | None = None,
    benchmark: Bars | None = None,
) -> tuple[SignalCreated, int]:
    fields = _validated(SignalCreatedJson, raw)
    timestamp_us = _believable("timestamp", fields.timestamp, now, limits)
    tally = _Tally(raw, fields)
    bars = bars or _bars(raw, "bars", timestamp_us, limits, tally)
    benchmark = benchmark or _bars(raw, "benchmark", timestamp_us, limits, tally)
    news = _news(raw, fields, tally)
    features = {} if fields.features is None else provided_from_json(fields.features)
    refuse_double_keys(data, tally.strings + len(features))
    return _signal(fields, timestamp_us, bars, benchmark, news, features), tally.unknown_fields


def _decode_outcome(data: bytes, now: datetime, limits: Limits) -> Decoded:
    raw = parse_object(data, max_bytes=limits.max_bytes)
    try:
        return _outcome_in(raw, data, now, limits)
    except DecodeError as error:
        raise with_others(error, _checks_of_outcome(raw, now, limits)) from None


def _checks_of_outcome(raw: dict[str, Any], now: datetime, limits: Limits) -> Iterator[Callable[[], object]]:
    yield lambda: _validated(TradeClosedJson, raw)
    closed_at, r_multiple = raw.get("closed_at"), raw.get("r_multiple")
    if isinstance(closed_at, str):
        yield lambda: _believable("closed_at", closed_at, now, limits)
    if type(r_multiple) in (float, int):
        yield lambda: _refuse_absurd_r(r_multiple, limits)


def _refuse_absurd_r(r_multiple: Any, limits: Limits) -> None:
    if abs(r_multiple) > limits.max_r_multiple:
        said = f"r_multiple: more than {limits.max_r_multiple:g} in size"
        raise DecodeError(Reason.BAD_NUMBER, at_fault(said, r_multiple), alike=said)


def _outcome_in(raw: dict[str, Any], data: bytes, now: datetime, limits: Limits) -> Decoded:
    fields = _validated(TradeClosedJson, raw)
    closed_at_us = _believable("closed_at", fields.closed_at, now, limits)
    _refuse_absurd_r(raw["r_multiple"], limits)
    tally = _Tally(raw, fields)
    refuse_double_keys(data, tally.strings)
    outcome = TradeClosed(
        fields.signal_id, closed_at_us, fields.r_multiple, fields.return_pct, fields.exit_reason, fields.revision
    )
    return Decoded(outcome, tally.unknown_fields)


class _Tally:
    """Strings and unknown fields met so far: at first those of the top level, without what known lists hold."""

    __slots__ = ("strings", "unknown_fields")

    def __init__(self, raw: dict[str, Any], fields: SignalCreatedJson | TradeClosedJson) -> None:
        self.strings = len(raw) + list(map(type, raw.values())).count(str)
        self.unknown_fields = len(raw) - len(fields.model_fields_set)
        if self.unknown_fields:
            for name in raw.keys() - fields.model_fields_set:
                value = raw[name]
                if type(value) is not str:
                    self.strings += count_strings(value)


def _validated(model: type[Model], raw: dict[str, Any]) -> Model:
    try:
        fields: Model = model.__pydantic_validator__.validate_python(raw)
    except ValidationError as error:
        _refuse_version(raw.get("schema_version"))
        raise _decode_error(error) from None
    _refuse_version(fields.schema_version)
    return fields


def _refuse_version(version: object) -> None:
    version = whole_number(version)
    if type(version) is int and version != SCHEMA_VERSION:
        said = f"schema_version: must be {SCHEMA_VERSION}"
        raise DecodeError(Reason.UNKNOWN_VERSION, at_fault(said, version), alike=said)


def _decode_error(error: ValidationError) -> DecodeError:
    items = error.errors(include_url=False)
    reason = _reason_of(items[0])
    faults = tuple(fault(item, _instead(item)) for item in items)
    where, others = ".".join(map(str, items[0]["loc"])), " and others" if len(items) > 1 else ""
    alike = f"{where}: {_instead(items[0]) or in_words(items[0])}{others}"
    return DecodeError(reason, "; ".join(faults), alike=alike, faults=faults)


def _reason_of(first: Any) -> Reason:
    bound = first.get("ctx", {}).get("ge", first.get("ctx", {}).get("le"))
    if first["loc"][0] == "news":
        return Reason.BAD_NEWS
    if bound in ABSURD_BOUNDS and not (bound == PRICE_MIN and first["input"] <= 0):
        return Reason.BAD_NUMBER
    return Reason.SCHEMA


def _instead(item: Any) -> str | None:
    """What is said of a fault where what pydantic says would not help."""
    bound = item.get("ctx", {}).get("ge", item.get("ctx", {}).get("le"))
    if item["loc"] == ("symbol",) and type(item["input"]) is str:
        return f"must be {SYMBOL_RULE}"
    if _reason_of(item) is Reason.BAD_NUMBER and bound in (PRICE_MIN, PRICE_MAX):
        return f"absurd (allowed: {PRICE_MIN:g} to {PRICE_MAX:g})"
    return "must be above 0" if bound == PRICE_MIN else None


def _instant(where: str, text: str) -> int:
    try:
        return instant_us(text)
    except BadTimestamp as error:
        raise _bad_time(where, str(error), text) from None


def _bad_time(where: str, said: str, text: str, reason: Reason = Reason.BAD_TIME) -> DecodeError:
    return DecodeError(reason, at_fault(f"{where}: {said}", text), alike=f"{where}: {said}")


def _believable(where: str, text: str, now: datetime, limits: Limits) -> int:
    """A time at which something may have happened to a desk: one strange date decides about windows and alarms."""
    us = _instant(where, text)
    if us > (now.timestamp() + limits.max_future_s) * 1e6:
        said = f"more than {limits.max_future_s} s ahead of our clock"
        raise _bad_time(where, said, text, Reason.FUTURE_TIMESTAMP)
    if us < limits.earliest_us:
        earliest = datetime.fromtimestamp(limits.earliest_us / 1e6, UTC).date()
        raise _bad_time(where, f"before {earliest}, as times of clocks that were never set are", text)
    return us


def _parsed_bars(
    raw: dict[str, Any], name: Literal["bars", "benchmark"], timestamp_us: int, limits: Limits
) -> JsonBars | None:
    value = raw.get(name)
    if value is None:
        return None
    from worker.events.bar_columns import bars_from_json  # numpy, which a client without bars does without

    return bars_from_json(value, field=name, not_after_us=timestamp_us, max_bars=limits.max_bars)


def _bars(
    raw: dict[str, Any], name: Literal["bars", "benchmark"], timestamp_us: int, limits: Limits, tally: _Tally
) -> Bars | None:
    parsed = _parsed_bars(raw, name, timestamp_us, limits)
    if parsed is None:
        return None
    tally.strings += parsed.strings
    tally.unknown_fields += parsed.unknown_fields
    return parsed.bars


def _news(raw: dict[str, Any], fields: SignalCreatedJson, tally: _Tally) -> tuple[NewsItem, ...]:
    if not fields.news:
        return ()
    tally.strings += count_strings(raw["news"])
    tally.unknown_fields += sum(map(len, raw["news"])) - sum(len(item.model_fields_set) for item in fields.news)
    return tuple(
        NewsItem(_instant(f"news.{row}.published_at", item.published_at), item.sentiment, item.relevance)
        for row, item in enumerate(fields.news)
    )


def _signal(
    fields: SignalCreatedJson,
    timestamp_us: int,
    bars: Bars | None,
    benchmark: Bars | None,
    news: tuple[NewsItem, ...],
    features: dict[str, float],
) -> SignalCreated:
    conviction, asset_class, signal_type, direction = (
        fields.conviction and fields.conviction.upper(),
        fields.asset_class,
        fields.signal_type,
        fields.direction,
    )
    metadata = SignalMetadata(
        fields.technical_score,
        fields.news_score,
        fields.combined_score,
        conviction,
        fields.entry_price,
        fields.target_price,
        fields.stop_price,
        fields.position_size_pct,
        asset_class,
        signal_type,
        direction,
    )
    signal_id, symbol = fields.signal_id, fields.symbol
    digest = _digest((signal_id, timestamp_us, symbol, *metadata, _printed(fields, news)), bars, benchmark, features)
    return SignalCreated(
        signal_id,
        timestamp_us,
        symbol,
        asset_class,
        signal_type,
        direction,
        metadata,
        bars,
        benchmark,
        news,
        features,
        digest,
    )


def _printed(fields: SignalCreatedJson, news: tuple[NewsItem, ...]) -> list[tuple[object, ...]]:
    """What the news says, with what no feature reads."""
    if not news:
        return []
    reports = zip(news, fields.news or (), strict=True)
    return [(n.published_us, n.sentiment, n.relevance, json.source, json.headline) for n, json in reports]


def _digest(values: tuple[object, ...], bars: Bars | None, benchmark: Bars | None, features: dict[str, float]) -> bytes:
    """Hash of what an event says. A field that is added to the contract later enters only where it is given."""
    digest = _begun(values)
    if features:
        digest.update(b"features %b" % orjson.dumps(features, option=orjson.OPT_SORT_KEYS))
    if bars is not None:
        _add_bars(digest, b"bars", bars)
    if benchmark is not None:
        _add_bars(digest, b"benchmark", benchmark)
    return digest.digest()


def plain_digest(values: tuple[object, ...], bars: Bars | None = None, benchmark: Bars | None = None) -> bytes:
    """The digest of a signal without provided values.

    Args:
        values: id, microseconds, symbol, what its metadata has, and its news.
        bars: of the symbol.
        benchmark: as bars.
    """
    return _digest(values, bars, benchmark, {})


def _begun(values: tuple[object, ...]) -> blake2b:
    digest = _NOTHING.copy()  # which costs half of what to make one does
    digest.update(orjson.dumps(values))
    return digest


def _add_bars(digest: blake2b, name: bytes, bars: Bars) -> None:
    head = b"%b %d " % (name, len(bars))
    columns = (bars.timestamp, bars.open, bars.high, bars.low, bars.close, bars.volume)
    # Processors have instructions for this one: half of blake2b's time for the thousands of bytes that bars are.
    digest.update(sha256(b"".join([head, *(column.data for column in columns)])).digest())
