"""Where a store in PostgreSQL is: its URL, told apart into what the driver needs and what may be shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

SCHEMES: Final = ("postgresql://", "postgres://")
#: The installation's schema where the URL names none.
SCHEMA: Final = "signal_refinery"
_NAME = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,62}")
#: What a URL may say beside the server: ours, and libpq's that are about the way to it.
_OURS = "schema"


@dataclass(frozen=True, slots=True)
class StorePlace:
    """A server's address for libpq, the schema on it, and how both are named in messages."""

    conninfo: str
    schema: str
    name: str


def is_postgres(place: object) -> bool:
    """Whether a store's place is a URL of PostgreSQL, and no path."""
    return isinstance(place, str) and place.startswith(SCHEMES)


def read_place(url: str) -> StorePlace:
    """The parts of `postgresql://user:password@host:port/database?schema=name&sslmode=...`.

    Raises:
        ValueError: it cannot be used, in words that hold no password.
    """
    if not is_postgres(url):
        raise ValueError(f"a store's URL begins with {SCHEMES[0]}")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("the URL cannot be read") from None
    if not parts.path.strip("/"):
        raise ValueError("the URL names no database: postgresql://user@host/database")
    options = parse_qsl(parts.query, keep_blank_values=True)
    schema = dict(options).get(_OURS, SCHEMA)
    if not _NAME.fullmatch(schema):
        raise ValueError(f"schema={schema}: small letters, digits and _, not a digit or pg_ first, at most 63")
    rest = urlencode([(key, value) for key, value in options if key != _OURS], safe="/")
    given = dict(options)
    host = parts.hostname or unquote(given.get("host", ""))
    who = f"{unquote(parts.username)}@" if parts.username else ""
    port = f":{parts.port}" if parts.port else ""
    name = f"postgresql://{who}{host}{port}/{parts.path.strip('/')}?schema={schema}"
    return StorePlace(urlunsplit(("postgresql", parts.netloc, parts.path, rest, "")), schema, name)
