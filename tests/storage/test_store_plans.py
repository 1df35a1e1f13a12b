"""What is done for every event or batch is done through indexes, so that its cost does not grow with the store."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.rows import metadata, vector
from trading_system.ml_refinement.storage import FeatureDatabase, counters, feature_db
from trading_system.ml_refinement.storage.tables import (
    dead_letters,
    duplicates,
    entries,
    models,
    outcomes,
    scores,
    vectors,
)

NO_TABLES = ("VIRTUAL TABLE", "counters")
HOT = {
    "known": (vectors.KNOWN, 1),
    "taken": (vectors.TAKEN, 1),
    "insert vectors": (vectors.INSERT_NEW, 14),
    "timestamps": (outcomes.TIMESTAMPS, 1),
    "kept": (outcomes.KEPT, 1),
    "waiting": (outcomes.WAITING, 1),
    "early": (outcomes.EARLY, 1),
    "last": (outcomes.LAST, 1),
    "insert outcomes": (outcomes.INSERT, 8),
    "keep payload": (outcomes.KEEP_PAYLOAD, 3),
    "drop payload": (outcomes.DROP_PAYLOAD, 2),
    "label": (outcomes.LABEL, 7),
    "actual": (outcomes.ACTUAL, 3),
    "labelled": (scores.LABELLED, 1),
    "log": (scores.LOG, 9),
    "put served": (scores.PUT_SERVED, 4),
    "served": (scores.SERVED, 1),
    "of signal": (scores.OF_SIGNAL, 1),
    "active id": (models.ACTIVE_ID, 1),
    "serving": (models.SERVING, 1),
    "last proof": (models.LAST_PROOF, 1),
    "first proof": (models.FIRST_PROOF, 2),
    "last about": (models.LAST_ABOUT, 1),
    "trainable at": (vectors.TRAINABLE_AT, 4),
    "newest run": (models.NEWEST_RUN, 1),
    "dead-letter": (dead_letters.ADD, 13),
    "duplicates": (duplicates.RECORD, 5),
    "dead-lettered entries": (entries.DEAD_LETTER, 2),
    "duplicate entries": (entries.DUPLICATES, 1),
    "entries of signals": (entries.SIGNALS, 1),
    "entries of outcomes": (entries.OUTCOMES, 1),
    "came first": (outcomes.CAME_FIRST, 1),
    "counts": (counters.COUNTERS, 0),
    "newest label": (counters.NEWEST_LABEL, 1),
}


def plan(db: FeatureDatabase, sql: str, parameters: int) -> list[str]:
    return [row[3] for row in db.connection.query(f"EXPLAIN QUERY PLAN {sql}", (None,) * parameters)]


@pytest.mark.parametrize("name", HOT)
def test_a_hot_statement_scans_no_table(db: FeatureDatabase, name: str) -> None:
    steps = plan(db, *HOT[name])
    scans = [step for step in steps if step.startswith("SCAN") and not any(table in step for table in NO_TABLES)]
    assert scans == []
    # A handful of rows: the outcomes of a batch that waited, the models that scored one signal, the entries of a model.
    assert name in ("waiting", "of signal", "last about") or not any("TEMP B-TREE" in step for step in steps)


def test_training_reads_one_version_through_its_index_in_order(db: FeatureDatabase) -> None:
    where, params = vectors.Selection("2024-01-01", "2024-12-31", feature_version="v").where(vectors.LABELLED)
    steps = plan(db, vectors.TRAINING.format(where=where), len(params))
    assert len(steps) == 1
    assert "USING INDEX idx_fv_training (feature_version=? AND timestamp>? AND timestamp<?)" in steps[0]


FEW_LARGE_GROUPS = ("idx_fv_asset_class", "idx_fv_has_target", "idx_pred_model", "idx_fv_version")


@pytest.mark.parametrize("fixed", [(), ("complete = 1", vectors.LABELLED)])
@pytest.mark.parametrize("version", [None, "v"])
@pytest.mark.parametrize("sql", [feature_db.COUNT, feature_db.NEWEST_VERSION, feature_db.TRAINING])
def test_a_selection_by_asset_class_and_time_reads_no_index_of_a_few_large_groups(
    db: FeatureDatabase, sql: str, version: str | None, fixed: tuple[str, ...]
) -> None:
    if version is not None and not fixed:
        fixed = (vectors.LABELLED,)
    where, params = vectors.Selection("2024-01-01", "2024-12-31", "equity", "breakout", version).where(*fixed)
    steps = plan(db, sql.format(where=where), len(params))
    assert not [step for step in steps for index in FEW_LARGE_GROUPS if index in step]


def test_what_models_said_of_signals_is_read_signal_by_signal(db: FeatureDatabase) -> None:
    steps = plan(db, scores.HISTORY.format(by_model=scores.BY_MODEL), 4)
    assert any("SEARCH p USING INDEX idx_pred_signal (signal_id=?)" in step for step in steps)
    once = db.connection.query("SELECT sql FROM sqlite_schema WHERE name = 'prediction_once'")[0][0]
    asked = (
        once[once.index("SELECT 1") : once.index(") BEGIN")].replace("NEW.signal_id", "?").replace("NEW.model_id", "?")
    )
    assert plan(db, asked, 2) == ["SEARCH prediction_log USING INDEX idx_pred_signal (signal_id=?)"]


def test_what_was_known_by_a_time_is_looked_for_among_so_many_signals_back_from_it(db: FeatureDatabase) -> None:
    steps = plan(db, scores.KNOWN_BY, 3)
    assert "SEARCH feature_vectors USING INDEX idx_fv_timestamp (timestamp<?)" in steps
    assert "SEARCH p USING INDEX idx_pred_signal (signal_id=?)" in steps


def work_of_one_batch(db: FeatureDatabase, first: int) -> int:
    """Virtual machine steps that SQLite takes for one batch."""
    rows = [vector(f"s{first + n:06d}") for n in range(50)]
    ids = [row.signal_id for row in rows]
    steps = 0

    def count() -> bool:
        nonlocal steps
        steps += 1
        return False

    handle = db.connection._usable()
    handle.set_progress_handler(count, 10)
    with db.atomic():
        db.vectors.known(ids)
        db.vectors.insert_new(rows, ("a",), np.zeros((50, 1)))
        db.outcomes.apply_waiting(ids)
    handle.set_progress_handler(None)
    return steps


def test_one_more_batch_costs_the_same_in_a_store_a_hundred_times_larger(db: FeatureDatabase) -> None:
    db.register_model(metadata())
    early = work_of_one_batch(db, 0)
    for first in range(50, 5000, 50):
        late = work_of_one_batch(db, first)
    assert late <= early * 1.2
