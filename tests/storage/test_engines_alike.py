"""Both engines hold the same tables and columns, and the few forms that differ are translated and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from tests.support.postgres_server import needs_postgres
from trading_system.ml_refinement.storage import EventArchive, FeatureDatabase
from trading_system.ml_refinement.storage.postgres.dialect import insert_from_arrays, translated_statement
from trading_system.ml_refinement.storage.statement import Statement

COLUMNS = """
    SELECT table_name::text, column_name::text FROM information_schema.columns
    JOIN pg_class ON oid = format('%I.%I', table_schema, table_name)::regclass AND NOT relispartition
    WHERE table_schema = ?"""
IN_SQLITE = """
    SELECT m.name, c.name FROM sqlite_schema AS m CROSS JOIN pragma_table_info(m.name) AS c
    WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite%'"""
#: A unique key of a partitioned table has to hold what it is partitioned by; and shards, which SQLite has not.
ONLY_THERE = {("events", "entry_ms"), ("shards", "only_row"), ("shards", "number"), ("counters", "shard")}


@needs_postgres
def test_both_engines_have_the_same_tables_and_columns(postgres_url: str) -> None:
    with FeatureDatabase(":memory:") as one, EventArchive(":memory:") as archive:
        in_sqlite = {*one._connection.query(IN_SQLITE), *archive.engine.connection.query(IN_SQLITE)}
    other = FeatureDatabase(postgres_url)
    other.upgrade()
    with other:
        schema = other._connection.query("SELECT CAST(current_schema() AS text)")[0][0]
        in_postgres = set(other._connection.query(COLUMNS, (schema,)))
    assert in_sqlite | ONLY_THERE == in_postgres


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("SELECT a FROM b WHERE c = ? AND d = '?' AND e = ?", "SELECT a FROM b WHERE c = $1 AND d = '?' AND e = $2"),
        ("SELECT ?2, ?1, ?2", "SELECT $2, $1, $2"),
        ("INSERT OR FAIL INTO a (b) VALUES (?)", "INSERT INTO a (b) VALUES ($1)"),
        ("SELECT a FROM b INDEXED BY c WHERE +d = ? AND e = 1 + 2", "SELECT a FROM b WHERE d = $1 AND e = 1 + 2"),
        (
            "SELECT v.a FROM json_each(?) AS wanted CROSS JOIN b AS v ON v.a = wanted.value",
            "SELECT v.a FROM jsonb_array_elements_text(CAST($1 AS jsonb)) AS wanted JOIN b AS v ON v.a = wanted.value",
        ),
        ("SELECT a FROM b CROSS JOIN c", "SELECT a FROM b CROSS JOIN c"),
        ("SELECT 1 WHERE a LIKE ? ESCAPE '!'", "SELECT 1 WHERE a ILIKE $1 ESCAPE '!'"),
    ],
)
def test_a_statement_keeps_its_words_but_for_its_form(ours: str, theirs: str) -> None:
    assert translated_statement(ours) == theirs


def test_a_statement_of_two_texts_fills_in_both() -> None:
    both = Statement("SELECT {a} IN ?", postgres="SELECT {a} = ANY (?)").format(a="x")
    assert (str(both), translated_statement(both)) == ("SELECT x IN ?", "SELECT x = ANY ($1)")


def test_rows_are_written_as_arrays_under_the_same_conflict_clause() -> None:
    sql = insert_from_arrays("INSERT OR FAIL INTO a (b, c) VALUES (?, ?) ON CONFLICT DO NOTHING", ("text", "bigint"))
    assert sql == "INSERT INTO a (b, c) SELECT * FROM unnest($1::text[], $2::bigint[]) ON CONFLICT DO NOTHING"
    with pytest.raises(ValueError, match="arrays"):
        insert_from_arrays("INSERT INTO a (b) SELECT c FROM d", ("text",))


@given(st.text() | st.sampled_from(["a LIKE ?", "INSERT OR FAIL", "it's ?1", "CROSS JOIN a AS b ON"]))
def test_what_stands_in_quotes_is_left_as_it_is(text: str) -> None:
    quoted = "'" + text.replace("'", "''") + "'"
    assert translated_statement(f"SELECT {quoted}, ?") == f"SELECT {quoted}, $1"
