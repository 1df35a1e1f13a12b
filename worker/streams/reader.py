"""Redis Streams: one consumer group over the input streams, and the stream of scores.

The client given here must not retry by itself: a retried XREADGROUP hands out the *next* entries and leaves the lost
ones unseen in our pending list, and a retried XADD writes twice. Whatever was lost is found again by `read_own`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import redis
from loguru import logger

from worker.streams.entries import SHOWN_BYTES, Entry, kept_bytes
from worker.streams.errors import translated
from worker.streams.lua import script
from worker.streams.replies import MOST_REPLY_BYTES, ReplyTooLarge

_CLAIM_AGAIN = script("claim_again")
_OLDEST_UNREAD = script("oldest_unread", uses=["entry_ids"])
_PASSED_OVER = script("passed_over")
_PENDING_AMONG = script("pending_among")
_TAKE_PENDING = script("take_pending")
_SETTLE = script("settle")
#: Of so many batches it is kept what was read before each, until it is looked at.
_MOST_SEAMS = 10_000


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
        max_event_bytes: the largest event that is let in; of entries many times as large only the beginning is read.
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
        max_event_bytes: int,
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
        self._most_bytes_of_one = kept_bytes(max_event_bytes)
        self._most_bytes = max(MOST_REPLY_BYTES // 4, self._most_bytes_of_one)
        self._read_at_once = batch_size
        self._scores = scores
        self._scores_maxlen = scores_maxlen
        self._own_cursor = dict.fromkeys(self._streams, "0")
        #: Stream, the last id that was read of it before a batch (`0-0` for none yet), and the batch's first one.
        self._seams: deque[tuple[str, str, str]] = deque(maxlen=_MOST_SEAMS)
        self._last_read = dict.fromkeys(self._streams, "0-0")

    @property
    def streams(self) -> tuple[str, ...]:
        """The names of the input streams."""
        return self._streams

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

    def read_new(self, *, waits: bool = True) -> list[Entry]:
        """Entries never delivered to anyone, waiting up to `block_ms` for the first one, or for none.

        Raises:
            ReplyTooLarge: they have too many bytes to be read at once; `read_own` gives them in parts.
            TransientError: Redis is away; what it may have handed out is found by `read_own`.
        """
        try:
            entries = self._read(waits=waits)
        except ReplyTooLarge:
            self._read_at_once = max(1, self._read_at_once // 8)
            raise
        for stream, ids in _ids_by_stream(entries).items():
            self._seams.append((stream, self._last_read[stream], ids[0]))
            self._last_read[stream] = ids[-1]
        if self._read_at_once < self._batch_size and len(entries) >= self._read_at_once:
            self._read_at_once = min(self._batch_size, 2 * self._read_at_once)
        return entries

    def oldest_unread_ms(self) -> int | None:
        """When the oldest entry was added that nobody was given yet, by the server's clock; None where there is none.

        Raises:
            TransientError: Redis is away.
        """
        found = [
            self._with_group(partial(self._client.eval, _OLDEST_UNREAD, 1, stream, self._group), None)
            for stream in self._streams
        ]
        return min((int(entry_id.partition(b"-")[0]) for entry_id in found if entry_id), default=None)

    def restart_own(self) -> None:
        """Begin the next walk over our own pending entries at the oldest one."""
        self._own_cursor = dict.fromkeys(self._streams, "0")

    def read_own(self) -> list[Entry]:
        """The next of our own pending entries, oldest first, few enough by their bytes; empty when this walk is done.

        Raises:
            TransientError: Redis is away.
        """
        entries = [
            entry for stream in self._streams for entry in self._take(stream, first=f"({self._own_cursor[stream]}")
        ]
        self._go_on_after(entries)
        return entries

    def own_suspects(self, deliveries: int) -> list[Entry]:
        """The next of our own pending entries if one of them was handed out so often; none of their bytes are read.

        Raises:
            TransientError: Redis is away.
        """
        entries, most = [], 0
        for stream in self._streams:
            rows = self._pending_of(stream, f"({self._own_cursor[stream]}", "+", self._batch_size)
            entries += [Entry(stream, row["message_id"].decode(), {}, redelivered=True, is_unread=True) for row in rows]
            most = max([most, *(int(row["times_delivered"]) for row in rows)])
        if most < deliveries:
            return []
        self._go_on_after(entries)
        return entries

    def read_one(self, entry: Entry) -> Entry | None:
        """A pending entry of ours with its bytes; None when it is not pending for us any more.

        Raises:
            TransientError: Redis is away.
        """
        found = self._take(entry.stream, first=entry.entry_id, last=entry.entry_id)
        return found[0] if found else None

    def _go_on_after(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._own_cursor[entry.stream] = entry.entry_id

    def claim_idle(self) -> list[Entry]:
        """Take over entries that another consumer has left pending for too long.

        Entries whose payload is gone come back with `is_lost` set and are not claimed: a claim would silently strike
        them off the pending list before the loss is recorded.

        Raises:
            TransientError: Redis is away.
        """
        return [entry for stream in self._streams for entry in self._claim_idle_of(stream)]

    def _claim_idle_of(self, stream: str) -> list[Entry]:
        entries = self._take(stream, idle_ms=self._claim_idle_ms)
        if entries:
            logger.info("took over {} entries of {} from an idle consumer", len(entries), stream)
        return entries

    def _take(self, stream: str, *, idle_ms: int | None = None, first: str = "-", last: str = "+") -> list[Entry]:
        """Entries that are pending: our own, or those of others that are idle for so long."""
        whose = (self._group, self._consumer, "" if idle_ms is None else str(idle_ms))
        bounds = (self._batch_size, self._most_bytes, self._most_bytes_of_one, SHOWN_BYTES)
        words = (stream, *whose, first, last, *map(str, bounds))
        rows = self._with_group(partial(self._client.eval, _TAKE_PENDING, 1, *words), [])
        return [
            Entry(stream, row[0].decode(), _pairs(row[1]), redelivered=True, oversized=row[2] if row[2:] else None)
            for row in rows
        ]

    def most_deliveries(self, entries: Sequence[Entry]) -> int:
        """How often the most delivered of our pending entries was handed out: an upper bound of how often it was tried,
        since a read that was given up for a fault of our own counts too.

        Raises:
            TransientError: Redis is away.
        """
        most = 1
        for stream, ids in _ids_by_stream(entries).items():
            first, last = min(ids, key=_id_order), max(ids, key=_id_order)
            rows = self._pending_of(stream, first, last, len(ids))
            most = max([most, *(int(row["times_delivered"]) for row in rows)])
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

    def passed_over(self) -> list[tuple[Entry, str]]:
        """What stands right before a batch that was read since the last call, and is not pending, without its bytes.

        Each with the id that we had read before, `0-0` for none. Nearly always another consumer has read it.

        Raises:
            TransientError: Redis is away; it can be asked again.
        """
        found = []
        for stream in self._streams:
            pairs = [ids for name, *ids in self._seams if name == stream]
            command = partial(self._client.eval, _PASSED_OVER, 1, stream, self._group, *chain(*pairs))
            rows = self._with_group(command, []) if pairs else []
            found += [(Entry(stream, last.decode(), {}), before.decode()) for last, before in rows]
        self._seams.clear()
        return found

    def _pending_of(self, stream: str, first: str, last: str, count: int) -> list[Any]:
        """What the server says of our own pending entries."""
        command = partial(
            self._client.xpending_range, stream, self._group, first, last, count, consumername=self._consumer
        )
        rows: list[Any] = self._with_group(command, [])
        return rows

    def of_one_shard(self, entries: list[Entry]) -> list[Entry]:
        """The entries: there is one shard."""
        return entries

    def settle(self, done: Sequence[Entry], scores: Iterable[bytes]) -> None:
        """Publish the scores and acknowledge the entries, in one step of the server.

        Raises:
            TransientError: Redis is away; it may or may not have happened, and doing it again is harmless.
        """
        published = list(scores)
        by_stream = _ids_by_stream(_pending(done))
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
                rows = self._pending_of(stream, start, "+", 1000)
                held = [Entry(stream, row["message_id"].decode(), {}) for row in rows]
                self.release(held)
                released += len(held)
                if len(rows) < 1000:
                    break
                start = f"({held[-1].entry_id}"
        return released

    def _claim_again(self, held: Sequence[Entry], *, idle_ms: int) -> None:
        for stream, ids in _ids_by_stream(_pending(held)).items():
            words = (self._group, self._consumer, str(idle_ms), *ids)
            self._with_group(partial(self._client.eval, _CLAIM_AGAIN, 1, stream, *words), None)

    def _read(self, *, waits: bool) -> list[Entry]:
        command = partial(
            self._client.xreadgroup,
            self._group,
            self._consumer,
            dict.fromkeys(self._streams, ">"),
            count=self._read_at_once,
            block=self._block_ms if waits else None,
        )
        return _entries(self._with_group(command, None), self._most_bytes_of_one)

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


def _entries(reply: Any, most_bytes: int) -> list[Entry]:
    """Normalise XREADGROUP's reply, whose shape differs with the protocol (a list of pairs, or a map of lists)."""
    if isinstance(reply, dict):
        pairs = [(stream, [row for chunk in chunks for row in chunk]) for stream, chunks in reply.items()]
    else:
        pairs = [(stream, rows) for stream, rows in reply or ()]
    entries = []
    for name, rows in pairs:
        stream = name.decode()
        for entry_id, fields in rows:
            if not fields or _bytes_of(fields) <= most_bytes:
                entries.append(Entry(stream, entry_id.decode(), fields or {}))
            else:
                entries.append(Entry(stream, entry_id.decode(), _beginning(fields), oversized=_bytes_of(fields)))
    return entries


def _bytes_of(fields: Mapping[bytes, bytes]) -> int:
    """As `take_pending.lua` measures an entry."""
    if len(fields) == 1:  # nearly always
        ((name, value),) = fields.items()
        return len(name) + len(value)
    return sum(map(len, fields)) + sum(map(len, fields.values()))


def _beginning(fields: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    return {b"data": fields.get(b"data", b"")[:SHOWN_BYTES]}


def _pairs(flat: list[bytes] | None) -> dict[bytes, bytes]:
    """A script's field list as a map; empty when there is none."""
    return dict(zip(flat[::2], flat[1::2], strict=True)) if flat else {}


def _id_order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)


def _pending(entries: Iterable[Entry]) -> list[Entry]:
    return [entry for entry in entries if not entry.struck_off]


def _ids_by_stream(entries: Iterable[Entry]) -> dict[str, list[str]]:
    ids: dict[str, list[str]] = {}
    for entry in entries:
        ids.setdefault(entry.stream, []).append(entry.entry_id)
    return ids
