"""Another server of Redis is the primary than before: what the old one alone had is gone, and somebody has to say so.

Its replicas are behind by what they were not sent yet. What a worker had read is taken from the archive; what nobody
had read, only producers know of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis
from loguru import logger

from worker.redis_client import primary_of
from worker.streams.errors import translated
from worker.streams.state import most_times


class PrimaryWatch:
    """Says once, whoever of several workers sees it first, that sentinels name another primary. Elsewhere it is idle.

    Args:
        client: a client that does not retry.
        streams: the input streams.
        group: the consumer group.
    """

    def __init__(self, client: redis.Redis, streams: Sequence[str], group: str) -> None:
        self._client = client
        self._streams = tuple(streams)
        self._group = group
        self._seen: str | None = None

    def look(self) -> None:
        """Compare, which costs nothing while it is the same server.

        Raises:
            TransientError: Redis is away.
        """
        now = primary_of(self._client)
        if now is None or now == self._seen:
            return
        with translated():
            for stream in self._streams:
                self._look_at(stream, now)
        self._seen = now

    def _look_at(self, stream: str, now: str) -> None:
        key = _key(stream, self._group)
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.hget(key, "primary")
            pipeline.hset(key, "primary", now)
            raw: Any = pipeline.execute()[0]
        before = raw.decode() if raw else now
        if before == now:
            return
        logger.error(
            "{}: Redis has another primary now ({}, before {}), which lacks what that one had not sent to it yet: "
            "have producers publish the last minute again, what was handled has no effect twice",
            stream,
            now,
            before,
        )
        self._client.hincrby(key, "times", 1)


def primary_changes(client: redis.Redis, streams: Sequence[str], group: str) -> int:
    """How often sentinels were seen to name another primary than before.

    Raises:
        TransientError: Redis is away.
    """
    return most_times(client, (_key(stream, group) for stream in streams))


def _key(stream: str, group: str) -> str:
    return f"refinery:primary:{group}@{stream}"
