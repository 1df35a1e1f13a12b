"""What keeps streams and groups in order while they are used: dead consumers go, and what everyone has handled.

Each step that looks and then changes is one script, so that nothing can happen in between.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import redis
from loguru import logger

from worker.streams.errors import translated
from worker.streams.lua import script

_REMOVE_DEAD_CONSUMERS = script("remove_dead_consumers")
_SET_BACK = script("set_back", uses=["entry_ids"])
_TRIM_HANDLED = script("trim_handled", uses=["entry_ids"])


def remove_dead_consumers(
    client: redis.Redis, streams: Sequence[str], group: str, *, me: str, idle_ms: int
) -> list[str]:
    """Remove consumers that hold nothing and have not asked for anything for `idle_ms`; their names.

    A consumer with a pending entry is never removed: that would destroy the entry's place in the group.

    Raises:
        TransientError: Redis is away.
    """
    removed: set[str] = set()
    with translated():
        for stream in streams:
            try:
                names: Any = client.eval(_REMOVE_DEAD_CONSUMERS, 1, stream, group, me, str(idle_ms))
            except redis.ResponseError as error:
                if not _is_missing(error):
                    raise
                continue
            removed.update(name.decode() for name in names)
    if removed:
        logger.info("removed consumers that are gone and held nothing: {}", ", ".join(sorted(removed)))
    return sorted(removed)


def trim_handled(client: redis.Redis, streams: Sequence[str], *, older_than_s: float) -> int:
    """Drop entries that every group has acknowledged and that are older; how many.

    Nothing is dropped at or after the oldest pending entry of any group, or that any group has not read, or of a
    stream that no group reads.

    Raises:
        TransientError: Redis is away.
    """
    bound = f"{int((time.time() - older_than_s) * 1000)}-0"
    dropped = 0
    with translated():
        for stream in streams:
            try:
                gone: Any = client.eval(_TRIM_HANDLED, 1, stream, bound)
            except redis.ResponseError as error:
                if not _is_missing(error):
                    raise
                continue
            dropped += int(gone)
    if dropped:
        logger.info("dropped {} entries that every group has acknowledged", dropped)
    return dropped


def set_back(client: redis.Redis, stream: str, group: str, *, to: str) -> bool:
    """Have a group read again what comes after an id. False: it had not read further yet, or is not there.

    Raises:
        TransientError: Redis is away.
    """
    with translated():
        try:
            return bool(client.eval(_SET_BACK, 1, stream, group, to))
        except redis.ResponseError as error:
            if not _is_missing(error):
                raise
            return False


def trim_to(client: redis.Redis, stream: str, length: int) -> None:
    """Trim a stream to about this many entries; one that is not there stays so.

    Raises:
        TransientError: Redis is away.
    """
    with translated():
        client.xtrim(stream, maxlen=length, approximate=True)


def _is_missing(error: redis.ResponseError) -> bool:
    return "NOGROUP" in str(error) or "no such key" in str(error)
