"""What the workers of this machine wait for, as they say themselves while store or server is away."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator

from worker.settings.schema import Settings

_TIMEOUT_S = 1.0
_MOST_BYTES = 65536


def waiting_workers(settings: Settings) -> Iterator[tuple[int, str]]:
    """Slot and cause of each worker that handles nothing; none of those whose metrics are not served or not reached."""
    if not settings.metrics_port:
        return
    names = (re.fullmatch(r"slot-(\d{1,3})\.lock", path.name) for path in (settings.state_dir / "workers").glob("*"))
    for slot in sorted({0, *(int(name[1]) for name in names if name)}):
        if (cause := _cause(settings, slot)) is not None:
            yield slot, cause


def _cause(settings: Settings, slot: int) -> str | None:
    host = "127.0.0.1" if settings.metrics_host in ("0.0.0.0", "::") else settings.metrics_host  # noqa: S104 - compared
    connection = http.client.HTTPConnection(host, settings.metrics_port + slot, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        said = json.loads(connection.getresponse().read(_MOST_BYTES))
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    cause = said.get("waits_for") if isinstance(said, dict) else None
    return cause if isinstance(cause, str) else None
