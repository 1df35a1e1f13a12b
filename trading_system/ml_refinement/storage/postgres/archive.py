"""The archive of received events in PostgreSQL: a partition a month, made ahead and dropped whole."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import NamedTuple

from trading_system.ml_refinement.storage.engine import ArchiveEngine
from trading_system.ml_refinement.storage.errors import StoreRefused, StoreUnavailable
from trading_system.ml_refinement.storage.postgres.connection import PostgresConnection
from trading_system.ml_refinement.storage.postgres.schema import check_schema, number_after
from trading_system.ml_refinement.storage.times import Clock, utc_text

#: Months before and after the present one that have partitions: what is read late, and time to notice a lack of them.
_BEFORE, _AHEAD = 1, 3
#: Of an archive that is older, the first years lie in the default partition.
_MOST_BEFORE = 120
#: Attaching locks the default partition, dropping the table; whoever reads it then waits behind us.
_LOCK_WAIT_MS = 1000
#: More rows of a month in the default partition are moved on purpose alone: that keeps the writers waiting.
_MOST_MOVED = 1000
#: So many of them are copied in one transaction.
_COPIED_AT_ONCE = 1000
_NAMED = re.compile(r"(events|blocks)_(\d{4})_(\d{2})")


class Month(NamedTuple):
    """A calendar month in UTC."""

    year: int
    month: int

    @classmethod
    def of(cls, moment: datetime) -> Month:
        """The month of an instant."""
        return cls(moment.astimezone(UTC).year, moment.astimezone(UTC).month)

    def later(self, months: int) -> Month:
        """So many months after it, or before."""
        years, month = divmod(self.month - 1 + months, 12)
        return Month(self.year + years, month + 1)

    def begin(self) -> datetime:
        """Its first moment."""
        return datetime(self.year, self.month, 1, tzinfo=UTC)

    def bounds(self, table: str) -> tuple[str | int, str | int]:
        """Where the partition of it begins, and which value is the first beyond."""
        begin, end = self.begin(), self.later(1).begin()
        if table == "events":
            return int(begin.timestamp()) * 1000, int(end.timestamp()) * 1000
        return utc_text(begin), utc_text(end)

    def partition(self, table: str) -> str:
        """The name of its partition."""
        return f"{table}_{self.year:04}_{self.month:02}"


#: Each table with what its partitions are told apart by, and the time of which its rows are.
_KEYS = {"events": ("entry_ms", "received_at"), "blocks": ("newest_at", "newest_at")}


class PostgresArchive(ArchiveEngine):
    """The tables `events` and `blocks` of a store's schema.

    Written through a connection of its own, whose transactions wait for each other and for nobody's of the store. Their
    commits are not waited for. What is lost with a crash of the server is only what came after the last commit of the
    store, since both are in one log: an event that is settled in the store is in the archive.
    """

    connection: PostgresConnection

    def __init__(self, url: str, *, read_only: bool) -> None:
        self.connection = PostgresConnection(url, read_only=read_only, of_archive=True)

    def initialize(self, clock: Clock) -> None:  # noqa: ARG002 - nothing is applied here
        """See that the schema is this release's.

        Raises:
            SchemaMismatch: it is older, newer, or not there.
        """
        check_schema(self.connection)

    def make_ahead(self, now: datetime, *, since: datetime | None = None) -> list[str]:
        """See `ArchiveEngine.make_ahead`.

        Raises:
            StoreRefused: the role may not make them.
            StoreUnavailable: somebody reads the archive for so long that they cannot be made now.
        """
        return [month.partition(table) for table, month in self._missing(now, since) if self._make(table, month)]

    def take_in(self, now: datetime) -> list[str]:
        """Make those of the next months' partitions of whose rows the default one has much, and move them there; those
        that were made.

        The rows are copied a few at a time while they stay where they are. Writers wait only while what was copied is
        taken out of the default partition, which is a transaction.

        Raises:
            StoreRefused: the role may not make them.
            StoreUnavailable: somebody reads the archive for so long that they cannot be made now.
        """
        return [month.partition(table) for table, month in self._missing(now, None) if self._take_in(table, month)]

    def missing(self, now: datetime) -> list[str]:
        """See `ArchiveEngine.missing`."""
        return [month.partition(table) for table, month in self._missing(now, None)]

    def _missing(self, now: datetime, since: datetime | None) -> list[tuple[str, Month]]:
        month, last = Month.of(now).later(-_BEFORE), Month.of(now).later(_AHEAD)
        if since is not None:
            month = max(min(month, Month.of(since)), month.later(-_MOST_BEFORE))
        there = set(self._partitions())
        missing = []
        while month <= last:
            missing += [(table, month) for table in _KEYS if (table, month) not in there]
            month = month.later(1)
        return missing

    def _make(self, table: str, month: Month) -> bool:
        """Make a partition; False where there is one, or where the default one has too much that belongs in it."""
        parts = _parts(table, month)
        with self._unless_made(table, month) as is_missing:
            self.connection.run(f"SET LOCAL lock_timeout = {_LOCK_WAIT_MS}")
            if not is_missing:
                return False
            strays = self.connection.query(STRAYS.format(**parts), (*month.bounds(table), _MOST_MOVED + 1))
            if len(strays) > _MOST_MOVED:
                return False
            self.connection.execute_script(MAKE.format(**parts))
        return True

    def _take_in(self, table: str, month: Month) -> bool:
        """Make a partition out of the default one's rows; False where there is one.

        Two that move the same rows add to one copy, and whoever comes to its end first attaches it.
        """
        parts = _parts(table, month)
        with self._unless_made(table, month) as is_missing:
            if is_missing:
                self.connection.execute_script(BEGIN_COPY.format(**parts))
        after: int | None = None
        while is_missing and (copied := self._copy(table, month, after)) is not None:
            after = copied
        with self._unless_made(table, month) as is_missing:
            if is_missing:
                self.connection.run(f"SET LOCAL lock_timeout = {_LOCK_WAIT_MS}")
                self.connection.execute_script(END_COPY.format(**parts))
        return is_missing

    def _copy(self, table: str, month: Month, after: int | None) -> int | None:
        """Copy some rows that come after this number; the last one's, None where there is nothing more to do."""
        with self._unless_made(table, month) as is_missing:
            if not is_missing:
                return None
            sql = COPY.format(**_parts(table, month))
            return self.connection.query(sql, (after, _COPIED_AT_ONCE))[0][0]  # type: ignore[no-any-return]

    @contextmanager
    def _unless_made(self, table: str, month: Month) -> Iterator[bool]:
        """A transaction, and whether the partition is missing in it: another process may have been faster."""
        with self.connection.atomic():
            yield (table, month) not in self._partitions()

    def drop_before(self, table: str, bound: datetime) -> int:
        """See `ArchiveEngine.drop_before`. What cannot be dropped now is left to whoever deletes the rows."""
        dropped = 0
        for name, month in self._partitions():
            if name == table and month.later(1).begin() <= bound:
                with suppress(StoreRefused, StoreUnavailable):
                    dropped += self._drop(table, month, utc_text(bound))
        return dropped

    def _drop(self, table: str, month: Month, bound: str) -> int:
        """Drop a partition where everything in it is older; how many rows it had."""
        key, time = _KEYS[table]
        within = ROWS.format(table=table, key=key, time=time)
        with self.connection.atomic():
            self.connection.run(f"SET LOCAL lock_timeout = {_LOCK_WAIT_MS}")
            newest, rows = self.connection.query(within, month.bounds(table))[0]
            if newest is not None and newest >= bound:
                return 0
            self.connection.execute_script(f"DROP TABLE IF EXISTS {month.partition(table)}")
        return int(rows)

    def go_on_numbering(self) -> None:
        """See `ArchiveEngine.go_on_numbering`."""
        number_after(self.connection, list(_KEYS))

    def _partitions(self) -> Sequence[tuple[str, Month]]:
        """The tables' months that have a partition, the oldest first."""
        found = [_NAMED.fullmatch(name) for (name,) in self.connection.query(PARTITIONS)]
        return sorted((part[1], Month(int(part[2]), int(part[3]))) for part in found if part is not None)


