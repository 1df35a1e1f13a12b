"""Events as they were received, compressed: in a file of their own beside the store, or in the store in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import accumulate, repeat
from pathlib import Path
from typing import NamedTuple, Self

from trading_system.ml_refinement.storage.connection import Row, Values, id_list
from trading_system.ml_refinement.storage.engines import archive_at
from trading_system.ml_refinement.storage.errors import StoreDamaged
from trading_system.ml_refinement.storage.event_blocks import Damaged, Place, pack, parts, place_of, unpack
from trading_system.ml_refinement.storage.statement import Statement
from trading_system.ml_refinement.storage.tables.entries import id_given, named_apart
from trading_system.ml_refinement.storage.times import Clock, us_from_text, utc_now, utc_text


class ArchivedEvent(NamedTuple):
    """One entry of a stream. `received_at` is the store's fixed-width text."""

    stream: str
    entry_id: str
    received_at: str
    payload: bytes


class ArchivedEntry(NamedTuple):
    """Which entry a row of the archive is; `id` rises in the order in which they were kept.

    `payload` is there where several events had the same entry id, to tell them apart.
    """

    id: int
    stream: str
    entry_id: str
    payload: bytes | None = None


class EventArchive:
    """Keeps what was received, so that vectors can be rebuilt and decisions explained. Its commits are not waited for:
    after a power cut the newest entries may be gone, never the store's.

    An entry is known by stream, id and content: where a server gives an id to another event, both are kept.

    Call `initialize()` first, or use it as a context manager, which does.

    Args:
        place: a file of SQLite, or the URL of a store in PostgreSQL, in which the archive is.
        clock: the present.
        read_only: nothing can be written.
    """

    def __init__(self, place: str | Path, *, clock: Clock = utc_now, read_only: bool = False) -> None:
        self._clock = clock
        self.engine = archive_at(place, read_only=read_only)
        self._connection = self.engine.connection
        self._last_block: tuple[int, bytes] = (0, b"")

    def initialize(self) -> None:
        """Create the file, or bring its schema up to date. In PostgreSQL: check that it is.

        Raises:
            SchemaMismatch: a newer release made it, or it is only checked here and is not up to date.
        """
        self._last_block = (0, b"")  # the file may be another one
        self.engine.initialize(self._clock)

    def make_ahead(self, *, since: datetime | None = None) -> list[str]:
        """Make the partitions of the next months, and of those since a moment, where the engine has any; those that
        were made.

        Raises:
            StoreRefused: the server's role may not make them. Nothing is lost: the default partition takes the events.
            StoreUnavailable: they cannot be made now.
        """
        return self.engine.make_ahead(self._clock(), since=since)

    def missing(self) -> list[str]:
        """The partitions of the next months that are not there: their events will go into the default one."""
        return self.engine.missing(self._clock())

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        self.initialize()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def append(self, rows: Sequence[ArchivedEvent]) -> int:
        """Keep the events, each once however often it is delivered; how many were new."""
        return self._append(rows, older=False)

    def add_older(self, rows: Sequence[ArchivedEvent]) -> int:
        """Keep events that were received before all that is there, the newest first; how many were new."""
        return self._append(rows, older=True)

    def _append(self, rows: Sequence[ArchivedEvent], *, older: bool) -> int:
        for row in rows:
            us_from_text(row.received_at)
        together = [rows[part] for part in parts([row.payload for row in rows])]
        packed = [pack(b"".join([row.payload for row in some])) for some in together]
        with self._connection.atomic():
            return sum(map(self._keep, together, packed, repeat(older)))

    def _keep(self, rows: Sequence[ArchivedEvent], packed: bytes, older: bool) -> int:
        """Keep events that were packed together; how many were new."""
        if len(rows) == 1:
            alone = len(packed) < len(rows[0].payload)
            return self._keep_each(rows, [(packed, True) if alone else (rows[0].payload, False)], older)
        newest_at = max(row.received_at for row in rows)
        block = int(self._connection.query(ADD_BLOCK, (newest_at, packed))[0][0])
        sizes = [len(row.payload) for row in rows]
        places = map(Place, repeat(block), accumulate(sizes, initial=0), sizes)
        new = self._keep_each(rows, [(place.packed(), True) for place in places], older)
        if not new:
            self._connection.run(DROP_BLOCK, (block,))
        return new

    def _keep_each(self, rows: Sequence[ArchivedEvent], written: Sequence[tuple[bytes, bool]], older: bool) -> int:
        params = [(row.stream, row.entry_id, row.received_at, *each) for row, each in zip(rows, written, strict=True)]
        new = self._write(params, older)
        if new < len(rows):
            kept = self._kept(rows)
            apart = [
                (stream, named_apart(entry_id, row.payload), *rest)
                for row, (stream, entry_id, *rest) in zip(rows, params, strict=True)
                if self._is_another(row, kept[stream, entry_id])
            ]
            new += self._write(apart, older)
        return new

    def _write(self, rows: Sequence[Values], older: bool) -> int:
        """Write rows of `events`, numbered after all that are there, or before; how many were new."""
        if not older:
            return self._connection.write_new(APPEND, rows)
        first = min(int(self._connection.query(FIRST_ID)[0][0]), 0)
        return self._connection.write_new(INSERT_EVENTS, [(first - place, *row) for place, row in enumerate(rows, 1)])

    def _kept(self, rows: Sequence[ArchivedEvent]) -> dict[tuple[str, str], Row]:
        """What is kept under the entry ids of the rows, by stream and id: when it was received, payload, packed."""
        return {
            (stream, entry_id): tuple(event)
            for stream in {row.stream for row in rows}
            for entry_id, *event in self._connection.query(
                KEPT, (stream, id_list([row.entry_id for row in rows if row.stream == stream]))
            )
        }

    def _is_another(self, row: ArchivedEvent, kept: Row) -> bool:
        """Whether what is kept under the row's entry id is another event."""
        try:
            return self._unpacked(row.stream, row.entry_id, *kept) != row.payload
        except StoreDamaged:
            return True

    def get(self, stream: str, entry_id: str) -> bytes | None:
        """The bytes as they were received, those that were kept last where several events had this id; None for none.

        Raises:
            StoreDamaged: they cannot be unpacked.
        """
        kept = self.get_all(stream, entry_id)
        return kept[-1] if kept else None

    def get_all(self, stream: str, entry_id: str) -> list[bytes]:
        """The bytes of each event that had this id, in the order in which they were kept: nearly always one.

        Raises:
            StoreDamaged: some cannot be unpacked.
        """
        rows = self._connection.query(GET_ALL, (stream, entry_id))
        return [self._unpacked(stream, entry_id, *row) for row in rows]

    def newest(self, streams: Sequence[str], *, among: int) -> list[bytes]:
        """The bytes of some streams' entries among the `among` that were kept last of any, the newest first.

        Raises:
            StoreDamaged: some cannot be unpacked.
        """
        return [self._unpacked(*row) for row in self._connection.query(NEWEST, (among, id_list(streams)))]

    def after(self, row_id: int, *, limit: int) -> list[ArchivedEntry]:
        """The entries that were kept after row `row_id`, the oldest first.

        Raises:
            StoreDamaged: one of several that had the same id cannot be unpacked.
        """
        return [
            ArchivedEntry(number, stream, id_given(name), payload and self._unpacked(stream, name, at, payload, packed))
            for number, stream, name, at, packed, payload in self._connection.query(AFTER, (row_id, limit))
        ]

    def before(self, row_id: int, *, limit: int) -> list[tuple[int, ArchivedEvent]]:
        """The events that were kept before row `row_id`, the newest first, each with its row's id.

        Raises:
            StoreDamaged: one cannot be unpacked.
        """
        return [
            (number, ArchivedEvent(stream, id_given(name), at, self._unpacked(stream, name, at, payload, packed)))
            for number, stream, name, at, payload, packed in self._connection.query(BEFORE, (row_id, limit))
        ]

    def last_id(self) -> int:
        """Id of the row that was kept last; 0 for none."""
        return int(self._connection.query(LAST_ID)[0][0])

    def _unpacked(self, stream: str, entry_id: str, received_at: str, payload: bytes, packed: int) -> bytes:
        if not packed:
            return bytes(payload)
        try:
            place = place_of(payload)
            return unpack(payload) if place is None else self._at(place, received_at)
        except Damaged as error:
            raise StoreDamaged(f"{self._connection.name}: {stream} {entry_id}: {error}") from None

    def _at(self, place: Place, received_at: str) -> bytes:
        """The event at this place. Whoever reads many reads those of a block one after the other: the last one is kept.

        A block lies by the time of its newest event, which for those of a batch is the time of each: so one partition
        is asked first, and all of them only for a block that was packed otherwise.

        Raises:
            Damaged: there is none.
        """
        number, block = self._last_block
        if number != place.block:
            rows = self._connection.query(BLOCK_OF_BATCH, (place.block, received_at))
            if not rows:
                rows = self._connection.query(BLOCK, (place.block,))
            if not rows:
                raise Damaged(f"block {place.block} is not there")
            block = unpack(rows[0][0])
            self._last_block = (place.block, block)
        event = block[place.begin : place.begin + place.size]
        if len(event) < place.size:
            raise Damaged(f"block {place.block} has {len(block)} bytes")
        return event

    def streams(self) -> list[str]:
        """The streams of the entries that are kept."""
        return [stream for (stream,) in self._connection.query(STREAMS)]

    def count(self) -> int:
        """How many entries are kept."""
        return int(self._connection.query("SELECT count(*) FROM events")[0][0])

    def count_older(self, older_than: datetime) -> int:
        """How many entries were received before."""
        sql = "SELECT count(*) FROM events WHERE received_at < ?"
        return int(self._connection.query(sql, (utc_text(older_than),))[0][0])

    def prune(self, older_than: datetime, *, at_once: int = 1000) -> int:
        """Drop what was received before, whole partitions first, the rest in short transactions; how many entries."""
        bound, dropped = utc_text(older_than), self.engine.drop_before("events", older_than)
        while True:
            with self._connection.atomic():
                gone = self._connection.run(PRUNE, (bound, at_once))
            dropped += gone
            if gone < at_once:
                break
        self.engine.drop_before("blocks", older_than)  # after the events that stand in them
        while self._connection.run(PRUNE_BLOCKS, (bound, at_once)) == at_once:
            pass
        return dropped


