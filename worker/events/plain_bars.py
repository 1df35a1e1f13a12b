"""The rules of an event's bars without arrays, for a client on a machine that has no numpy.

`bar_columns` is what the worker reads with; a test holds the two to the same reasons.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

from trading_system.ml_refinement.bar_limits import COLUMNS, PRICE_MAX, PRICE_MIN, PRICES, ROUNDING, VOLUME_MAX
from worker.errors import DecodeError, Reason
from worker.events.instants import BadTimestamp, instant_us


def refuse_bad_bars(value: Any, *, field: Literal["bars", "benchmark"], not_after_us: int, max_bars: int) -> None:
    """Refuse what `bars_from_json` refuses, for the same reason; takes what it takes.

    Raises:
        DecodeError: schema, too_large, bad_time, bad_number, bad_bars or lookahead.
    """
    columns = _columns(value, field, max_bars)
    times = [_instant(field, row, text) for row, text in enumerate(columns["timestamp"])]
    for name in COLUMNS[1:]:
        for row, number in enumerate(columns[name]):
            if type(number) not in (float, int):
                raise DecodeError(Reason.SCHEMA, f"{field}: {name}[{row}] is not a number")
    if any(later <= earlier for earlier, later in pairwise(times)):
        raise DecodeError(Reason.BAD_BARS, f"{field}: times do not increase")
    for row, bar in enumerate(zip(*(columns[name] for name in COLUMNS[1:]), strict=True)):
        _refuse_bad_bar(f"{field}: bar {row}", *bar)
    if times and times[-1] > not_after_us:
        raise DecodeError(Reason.LOOKAHEAD, f"{field}: a bar is later than the signal's timestamp")


def _columns(value: Any, field: str, max_bars: int) -> dict[str, list[Any]]:
    if type(value) is not dict:
        raise DecodeError(Reason.SCHEMA, f"{field}: not an object of columns")
    for name in COLUMNS:
        if type(value.get(name)) is not list:
            raise DecodeError(Reason.SCHEMA, f"{field}.{name}: {'missing' if name not in value else 'not a list'}")
    lengths = {name: len(value[name]) for name in COLUMNS}
    if len(set(lengths.values())) > 1:
        raise DecodeError(Reason.BAD_BARS, f"{field}: columns of unequal length, {lengths}")
    if lengths["timestamp"] > max_bars:
        raise DecodeError(Reason.TOO_LARGE, f"{field}: more than {max_bars} bars")
    return value


def _instant(field: str, row: int, text: Any) -> int:
    try:
        if not isinstance(text, str):
            raise BadTimestamp("not a text")
        return instant_us(text)
    except BadTimestamp as error:
        raise DecodeError(Reason.BAD_TIME, f"{field}.timestamp[{row}]: {error}") from None


def _refuse_bad_bar(where: str, open_: float, high: float, low: float, close: float, volume: float) -> None:
    prices = dict(zip(PRICES, (open_, high, low, close), strict=True))
    for name, price in prices.items():
        if price <= 0:
            raise DecodeError(Reason.BAD_BARS, f"{where}: {name} is not above 0")
    if volume < 0:
        raise DecodeError(Reason.BAD_BARS, f"{where}: volume is below 0")
    if high < low:
        raise DecodeError(Reason.BAD_BARS, f"{where}: high is below low")
    for name, price in prices.items():
        if not PRICE_MIN <= price <= PRICE_MAX:
            raise DecodeError(Reason.BAD_NUMBER, f"{where}: {name} is absurd")
    if volume > VOLUME_MAX:
        raise DecodeError(Reason.BAD_NUMBER, f"{where}: volume is absurd")
    slack = high * ROUNDING
    for name in ("open", "close"):
        if not low - slack <= prices[name] <= high + slack:
            raise DecodeError(Reason.BAD_BARS, f"{where}: {name} is not between low and high")
