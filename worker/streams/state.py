"""What ops want to know of a stream: length, pending, lag."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis

from worker.streams.errors import translated


@dataclass(frozen=True, slots=True)
class StreamState:
    """What ops want to know of one stream. `lag` is None where the server cannot tell (after an XDEL)."""

    name: str
    length: int
    pending: int
    lag: int | None


def stream_states(client: redis.Redis, streams: Sequence[str], group: str) -> list[StreamState]:
    """Length, pending and lag of each stream; zeros where stream or group do not exist yet.

    Raises:
        TransientError: Redis is away.
    """
    with translated():
        return [_state(client, stream, group) for stream in streams]


def _state(client: redis.Redis, stream: str, group: str) -> StreamState:
    if not client.exists(stream):
        return StreamState(stream, 0, 0, 0)
    length = int(client.xlen(stream))
    groups: Any = client.xinfo_groups(stream)
    for row in groups:
        if row["name"] == group.encode():
            return StreamState(stream, length, int(row["pending"]), row.get("lag"))
    return StreamState(stream, length, 0, length)


def is_replica(client: redis.Redis) -> bool:
    """Whether the server follows another one, and takes no writes; False where we may not ask.

    Raises:
        TransientError: Redis is away.
    """
    with translated():
        client.ping()
        try:
            replication: Any = client.info("replication")
        except redis.exceptions.NoPermissionError:
            return False
    return bool(replication.get("role") == "slave")
