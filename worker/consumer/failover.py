"""A database server that took over from another one may lack what that one had acknowledged: it is read again.

A standby that is not synchronous is behind its primary. When it takes over, the last transactions are gone from the
store, while their events are acknowledged in Redis. So the store keeps with each batch how far the streams were
handled, and what it says after a change of server is where reading begins again. What the store has by then has no
effect twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import redis
from loguru import logger

from trading_system.ml_refinement.storage import FeatureDatabase
from worker.consumer.store_errors import translated_store_errors
from worker.streams.entries import Entry
from worker.streams.errors import translated
from worker.streams.maintenance import set_back
from worker.streams.state import most_times

#: Batches of several workers are not committed in the order of their entries: so much before the newest that the store
#: knows is read again too.
MARGIN_S = 600.0


def note_handled(store: FeatureDatabase, entries: Sequence[Entry], now: datetime) -> None:
    """Keep how far the streams of a batch were handled, in the batch's own transaction.

    A producer can choose an id that is far ahead of every clock: the mark never is, so that what came before such an
    entry is read again as well.
    """
    newest: dict[str, int] = {}
    for entry in entries:
        newest[entry.stream] = max(newest.get(entry.stream, 0), _milliseconds(entry.entry_id))
    latest = int(now.timestamp() * 1000)
    for stream, value in sorted(newest.items()):  # as everybody: nobody waits for one who waits for him
        store.marks.raise_to(_mark(stream), min(value, latest))


class FailoverWatch:
    """Sets the group back when the store's server has changed.

    Which server it was is kept in Redis, which does not fail over with it. An SQLite file has no server, and nothing is
    looked at.

    Args:
        store: the open store.
        client: a client that does not retry.
        streams: the input streams.
        group: the consumer group.
    """

    def __init__(self, store: FeatureDatabase, client: redis.Redis, streams: Sequence[str], group: str) -> None:
        self._store = store
        self._client = client
        self._streams = tuple(streams)
        self._group = group
        self._seen = ""

    def look(self) -> None:
        """Compare, which costs nothing while it is the same server; and set the group back where it is not.

        Raises:
            TransientError: the store's server, or Redis, is away.
        """
        with translated_store_errors(use="read"):
            now = self._store.engine.timeline()
        if now == self._seen:
            return
        for stream in self._streams:
            self._look_at(stream, now)
        self._seen = now

    def _look_at(self, stream: str, now: str) -> None:
        key = failover_key(stream, self._group)
        with translated():
            self._client.hsetnx(key, "timeline", now)
            before: Any = self._client.hget(key, "timeline")
        if before.decode() == now:
            return
        with translated_store_errors(use="read"):
            known = self._store.marks.get(_mark(stream)) or 0
        start = max(0, known - int(MARGIN_S * 1000))
        again = set_back(self._client, stream, self._group, to=f"{start}-0")
        logger.error(
            "the store is on another server now (timeline {}, before {}), which may lack what was acknowledged: {} {}",
            now,
            before.decode(),
            stream,
            f"is read again from {_told(start)}" if again else "was not read further than that server had it",
        )
        with translated():
            self._client.hset(key, "timeline", now)
            self._client.hincrby(key, "times", 1)


def failovers(client: redis.Redis, streams: Sequence[str], group: str) -> int:
    """How often the store's server was seen to have changed.

    Raises:
        TransientError: Redis is away.
    """
    return most_times(client, (failover_key(stream, group) for stream in streams))


def failover_key(stream: str, group: str) -> str:
    """Where Redis has which server the store was on, and how often that changed."""
    return f"refinery:failover:{group}@{stream}"


def _told(start: int) -> str:
    return datetime.fromtimestamp(start / 1000, UTC).isoformat() if start else "its beginning"


def _mark(stream: str) -> str:
    return f"handled:{stream}"


def _milliseconds(entry_id: str) -> int:
    """When the server gave the id; 0 for one that has no time in it."""
    head = entry_id.partition("-")[0]
    return int(head) if head.isdigit() else 0