# PostgreSQL finds the partition by the milliseconds of the entry's id.
APPEND = Statement(
    """
    INSERT INTO events (stream, entry_id, received_at, payload, packed) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (stream, entry_id) DO NOTHING""",
    postgres="""
    INSERT INTO events (stream, entry_ms, entry_id, received_at, payload, packed)
    SELECT stream, ms_of_entry(entry_id), entry_id, received_at, payload, packed
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::integer[])
        AS rows(stream, entry_id, received_at, payload, packed)
    ON CONFLICT DO NOTHING""",
)
#: Rows that come with their numbers.
INSERT_EVENTS = Statement(
    """
    INSERT INTO events (id, stream, entry_id, received_at, payload, packed) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT DO NOTHING""",
    postgres="""
    INSERT INTO events (id, stream, entry_ms, entry_id, received_at, payload, packed)
    SELECT id, stream, ms_of_entry(entry_id), entry_id, received_at, payload, packed
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::integer[])
        AS rows(id, stream, entry_id, received_at, payload, packed)
    ON CONFLICT DO NOTHING""",
)
INSERT_BLOCKS = "INSERT INTO blocks (id, newest_at, payload) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
BEFORE = "SELECT id, stream, entry_id, received_at, payload, packed FROM events WHERE id < ? ORDER BY id DESC LIMIT ?"
NEWEST = """
    SELECT stream, entry_id, received_at, payload, packed FROM (SELECT * FROM events ORDER BY id DESC LIMIT ?) AS newest
    WHERE stream IN (SELECT value FROM json_each(?)) ORDER BY id DESC"""
