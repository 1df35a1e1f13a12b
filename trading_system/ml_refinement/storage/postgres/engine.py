"""A store in PostgreSQL: its schema, which only an operator's command makes or changes, and what can be seen of the
server without a right beyond the store's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from trading_system.ml_refinement.storage.engine import Engine, ServerFacts
from trading_system.ml_refinement.storage.errors import SchemaMismatch
from trading_system.ml_refinement.storage.postgres.archive import COPIES, PostgresArchive
from trading_system.ml_refinement.storage.postgres.connection import PostgresConnection
from trading_system.ml_refinement.storage.postgres.schema import at_step, check_schema, mismatch, number_after, steps
from trading_system.ml_refinement.storage.times import Clock, utc_text


class PostgresEngine(Engine):
    """PostgreSQL, with one schema of one database."""

    on_a_server = True
    connection: PostgresConnection

    def __init__(self, url: str, *, read_only: bool) -> None:
        self._url = url
        self.connection = PostgresConnection(url, read_only=read_only)

    def initialize(self, clock: Clock) -> None:  # noqa: ARG002 - nothing is applied here
        """See that the schema is this release's.

        Raises:
            SchemaMismatch: it is older, newer, or not there.
        """
        check_schema(self.connection)

    def upgrade(self, clock: Clock, *, shards: int = 1) -> list[int]:
        """Apply what is missing, all of it or nothing, and make the archive's next partitions, out of what the default
        one has. Two that start at once take turns. See `Engine.upgrade`.

        Raises:
            SchemaMismatch: the schema was made by a newer release.
            StoreRefused: the role may not make what is needed.
        """
        scripts = steps()
        with self.connection.atomic():
            done = at_step(self.connection)
            if done > max(scripts):
                raise SchemaMismatch(mismatch(self.connection, done))
            missing = [number for number in sorted(scripts) if number > done]
            if done == 0:
                self.connection.execute_script(f"CREATE SCHEMA IF NOT EXISTS {self.connection.schema}")
            for number in missing:
                self.connection.execute_script(scripts[number])
                self.connection.run(APPLIED, (number, utc_text(clock())))
            if done == 0:
                self.connection.run(CHOOSE_SHARDS, (shards,))
            if missing:  # what an older release's move left has that release's columns
                for (name,) in self.connection.query(COPIES):
                    self.connection.execute_script(f"DROP TABLE {name}")
        archive = PostgresArchive(self._url, read_only=False)
        with closing(archive.connection):
            archive.make_ahead(clock())
            archive.take_in(clock())
        return missing

    def shards(self) -> int:
        """See `Engine.shards`: chosen when the schema was made."""
        return int(self.connection.query(SHARDS)[0][0])

    def sizes(self) -> dict[str, int]:
        """See `Engine.sizes`: the schema's tables and indexes, and of these the archive's."""
        store, archive = self.connection.query(SIZES)[0]
        return {"store": int(store), "archive": int(archive)}

    def timeline(self) -> str:
        """See `Engine.timeline`."""
        return self.connection.timeline()

    def place_id(self) -> str:
        """See `Engine.place_id`: the identifier that the server was given when it was made, database and schema."""
        return str(self.connection.query(PLACE_ID)[0][0])

    def facts(self) -> ServerFacts:
        """See `Engine.facts`. Reads two tables against the indexes of two others."""
        with self.connection.snapshot() as reads:
            version, fsync, whole_pages, commit, standby, standbys, synchronous = reads.query(FACTS)[0]
            size, orphans = sum(reads.query(SIZES)[0]), reads.query(ORPHANS)[0][0]
        return ServerFacts(
            str(version),
            fsync == "on",
            whole_pages == "on",
            str(commit),
            bool(standby),
            int(standbys),
            str(synchronous or ""),
            int(size),
            int(orphans),
        )

    def go_on_numbering(self, tables: Sequence[str]) -> None:
        """See `Engine.go_on_numbering`."""
        number_after(self.connection, tables)


# Tables are those of our own schema; every value is bound.
APPLIED = "INSERT INTO ml_schema_migrations (version, applied_at) VALUES (?, ?)"
SHARDS = "SELECT number FROM shards"
CHOOSE_SHARDS = "UPDATE shards SET number = ?"
SIZES = """
    SELECT coalesce(sum(size) FILTER (WHERE parent IS NULL), 0),
        coalesce(sum(size) FILTER (WHERE parent IS NOT NULL), 0)
    FROM (SELECT pg_total_relation_size(oid) AS size, inhparent AS parent
        FROM pg_class LEFT JOIN pg_inherits ON inhrelid = oid
        WHERE relnamespace = CAST(current_schema() AS regnamespace) AND relkind = 'r') AS tables"""
PLACE_ID = """
    SELECT CAST(system_identifier AS text) || '/' || current_database() || '/' || current_schema()
    FROM pg_control_system()"""
FACTS = """
    SELECT current_setting('server_version'), current_setting('fsync'), current_setting('full_page_writes'),
        current_setting('synchronous_commit'), pg_is_in_recovery(), (SELECT count(*) FROM pg_stat_replication),
        current_setting('synchronous_standby_names')"""
ORPHANS = """
    SELECT (SELECT count(*) FROM (SELECT 1 FROM served_scores AS s WHERE NOT EXISTS (
            SELECT 1 FROM feature_vectors AS v WHERE v.id = s.vector_id) LIMIT 1000) AS served)
        + (SELECT count(*) FROM (SELECT 1 FROM prediction_log AS p WHERE NOT EXISTS (
            SELECT 1 FROM model_registry AS m WHERE m.model_id = p.model_id) LIMIT 1000) AS predicted)"""
