"""The specification's schema, and how a file gets it whatever happens on the way."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

from tests.storage.conftest import SteppingClock
from tests.support.rows import metadata, plain
from tests.support.waiting import HANGS_AFTER_S
from trading_system.ml_refinement import storage
from trading_system.ml_refinement.storage import FeatureDatabase, SchemaMismatch, SqliteConnection, StoreError
from trading_system.ml_refinement.storage.schema import migrate, steps, version
from trading_system.ml_refinement.storage.sqlite.copies import copy_database

# Column: type, with "!" for NOT NULL and "#" for the primary key.
TABLES = {
    "feature_vectors": """id INTEGER#, signal_id TEXT!, timestamp TEXT!, features TEXT!, target_r_multiple REAL,
        target_binary INTEGER, target_return_pct REAL, feature_version TEXT!, created_at TEXT!, updated_at TEXT,
        symbol TEXT, asset_class TEXT, signal_type TEXT, conviction TEXT""",
    "model_registry": """id INTEGER#, model_id TEXT!, model_type TEXT!, version TEXT!, created_at TEXT!,
        train_start_date TEXT, train_end_date TEXT, train_samples INTEGER, validation_samples INTEGER,
        train_metrics TEXT, validation_metrics TEXT, feature_names TEXT, feature_importance TEXT, model_path TEXT,
        is_active INTEGER!, deployed_at TEXT, retired_at TEXT""",
    "feature_definitions": """id INTEGER#, name TEXT!, category TEXT!, description TEXT, data_type TEXT!,
        computation TEXT, dependencies TEXT, created_at TEXT!""",
    "training_runs": """id INTEGER#, run_id TEXT!, model_type TEXT!, started_at TEXT!, completed_at TEXT,
        status TEXT!, config TEXT, train_samples INTEGER, validation_samples INTEGER, best_iteration INTEGER,
        metrics TEXT, model_id TEXT, error_message TEXT""",
    "prediction_log": """id INTEGER#, signal_id TEXT!, model_id TEXT!, predicted_at TEXT!, quality_score REAL,
        predicted_r REAL, confidence REAL, actual_r REAL, prediction_error REAL""",
    "ml_schema_migrations": "version INTEGER#, applied_at TEXT!",
}
# Index: table, columns (an expression is "-"), "u" for unique, "p" for partial.
INDEXES = {
    "idx_fv_signal_id": "feature_vectors signal_id",
    "idx_fv_timestamp": "feature_vectors timestamp",
    "idx_fv_symbol": "feature_vectors symbol",
    "idx_fv_asset_class": "feature_vectors asset_class",
    "idx_fv_has_target": "feature_vectors -",
    "idx_model_type": "model_registry model_type",
    "idx_model_active": "model_registry is_active",
    "idx_model_type_active": "model_registry model_type u p",
    "idx_training_status": "training_runs status",
    "idx_training_model_type": "training_runs model_type",
    "idx_pred_signal": "prediction_log signal_id",
    "idx_pred_model": "prediction_log model_id",
}

#: What the two indexes that are not of plain columns say.
CONDITIONS = {"idx_fv_has_target": "(target_r_multipleISNOTNULL)", "idx_model_type_active": "is_active=1"}

#: Step 7 dropped five of them, and later ones brought them back: a store may come from any step.
STEPS = range(1, max(steps()))


def columns(connection: SqliteConnection, table: str) -> list[str]:
    rows = connection.query('SELECT name, type, "notnull", pk FROM pragma_table_info(?)', (table,))
    return [f"{name} {kind}{'!' * required}{'#' * key}" for name, kind, required, key in rows]


def indexes(connection: SqliteConnection) -> dict[str, str]:
    sql = """
        SELECT i.name, t.name, group_concat(coalesce(c.name, '-')), i."unique", i.partial
        FROM sqlite_schema AS t, pragma_index_list(t.name) AS i, pragma_index_info(i.name) AS c
        WHERE t.type = 'table' AND i.origin = 'c' GROUP BY i.name"""
    return {
        name: f"{table} {keys}{' u' * unique}{' p' * partial}"
        for name, table, keys, unique, partial in connection.query(sql)
    }


def test_step_one_is_the_specifications_schema_and_nothing_else(path: Path, clock: SteppingClock) -> None:
    connection = SqliteConnection(path)
    migrate(connection, {1: steps()[1]}, clock)
    tables = connection.query("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    assert {name for (name,) in tables} == set(TABLES)
    for table, expected in TABLES.items():
        assert columns(connection, table) == re.split(r",\s+", expected), table
    assert indexes(connection) == INDEXES
    assert connection.query('SELECT "from", "table", "to" FROM pragma_foreign_key_list(\'prediction_log\')') == [
        ("model_id", "model_registry", "model_id")
    ]


def specified(connection: SqliteConnection) -> dict[str, str]:
    """The specification's indexes as they are in a store."""
    return {name: index for name, index in indexes(connection).items() if name in INDEXES}


