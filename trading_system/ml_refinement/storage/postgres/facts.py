"""What can be seen of a PostgreSQL server without a right beyond the store's own."""

from __future__ import annotations

from dataclasses import dataclass

from trading_system.ml_refinement.storage.connection import Connection


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """Whether a server keeps what it says it kept, and what it costs.

    `synchronous_standbys` is the server's setting, empty where a commit waits for nobody else; `orphans` are rows of
    hot tables that refer to nothing, a thousand at most: what foreign keys would have refused.
    """

    version: str
    fsync: bool
    full_page_writes: bool
    synchronous_commit: str
    standby: bool
    standbys: int
    synchronous_standbys: str
    size_bytes: int
    orphans: int


def server_facts(connection: Connection) -> ServerFacts:
    """What is so now. Reads two tables against the indexes of two others."""
    version, fsync, whole_pages, commit, standby, standbys, synchronous, size = connection.query(FACTS)[0]
    orphans = connection.query(ORPHANS)[0][0]
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


FACTS = """
    SELECT current_setting('server_version'), current_setting('fsync'), current_setting('full_page_writes'),
        current_setting('synchronous_commit'), pg_is_in_recovery(), (SELECT count(*) FROM pg_stat_replication),
        current_setting('synchronous_standby_names'),
        (SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0) FROM pg_class AS c
            WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r')"""
ORPHANS = """
    SELECT (SELECT count(*) FROM (SELECT 1 FROM served_scores AS s WHERE NOT EXISTS (
            SELECT 1 FROM feature_vectors AS v WHERE v.id = s.vector_id) LIMIT 1000) AS served)
        + (SELECT count(*) FROM (SELECT 1 FROM prediction_log AS p WHERE NOT EXISTS (
            SELECT 1 FROM model_registry AS m WHERE m.model_id = p.model_id) LIMIT 1000) AS predicted)"""
