"""What a notebook hands in, made usable: what is wrong with a frame, a signal or its news is set apart and said.

Nothing here refuses bad data, as the door for events does: what cannot be meant is taken out, so that features which
would have been made from it are neutral. Whoever asks for the impossible (a bar that is not there, one frame with times
beside one without) is still told so by an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trading_system.ml_refinement.bar_limits import PRICE_MAX, PRICE_MIN, PRICES
from trading_system.ml_refinement.bars import Bars, BarsError, BrokenRule, frame_times
from trading_system.ml_refinement.features.extractors.batch import FeatureRequest, Flaws, Given, closed_bars
from trading_system.ml_refinement.features.extractors.news_item import NewsItem
from trading_system.ml_refinement.features.extractors.signal_metadata import TEXT_FIELDS, SignalMetadata
from trading_system.ml_refinement.provided_limits import MOST_PROVIDED, PROVIDED_MAX, is_provided_name
from trading_system.ml_refinement.storage.times import us_from_text, utc_text
from trading_system.ml_refinement.time_units import no_microseconds
from trading_system.ml_refinement.typing import FloatArray, TimeArray

if TYPE_CHECKING:
    import pandas as pd

#: Between which numbers the fields of a signal lie, as in an event.
NUMBER_RANGES = {
    **dict.fromkeys(("technical_score", "news_score", "combined_score"), (0.0, 10.0)),
    **dict.fromkeys(("entry_price", "target_price", "stop_price"), (PRICE_MIN, PRICE_MAX)),
    "position_size_pct": (0.0, 1e9),
}


@dataclass(frozen=True, slots=True)
class GivenBars:
    """Bars out of a frame, NaN where it had what cannot be meant.

    `dated` is False for a frame that has an order and no times, None where there is nothing to tell by. `broken` are
    the rules that it breaks; `unusable` says why nothing could be taken from it.
    """

    bars: Bars
    dated: bool | None = None
    broken: tuple[BrokenRule, ...] = ()
    unusable: str = ""

    def first(self, count: int) -> GivenBars:
        """The oldest `count` bars, and what is wrong with those."""
        if count == len(self.bars):
            return self
        cut = (rule._replace(rows=rule.rows[:count]) for rule in self.broken)
        return replace(self, bars=self.bars.first(count), broken=tuple(rule for rule in cut if rule.rows.any()))

    def as_of(self, us: int) -> GivenBars:
        """The bars that had closed at `us`, and what is wrong with those."""
        return self.first(closed_bars(self.bars, us))

    def moved(self, us: int) -> GivenBars:
        """The same with all times later by `us`."""
        return replace(self, bars=replace(self.bars, timestamp=self.bars.timestamp + us))

    @property
    def said(self) -> str:
        """What is wrong, in words; empty where nothing is."""
        return self.unusable or "; ".join(f"{rule.code}: {rule}" for rule in self.broken)

    @property
    def back(self) -> dict[str, int]:
        """By column, how many bars back the newest value lies that cannot be meant."""
        found: dict[str, int] = {}
        for rule in self.broken:
            at = int(rule.rows[::-1].argmax()) + 1
            found |= {name: min(at, found.get(name, at)) for name in rule.columns}
        return found


class _Stated(NamedTuple):
    """A signal's own fields without those that cannot be meant, and what is wrong with them."""

    metadata: SignalMetadata
    said: str


def given_bars(frame: Any, *, enclosed: bool) -> GivenBars:
    """What can be used of a frame, or of whatever was given as one; `enclosed` as in `Bars.from_frame`.

    Raises:
        BarsError: its whole numbers are times in another unit than microseconds.
    """
    import pandas as pd  # takes long to load, and the worker has no frames

    if not isinstance(frame, pd.DataFrame):
        return GivenBars(Bars.empty(), unusable=f"no frame of bars but {_shown(frame)}")
    if not len(frame):
        return GivenBars(Bars.empty(), unusable="a frame without bars")
    try:
        times, dated = frame_times(frame)
        bars = Bars.from_timed_frame(frame, times, enclosed=enclosed)
    except BarsError as error:
        if error.code == "bad_time_unit":
            raise
        if error.code in ("bad_timestamp", "unsorted"):
            return GivenBars(Bars.empty(), unusable=str(error))
        return _salvaged(frame, times, dated, enclosed)
    return GivenBars(bars, dated)


