"""What a connection to PostgreSQL promises, on a server that is stopped, cut off, locked and refused."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.support.postgres_server import PostgresServer, needs_postgres
from tests.support.rows import metadata, outcome, plain, prediction, vector
from tests.support.waiting import HANGS_AFTER_S, join
from trading_system.ml_refinement.storage import (
    ConstraintRefused,
    FeatureDatabase,
    SchemaMismatch,
    StoreError,
    StoreMoved,
    StoreUnavailable,
    UnusableValue,
)
from trading_system.ml_refinement.storage.errors import StoreRefused
from trading_system.ml_refinement.storage.postgres.connection import PostgresConnection
from trading_system.ml_refinement.storage.postgres.engine import steps
from trading_system.ml_refinement.storage.statement import Statement

pytestmark = needs_postgres


@pytest.fixture
def db(postgres_url: str) -> Iterator[FeatureDatabase]:
    store = FeatureDatabase(postgres_url)
    store.upgrade()
    with store:
        yield store


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """A server that the tests of this module may stop."""
    with PostgresServer() as server:
        yield server


def names(db: FeatureDatabase) -> list[str]:
    return [row[0] for row in db._connection.query("SELECT signal_id FROM feature_vectors ORDER BY 1")]


def test_two_that_look_and_then_write_take_turns(db: FeatureDatabase, postgres_url: str) -> None:
    """A signal and its outcome at the same moment: whichever is first, the label is not lost."""
    other = FeatureDatabase(postgres_url)
    for number in range(20):
        signal_id = f"s{number}"
        both = [
            threading.Thread(target=lambda s=signal_id: insert(db, s)),
            threading.Thread(target=lambda s=signal_id: other.outcomes.record([outcome(s, 1.0)])),
        ]
        for thread in both:
            thread.start()
        for thread in both:
            join(thread)
    other.close()
    assert db._connection.query("SELECT count(*) FROM feature_vectors WHERE target_r_multiple = 1.0") == [(20,)]
    assert db.counts().waiting_outcomes == 0


def cut_off(db: FeatureDatabase, server: PostgresServer) -> None:
    pid = db._connection.query("SELECT pg_backend_pid()")[0][0]
    server.run_sql(f"SELECT pg_terminate_backend({pid}, 5000)")


def insert(db: FeatureDatabase, signal_id: str) -> None:
    with db.atomic():
        db.store_feature_vector(plain(signal_id))


def test_a_writer_that_waits_too_long_pauses(db: FeatureDatabase, postgres_url: str) -> None:
    other = FeatureDatabase(postgres_url)
    other._connection.run("SET lock_timeout = 100")
    with db.atomic(), pytest.raises(StoreUnavailable, match="lock timeout"):
        insert(other, "s1")
    insert(other, "s2")
    other.close()
    assert names(db) == ["s2"]


def test_a_connection_lost_inside_a_unit_of_work_leaves_nothing_of_it(
    db: FeatureDatabase, postgres_server: PostgresServer
) -> None:
    def unit_of_work() -> None:
        with db.atomic():
            insert(db, "lost")
            cut_off(db, postgres_server)
            insert(db, "lost too")

    with pytest.raises(StoreUnavailable):
        unit_of_work()
    assert names(db) == []
    insert(db, "kept")
    assert names(db) == ["kept"]


def test_nothing_after_a_lost_connection_is_written_alone(db: FeatureDatabase, postgres_server: PostgresServer) -> None:
    """An error that was swallowed inside must not let the rest of the unit commit by itself."""

    def unit_of_work() -> None:
        with db.atomic():
            cut_off(db, postgres_server)
            with pytest.raises(StoreUnavailable):
                insert(db, "a")
            insert(db, "b")

    with pytest.raises(StoreUnavailable, match="inside a transaction"):  # a pause, and no event's fault
        unit_of_work()
    assert names(db) == []


def test_an_error_inside_fails_the_whole_though_it_is_swallowed(db: FeatureDatabase) -> None:
    db.models.register(metadata("m1"))

    def unit_of_work() -> None:
        with db.atomic():
            insert(db, "a")
            with pytest.raises(ConstraintRefused):
                db.models.register(metadata("m1"))

    with pytest.raises(StoreError, match="part of this transaction failed"):
        unit_of_work()
    assert names(db) == []


def test_a_server_that_stops_is_a_pause_and_comes_back(own_server: PostgresServer) -> None:
    db = FeatureDatabase(own_server.url("stops"))
    db.upgrade()
    insert(db, "a")
    own_server.stop("immediate")
    with pytest.raises(StoreUnavailable):
        insert(db, "b")
    with pytest.raises(StoreUnavailable):
        insert(db, "b")
    own_server.start()
    assert names(db) == ["a"]
    insert(db, "c")
    assert names(db) == ["a", "c"]
    db.close()


def test_another_store_at_the_same_address_is_noticed(own_server: PostgresServer) -> None:
    db = FeatureDatabase(own_server.url("replaced"))
    db.upgrade()
    db.initialize()
    db._connection.close()
    db.counts()  # seen once
    own_server.run_sql("ALTER SCHEMA replaced RENAME TO before", database="refinery")
    other = FeatureDatabase(own_server.url("replaced"))
    other.upgrade()
    other.close()
    db.close()
    with pytest.raises(StoreMoved, match="another store"):
        db.counts()


def test_a_forked_child_gets_a_connection_of_its_own(db: FeatureDatabase) -> None:
    insert(db, "parent")
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            insert(db, "child")
            os.write(write, b"done")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    assert os.read(read, 10) == b"done"
    os.close(read)
    insert(db, "parent again")
    assert names(db) == ["child", "parent", "parent again"]


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60)
@given(
    st.lists(
        st.tuples(
            TEXTS,
            st.none() | TEXTS,
            st.floats(allow_nan=False),
            st.none() | st.floats(allow_nan=False),
            st.integers(-(2**63), 2**63 - 1),
            st.binary(),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_columns_come_back_as_they_were_written(db: FeatureDatabase, rows: list[tuple[object, ...]]) -> None:
    connection = db._connection
    assert isinstance(connection, PostgresConnection)
    with connection.atomic():
        connection.execute_script(
            "CREATE TEMP TABLE kept (n integer GENERATED ALWAYS AS IDENTITY, a text, b text, c double precision, "
            "d double precision, e bigint, f bytea) ON COMMIT DROP"
        )
        connection._array_statements.clear()
        kinds = ("text", "text", "double precision", "double precision", "bigint", "bytea")
        arrays = ", ".join(f"${place}::{kind}[]" for place, kind in enumerate(kinds, 1))
        insert_all = f"INSERT INTO kept (a, b, c, d, e, f) SELECT * FROM unnest({arrays})"  # noqa: S608 - of this test
        connection.write_rows(Statement("-", postgres=insert_all), rows)
        assert connection.query("SELECT a, b, c, d, e, f FROM kept ORDER BY n") == rows


@pytest.mark.parametrize("where", ["signal_id", "symbol"])
def test_nul_in_a_text_is_the_callers_fault(db: FeatureDatabase, where: str) -> None:
    bad = vector("a\x00b") if where == "signal_id" else vector("s1")._replace(symbol="a\x00b")
    with pytest.raises(UnusableValue):
        db.vectors.insert_new([bad], ("x",), np.array([[1.0]]))
    assert names(db) == []


def test_a_prediction_of_a_stranger_is_refused(db: FeatureDatabase) -> None:
    with pytest.raises(ConstraintRefused, match="not registered"):
        db.scores.log_predictions([prediction("s1", "nobody")])


def test_nobody_but_the_command_makes_a_schema(postgres_url: str) -> None:
    with pytest.raises(SchemaMismatch, match="refinery store upgrade"):
        FeatureDatabase(postgres_url).initialize()


def test_a_newer_schema_is_refused(db: FeatureDatabase, postgres_url: str) -> None:
    db._connection.run("INSERT INTO ml_schema_migrations (version, applied_at) VALUES (999, 'later')")
    for use in (FeatureDatabase(postgres_url).initialize, FeatureDatabase(postgres_url).upgrade):
        with pytest.raises(SchemaMismatch, match="newer release"):
            use()


def test_two_first_starts_make_one_schema(postgres_url: str) -> None:
    found: list[list[int]] = []
    threads = [threading.Thread(target=lambda: found.append(FeatureDatabase(postgres_url).upgrade())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANGS_AFTER_S)
    assert sorted(found) == [[], [], [], sorted(steps())]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"user": "nobody_here"}, "role .* does not exist"),
        ({"database": "nowhere"}, "database .* does not exist"),
    ],
)
def test_a_wrong_address_is_refused_and_not_waited_for(
    postgres_server: PostgresServer, wrong: dict[str, str], said: str
) -> None:
    url = postgres_server.url()
    url = url.replace("refinery@", f"{wrong.get('user', 'refinery')}@").replace(
        "/refinery?", f"/{wrong.get('database', 'refinery')}?"
    )
    with pytest.raises(StoreRefused, match=said):
        FeatureDatabase(url).initialize()


def test_a_server_that_is_not_there_is_waited_for(tmp_path: object) -> None:
    with pytest.raises(StoreUnavailable):
        FeatureDatabase(f"postgresql://refinery@/refinery?host={tmp_path}").initialize()


def test_a_role_without_rights_is_named(
    db: FeatureDatabase, postgres_server: PostgresServer, postgres_url: str
) -> None:
    postgres_server.run_sql("DO $$ BEGIN CREATE ROLE looker LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    url = postgres_url.replace("refinery@", "looker@")
    with pytest.raises(StoreRefused, match=r"looker@.*permission denied"):
        FeatureDatabase(url).initialize()


def test_a_list_of_features_may_be_longer_than_an_index_holds(db: FeatureDatabase) -> None:
    """64 provided names of 64 characters, in which there is nothing to compress."""
    names = [f"f{hashlib.blake2b(bytes([n]), digest_size=31).hexdigest()}x" for n in range(64)]
    with db._connection.atomic():
        number = db.vectors.list_id(names)
        assert db.vectors.list_id(names) == number
        assert db.vectors.list_id(names[:-1]) != number


def test_a_look_at_a_small_table_is_not_compiled_first(db: FeatureDatabase) -> None:
    """Where whole tables are not to be read, one that has no other way costs so much that PostgreSQL compiles it."""
    look = "EXPLAIN (ANALYZE, FORMAT JSON) SELECT id FROM feature_lists WHERE names = 'x'"
    with db.atomic():
        [[[plan]]] = db._connection.query(look)
    assert "Seq Scan" in plan["Plan"]["Node Type"]
    assert "JIT" not in plan
