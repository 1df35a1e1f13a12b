"""Which Redis addresses are accepted, and how one is shown without its password."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

#: The part of a URL that names a secret, and the secret.
SECRET_OPTION = re.compile(r"((?:password|passwd|pwd|pass|auth|token|secret|username|user)=)[^&\s'\"#]+", re.IGNORECASE)
_HOST = r"(?:\[[0-9a-fA-F:.]*\]|[^\s/:@?#]*)(?::\d*)?"
_HOST_AND_PORT = re.compile(rf"{_HOST}(?:,{_HOST})*(?:[/?]|$)")
#: Other options would change how replies are read or switch certificate checks off.
_OPTIONS = frozenset({"db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
_OF_SENTINELS = frozenset({"sentinel_username", "sentinel_password"})
_SENTINEL_SCHEMES = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
_SENTINEL_PORT = 26379
_SENTINEL_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s/:@?#\[\],]+)(?::(\d{1,5}))?")


class SentinelAddress(NamedTuple):
    """Sentinels, and what is asked of them: `redis+sentinel://user:password@host:26379,host:26379/name/0`.

    With `rediss+sentinel://` servers and sentinels are spoken to over TLS. What stands before `@` signs in to the
    servers; the options `sentinel_username` and `sentinel_password` sign in to the sentinels.
    """

    hosts: tuple[tuple[str, int], ...]
    #: What the sentinels call the primary and its replicas.
    name: str
    #: Address of a server whose host nobody asks for: database, credentials and certificates.
    server_url: str
    username: str | None
    password: str | None


def sentinel_address(url: str) -> SentinelAddress | None:
    """What an address says of sentinels; None where it is that of a server.

    Raises:
        ValueError: what is allowed instead; never contains the URL.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in _SENTINEL_SCHEMES:
        return None
    where, _, options = rest.partition("?")
    authority, _, path = where.partition("/")
    credentials, at, listed = authority.rpartition("@")
    name, _, database = path.strip("/").partition("/")
    found = [_SENTINEL_HOST.fullmatch(host) for host in listed.split(",")]
    if "#" in rest or not name or not re.fullmatch(r"\d*", database):
        raise ValueError(
            "must name what the sentinels call the primary, as redis+sentinel://host:26379,host2/mymaster/0"
        )
    hosts = tuple((host[1].strip("[]"), int(host[2] or _SENTINEL_PORT)) for host in found if host)
    if len(hosts) < len(found) or any(port > 65535 for _, port in hosts):
        raise ValueError("must name sentinels as host:port, with commas between")
    given = dict(parse_qsl(options))
    theirs = "&".join(pair for pair in options.split("&") if pair.partition("=")[0] not in _OF_SENTINELS)
    return SentinelAddress(
        hosts,
        unquote(name),
        f"{_SENTINEL_SCHEMES[scheme]}://{credentials}{at}primary/{database}{'?' if theirs else ''}{theirs}",
        given.get("sentinel_username"),
        given.get("sentinel_password"),
    )


def check_redis_url(url: str, *, allow_plain_remote: bool) -> None:
    """Refuse an address that is malformed, or whose connection would be readable on the way.

    Raises:
        ValueError: what is allowed instead; never contains the URL.
    """
    rest = url.partition("://")[2]
    if "@" in rest and "@" not in re.split(r"[/?#]", rest, maxsplit=1)[0] and not url.startswith("unix:"):
        raise ValueError("has a `/`, `?` or `#` in its password: percent-encode it, as %2F, %3F and %23")
    sentinels = sentinel_address(url)
    try:
        parts = urlsplit(url if sentinels is None else sentinels.server_url)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        raise ValueError("must be a URL such as rediss://:password@host:6379/0") from None
    if parts.scheme not in {"redis", "rediss", "unix"}:
        raise ValueError("must begin with redis://, rediss://, unix://, redis+sentinel:// or rediss+sentinel://")
    allowed = _OPTIONS if sentinels is None else _OPTIONS | _OF_SENTINELS
    unknown = sorted({name for name, _ in parse_qsl(parts.query, keep_blank_values=True)} - _OPTIONS)
    if unknown:
        raise ValueError(f"must have no options but {', '.join(sorted(allowed))}, found {', '.join(unknown)}")
    if parts.scheme == "unix":
        if host or not parts.path.startswith("/"):
            raise ValueError("must name an absolute path, as unix:///run/valkey.sock")
        return
    if not host:
        raise ValueError("must name a host, as redis://localhost:6379")
    if sentinels is not None and parts.scheme == "redis" and not allow_plain_remote:
        raise ValueError(
            "must be rediss+sentinel://, since sentinels may name a server on any host; "
            "REFINERY_ALLOW_PLAIN_REMOTE_REDIS=true accepts the risk of plain text"
        )
    if parts.scheme == "redis" and not allow_plain_remote and not is_loopback(host):
        raise ValueError(
            "must be rediss:// for another host; REFINERY_ALLOW_PLAIN_REMOTE_REDIS=true accepts the risk of plain text"
        )


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine, told without a name look-up."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def mask_url(text: str) -> str:
    """`text` with whatever may be a secret in a URL replaced by asterisks; text that is no URL is returned as it is."""
    scheme, is_url, rest = text.partition("://")
    if not is_url:
        _, at, after = text.rpartition("@")
        return f"***@{after}" if at else SECRET_OPTION.sub(r"\1***", text)
    _, at, after = rest.rpartition("@")
    if scheme.startswith("redis") and not _HOST_AND_PORT.match(after):
        return f"{scheme}://***"  # no host, or one that may be a password's end
    shown = SECRET_OPTION.sub(r"\1***", after)
    return f"{scheme}://***@{shown}" if at else f"{scheme}://{shown}"
