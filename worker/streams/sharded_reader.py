"""All shards read by one worker: its home first, others when that is idle, or when they are left behind."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence

from worker.streams.entries import Entry
from worker.streams.reader import GroupReader

#: While nothing comes home, the other shards are looked at so often.
MOST_BLOCK_MS = 100
#: How often a busy worker looks whether other shards are left behind, and by how much they have to be for it to help: a
#: shard that has its own worker is about as old as ours, and two workers in one shard wait for each other.
_LOOK_EVERY_S = 1.0
_BEHIND_MS = 5_000


def home_shard(host: str, slot: int, shards: int) -> int:
    """The shard that a worker reads first: by its slot, and where hosts are numbered, as `worker-3`, by that too."""
    numbered = re.search(r"([0-9]{1,9})$", host.partition(".")[0])
    return (slot + (int(numbered[1]) if numbered else 0)) % shards


class ShardedReader:
    """Reads as a `GroupReader` does, each time from one shard: a batch is settled in the streams that it came from.

    Args:
        readers: one for each shard.
        home: the shard that is read first.
    """

    def __init__(self, readers: Sequence[GroupReader], *, home: int) -> None:
        self._home = readers[home]
        self._others = [*readers[home + 1 :], *readers[:home]]
        self._readers = [self._home, *self._others]
        self._of = {stream: reader for reader in readers for stream in reader.streams}
        self._behind: list[GroupReader] = []
        self._look_due = 0.0
        #: When what came home last was added, by the server's clock.
        self._home_ms = 0
        self._turn = 0

    def drop_connections(self) -> None:
        """See `GroupReader.drop_connections`; the shards share a client."""
        self._home.drop_connections()

    def ensure_groups(self) -> None:
        """See `GroupReader.ensure_groups`."""
        for reader in self._readers:
            reader.ensure_groups()

    def read_new(self) -> list[Entry]:
        """Entries never delivered to anyone: of the home shard or of one that is left behind, in turn; where there are
        none, of any other; else what comes home within a moment.

        Raises:
            ReplyTooLarge: they have too many bytes to be read at once; `read_own` gives them in parts.
            TransientError: Redis is away; what it may have handed out is found by `read_own`.
        """
        self._look_at_others()
        in_turn = [self._home, *self._behind]
        self._turn = (self._turn + 1) % len(in_turn)
        first = in_turn[self._turn]
        for reader in [first, *(other for other in self._readers if other is not first)]:
            if entries := self._read(reader, waits=False):
                return entries
        return self._read(self._home, waits=True)

    def _read(self, reader: GroupReader, *, waits: bool) -> list[Entry]:
        entries = reader.read_new(waits=waits)
        if reader is self._home:
            self._home_ms = min((entry.added_ms for entry in entries), default=0)
        return entries

    def _look_at_others(self) -> None:
        """See which shards nobody keeps up with, while our own keeps us busy."""
        if not self._home_ms:
            self._behind = []
        elif time.monotonic() >= self._look_due:
            self._look_due = time.monotonic() + _LOOK_EVERY_S
            oldest = [(reader, reader.oldest_unread_ms()) for reader in self._others]
            bound = self._home_ms - _BEHIND_MS
            self._behind = [reader for reader, added_ms in oldest if added_ms is not None and added_ms < bound]

    def restart_own(self) -> None:
        """See `GroupReader.restart_own`."""
        for reader in self._readers:
            reader.restart_own()

    def read_own(self) -> list[Entry]:
        """See `GroupReader.read_own`."""
        return _first(reader.read_own() for reader in self._readers)

    def own_suspects(self, deliveries: int) -> list[Entry]:
        """See `GroupReader.own_suspects`."""
        return _first(reader.own_suspects(deliveries) for reader in self._readers)

    def read_one(self, entry: Entry) -> Entry | None:
        """See `GroupReader.read_one`."""
        return self._of[entry.stream].read_one(entry)

    def claim_idle(self) -> list[Entry]:
        """See `GroupReader.claim_idle`."""
        return _first(reader.claim_idle() for reader in self._readers)

    def most_deliveries(self, entries: Sequence[Entry]) -> int:
        """See `GroupReader.most_deliveries`."""
        return max((reader.most_deliveries(some) for reader, some in self._parts(entries)), default=1)

    def pending_among(self, entries: Sequence[Entry]) -> set[tuple[str, str]]:
        """See `GroupReader.pending_among`."""
        return {key for reader, some in self._parts(entries) for key in reader.pending_among(some)}

    def passed_over(self) -> list[tuple[Entry, str]]:
        """See `GroupReader.passed_over`."""
        return [found for reader in self._readers for found in reader.passed_over()]

    def of_one_shard(self, entries: list[Entry]) -> list[Entry]:
        """Those of the entries that are of the first one's shard."""
        return next((some for _, some in self._parts(entries)), [])

    def settle(self, done: Sequence[Entry], scores: Iterable[bytes]) -> None:
        """See `GroupReader.settle`; the entries are of one shard, as they were read."""
        self._of[done[0].stream].settle(done, scores)

    def renew_claims(self, held: Sequence[Entry]) -> None:
        """See `GroupReader.renew_claims`."""
        for reader, some in self._parts(held):
            reader.renew_claims(some)

    def release_own(self) -> int:
        """See `GroupReader.release_own`."""
        return sum(reader.release_own() for reader in self._readers)

    def _parts(self, entries: Iterable[Entry]) -> Iterator[tuple[GroupReader, list[Entry]]]:
        """The entries by the reader of their shard."""
        parts: dict[GroupReader, list[Entry]] = {}
        for entry in entries:
            parts.setdefault(self._of[entry.stream], []).append(entry)
        yield from parts.items()


#: Whatever reads the streams of an installation.
Reader = GroupReader | ShardedReader


def _first(found: Iterable[list[Entry]]) -> list[Entry]:
    """The first that is not empty; what comes after it is not asked."""
    return next((entries for entries in found if entries), [])
