"""Statements as PostgreSQL reads them.

They are written once, for SQLite, as portably as it can be; what is left differs in form alone. A statement that needs
other words is a `Statement`, which carries both texts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import count

from trading_system.ml_refinement.storage.statement import Statement

_LITERAL = re.compile(r"('(?:[^']|'')*')")
_PARAMETER = re.compile(r"\?(\d*)")
#: SQLite's hints on how to go about it, and its words for what PostgreSQL does anyway.
_FORMS = (
    (re.compile(r"\b(INSERT|UPDATE) OR FAIL\b"), r"\1"),
    (re.compile(r"\s+INDEXED BY \w+"), ""),
    (re.compile(r"\bCROSS JOIN (\w+ AS \w+\s+ON)\b"), r"JOIN \1"),
    (re.compile(r"(?<=[\s(])\+(?=[a-z])"), ""),
    (re.compile(r"\bjson_each\((\?\d*)\)"), r"jsonb_array_elements_text(CAST(\1 AS jsonb))"),
    (re.compile(r"\bLIKE\b"), "ILIKE"),
)
_ARRAY = re.compile(r"\$\d+::([\w ]+)\[\]")
_INSERT = re.compile(
    r"\s*INSERT INTO (?P<table>\w+)\s*\((?P<names>[\w\s,]+)\)\s*VALUES \([\s?,]+\)(?P<rest>.*)", re.DOTALL
)


def _formed(sql: str) -> str:
    parts = _LITERAL.split(sql.postgres if isinstance(sql, Statement) else sql)
    for place in range(0, len(parts), 2):  # what lies between literals
        for form, instead in _FORMS:
            parts[place] = form.sub(instead, parts[place])
    return "".join(parts)


@lru_cache(maxsize=2048)
def translated_statement(sql: str) -> str:
    """The statement with parameters as `$1`."""
    numbers = count(1)
    parts = _LITERAL.split(_formed(sql))
    for place in range(0, len(parts), 2):
        parts[place] = _PARAMETER.sub(lambda found: f"${found[1] or next(numbers)}", parts[place])
    return "".join(parts)


def array_types(sql: str) -> tuple[str, ...] | None:
    """The types of the arrays that a statement takes as it is written; None where it takes the values of one row."""
    if not isinstance(sql, Statement):
        return None
    return tuple(_ARRAY.findall(sql.postgres)) or None


@lru_cache(maxsize=256)
def insert_target(sql: str) -> tuple[str, tuple[str, ...], str]:
    """Table, columns and what follows VALUES of a statement that `Connection.insert_rows` takes.

    Raises:
        ValueError: it is no such statement.
    """
    found = _INSERT.fullmatch(_formed(sql))
    if found is None:
        raise ValueError(f"rows cannot be written by arrays: {sql}")
    return found["table"], tuple(name.strip() for name in found["names"].split(",")), found["rest"].strip()


def insert_from_arrays(sql: str, types: Sequence[str]) -> str:
    """The same rows from one array for each column; `types` are the columns' types."""
    table, names, rest = insert_target(sql)
    arrays = ", ".join(f"${place}::{kind}[]" for place, kind in enumerate(types, 1))
    # Table and columns are of our own statements, types of the database's catalogue.
    return f"INSERT INTO {table} ({', '.join(names)}) SELECT * FROM unnest({arrays}) {rest}"  # noqa: S608
