"""Which addresses of a store in PostgreSQL are accepted."""

from __future__ import annotations

from trading_system.ml_refinement.storage.postgres.place import SCHEMES, read_place
from worker.settings.redis_url import is_loopback

_SAFE = "verify-full"


def check_store_url(url: str, *, allow_plain_remote: bool) -> None:
    """Refuse an address that is malformed, or whose server could be another one than is meant.

    Raises:
        ValueError: what is allowed instead; never contains the URL.
    """
    if not url.startswith(SCHEMES):
        raise ValueError(f"must begin with {SCHEMES[0]}, as postgresql://user:password@host/database")
    try:
        place = read_place(url)
    except ValueError as error:
        raise ValueError(f"cannot be used: {error}") from None
    away = [host for host in place.hosts if host and not host.startswith("/") and not is_loopback(host.strip("[]"))]
    if away and not allow_plain_remote and place.options.get("sslmode") != _SAFE:
        raise ValueError(
            f"must have sslmode={_SAFE} for another host; REFINERY_ALLOW_PLAIN_REMOTE_STORE=true accepts the risk "
            "of plain text, and of another server in its place"
        )
