"""Which column of a file is which field of the events, and the small file that remembers it."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from trading_system.ml_refinement.provided_limits import PROVIDED_NAME
from worker.errors import RefineryError
from worker.events.field_names import SINGLE_SIGNAL_FIELDS, SINGLE_TRADE_FIELDS

#: Beside the data.
REMEMBERED = "refinery-import.toml"

#: Without these a signal is none. Its id may be made from the row.
REQUIRED_OF_SIGNAL = ("timestamp", "symbol", "asset_class", "signal_type")
REQUIRED_OF_TRADE = ("closed_at", "r_multiple")
_FEATURE = re.compile(rf"features\.({PROVIDED_NAME.strip('^$')})")
_FORM = ("zone", "delimiter", "decimal", "time_format")


class WrongColumns(RefineryError):
    """Columns and fields do not fit; the line names the ones that there are."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the files of a desk are written.

    Attributes:
        columns: column by field, where it is not called like the field.
        values: one value for every row, by field.
        zone: where times without an offset were taken down.
        delimiter: of CSV; empty: seen from the first line.
        decimal: the sign before a number's decimals.
        time_format: of times, as `strptime` reads it; empty: ISO 8601, or seconds or milliseconds since 1970.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)
    zone: str = "UTC"
    delimiter: str = ""
    decimal: str = "."
    time_format: str = ""

    def __post_init__(self) -> None:
        for name in (*self.columns, *self.values):
            if not is_field(name):
                known = ", ".join(dict.fromkeys((*SINGLE_SIGNAL_FIELDS, *SINGLE_TRADE_FIELDS)))
                raise WrongColumns(f"{name!r} is no field: there are {known}, and features.NAME")
        if len(self.delimiter) > 1 or self.delimiter in ("\r", "\n", '"'):
            raise WrongColumns(f"{self.delimiter!r} cannot delimit columns: say one sign")
        if self.decimal not in (".", ","):
            raise WrongColumns(f"{self.decimal!r} is no decimal sign: say . or ,")
        self.time_zone  # noqa: B018 - one that is not known is told at once

    @property
    def time_zone(self) -> ZoneInfo:
        """Of times without an offset.

        Raises:
            WrongColumns: there is no such zone.
        """
        try:
            return ZoneInfo(self.zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise WrongColumns(f"{self.zone!r} is no time zone such as America/New_York") from None

    def with_options(self, *, columns: Sequence[str], values: Sequence[str], **form: str | None) -> Layout:
        """What the options say over what was remembered.

        Args:
            columns: FIELD=COLUMN each.
            values: FIELD=VALUE each.
            form: the other attributes; None leaves one as it is.

        Raises:
            WrongColumns: one is not of that form, or names what there is not.
        """
        given = _pairs(columns, "FIELD=COLUMN"), _pairs(values, "FIELD=VALUE")
        kept_columns = {name: said for name, said in self.columns.items() if name not in given[1]}
        kept_values = {name: said for name, said in self.values.items() if name not in given[0]}
        said = {name: value for name, value in form.items() if value is not None}
        return replace(self, columns=kept_columns | given[0], values=kept_values | given[1], **said)

    def places(self, header: Sequence[str]) -> dict[str, int]:
        """Position of each field's column in a file, for the fields that it has.

        Raises:
            WrongColumns: two columns could be one field.
        """
        found: dict[str, int] = {}
        taken = set(self.columns.values())
        for place, name in enumerate(header):
            for field_name in [one for one, column in self.columns.items() if column == name]:
                _put(found, field_name, place, header)
            plain = _plain(name)
            if name not in taken and is_field(plain) and plain not in self.columns and plain not in self.values:
                _put(found, plain, place, header)
        return found

    def to_toml(self) -> str:
        """The layout as the file that remembers it."""
        lines = ["# How `refinery import` reads the files beside this one.", ""]
        form = {name: getattr(self, name) for name in _FORM if getattr(self, name) != getattr(Layout(), name)}
        for title, table in (("columns", self.columns), ("values", self.values), ("form", form)):
            if table:
                pairs = [f"{json.dumps(name)} = {json.dumps(said)}" for name, said in table.items()]
                lines += [f"[{title}]", *pairs, ""]
        return "\n".join(lines)


def is_field(name: str) -> bool:
    """Whether events have a field of this name that a column can fill."""
    return name in SINGLE_SIGNAL_FIELDS or name in SINGLE_TRADE_FIELDS or _FEATURE.fullmatch(name) is not None


def read_layout(path: Path) -> Layout:
    """What was remembered in a file; the default where there is none.

    Raises:
        WrongColumns: the file is no such file.
    """
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return Layout()
    except (OSError, ValueError) as error:
        raise WrongColumns(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    tables = {name: said.pop(name, {}) for name in ("columns", "values", "form")}
    for name, table in tables.items():
        if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
            raise WrongColumns(f"{path}: [{name}] has to hold texts")
    wrong = [*said, *(name for name in tables["form"] if name not in _FORM)]
    if wrong:
        raise WrongColumns(f"{path}: nobody knows {wrong[0]!r}")
    try:
        return Layout(tables["columns"], tables["values"], **tables["form"])
    except WrongColumns as error:
        raise WrongColumns(f"{path}: {error}") from None


def _pairs(said: Sequence[str], form: str) -> dict[str, str]:
    found = {}
    for one in said:
        name, sign, value = one.partition("=")
        if not (name and sign and value):
            raise WrongColumns(f"{one!r} is not {form}")
        found[name.strip()] = value
    return found


def _plain(name: str) -> str:
    """A head of a column as the field that it names: `Signal ID` is `signal_id`."""
    return re.sub(r"[\s_-]+", "_", name.strip().lower())


def _put(found: dict[str, int], name: str, place: int, header: Sequence[Any]) -> None:
    if name in found:
        raise WrongColumns(
            f"the columns {header[found[name]]!r} and {header[place]!r} could both be {name}: say --map {name}=COLUMN"
        )
    found[name] = place
