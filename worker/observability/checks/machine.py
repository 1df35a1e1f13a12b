"""What `refinery doctor` looks at of the machine: its clock, the state directory, the disk that it lies on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import redis

from trading_system.ml_refinement.storage.times import Clock
from worker.observability.findings import Finding
from worker.redis_server.connection import server_if_there
from worker.settings.schema import Settings

#: Clocks that are kept by NTP differ by less.
_CLOCK_OFF_S = 2.0
_LEAST_FREE_BYTES = 1 << 30


def look_at_clock(settings: Settings, *, clock: Clock) -> Iterator[Finding]:
    """How far this machine's clock is from the server's: times of events are held against ours."""
    with server_if_there(settings) as client:
        if client is None:
            return
        try:
            before = clock()
            seconds, micros = client.time()
            took = clock() - before
        except redis.RedisError:
            return  # the server's own finding says so
    off_s = (before + took / 2 - datetime.fromtimestamp(seconds + micros / 1e6, UTC)).total_seconds()
    beyond_s = abs(off_s) - took.total_seconds() / 2  # when within the answer's way the server looked is not known
    if beyond_s <= _CLOCK_OFF_S:
        yield Finding("clock", "ok", f"within {max(1.0, abs(off_s)):.0f} s of the server's")
        return
    refused = beyond_s > settings.max_future_s
    which = "ahead of" if off_s > 0 else "behind"
    says = f"this machine's clock is {abs(off_s):,.0f} s {which} the server's"
    meant = ": signals are refused as future_timestamp where the producers' clocks are right" if off_s < 0 else ""
    yield Finding("clock", "bad" if refused else "warn", says + (meant if refused else ""), "compare both with NTP")


def look_at_state_dir(settings: Settings) -> Iterator[Finding]:
    """Whether the state directory can be one: what stands in its way, whose it is, and what it lies on."""
    path = settings.state_dir
    advice = "set REFINERY_STATE_DIR to a directory of the user that runs refinery, on a disk of this machine"
    in_the_way = next((above for above in (*reversed(path.parents), path) if _is_no_directory(above)), None)
    if in_the_way is not None:
        yield Finding("state directory", "bad", f"{in_the_way} is in the way: it is no directory", advice)
        return
    place = next(above for above in (path, *path.parents) if above.exists())
    if os.statvfs(place).f_flag & os.ST_RDONLY:
        yield Finding("state directory", "bad", f"{place} lies on a file system that is mounted read-only", advice)
        return
    if path.is_symlink() or not path.exists():
        return
    owner = path.stat().st_uid
    if owner != os.geteuid():
        says = f"{path} belongs to user {owner}, and refinery runs as {os.geteuid()}"
        yield Finding("state directory", "warn", says, "run refinery as its owner, or give it the directory")


def _is_no_directory(path: Path) -> bool:
    return (path.exists() or path.is_symlink()) and not path.is_dir()


def look_at_disk(settings: Settings) -> Iterator[Finding]:
    place = next(path for path in (settings.state_dir, *settings.state_dir.parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    if not os.access(place, os.W_OK):
        yield Finding("disk", "bad", f"{place} cannot be written", "give it to the user that runs refinery")
    elif free < _LEAST_FREE_BYTES:
        yield Finding("disk", "warn", f"{free / 2**20:,.0f} MiB free at {place}", "make room: a full disk pauses all")
    else:
        yield Finding("disk", "ok", f"{free / 2**30:,.1f} GiB free at {place}")
