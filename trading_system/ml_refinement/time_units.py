"""Whole numbers for times: which of them can be microseconds since 1970, and what others seem to be.

A second taken for a microsecond lies in January 1970, and a nanosecond in the far future: features cut by such times
know what came later, or nothing.
"""

from __future__ import annotations

#: Whole numbers of this size are microseconds since 1970, of the years up to 1966 or from 1973 to 2286.
_FROM_US, _TO_US = 10**14, 10**16
#: Below it whole numbers may count rows.
_ORDER_BELOW = 10**8
#: From which size on whole numbers seem to be times of a unit; each ends where three digits more begin.
_UNITS = (("s", 10**8), ("ms", 10**11), ("us", 10**14), ("ns", 10**17))


def no_microseconds(first: int, last: int) -> str:
    """What is wrong with whole numbers from `first` to `last` as microseconds since 1970; empty where nothing is."""
    size = max(abs(first), abs(last))
    return "" if _FROM_US <= size < _TO_US else f"{last} is no time in microseconds since 1970{_seems(last)}"


def no_order(first: int, last: int) -> str:
    """What is wrong with whole numbers from `first` to `last` as positions of rows; empty where nothing is."""
    if max(abs(first), abs(last)) < _ORDER_BELOW and not (_is_date(first) and _is_date(last)):
        return ""
    return f"{last} in the index is no position{_seems(last)}"


def _seems(number: int) -> str:
    if _is_date(number):
        return "; pd.to_datetime(..., format='%Y%m%d', utc=True) makes dates of it"
    unit = next((unit for unit, low in _UNITS if low <= abs(number) < low * 1000), None)
    return f"; pd.to_datetime(..., unit='{unit}', utc=True) makes times of it" if unit else ""


def _is_date(number: int) -> bool:
    year, month, day = number // 10_000, number // 100 % 100, number % 100
    return 1900 <= year <= 2100 and 1 <= month <= 12 and 1 <= day <= 31
