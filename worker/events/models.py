"""The JSON of the three events as pydantic models: what each field may be, for the door and for `refinery schema`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.json_schema import GenerateJsonSchema

from trading_system.ml_refinement.bar_limits import COLUMNS, PRICE_MAX, PRICE_MIN, VOLUME_MAX
from trading_system.ml_refinement.provided_limits import MOST_PROVIDED, PROVIDED_MAX, PROVIDED_NAME

MAX_BARS = 5_000
SCHEMA_VERSION = 1

#: Beyond these a number cannot be meant. None of them is a bound of the contract, so that an error tells which it was.
MAGNITUDE_MAX = 1e9
REVISION_MAX = 2**31 - 1
ABSURD_BOUNDS = frozenset({PRICE_MIN, PRICE_MAX, MAGNITUDE_MAX, -MAGNITUDE_MAX, REVISION_MAX})

_INSTANT_SCHEMA = {
    "type": "string",
    "format": "date-time",
    "description": "RFC 3339 with an offset, of 1970 to 2100; digits after the microsecond are dropped.",
}


def _bars_schema(what: str) -> dict[str, Any]:
    def column(items: dict[str, Any]) -> dict[str, Any]:
        return {"type": "array", "maxItems": MAX_BARS, "items": items}

    price = column({"type": "number", "minimum": PRICE_MIN, "maximum": PRICE_MAX})
    close_times = column({"type": "string", "format": "date-time"})
    close_times["description"] = "Close times, strictly increasing, none after the signal's timestamp."
    volume = column({"type": "number", "minimum": 0, "maximum": VOLUME_MAX})
    properties = {"timestamp": close_times, **dict.fromkeys(COLUMNS[1:5], price), "volume": volume}
    columns = {"type": "object", "properties": properties, "required": list(COLUMNS), "additionalProperties": True}
    return {"anyOf": [columns, {"type": "null"}], "description": what}


_NUMBERS = {
    "type": "object",
    "maxProperties": MOST_PROVIDED,
    "propertyNames": {"pattern": PROVIDED_NAME},
    "additionalProperties": {"type": "number", "minimum": -PROVIDED_MAX, "maximum": PROVIDED_MAX},
}
_PROVIDED_SCHEMA = {
    "anyOf": [_NUMBERS, {"type": "null"}],
    "description": "What only the desk knows. Those that REFINERY_ML__FEATURES__PROVIDED lists become features.",
}
_LENGTHS = "columns of equal length, oldest bar first; in each bar low <= open, close <= high"

_IDENTITY = r"^[A-Za-z0-9_.:-]{1,128}$"
Identity = Annotated[str, Field(pattern=_IDENTITY)]
#: No control, no format character, nothing for private use, no blank.
_SIGN = r"[^\p{Cc}\p{Cf}\p{Co}\p{Z}]"
SYMBOL_RULE = "1 to 64 printable characters, no blank at either end"
#: In the schema what every language's expressions can say of it; they do not agree on how to name the rest.
_SYMBOL_SCHEMA = {
    "type": "string",
    "minLength": 1,
    "maxLength": 64,
    "pattern": r"^[^\x00-\x20\x7f-\xa0\xad](?:[^\x00-\x1f\x7f-\xa0\xad]*[^\x00-\x20\x7f-\xa0\xad])?$",
    "description": f"As the vendor writes it: {SYMBOL_RULE}. Beyond the pattern: no format characters, no wide blanks.",
}
Symbol = Annotated[
    str,
    Field(max_length=64, pattern=rf"^{_SIGN}(?:(?:{_SIGN}| )*{_SIGN})?$"),
    WithJsonSchema(_SYMBOL_SCHEMA),
]
_LABEL = r"^[a-z0-9][a-z0-9_.-]{0,31}$"
Label = Annotated[str, Field(pattern=_LABEL)]
#: A NUL ends a text for many of those who read it, and PostgreSQL's cannot hold one.
_NO_NUL = r"^[^\x00]*$"
_CONVICTION = r"^([Hh][Ii][Gg][Hh]|[Mm][Ee][Dd][Ii][Uu][Mm]|[Ll][Oo][Ww])$"
#: What a text must be, for people, by the pattern that it is held to.
PATTERN_WORDS = {
    _IDENTITY: "1 to 128 of A-Z, a-z, 0-9, _ . : and -",
    _LABEL: "1 to 32 of a-z, 0-9, _ . and -, a letter or digit first",
    _CONVICTION: "HIGH, MEDIUM or LOW, in any case",
    _NO_NUL: "text without NUL",
}
Timestamp = Annotated[str, WithJsonSchema(_INSTANT_SCHEMA)]
Score = Annotated[float, Field(ge=0, le=10)]
Price = Annotated[float, Field(ge=PRICE_MIN, le=PRICE_MAX)]
Ratio = Annotated[float, Field(ge=-MAGNITUDE_MAX, le=MAGNITUDE_MAX)]
Share = Annotated[float, Field(ge=0, le=1)]
#: The values of `NotProven`, which would load the store with it; a test compares the two.
NotProvenCode = Literal[
    "no_model",
    "too_little_evidence",
    "never_shown",
    "worse_than_base_rate",
    "not_better",
    "proof_expired",
    "harm",
    "skill_not_shown",
    "not_recorded",
]


def whole_number(value: Any) -> Any:
    """A whole number as such where it was written with a point, `1.0`; anything else as it is."""
    return int(value) if type(value) is float and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(whole_number)]


class _Contract(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


class NewsJson(_Contract):
    """A news item; one published after the signal's timestamp has no influence."""

    published_at: Timestamp
    sentiment: Annotated[float, Field(ge=-1, le=1)]
    relevance: Share = 1.0
    source: str | None = None
    headline: str | None = None


