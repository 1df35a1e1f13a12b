"""A cell to a value of the contract, or what is wrong with it. A cell is a text of a CSV, or a value of Parquet."""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime, time, tzinfo
from decimal import Decimal
from functools import lru_cache
from typing import Any

from worker.errors import DecodeError, Reason
from worker.importing.columns import Layout

#: What programs write into a column of numbers or times where there is none. A text may well be called so.
_MISSING = frozenset({"", "nan", "null", "none", "na", "n/a", "nat"})
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_SIDES = {"long": "long", "buy": "long", "short": "short", "sell": "short"}
_SHOWN_CHARACTERS = 40


class Cells:
    """Reads cells as a layout says; `naive` counts the times that had no offset."""

    def __init__(self, layout: Layout) -> None:
        self._comma = layout.decimal == ","
        self._form = layout.time_format
        self._zone: tzinfo = layout.time_zone
        self._zone_name = layout.zone
        self.naive = 0
        self._text_moment = lru_cache(maxsize=65_536)(self._parsed)  # signals of one market share their times

    def text(self, cell: Any) -> str | None:
        """A text without blanks around it; a whole number of Parquet as such, whatever it was kept as."""
        if isinstance(cell, float):
            if math.isnan(cell):
                return None
            cell = int(cell) if cell.is_integer() else cell
        said = "" if cell is None else str(cell).strip()
        return said or None

    def label(self, cell: Any) -> str | None:
        """A short lower-case text: `Mean Reversion` is `mean_reversion`."""
        said = self.text(cell)
        return None if said is None else re.sub(r"\s+", "_", said.lower())

    def side(self, name: str, cell: Any) -> str | None:
        """`long` or `short`, also as `buy` and `sell`, in any case.

        Raises:
            DecodeError: it is neither.
        """
        said = self.text(cell)
        if said is None:
            return None
        if (found := _SIDES.get(said.lower())) is None:
            raise DecodeError(Reason.SCHEMA, f"{name}: {shown(said)} is neither long nor short, buy nor sell")
        return found

    def number(self, name: str, cell: Any) -> float | int | None:
        """A finite number, or None where there is none.

        Raises:
            DecodeError: it is none.
        """
        if cell is None or cell == "":
            return None
        if isinstance(cell, str):
            return self._number_said(name, cell.strip())
        if isinstance(cell, bool) or not isinstance(cell, int | float | Decimal):
            raise DecodeError(Reason.SCHEMA, f"{name}: {shown(cell)} is no number")
        if isinstance(cell, int):
            return cell
        value = float(cell)
        if math.isnan(value):
            return None
        if math.isinf(value):
            raise DecodeError(Reason.BAD_NUMBER, f"{name}: {value} is not a finite number")
        return value

    def _number_said(self, name: str, said: str) -> float | int | None:
        if said.lower() in _MISSING:
            return None
        plain = said.replace(",", ".") if self._comma and "." not in said else said
        if _NUMBER.fullmatch(plain) is None:
            hint = "; where a comma stands before decimals, say --decimal ," if "," in said and not self._comma else ""
            raise DecodeError(Reason.SCHEMA, f"{name}: {shown(said)} is no number{hint}")
        value = float(plain)
        if math.isinf(value):
            raise DecodeError(Reason.BAD_NUMBER, f"{name}: {shown(said)} is beyond every number")
        return int(plain) if plain.lstrip("+-").isdigit() else value

    def moment(self, name: str, cell: Any) -> datetime | None:
        """A time with an offset, or None where there is none. One without an offset is of the layout's zone.

        Raises:
            DecodeError: it is no time, or one that its zone's clocks did not show, or showed twice.
        """
        if cell is None or (isinstance(cell, float) and math.isnan(cell)):
            return None
        if isinstance(cell, str):
            said = cell.strip()
            if said.lower() in _MISSING:
                return None
            found = self._text_moment(name, said)
        else:
            found = self._of_value(name, cell)
        if found.tzinfo is None:
            self.naive += 1
            return self._placed(name, found)
        return found

    def _parsed(self, name: str, said: str) -> datetime:
        try:
            if self._form:
                return datetime.strptime(said, self._form)  # noqa: DTZ007 - one without a zone is placed in one later
            if re.fullmatch(r"[0-9]{10}(?:\.[0-9]+)?|[0-9]{13}", said):
                return _since_1970(float(said))
            return datetime.fromisoformat(said)
        except (ValueError, OverflowError):
            example = f"as {self._form} has it" if self._form else "as 2024-05-31 16:00 or 2024-05-31T20:00:00Z"
            hint = "" if self._form else "; --time-format says another form, as %d/%m/%Y %H:%M"
            raise DecodeError(Reason.BAD_TIME, f"{name}: {shown(said)} is no time {example}{hint}") from None

    def _of_value(self, name: str, cell: Any) -> datetime:
        if isinstance(cell, datetime):
            return cell
        if isinstance(cell, date):
            return datetime.combine(cell, time())
        if isinstance(cell, int | float) and not isinstance(cell, bool):
            return self._text_moment(name, str(int(cell)))
        raise DecodeError(Reason.BAD_TIME, f"{name}: {shown(cell)} is no time")

    def _placed(self, name: str, naive: datetime) -> datetime:
        first, second = (naive.replace(tzinfo=self._zone, fold=fold) for fold in (0, 1))
        before, after = first.utcoffset(), second.utcoffset()
        if before != after and before is not None and after is not None:
            why = "is no time" if before < after else "is two times"
            raise DecodeError(
                Reason.BAD_TIME, f"{name}: {naive} {why} in {self._zone_name}, whose clocks changed: give it its offset"
            )
        return first


def _since_1970(number: float) -> datetime:
    """Seconds, or where they would be of the year 2286 and later milliseconds, since 1970."""
    return datetime.fromtimestamp(number / 1000 if number >= 1e10 else number, UTC)


def shown(value: object) -> str:
    """A value as an error names it."""
    return repr(value if isinstance(value, str) else str(value))[: _SHOWN_CHARACTERS + 2]