def given_metadata(data: Any) -> _Stated:
    """The fields of `SignalMetadata` in a mapping or a row of a frame, None where one is missing or cannot be meant."""
    data = _mapping(data)
    if not isinstance(data, Mapping):
        return _Stated(SignalMetadata(), f"no mapping but {_shown(data)}")
    known = {name: data[name] for name in SignalMetadata._fields if data.get(name) is not None}
    wrong = {name: said for name, value in known.items() if (said := _wrong(name, value))}
    sound = {name: value for name, value in known.items() if name not in wrong}
    return _Stated(SignalMetadata(**sound), "; ".join(f"{name} {said}" for name, said in wrong.items()))


def given_provided(data: Any) -> tuple[dict[str, float], str]:
    """The numbers in `features` of a mapping or a row of a frame that an event could bring, and what is wrong."""
    data = _mapping(data)
    told = data.get("features") if isinstance(data, Mapping) else None
    if told is None or _is_missing(told):
        return {}, ""
    if not isinstance(told, Mapping):
        return {}, f"no mapping but {_shown(told)}"
    wrong = {name: said for name, value in told.items() if (said := _wrong_provided(name, value))}
    if len(told) > MOST_PROVIDED:
        return {}, f"{len(told)} numbers, at most {MOST_PROVIDED} are allowed"
    sound = {name: float(value) for name, value in told.items() if name not in wrong}
    return sound, "; ".join(f"{_shown(name)} {why}" for name, why in wrong.items())


def given_news(news: Any, us: int) -> tuple[tuple[NewsItem, ...], str]:
    """The items as of an instant, and what is wrong with any of them: then there are none. None is no news."""
    if news is None:
        return (), ""
    if not isinstance(news, Sequence) or isinstance(news, str | bytes):
        return (), f"no sequence of items but {_shown(news)}"
    for at, item in enumerate(news):
        if _is_instant(item) and item.published_us and (wrong := no_microseconds(item.published_us, item.published_us)):
            return (), f"published_us of item {at}: {wrong}"
    known = [item for item in news if not (_is_instant(item) and item.published_us > us)]
    for at, item in enumerate(known):
        if not _is_instant(item):
            return (), f"item {at} is {_shown(item)}, not a NewsItem with a time"
        for name, low in (("sentiment", -1.0), ("relevance", 0.0)):
            if not _is_number(getattr(item, name)) or not low <= getattr(item, name) <= 1:
                return (), f"{name} of item {at} is {_shown(getattr(item, name))}, not from {low:g} to 1"
    return tuple(known), ""