def conditions(connection: SqliteConnection) -> dict[str, str]:
    """What the specification's indexes of expressions and of a part of a table say, without their blanks."""
    sql = "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"
    texts = {name: "".join(text.split()) for name, text in connection.query(sql)}
    return {
        name: texts[name].partition("feature_vectors")[2] or texts[name].partition("WHERE")[2] for name in CONDITIONS
    }


def test_every_step_since_the_first_leaves_the_columns_and_indexes_of_the_specification(db: FeatureDatabase) -> None:
    for table, expected in TABLES.items():
        wanted = re.split(r",\s+", expected)
        assert columns(db.connection, table)[: len(wanted)] == wanted
    assert specified(db.connection) == INDEXES
    assert conditions(db.connection) == CONDITIONS


@pytest.mark.parametrize("step", STEPS)
def test_a_store_of_any_older_step_has_all_indexes_once_it_was_opened(
    path: Path, clock: SteppingClock, step: int
) -> None:
    older = SqliteConnection(path)
    migrate(older, {number: sql for number, sql in steps().items() if number <= step}, clock)
    older.close()
    with FeatureDatabase(path) as db:
        assert specified(db.connection) == INDEXES
        assert conditions(db.connection) == CONDITIONS
        assert db.store_feature_vector(plain("s1"))


def test_a_store_whose_indexes_were_dropped_by_hand_before_a_step_gets_them_back(
    path: Path, clock: SteppingClock
) -> None:
    older = SqliteConnection(path)
    migrate(older, {number: sql for number, sql in steps().items() if number <= 7}, clock)
    assert set(INDEXES) - set(specified(older)) == {
        "idx_fv_signal_id", "idx_pred_signal", "idx_fv_asset_class", "idx_fv_has_target", "idx_pred_model",
    }  # fmt: skip
    older.close()
    with FeatureDatabase(path) as db:
        assert specified(db.connection) == INDEXES


def test_an_older_ledger_keeps_its_rows_stays_append_only_and_runs_say_how_their_candidates_served(
    path: Path, clock: SteppingClock
) -> None:
    older = SqliteConnection(path)
    migrate(older, {number: sql for number, sql in steps().items() if number <= 11}, clock)
    models = (("proven", "promote"), ("provisional", "reject"), ("no", "hold"))
    for number, (name, verdict) in enumerate(models, start=1):
        older.run(
            """INSERT INTO model_registry (model_id, model_type, version, created_at)
               VALUES (?, 'signal_quality', '1', '')""",
            (name,),
        )
        older.run(
            """INSERT INTO training_runs (run_id, model_type, started_at, status, model_id, verdict)
               VALUES (?, 'signal_quality', '', 'completed', ?, ?)""",
            (f"r{number}", name, verdict),
        )
        older.run(
            """INSERT INTO promotions (at, model_type, action, model_id, proven, reason, figures, run_id, actor)
               VALUES ('', 'signal_quality', ?, ?, ?, 'why', '{}', ?, 'gate')""",
            ("hold" if name == "no" else "activate", name, name == "proven", f"r{number}"),
        )
    before = older.query("SELECT * FROM promotions ORDER BY id")
    older.close()
    with FeatureDatabase(path) as db:
        assert db.connection.query("SELECT * FROM promotions ORDER BY id") == before
        assert [run.serves for run in reversed(db.runs.recent())] == ["proven", "provisional", "no"]
        for statement in ("DELETE FROM promotions", "UPDATE promotions SET reason = 'another'"):
            with pytest.raises(StoreError, match="append-only"):
                db.connection.run(statement)


