"""Another server of Redis is the primary than before: what the old one alone had is gone, and somebody has to say so.

Its replicas are behind by what they were not sent yet. What a worker had read is taken from the archive; what nobody
had read, only producers know of. In a cluster a stream has another server also when its slot is moved, which loses
nothing: who took over had replicated the one before, and says so.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import redis
from loguru import logger

from worker.redis_client import Replication, primary_of, replication_at
from worker.streams.errors import translated
from worker.streams.state import most_times

#: A primary that has had no replica for long gives its data another name.
_ANEW_EVERY_S = 60.0


class PrimaryWatch:
    """Says once, whoever of several workers sees it first, that a replica took over from the primary of a stream, as
    sentinels say or as the servers of a cluster do. Elsewhere it is idle.

    Args:
        client: a client that does not retry.
        streams: the input streams.
        group: the consumer group.
    """

    def __init__(self, client: redis.Redis, streams: Sequence[str], group: str) -> None:
        self._client = client
        self._streams = tuple(streams)
        self._group = group
        self._seen: dict[str, str] = {}
        self._anew_due = 0.0

    def look_anew(self) -> None:
        """`look` after a pause, in which a server may have begun anew under its address.

        Raises:
            TransientError: Redis is away.
        """
        self._anew_due = 0.0
        self.look()

    def look(self) -> None:
        """Compare, which costs nothing while it is the same server, but for once a minute.

        Raises:
            TransientError: Redis is away.
        """
        if time.monotonic() >= self._anew_due:
            self._seen = {}
            self._anew_due = time.monotonic() + _ANEW_EVERY_S
        with translated():
            for stream in self._streams:
                now = primary_of(self._client, stream)
                if now is not None and now != self._seen.get(stream) and self._look_at(stream, now):
                    self._seen[stream] = now

    def _look_at(self, stream: str, now: str) -> bool:
        """Whether it could be seen who the primary is."""
        try:
            replication = replication_at(self._client, stream)
        except redis.exceptions.NoPermissionError:  # nobody can tell, and that stops nobody
            return True
        if replication is not None and replication.role != "master":
            return False  # demoted, which the client learns with its next command
        key = _key(stream, self._group)
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.hmget(key, "primary", "replication")
            pipeline.hset(key, mapping={"primary": now, "replication": replication.id if replication else ""})
            raw: Any = pipeline.execute()[0]
        before, replicated = (said.decode() if said else "" for said in raw)
        if before in ("", now) or not _took_over(replication, replicated):
            return True
        logger.error(
            "{}: Redis has another primary now ({}, before {}), which lacks what that one had not sent to it yet: "
            "have producers publish the last minute again, what was handled has no effect twice",
            stream,
            now,
            before,
        )
        self._client.hincrby(key, "times", 1)
        return True


def primary_changes(client: redis.Redis, streams: Sequence[str], group: str) -> int:
    """How often replicas were seen to take over from the primary of these streams.

    Raises:
        TransientError: Redis is away.
    """
    return most_times(client, (_key(stream, group) for stream in streams))


def _took_over(replication: Replication | None, replicated: str) -> bool:
    """Whether the server had replicated the one before, and not only been given its slot. Sentinels name no others."""
    return replication is None or replication.id_before == replicated


def _key(stream: str, group: str) -> str:
    return f"refinery:primary:{group}@{stream}"