def request_from(
    signal_id: str,
    ohlcv: Any,
    metadata: Any,
    benchmark: Any = None,
    *,
    as_of: datetime | None = None,
    news: Any = (),
) -> FeatureRequest:
    """A signal as a notebook has it, as `FeaturePipeline.extract_batch` takes it.

    Args:
        signal_id: for messages.
        ohlcv: a frame of the symbol's bars, as `Bars.from_frame` takes it.
        metadata: a mapping with fields of `SignalMetadata`, any of them missing.
        benchmark: a frame of the benchmark's bars, or None.
        as_of: the signal's time, naive means UTC; without it the close of the last bar.
        news: items about the symbol.

    Raises:
        BarsError: one of the frames has times and the other has none, or one has whole numbers of another unit.
    """
    if isinstance(metadata, SignalMetadata):
        metadata = metadata._asdict()
    own, market = _beside(given_bars(ohlcv, enclosed=True), benchmark, enclosed=True)
    us = _instant(as_of, own, market)
    if as_of is not None and own.dated is not True:
        own, market = own.moved(us), market if market is None or market.dated else market.moved(us)
    stated, (items, wrong_news) = given_metadata(metadata), given_news(news, us)
    provided, wrong_provided = given_provided(metadata)
    if as_of is None and own.dated is False and items:
        items, wrong_news = (), "the bars have no times, so that the signal's is not known; as_of says it"
    said = {"metadata": stated.said, "news": wrong_news, "features": wrong_provided}
    request = _request(signal_id, us, stated.metadata, own.as_of(us), market.as_of(us) if market else None, said)
    usable = None if own.unusable else ohlcv, None if market is None or market.unusable else benchmark
    given = Given(metadata if isinstance(metadata, Mapping) else {}, *usable)
    return request._replace(news=items, given=given, provided=provided)


def request_at(ohlcv: Any, current_idx: int, benchmark: Any = None) -> FeatureRequest:
    """A request without metadata, as of the bar at a position of a frame.

    Raises:
        BarsError: one of the frames has times and the other has none, or one has whole numbers of another unit.
        IndexError: there is no such bar (of a frame that cannot be used there is none either, and that is no error).
    """
    # A single family is looked at with frames that no market gives: the specification's closes at 349, its high is 101.
    own, market = _beside(given_bars(ohlcv, enclosed=False), benchmark, enclosed=False)
    position = current_idx + len(own.bars) if current_idx < 0 else current_idx
    if not 0 <= position < len(own.bars) and not own.unusable:
        raise IndexError(f"bar {current_idx} of {len(own.bars)}")
    own = own.first(max(position + 1, 0))
    us = int(own.bars.timestamp[-1]) if len(own.bars) else 0
    return _request("", us, SignalMetadata(), own, market.as_of(us) if market else None, {})


def request_of_metadata(data: Any) -> FeatureRequest:
    """A request without bars."""
    stated = given_metadata(data)
    return FeatureRequest("", 0, stated.metadata, Bars.empty(), flaws=_flaws({"metadata": stated.said}))


def request_of_provided(data: Any) -> FeatureRequest:
    """A request of what is in `features` alone."""
    provided, said = given_provided(data)
    return FeatureRequest("", 0, SignalMetadata(), Bars.empty(), flaws=_flaws({"features": said}), provided=provided)


def request_of_news(news: Any, us: int) -> FeatureRequest:
    """A request of news alone, as of an instant."""
    items, said = given_news(news, us)
    return FeatureRequest("", us, SignalMetadata(), Bars.empty(), news=items, flaws=_flaws({"news": said}))


def _beside(own: GivenBars, benchmark: Any, *, enclosed: bool) -> tuple[GivenBars, GivenBars | None]:
    if benchmark is None:
        return own, None
    market = given_bars(benchmark, enclosed=enclosed)
    if None not in (own.dated, market.dated) and own.dated is not market.dated:
        has, lacks = ("bars", "benchmark") if own.dated else ("benchmark", "bars")
        message = f"the {has} have times and the {lacks} have none: give both frames times, or neither"
        raise BarsError("bad_timestamp", message)
    return own, market


def _instant(as_of: datetime | None, own: GivenBars, market: GivenBars | None) -> int:
    if as_of is not None:
        return us_from_text(utc_text(as_of))
    newest = [side.bars.timestamp[-1] for side in (own, market) if side is not None and len(side.bars)]
    return int(newest[0]) if newest else 0


def _request(
    signal_id: str,
    us: int,
    metadata: SignalMetadata,
    own: GivenBars,
    market: GivenBars | None,
    said: Mapping[str, str],
) -> FeatureRequest:
    flaws = _flaws({"bars": own.said, "benchmark": market.said if market else "", **said})
    if flaws is not None:
        flaws = replace(flaws, bars=own.back, benchmark=market.back if market else {})
    bars, benchmark = own.bars, market.bars if market else None
    return FeatureRequest(signal_id, us, metadata, bars, benchmark, flaws=flaws)