def test_a_copy_has_all_indexes_and_one_of_an_older_store_once_it_was_opened(
    tmp_path: Path, clock: SteppingClock
) -> None:
    for name, newest in (("new", max(steps())), ("old", 7)):
        source = SqliteConnection(tmp_path / f"{name}.db")
        migrate(source, {number: sql for number, sql in steps().items() if number <= newest}, clock)
        source.close()
        copy_database(source.path, tmp_path / f"{name}-copy.db")
        with FeatureDatabase(tmp_path / f"{name}-copy.db") as db:
            assert specified(db.connection) == INDEXES


def test_a_prediction_of_a_signal_and_a_model_is_stored_once_whoever_stores_it(db: FeatureDatabase) -> None:
    db.register_model(metadata("m1"))
    db.register_model(metadata("m2"))
    sql = "INSERT INTO prediction_log (signal_id, model_id, predicted_at, quality_score) VALUES (?, ?, '', ?)"
    for row in (("s1", "m1", 0.1), ("s1", "m2", 0.2), ("s1", "m1", 0.3), ("s2", "m1", 0.4)):
        db.connection.run(sql, row)
    stored = db.connection.query("SELECT signal_id, model_id, quality_score FROM prediction_log ORDER BY id")
    assert stored == [("s1", "m1", 0.1), ("s1", "m2", 0.2), ("s2", "m1", 0.4)]


def test_every_step_is_recorded_once(db: FeatureDatabase) -> None:
    db.initialize()
    applied = db.connection.query("SELECT version FROM ml_schema_migrations ORDER BY version")
    assert [number for (number,) in applied] == sorted(steps())


def test_c20_a_step_that_fails_half_way_leaves_nothing(path: Path, clock: SteppingClock) -> None:
    connection = SqliteConnection(path)
    scripts = {1: steps()[1], 2: "CREATE TABLE half (x); INSERT INTO half VALUES (1); CREATE TABLE oops (;"}
    with pytest.raises(StoreError, match="syntax"):
        migrate(connection, scripts, clock)
    assert version(connection) == 1
    assert not connection.query("SELECT 1 FROM sqlite_schema WHERE name = 'half'")


def test_c20_a_process_killed_inside_step_one_leaves_nothing(path: Path, db_program: str) -> None:
    program = (
        db_program
        + """
connection = SqliteConnection(path)
with connection.atomic():
    connection.query(steps()[1][: steps()[1].index("CREATE TABLE IF NOT EXISTS training_runs")])
    say_and_wait()
"""
    )
    kill_when_it_speaks(program, path)
    connection = SqliteConnection(path)
    assert connection.query("SELECT name FROM sqlite_schema") == []
    with FeatureDatabase(path) as db:
        assert db.counts().signals == 0


def test_a_file_left_half_made_by_other_means_is_completed(path: Path) -> None:
    script = steps()[1]
    SqliteConnection(path).query(script[: script.index("CREATE TABLE IF NOT EXISTS training_runs")])
    with FeatureDatabase(path) as db:
        assert db.store_feature_vector(plain("s1"))


