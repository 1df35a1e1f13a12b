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
_CLUSTER_SCHEMES = {"redis+cluster": "redis", "rediss+cluster": "rediss"}
_SENTINEL_PORT = 26379
_CLUSTER_PORT = 6379
_LISTED_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s/:@?#\[\],]+)(?::(\d{1,5}))?")


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
    sign_in, listed, path, options = _parts(rest)
    name, _, database = path.partition("/")
    if "#" in rest or not name or not re.fullmatch(r"\d*", database):
        raise ValueError(
            "must name what the sentinels call the primary, as redis+sentinel://host:26379,host2/mymaster/0"
        )
    given = dict(parse_qsl(options))
    theirs = "&".join(pair for pair in options.split("&") if pair.partition("=")[0] not in _OF_SENTINELS)
    return SentinelAddress(
        _listed(listed, _SENTINEL_PORT, "sentinels"),
        unquote(name),
        f"{_SENTINEL_SCHEMES[scheme]}://{sign_in}primary/{database}{'?' if theirs else ''}{theirs}",
        given.get("sentinel_username"),
        given.get("sentinel_password"),
    )


class ClusterAddress(NamedTuple):
    """Some servers of a cluster, which know the others: `redis+cluster://user:password@host:6379,host:6379`."""

    hosts: tuple[tuple[str, int], ...]
    #: Address of one of its servers: credentials and certificates.
    server_url: str


def cluster_address(url: str) -> ClusterAddress | None:
    """What an address says of a cluster; None where it is none.

    Raises:
        ValueError: what is allowed instead; never contains the URL.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in _CLUSTER_SCHEMES:
        return None
    sign_in, listed, path, options = _parts(rest)
    if "#" in rest or path:
        raise ValueError("must name servers alone, as redis+cluster://host:6379,host2: a cluster has no databases")
    server_url = f"{_CLUSTER_SCHEMES[scheme]}://{sign_in}server/{'?' if options else ''}{options}"
    return ClusterAddress(_listed(listed, _CLUSTER_PORT, "servers"), server_url)


def _parts(rest: str) -> tuple[str, str, str, str]:
    """Of what comes after a scheme: the credentials with their `@`, the hosts, the path, the options."""
    where, _, options = rest.partition("?")
    authority, _, path = where.partition("/")
    credentials, at, hosts = authority.rpartition("@")
    return f"{credentials}{at}", hosts, path.strip("/"), options


def _listed(hosts: str, port: int, what: str) -> tuple[tuple[str, int], ...]:
    """Hosts and ports with commas between.

    Raises:
        ValueError: they are not that.
    """
    found = [_LISTED_HOST.fullmatch(host) for host in hosts.split(",")]
    named = tuple((host[1].strip("[]"), int(host[2] or port)) for host in found if host)
    if len(named) < len(found) or any(number > 65535 for _, number in named):
        raise ValueError(f"must name {what} as host:port, with commas between")
    return named


def check_redis_url(url: str, *, allow_plain_remote: bool) -> None:
    """Refuse an address that is malformed, or whose connection would be readable on the way.

    Raises:
        ValueError: what is allowed instead; never contains the URL.
    """
    rest = url.partition("://")[2]
    if "@" in rest and "@" not in re.split(r"[/?#]", rest, maxsplit=1)[0] and not url.startswith("unix:"):
        raise ValueError("has a `/`, `?` or `#` in its password: percent-encode it, as %2F, %3F and %23")
    sentinels, cluster = sentinel_address(url), cluster_address(url)
    several = sentinels or cluster
    try:
        parts = urlsplit(url if several is None else several.server_url)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        raise ValueError("must be a URL such as rediss://:password@host:6379/0") from None
    if parts.scheme not in {"redis", "rediss", "unix"}:
        raise ValueError(
            "must begin with redis://, rediss:// or unix://, or with redis or rediss and +sentinel:// or +cluster://"
        )
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
    if several is not None and parts.scheme == "redis" and not allow_plain_remote:
        kind, named = ("sentinel", "sentinels") if sentinels is not None else ("cluster", "its servers")
        raise ValueError(
            f"must be rediss+{kind}://, since {named} may name a server on any host; "
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
