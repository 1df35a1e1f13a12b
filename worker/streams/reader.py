"""Redis Streams: one consumer group over the input streams, and the stream of scores.

The client given here must not retry by itself: a retried XREADGROUP hands out the *next* entries and leaves the lost
ones unseen in our pending list, and a retried XADD writes twice. Whatever was lost is found again by `read_own`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import redis
from loguru import logger

from worker.streams.entries import Entry
from worker.streams.errors import translated
from worker.streams.lua import script

_CLAIM_AGAIN = script("claim_again")
_CLAIM_IDLE = script("claim_idle")
_PENDING_AMONG = script("pending_among")
_SETTLE = script("settle")


class GroupReader:
    """Reads the input streams for one consumer of the group, and settles what was handled.

    Args:
        client: a client that does not retry and does not decode.
        streams: names of the input streams, read together.
        group: the consumer group; created at 0, so that a backlog is read.
        consumer: stable name of this consumer, so that a restart finds its own pending entries.
        batch_size: most entries of one stream in one read.
        block_ms: how long a read waits for new entries; below the client's socket timeout.
        claim_idle_ms: entries that another consumer has held for longer are taken over.
        scores: name of the output stream, and its approximate length limit (None: never trimmed).
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        streams: Sequence[str],
        group: str,
        consumer: str,
        batch_size: int,
        block_ms: int,
        claim_idle_ms: int,
        scores: str,
        scores_maxlen: int | None,
    ) -> None:
        self._client = client
        self._streams = tuple(streams)
        self._group = group
        self._consumer = consumer
        self._batch_size = batch_size
        self._block_ms = block_ms
        self._claim_idle_ms = claim_idle_ms
        self._scores = scores
        self._scores_maxlen = scores_maxlen
        self._own_cursor = dict.fromkeys(self._streams, "0")

    def drop_connections(self) -> None:
        """Connect anew at the next command: the one that we have may lead to a server that was demoted."""
        self._client.connection_pool.disconnect(inuse_connections=False)

    def ensure_groups(self) -> None:
        """Create the group on every input stream where it is missing.

        Raises:
            TransientError: Redis is away.
        """
        with translated():
            for stream in self._streams:
                try:
                    self._client.xgroup_create(stream, self._group, id="0", mkstream=True)
                except redis.ResponseError as error:
                    if not str(error).startswith("BUSYGROUP"):
                        raise

    def read_new(self) -> list[Entry]:
        """Entries never delivered to anyone, waiting up to `block_ms` for the first one.

        Raises:
            TransientError: Redis is away; what it may have handed out is found by `read_own`.
        """
        return self._read(dict.fromkeys(self._streams, ">"), redelivered=False)

    def restart_own(self) -> None:
        """Begin the next walk over our own pending entries at the oldest one."""
        self._own_cursor = dict.fromkeys(self._streams, "0")

    def read_own(self) -> list[Entry]:
        """The next of our own pending entries, oldest first; empty when this walk is done.

        Raises:
            TransientError: Redis is away.
        """
        entries = self._read(self._own_cursor, redelivered=True)
        for entry in entries:
            self._own_cursor[entry.stream] = entry.entry_id
        return entries

    def claim_idle(self) -> list[Entry]:
        """Take over entries that another consumer has left pending for too long.

        Entries whose payload is gone come back with `is_lost` set and are not claimed: a claim would silently strike
        them off the pending list before the loss is recorded.

        Raises:
            TransientError: Redis is away.
        """
        return [entry for stream in self._streams for entry in self._claim_idle_of(stream)]

    def _claim_idle_of(self, stream: str) -> list[Entry]:
        arguments = (self._group, self._consumer, self._claim_idle_ms, self._batch_size)
        rows = self._with_group(partial(self._client.eval, _CLAIM_IDLE, 1, stream, *map(str, arguments)), [])
        if rows:
            logger.info("took over {} entries of {} from an idle consumer", len(rows), stream)
        return [Entry(stream, entry_id.decode(), _pairs(flat), redelivered=True) for entry_id, flat in rows]

    def most_deliveries(self, entries: Sequence[Entry]) -> int:
        """How often the most delivered of our pending entries was handed out: an upper bound of how often it was tried,
        since a read that was given up for a fault of our own counts too.

        Raises:
            TransientError: Redis is away.
        """
        most = 1
        for stream, ids in _ids_by_stream(entries).items():
            first, last = min(ids, key=_id_order), max(ids, key=_id_order)
            command = partial(
                self._client.xpending_range, stream, self._group, first, last, len(ids), consumername=self._consumer
            )
            most = max([most, *(int(row["times_delivered"]) for row in self._with_group(command, []))])
        return most

    def pending_among(self, entries: Sequence[Entry]) -> set[tuple[str, str]]:
        """The keys of those that are pending, with whichever consumer.

        Raises:
            TransientError: Redis is away.
        """
        pending = set()
        for stream, ids in _ids_by_stream(entries).items():
            found = self._with_group(partial(self._client.eval, _PENDING_AMONG, 1, stream, self._group, *ids), [])
            pending |= {(stream, entry_id.decode()) for entry_id in found}
        return pending

    def settle(self, done: Sequence[Entry], scores: Iterable[bytes]) -> None:
        """Publish the scores and acknowledge the entries, in one step of the server.

        Raises:
            TransientError: Redis is away; it may or may not have happened, and doing it again is harmless.
        """
        published = list(scores)
        by_stream = _ids_by_stream(done)
        acknowledged: list[str | int] = []
        for ids in by_stream.values():
            acknowledged += [len(ids), *ids]
        keys = (self._scores, *by_stream)
        head = (self._group, self._scores_maxlen or 0, len(published))
        words: list[str | bytes | int] = [*keys, *head, *published, *acknowledged]
        self._with_group(partial(self._client.eval, _SETTLE, len(keys), *words), None)

    def renew_claims(self, held: Sequence[Entry]) -> None:
        """Reset the idle time of entries that we still work on, so that no one takes them over.

        Raises:
            TransientError: Redis is away.
        """
        self._claim_again(held, idle_ms=0)

    def release(self, held: Sequence[Entry]) -> None:
        """Give entries back: they count as idle at once, so that any consumer may take them over.

        Raises:
            TransientError: Redis is away.
        """
        self._claim_again(held, idle_ms=self._claim_idle_ms + 1)

    def release_own(self) -> int:
        """Give back all that is pending for us; how many entries.

        Raises:
            TransientError: Redis is away.
        """
        released = 0
        for stream in self._streams:
            start = "-"
            while True:
                command = partial(
                    self._client.xpending_range, stream, self._group, start, "+", 1000, consumername=self._consumer
                )
                rows = self._with_group(command, [])
                held = [Entry(stream, row["message_id"].decode(), {}) for row in rows]
                self.release(held)
                released += len(held)
                if len(rows) < 1000:
                    break
                start = f"({held[-1].entry_id}"
        return released

    def _claim_again(self, held: Sequence[Entry], *, idle_ms: int) -> None:
        for stream, ids in _ids_by_stream(held).items():
            words = (self._group, self._consumer, str(idle_ms), *ids)
            self._with_group(partial(self._client.eval, _CLAIM_AGAIN, 1, stream, *words), None)

    def _read(self, positions: Mapping[Any, Any], *, redelivered: bool) -> list[Entry]:
        command = partial(
            self._client.xreadgroup,
            self._group,
            self._consumer,
            dict(positions),
            count=self._batch_size,
            block=None if redelivered else self._block_ms,
        )
        return _entries(self._with_group(command, None), redelivered=redelivered)

    def _with_group(self, command: Callable[[], Any], otherwise: Any) -> Any:
        """The command's reply; where a flush or a failover took the group, it is made again and `otherwise` returned.

        Reading from 0 again is harmless, since events have an identity.
        """
        with translated():
            try:
                return command()
            except redis.ResponseError as error:
                if "NOGROUP" not in str(error):
                    raise
                logger.error("the consumer group {} was gone and is made again at 0: {}", self._group, error)
        self.ensure_groups()
        return otherwise


def _entries(reply: Any, *, redelivered: bool) -> list[Entry]:
    """Normalise XREADGROUP's reply, whose shape differs with the protocol (a list of pairs, or a map of lists)."""
    if isinstance(reply, dict):
        pairs = [(stream, [row for chunk in chunks for row in chunk]) for stream, chunks in reply.items()]
    else:
        pairs = [(stream, rows) for stream, rows in reply or ()]
    return [
        Entry(stream.decode(), entry_id.decode(), fields or {}, redelivered)
        for stream, rows in pairs
        for entry_id, fields in rows
    ]


def _pairs(flat: list[bytes] | None) -> dict[bytes, bytes]:
    """A script's field list as a map; empty when there is none."""
    return dict(zip(flat[::2], flat[1::2], strict=True)) if flat else {}


def _id_order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)


def _ids_by_stream(entries: Iterable[Entry]) -> dict[str, list[str]]:
    ids: dict[str, list[str]] = {}
    for entry in entries:
        ids.setdefault(entry.stream, []).append(entry.entry_id)
    return ids