class SignalCreatedJson(_Contract):
    """A signal: what a strategy proposes, and what was known at that moment."""

    model_config = ConfigDict(title="signal.created")

    signal_id: Annotated[Identity, Field(description="Identifies the signal for ever.")]
    timestamp: Annotated[
        Timestamp,
        Field(description="The moment the signal was known. At most 5 minutes ahead of the worker's clock (setting)."),
    ]
    symbol: Symbol
    asset_class: Annotated[Label, Field(description="Such as equity, crypto; an open set.")]
    signal_type: Annotated[Label, Field(description="Such as breakout, momentum; an open set.")]
    direction: Literal["long", "short"] = "long"
    conviction: Annotated[str, Field(pattern=_CONVICTION)] | None = None
    technical_score: Score | None = None
    news_score: Score | None = None
    combined_score: Score | None = None
    entry_price: Price | None = None
    target_price: Price | None = None
    stop_price: Price | None = None
    position_size_pct: Annotated[float, Field(ge=0, le=MAGNITUDE_MAX)] | None = None
    bars: Annotated[Any, WithJsonSchema(_bars_schema(f"Bars of the symbol: {_LENGTHS}. Absent: looked up."))] = None
    benchmark: Annotated[Any, WithJsonSchema(_bars_schema(f"Bars of a benchmark: {_LENGTHS}."))] = None
    news: Annotated[list[NewsJson], Field(fail_fast=True)] | None = None
    features: Annotated[Any, WithJsonSchema(_PROVIDED_SCHEMA)] = None
    schema_version: Annotated[Whole, WithJsonSchema({"const": SCHEMA_VERSION, "type": "integer"})] = SCHEMA_VERSION


class TradeClosedJson(_Contract):
    """What became of a signal's trade."""

    model_config = ConfigDict(title="trade.closed")

    signal_id: Identity
    closed_at: Annotated[
        Timestamp, Field(description="Not before the signal's timestamp; ahead of the worker's clock as little.")
    ]
    r_multiple: Annotated[Ratio, Field(description="At most 1,000 in size (setting).")]
    return_pct: Ratio | None = None
    exit_reason: Annotated[str, Field(max_length=1_000, pattern=_NO_NUL)] | None = None
    revision: Annotated[
        Whole,
        Field(
            ge=0,
            le=REVISION_MAX,
            description="A higher revision corrects an earlier outcome; the same one with other content is a conflict.",
        ),
    ] = 0
    schema_version: Annotated[Whole, WithJsonSchema({"const": SCHEMA_VERSION, "type": "integer"})] = SCHEMA_VERSION


class SignalScored(_Contract):
    """What the models make of a signal. What no model says is null, never a made-up score."""

    model_config = ConfigDict(title="signal.scored")

    signal_id: Identity
    status: Annotated[
        Literal["scored", "cold_start", "stale"],
        Field(description="cold_start: there is no model yet. stale: the champion is past its expiry."),
    ]
    proven: Annotated[bool, Field(description="Whether the model passed the gate's skill test, and its proof holds.")]
    not_proven: Annotated[
        NotProvenCode | None,
        Field(description="Why the score is not proven, by a closed set of codes; null where it is."),
    ] = None
    model_id: str | None = None
    quality_score: Annotated[Share | None, Field(description="Calibrated probability of a win.")] = None
    quality_band: Literal["high", "medium", "low"] | None = None
    predicted_r: float | None = None
    risk_r: Annotated[float | None, Field(description="Tenth percentile of R.")] = None
    regime: str | None = None
    confidence: Share | None = None
    out_of_distribution: bool | None = None
    combined_score: Annotated[
        Score | None,
        Field(
            description="The signal's own score blended with the model's; a model that is not proven does not move it."
        ),
    ] = None
    feature_version: str
    scored_at: Timestamp

    def to_bytes(self) -> bytes:
        """The event's `data`: every field, in this order."""
        return orjson.dumps(self.__dict__)


_MODELS: dict[str, type[BaseModel]] = {
    "signal.created": SignalCreatedJson,
    "trade.closed": TradeClosedJson,
    "signal.scored": SignalScored,
}


def json_schema(kind: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of `signal.created`, `trade.closed` or `signal.scored`.

    What a schema cannot say is in the descriptions: order of times, equal lengths, OHLC consistency.

    Raises:
        KeyError: another kind.
    """
    schema = _MODELS[kind].model_json_schema(mode="validation")
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema}
