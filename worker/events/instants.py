"""An RFC 3339 text to microseconds since the epoch, UTC. Apart from columns of them, which need numpy."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt](?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?"
    r"(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_YEAR, LAST_YEAR = 1970, 2100
END_US = 4_133_980_800_000_000  # 2101-01-01T00:00:00Z
_DAY_S = 86_400


class BadTimestamp(ValueError):
    """A text is no instant. `row` is its position in the column, 0 for a single one."""

    def __init__(self, why: str, row: int = 0) -> None:
        super().__init__(why)
        self.row = row


def instant_us(text: str) -> int:
    """Microseconds since the epoch; digits after the sixth of a fraction are dropped.

    Raises:
        BadTimestamp: not RFC 3339 with an offset, no day of the calendar, a leap second, or not of 1970 to 2100.
    """
    if _RFC3339.fullmatch(text) is None:
        raise BadTimestamp("not RFC 3339 with an offset, such as 2024-01-31T21:00:00Z")
    try:
        since = datetime.fromisoformat(text.upper()) - _EPOCH
    except ValueError:
        raise BadTimestamp("no day of the calendar") from None
    us = (since.days * _DAY_S + since.seconds) * 1_000_000 + since.microseconds
    if not 0 <= us < END_US:
        raise BadTimestamp(f"not in the years {FIRST_YEAR} to {LAST_YEAR}")
    return us
