"""Which Redis addresses are accepted, and how one is shown without its password."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import parse_qsl, urlsplit

#: The part of a URL that names a secret, and the secret.
SECRET_OPTION = re.compile(r"((?:password|passwd|pwd|pass|auth|token|secret|username|user)=)[^&\s'\"#]+", re.IGNORECASE)
_HOST_AND_PORT = re.compile(r"(?:\[[0-9a-fA-F:.]*\]|[^\s/:@?#]*)(?::\d*)?(?:[/?]|$)")
#: Other options would change how replies are read or switch certificate checks off.
_OPTIONS = frozenset({"db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})


def check_redis_url(url: str, *, allow_plain_remote: bool) -> None:
    """Refuse an address that is malformed, or whose connection would be readable on the way.

    Raises:
        ValueError: what is allowed instead; never contains the URL.
    """
    rest = url.partition("://")[2]
    if "@" in rest and "@" not in re.split(r"[/?#]", rest, maxsplit=1)[0] and not url.startswith("unix:"):
        raise ValueError("has a `/`, `?` or `#` in its password: percent-encode it, as %2F, %3F and %23")
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        raise ValueError("must be a URL such as rediss://:password@host:6379/0") from None
    if parts.scheme not in {"redis", "rediss", "unix"}:
        raise ValueError("must begin with redis://, rediss:// or unix://")
    unknown = sorted({name for name, _ in parse_qsl(parts.query, keep_blank_values=True)} - _OPTIONS)
    if unknown:
        raise ValueError(f"must have no options but {', '.join(sorted(_OPTIONS))}, found {', '.join(unknown)}")
    if parts.scheme == "unix":
        if host or not parts.path.startswith("/"):
            raise ValueError("must name an absolute path, as unix:///run/valkey.sock")
        return
    if not host:
        raise ValueError("must name a host, as redis://localhost:6379")
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
