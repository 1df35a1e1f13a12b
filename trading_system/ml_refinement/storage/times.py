"""Instants: aware datetimes at the edges, microseconds since the epoch in arrays, fixed-width UTC text in the store.

The text, `YYYY-MM-DDTHH:MM:SS.ffffffZ`, is always 27 characters, so that comparing it as text compares it as time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trading_system.ml_refinement.typing import TimeArray

DAY_US = 86_400_000_000
Clock = Callable[[], datetime]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH = _EPOCH.replace(tzinfo=None)
_MICROSECOND = timedelta(microseconds=1)
_WIDTH = 27


def utc_now() -> datetime:
    """The present, aware, in UTC."""
    return datetime.now(UTC)


def utc_text(dt: datetime) -> str:
    """The store's text of an instant; a naive one is taken as UTC.

    Raises:
        ValueError: in UTC the instant falls outside the years 1 to 9999.
    """
    if dt.tzinfo is None:
        dt = dt.replace(tzinfo=UTC)
    try:
        dt = dt.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{dt.isoformat()} is outside the calendar in UTC") from error
    return dt.isoformat(timespec="microseconds")[:26] + "Z"


def text_from_us(us: int) -> str:
    """The store's text of microseconds since the epoch.

    Raises:
        ValueError: outside the years 1 to 9999.
    """
    try:
        return (_NAIVE_EPOCH + timedelta(microseconds=int(us))).isoformat(timespec="microseconds") + "Z"
    except OverflowError as error:
        raise ValueError(f"{us} microseconds is outside the calendar") from error


def texts_from_us(column: Sequence[int]) -> list[str]:
    """`text_from_us` of many, several times as fast where there are."""
    import numpy as np  # here, because those who ask for a status have no arrays

    texts = np.datetime_as_string(np.array(column, dtype="datetime64[us]")).tolist()
    if any(len(text) != _WIDTH - 1 for text in texts):  # a year below 1 or above 9999
        return [text_from_us(us) for us in column]
    return [f"{text}Z" for text in texts]


def check_texts(texts: Iterable[str]) -> None:
    """Raises ValueError unless every text is of the store's form; what the texts of a batch share is read once."""
    for text in set(texts):
        us_from_text(text)


def us_from_text(text: str) -> int:
    """Microseconds since the epoch of the store's text; the inverse of `text_from_us`.

    Raises:
        ValueError: the text is not of the fixed width and form.
    """
    if len(text) != _WIDTH or text[10] != "T" or text[26] != "Z" or not text.isascii():
        raise ValueError(f"not a fixed-width UTC time: {text!r}")
    return (datetime.fromisoformat(text) - _EPOCH) // _MICROSECOND


def us_array(texts: Sequence[str]) -> TimeArray:
    """`us_from_text` of many texts out of the store, int64 of shape (n,)."""
    import numpy as np  # as above

    return np.array([text[:26] for text in texts], dtype="datetime64[us]").astype(np.int64)


def parse_bound(text: str, *, end: bool) -> str:
    """The store's text of a bound as a person writes it: a date, or a time with or without an offset.

    A date alone means the whole day: its first microsecond as a start, its last as an end. Without an offset: UTC.

    Raises:
        UnusableValue: the text is neither an ISO 8601 date nor a time.
    """
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return utc_text(_read_time(text))
    return utc_text(datetime.combine(day, time.max if end else time.min, UTC))


def _read_time(text: str) -> datetime:
    try:
        if not any(separator in text for separator in "Tt "):  # Python takes any: 1612010100000 were a time of 1612
            raise ValueError("no T or blank between date and time")
        return datetime.fromisoformat(text)
    except ValueError as error:
        from trading_system.ml_refinement.storage.errors import UnusableValue  # loads the driver

        raise UnusableValue(f"neither a date nor a time: {text!r:.80} ({error})") from error