def test_a_store_from_before_step_two_keeps_its_rows_and_gets_their_counts(path: Path, clock: SteppingClock) -> None:
    connection = SqliteConnection(path)
    migrate(connection, {1: steps()[1]}, clock)
    connection.query("""
        INSERT INTO feature_vectors (signal_id, timestamp, features, target_r_multiple, target_binary,
            feature_version, created_at, updated_at) VALUES
            ('a', '2024-01-05T10:00:00', '{"rsi": 1.0}', 1.5, 1, '1.0', '2024-01-05T10:00:01',
                '2024-01-09T10:00:00.25'),
            ('b', '2024-01-05T10:00:00+02:00', '{"rsi": 2.0}', NULL, NULL, '1.0', '2024-01-05T10:00:01', NULL);
        INSERT INTO model_registry (model_id, model_type, version, created_at) VALUES ('m', 'signal_quality', '1', '');
        INSERT INTO prediction_log (signal_id, model_id, predicted_at, quality_score)
            VALUES ('a', 'm', '2024-01-05', 0.6), ('a', 'm', '2024-01-05', 0.6)""")
    connection.close()
    with FeatureDatabase(path) as db:
        counts = db.counts()
        assert (counts.signals, counts.labelled, counts.labels_total, counts.predictions) == (2, 1, 1, 1)
        assert (counts.outcomes, counts.newest_label) == (1, "2024-01-09T10:00:00.250000Z")
        stored = db.get_feature_vector("b")
        assert stored is not None
        assert stored.timestamp == "2024-01-05T08:00:00.000000Z"
        matrix = db.vectors.training_matrix(feature_version="1.0", names=["rsi"])
        assert (matrix.signal_ids, matrix.X.tolist()) == (["a"], [[1.0]])


def test_a_store_of_a_newer_release_is_refused(db: FeatureDatabase, path: Path) -> None:
    db.connection.run("INSERT INTO ml_schema_migrations VALUES (999, '')")
    with pytest.raises(SchemaMismatch, match="999"):
        FeatureDatabase(path).initialize()


def test_a_read_only_store_is_checked_and_not_migrated(path: Path, clock: SteppingClock) -> None:
    migrate(SqliteConnection(path), {1: steps()[1]}, clock)
    with pytest.raises(SchemaMismatch, match="step 1"):
        FeatureDatabase(path, read_only=True).initialize()


def test_processes_that_start_at_once_make_one_schema_and_lose_no_row(path: Path, db_program: str) -> None:
    program = (
        db_program
        + """
print("ready", flush=True)
sys.stdin.readline()
with FeatureDatabase(path) as db:
    for n in range(25):
        db.store_feature_vector(FeatureVector(f"{sys.argv[2]}-{n}", "2024-01-05", {"rsi": 1.0}))
"""
    )
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    processes = [subprocess.Popen([sys.executable, "-c", program, str(path), name], **pipes) for name in "abc"]
    for process in processes:
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in processes:
        _, said = process.communicate(timeout=HANGS_AFTER_S)
        assert process.returncode == 0, said.decode()
    with FeatureDatabase(path) as db:
        assert db.counts().signals == 75
        applied = db.connection.query("SELECT version FROM ml_schema_migrations ORDER BY version")
        assert [number for (number,) in applied] == sorted(steps())


def kill_when_it_speaks(program: str, path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        process.kill()
    assert said == b"inside\n"


def test_every_step_has_a_number_of_its_own() -> None:
    names = [file.name for file in files(storage).joinpath("migrations").iterdir() if file.name[0].isdigit()]
    numbers = [int(name.split("_")[0]) for name in names]
    assert sorted(numbers) == list(range(1, len(names) + 1)) == sorted(steps())


def test_no_two_steps_have_one_number() -> None:
    names = [file.name for file in files("trading_system.ml_refinement.storage").joinpath("migrations").iterdir()]
    numbered = Counter(re.match(r"(?:[a-z]+_)?\d+", name)[0] for name in names if name.endswith(".sql"))
    assert len(numbered) > 15
    assert [number for number, count in numbered.items() if count > 1] == []
