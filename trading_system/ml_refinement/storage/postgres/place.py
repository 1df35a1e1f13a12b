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
#: A host, an address in brackets, or the directory of a socket; and a port.
_SERVER = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:@]*)(?::\d{1,5})?")
#: What a URL may say beside what libpq reads.
_OURS = "schema"
#: What libpq reads of it. The driver's own list would need the driver; a name that is neither is a misspelt one, with
#: which no connection could ever be made.
_OPTIONS: Final = frozenset((
    "application_name", "channel_binding", "client_encoding", "connect_timeout", "gssdelegation", "gssencmode",
    "gsslib", "host", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "krbsrvname",
    "load_balance_hosts", "options", "passfile", "password", "port", "require_auth", "requirepeer",
    "ssl_max_protocol_version", "ssl_min_protocol_version", "sslcert", "sslcertmode", "sslcompression", "sslcrl",
    "sslcrldir", "sslkey", "sslmode", "sslnegotiation", "sslpassword", "sslrootcert", "sslsni",
    "target_session_attrs", "tcp_user_timeout", "user",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class StorePlace:
    """A server's address for libpq, the schema on it, and how both are named in messages.

    `hosts` are those that it may be on, of which libpq takes the first that fits; a directory is one too.
    """

    conninfo: str
    schema: str
    name: str
    hosts: tuple[str, ...]
    options: dict[str, str]


def is_postgres(place: object) -> bool:
    """Whether a store's place is a URL of PostgreSQL, and no path."""
    return isinstance(place, str) and place.startswith(SCHEMES)


def read_place(url: str) -> StorePlace:
    """The parts of `postgresql://user:password@host:port,other:port/database?schema=name&sslmode=...`.

    Raises:
        ValueError: it cannot be used, in words that hold no password.
    """
    if not is_postgres(url):
        raise ValueError(f"a store's URL begins with {SCHEMES[0]}")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("the URL cannot be read") from None
    who, at, servers = parts.netloc.rpartition("@")
    database = parts.path.strip("/")
    if not database:
        raise ValueError("the URL names no database: postgresql://user@host/database")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    schema = options.pop(_OURS, SCHEMA)
    if unknown := sorted(options.keys() - _OPTIONS):
        raise ValueError(f"no option of PostgreSQL's addresses: {', '.join(name[:40] for name in unknown)}")
    if not _NAME.fullmatch(schema):
        raise ValueError(f"schema={schema}: small letters, digits and _, not a digit or pg_ first, at most 63")
    if servers and "host" in options:
        raise ValueError("the URL names its servers twice, before the database and as host=")
    told = servers or options.get("host", "")
    hosts = [_SERVER.fullmatch(server) for server in unquote(told).split(",")]
    if any(server is None for server in hosts):
        raise ValueError("the URL cannot be read: name servers as host:port,other:port")
    name = f"postgresql://{unquote(who.partition(':')[0])}{at}{unquote(told)}/{database}?schema={schema}"
    conninfo = urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(options, safe="/"), ""))
    return StorePlace(conninfo, schema, name, tuple(server["host"] for server in hosts if server), options)