AFTER = Statement(
    """
    SELECT id, stream, entry_id, received_at, packed, CASE WHEN instr(entry_id, '~') OR EXISTS (
        SELECT 1 FROM events AS other WHERE other.stream = events.stream
            AND other.entry_id BETWEEN events.entry_id || '~' AND events.entry_id || '~~') THEN payload END
    FROM events WHERE id > ? ORDER BY id LIMIT ?""",
    postgres="""
    SELECT id, stream, entry_id, received_at, packed, CASE WHEN strpos(entry_id, '~') > 0 OR EXISTS (
        SELECT 1 FROM events AS other WHERE other.stream = events.stream AND other.entry_ms = events.entry_ms
            AND other.entry_id BETWEEN events.entry_id || '~' AND events.entry_id || '~~') THEN payload END
    FROM events WHERE id > ? ORDER BY id LIMIT ?""",
)
FIRST_ID = "SELECT coalesce(min(id), 0) FROM events"
LAST_ID = "SELECT coalesce(max(id), 0) FROM events"
# LATERAL with OFFSET: for each id one look into the index of one partition, whatever the planner makes of their number.
KEPT = Statement(
    """
    SELECT e.entry_id, e.received_at, e.payload, e.packed FROM json_each(?2) AS wanted
    CROSS JOIN events AS e ON e.stream = ?1 AND e.entry_id = wanted.value""",
    postgres="""
    SELECT e.entry_id, e.received_at, e.payload, e.packed
    FROM jsonb_array_elements_text(CAST(?2 AS jsonb)) AS wanted (entry_id) CROSS JOIN LATERAL (
        SELECT entry_id, received_at, payload, packed FROM events
        WHERE stream = CAST(?1 AS text) AND entry_ms = ms_of_entry(wanted.entry_id) AND entry_id = wanted.entry_id
        OFFSET 0
    ) AS e""",
)
GET_ALL = Statement(
    """
    SELECT received_at, payload, packed FROM events
    WHERE stream = ?1 AND (entry_id = ?2 OR entry_id BETWEEN ?2 || '~' AND ?2 || '~~') ORDER BY id""",
    postgres="""
    SELECT received_at, payload, packed FROM events WHERE stream = ?1 AND entry_ms = ms_of_entry(CAST(?2 AS text))
        AND (entry_id = CAST(?2 AS text) OR entry_id BETWEEN CAST(?2 AS text) || '~' AND CAST(?2 AS text) || '~~')
    ORDER BY id""",
)
STREAMS = """
    WITH RECURSIVE named(stream) AS (
        SELECT min(stream) FROM events UNION ALL
        SELECT (SELECT min(stream) FROM events WHERE stream > named.stream) FROM named WHERE named.stream IS NOT NULL)
    SELECT stream FROM named WHERE stream IS NOT NULL"""
PRUNE = "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE received_at < ? ORDER BY received_at LIMIT ?)"
ADD_BLOCK = "INSERT INTO blocks (newest_at, payload) VALUES (?, ?) RETURNING id"
BLOCK_OF_BATCH = "SELECT payload FROM blocks WHERE id = ? AND newest_at = ?"
BLOCK = "SELECT payload FROM blocks WHERE id = ?"
DROP_BLOCK = "DELETE FROM blocks WHERE id = ?"
PRUNE_BLOCKS = "DELETE FROM blocks WHERE id IN (SELECT id FROM blocks WHERE newest_at < ? ORDER BY newest_at LIMIT ?)"
