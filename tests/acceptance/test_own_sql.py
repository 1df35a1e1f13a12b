"""SQL as code written to the specification runs it: through `connection` and `transaction()`, as with `sqlite3`."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pandas as pd
import pytest

from trading_system.ml_refinement import FeatureVector, ModelMetadata, ModelType
from trading_system.ml_refinement.storage import FeatureDatabase

STORE = """
    INSERT OR REPLACE INTO feature_vectors (signal_id, timestamp, features, target_r_multiple, target_binary,
        feature_version, created_at, symbol) VALUES (?, ?, ?, ?, ?, '1.0', '2024-01-01', 'AAPL')"""
LABEL = "UPDATE feature_vectors SET target_r_multiple = ?, target_binary = ?, updated_at = ? WHERE signal_id = ?"


def vector(signal_id: str = "s1", **more) -> FeatureVector:
    return FeatureVector(signal_id, "2024-01-05T10:00:00", {"rsi": 65.0, "atr": 2.5}, **more)


def model(model_id: str) -> ModelMetadata:
    return ModelMetadata(model_id, ModelType.SIGNAL_QUALITY, "1.0", "2024-01-01", "", "", 10, 5)


def stored(db: FeatureDatabase, signal_id: str = "s1", r: float | None = None, features: str = '{"rsi": 1}') -> None:
    db.connection.execute(STORE, (signal_id, "2024-01-05 10:00:00", features, r, None))


def test_rows_are_read_by_name_and_by_position(db: FeatureDatabase) -> None:
    db.store_feature_vector(vector(), symbol="AAPL")
    row = db.connection.execute("SELECT * FROM feature_vectors WHERE signal_id = ?", ("s1",)).fetchone()
    assert (row["signal_id"], row["SYMBOL"], json.loads(row["features"])["rsi"]) == ("s1", "AAPL", 65.0)
    short = db.connection.execute("SELECT signal_id, symbol FROM feature_vectors").fetchone()
    assert (short[0], short[-1], tuple(short), dict(short)) == (
        "s1", "AAPL", ("s1", "AAPL"), {"signal_id": "s1", "symbol": "AAPL"}
    )  # fmt: skip
    assert (short.keys(), len(short)) == (["signal_id", "symbol"], 2)
    with pytest.raises(IndexError):
        short["nothing"]
    signal_id, _symbol = short
    assert signal_id == "s1"


def test_cursors_give_one_some_all_and_none(db: FeatureDatabase) -> None:
    for at in range(5):
        db.store_feature_vector(vector(f"s{at}"))
    cursor = db.connection.execute("SELECT signal_id FROM feature_vectors ORDER BY id")
    assert cursor.fetchone()[0] == "s0"
    assert [row[0] for row in cursor.fetchmany(2)] == ["s1", "s2"]
    assert [row["signal_id"] for row in cursor] == ["s3", "s4"]
    assert (cursor.fetchone(), cursor.fetchall()) == (None, [])
    assert db.connection.execute("SELECT COUNT(*) FROM feature_vectors").fetchone()[0] == 5
    nothing = db.connection.execute("SELECT signal_id AS id FROM feature_vectors WHERE signal_id = :id", {"id": "x"})
    assert (nothing.fetchone(), [column[0] for column in nothing.description]) == (None, ["id"])
    frame = pd.DataFrame([dict(row) for row in db.connection.execute("SELECT signal_id, symbol FROM feature_vectors")])
    assert frame.shape == (5, 2)


def test_a_transaction_is_kept_or_undone_as_a_whole(db: FeatureDatabase) -> None:
    db.store_feature_vector(vector())
    with db.transaction() as connection:
        cursor = connection.execute("UPDATE feature_vectors SET symbol = ? WHERE signal_id = ?", ("MSFT", "s1"))
        db.connection.execute("UPDATE feature_vectors SET conviction = 'HIGH'")
    assert cursor.rowcount == 1
    assert db.connection.execute("UPDATE feature_vectors SET symbol = 'X' WHERE signal_id = 'none'").rowcount == 0
    db.connection.commit()
    with pytest.raises(RuntimeError), db.transaction():  # noqa: PT012 - what fails comes after what is undone
        db.connection.execute("UPDATE feature_vectors SET symbol = 'GONE'")
        raise RuntimeError
    row = db.connection.execute("SELECT symbol, conviction FROM feature_vectors").fetchone()
    assert tuple(row) == ("MSFT", "HIGH")


def test_without_a_transaction_commit_keeps_and_rollback_undoes(db: FeatureDatabase, tmp_path: Path) -> None:
    stored(db)
    assert db.connection.in_transaction
    db.connection.rollback()
    assert db.count_samples(require_target=False) == 0
    stored(db)
    db.connection.commit()
    stored(db, "s2")
    db.close()
    with FeatureDatabase(str(tmp_path / "features.db")) as again:
        assert [row[0] for row in again.connection.execute("SELECT signal_id FROM feature_vectors")] == ["s1"]
    with db.connection:
        stored(db, "s3")
    assert not db.connection.in_transaction
    stored(db, "s4")
    db.store_feature_vector(vector("s5"))  # a method of the store keeps what was open
    db.connection.rollback()
    assert db.count_samples(require_target=False) == db.counts().signals == 4


def test_scripts_and_many_rows_run(db: FeatureDatabase) -> None:
    with db.transaction():
        db.connection.executescript("CREATE TABLE notes (text TEXT); INSERT INTO notes VALUES ('a'), ('b');")
    many = db.connection.executemany("INSERT INTO notes VALUES (?)", [("c",), ("d",)])
    db.connection.commit()
    assert many.rowcount == 2
    cursor = db.connection.cursor()
    cursor.execute("INSERT INTO notes VALUES ('e')")
    assert cursor.lastrowid == 5
    assert cursor.execute("SELECT count(*) FROM notes").fetchone()[0] == 5


def test_errors_are_the_standard_librarys_kinds(db: FeatureDatabase) -> None:
    db.register_model(model("m1"))
    with pytest.raises(sqlite3.IntegrityError):
        db.register_model(model("m1"))
    with pytest.raises(sqlite3.IntegrityError):
        db.connection.execute("INSERT INTO prediction_log (signal_id, model_id, predicted_at) VALUES ('s', 'x', '')")
    with pytest.raises(sqlite3.Error, match="no such table"):
        db.connection.execute("SELECT * FROM nowhere")


def test_a_vector_that_is_stored_by_sql_is_counted_dated_and_labelled(db: FeatureDatabase) -> None:
    with db.transaction():
        stored(db, "s1", 1.5)
        stored(db, "s2")
    counts = db.counts()
    assert (counts.signals, counts.labelled, counts.outcomes) == (2, 1, 1)
    assert db.get_feature_vector("s1").timestamp == "2024-01-05T10:00:00.000000Z"
    assert db.get_feature_vector("s1").target_binary == 1

    with db.transaction():
        db.connection.execute(LABEL, (-1.0, 0, "2024-02-01", "s2"))
    counts = db.counts()
    assert (counts.labelled, counts.labels_total, counts.outcomes) == (2, 2, 2)
    matrix = db.vectors.training_matrix(feature_version="1.0", names=["rsi"])
    assert sorted(matrix.r.tolist()) == [-1.0, 1.5]
    assert (matrix.label_us >= matrix.timestamp_us).all()
    db.update_target("s2", 2.0)
    assert [row.r_multiple for row in db.outcomes.history("s2")] == [-1.0, 2.0]


def test_a_vector_that_is_replaced_by_sql_keeps_its_outcome_and_is_counted_once(db: FeatureDatabase) -> None:
    db.store_feature_vector(vector())
    db.update_target("s1", 1.5)
    with db.transaction():
        stored(db, "s1", features='{"rsi": 2}')
    assert (db.get_feature_vector("s1").target, db.get_feature_vector("s1").features) == (1.5, {"rsi": 2})
    counts = db.counts()
    assert (counts.signals, counts.labelled, counts.waiting_outcomes) == (1, 1, 0)
    with db.transaction():
        db.connection.execute("DELETE FROM feature_vectors")
    assert (db.counts().signals, db.counts().labelled, db.counts().waiting_outcomes) == (0, 0, 1)


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE feature_vectors SET features = 'not json'", "JSON object"),
        ('UPDATE feature_vectors SET features = \'{"rsi": "high"}\'', "finite numbers"),
        ("UPDATE feature_vectors SET features = '{\"rsi\": 1e999}'", "finite numbers"),
        ("UPDATE feature_vectors SET timestamp = 'yesterday'", "timestamp"),
        ("UPDATE feature_vectors SET target_r_multiple = 9e999", "finite"),
        ("UPDATE feature_vectors SET target_r_multiple = NULL", "corrected, not removed"),
        ("DELETE FROM promotions", "append-only"),
    ],
)
def test_what_would_break_the_store_is_refused_and_says_why(db: FeatureDatabase, sql: str, said: str) -> None:
    db.store_feature_vector(vector(target=1.0))
    db.register_model(model("m1"))
    db.activate_model("m1")
    with pytest.raises(sqlite3.IntegrityError, match=said), db.transaction():
        db.connection.execute(sql)
    assert db.get_feature_vector("s1") == FeatureVector(
        "s1", "2024-01-05T10:00:00.000000Z", {"rsi": 65.0, "atr": 2.5}, 1.0, 1
    )


def test_a_model_that_is_activated_by_sql_stands_in_the_ledger(db: FeatureDatabase) -> None:
    db.register_model(model("m1"))
    with db.transaction():
        db.connection.execute("UPDATE model_registry SET is_active = 1 WHERE model_id = 'm1'")
    with db.transaction():
        db.connection.execute("UPDATE model_registry SET is_active = 0")
    ledger = [(entry.action, entry.model_id, entry.previous_model_id, entry.reason) for entry in db.models.promotions()]
    assert ledger == [
        ("retire", None, "m1", "by a statement of SQL"),
        ("activate", "m1", None, "by a statement of SQL"),
    ]


def test_the_guards_stand_only_while_sql_of_ones_own_runs(db: FeatureDatabase) -> None:
    stored(db)
    db.store_feature_vector(vector("s2"))
    assert db.connection.execute("SELECT count(*) FROM temp.sqlite_schema").fetchone()[0] == 0
    assert db.connection.execute("PRAGMA recursive_triggers").fetchone()[0] == 0
    assert db.counts().signals == 2


def test_a_binary_target_alone_is_kept_and_is_no_outcome(db: FeatureDatabase) -> None:
    given = vector(target_binary=1)
    assert FeatureVector.from_dict(given.to_dict()) == given
    db.store_feature_vector(given)
    assert (db.get_feature_vector("s1").target, db.get_feature_vector("s1").target_binary) == (None, 1)
    assert (db.count_samples(), db.counts().labelled) == (0, 0)
    db.store_feature_vector(vector())
    assert db.get_feature_vector("s1").target_binary == 1
    db.update_target("s1", -1.0)
    db.store_feature_vector(vector(target_binary=1))
    assert (db.get_feature_vector("s1").target, db.get_feature_vector("s1").target_binary) == (-1.0, 0)
    with pytest.raises(ValueError, match="neither 1 nor 0"):
        db.store_feature_vector(vector(target_binary=2))