def _parts(table: str, month: Month) -> dict[str, str]:
    """What stands for what in the statements about a partition."""
    begin, end = month.bounds(table)
    parts = {"table": table, "name": month.partition(table), "key": _KEYS[table][0]}
    return parts | {"begin": repr(begin), "end": repr(end)}


# Tables are those of our own schema, months are numbers; every other value is bound.
PARTITIONS = """
    SELECT CAST(part.relname AS text) FROM pg_inherits
    JOIN pg_class AS part ON part.oid = inhrelid
    WHERE inhparent IN (CAST('events' AS regclass), CAST('blocks' AS regclass))"""
STRAYS = "SELECT 1 FROM {table}_other WHERE {key} >= ? AND {key} < ? LIMIT ?"
#: Attached, and not made in its place: that would lock the whole table instead of the default partition.
MAKE = """
    DROP TABLE IF EXISTS {name}_coming;
    CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE);
    WITH moved AS (DELETE FROM {table}_other WHERE {key} >= {begin} AND {key} < {end} RETURNING *)
        INSERT INTO {name} SELECT * FROM moved;
    ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ({begin}) TO ({end})"""
ROWS = "SELECT max({time}), count(*) FROM {table} WHERE {key} >= ? AND {key} < ?"
#: Those that partitions are made of, also as the first of them were named.
COPIES = """
    SELECT CAST(tablename AS text) FROM pg_tables
    WHERE schemaname = current_schema() AND tablename ~ '^(events|blocks)(_[0-9]{4}_[0-9]{2}){0,1}_coming$'"""
#: With the indexes of the table, so that none has to be made when it is attached. What was broken off is gone on with.
BEGIN_COPY = """
    CREATE TABLE IF NOT EXISTS {name}_coming
        (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE INCLUDING INDEXES)"""
COPY = """
    WITH next AS (
        SELECT * FROM {table}_other
        WHERE {key} >= {begin} AND {key} < {end} AND id > coalesce(CAST(? AS bigint), -9223372036854775808)
        ORDER BY id LIMIT ?),
    copied AS (INSERT INTO {name}_coming SELECT * FROM next ON CONFLICT DO NOTHING)
    SELECT max(id) FROM next"""
#: What was pruned or added meanwhile, below the numbers that were copied too, is made up for.
END_COPY = """
    DELETE FROM {name}_coming AS gone
        WHERE NOT EXISTS (SELECT 1 FROM {table}_other AS kept WHERE kept.id = gone.id AND kept.{key} = gone.{key});
    INSERT INTO {name}_coming SELECT * FROM {table}_other AS late WHERE {key} >= {begin} AND {key} < {end}
        AND NOT EXISTS (SELECT 1 FROM {name}_coming AS copied WHERE copied.id = late.id);
    DELETE FROM {table}_other WHERE {key} >= {begin} AND {key} < {end};
    ALTER TABLE {name}_coming RENAME TO {name};
    ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ({begin}) TO ({end})"""