def _flaws(said: Mapping[str, str]) -> Flaws | None:
    wrong = {name: words for name, words in said.items() if words}
    return Flaws(wrong) if wrong else None


def _salvaged(frame: pd.DataFrame, times: TimeArray, dated: bool, enclosed: bool) -> GivenBars:
    """The rows of a frame whose times are sound, NaN where a value cannot be meant."""
    columns = {str(name): frame[name] for name in frame.columns}
    numbers = {name: _numbers(columns.get(name), len(frame)) for name in (*PRICES, "volume")}
    bars = Bars(times, **numbers)
    broken = [_named(rule, columns) for rule in bars.broken_rules(enclosed=enclosed)]
    if any(rule.code == "unsorted" for rule in broken):
        return GivenBars(Bars.empty(), unusable=f"unsorted: {broken[0]}")
    for rule in broken:
        for name in rule.columns:
            numbers[name] = np.where(rule.rows, np.nan, numbers[name])
    return GivenBars(Bars(times, **numbers), dated, tuple(broken))


def _named(rule: BrokenRule, columns: Mapping[str, Any]) -> BrokenRule:
    """A column that is not there at all is no column of bad numbers."""
    lacking = [name for name in rule.columns if name != "timestamp" and name not in columns]
    return rule._replace(code="missing_column", what=f"{lacking[0]}, from") if lacking else rule


def _numbers(values: Any, count: int) -> FloatArray:
    """A column as numbers, shape (count,), NaN where it holds something else."""
    if values is None or values.ndim != 1:
        return np.full(count, np.nan)
    array = values.to_numpy()
    if array.dtype.kind in "iuf":
        return np.ascontiguousarray(array, dtype=np.float64)
    return np.array([_float(value) for value in array], dtype=np.float64)


def _float(value: Any) -> float:
    try:
        return float(value) if _is_real(value) else math.nan
    except OverflowError:
        return math.inf


def _wrong(name: str, value: Any) -> str:
    if name in TEXT_FIELDS:
        return "" if isinstance(value, str) else f"is {_shown(value)}, not text"
    low, high = NUMBER_RANGES[name]
    if not _is_number(value):
        return f"is {_shown(value)}, not a number"
    return "" if low <= value <= high else f"is {_shown(value)}, not from {low:g} to {high:g}"


def _wrong_provided(name: Any, value: Any) -> str:
    if not isinstance(name, str) or not is_provided_name(name):
        return "is no name of a provided feature"
    if not _is_number(value):
        return f"is {_shown(value)}, not a number"
    return "" if -PROVIDED_MAX <= value <= PROVIDED_MAX else f"is {_shown(value)}, which cannot be meant"


def _mapping(data: Any) -> Any:
    """A row of a frame as a dictionary, anything else as it is."""
    if not isinstance(data, Mapping) and callable(to_dict := getattr(data, "to_dict", None)):
        return to_dict()
    return data


def _is_missing(value: Any) -> bool:
    """Whether it is what frames put where nothing is."""
    return isinstance(value, float) and math.isnan(value)


def _is_real(value: Any) -> bool:
    if type(value) in (float, int):  # to ask the abstract type takes a microsecond
        return True
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_)


def _is_number(value: Any) -> bool:
    return _is_real(value) and math.isfinite(_float(value))


def _is_instant(item: Any) -> bool:
    us: Any = item.published_us if isinstance(item, NewsItem) else None
    return not isinstance(us, bool) and isinstance(us, Integral) and -(2**62) < int(us) < 2**62


def _shown(value: Any) -> str:
    """A value in an error, never at length."""
    if value is None or isinstance(value, str | bool | int | float):
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:60]}..."
    return f"a {type(value).__name__}"
