"""Whatever another program put into the specification's tables: the store opens, and accounts for every row."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import Phase, given, settings, strategies as st

from tests.support.specification_store import SpecificationStore
from trading_system.ml_refinement.storage import FeatureDatabase
from trading_system.ml_refinement.storage.sqlite.copies import problems
from trading_system.ml_refinement.storage.tables.signals import SignalFilter
from trading_system.ml_refinement.storage.times import us_from_text

TABLES = ("feature_vectors", "model_registry", "prediction_log", "training_runs", "feature_definitions")

blobs = st.binary(max_size=8)
numbers = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=True, allow_infinity=True))
#: SQLite refuses no surrogate because the driver does.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
cells = st.one_of(st.none(), numbers, texts, blobs, st.sampled_from(["NULL", "nan", "None", "now", "1e400", "true"]))

moments = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.none() | st.just(timezone.utc))  # noqa: DTZ001, UP017
times = st.one_of(
    moments.map(datetime.isoformat),
    moments.map(lambda at: f"  {at.isoformat(' ')}"),
    moments.map(lambda at: at.date().isoformat()),
    moments.map(lambda at: f"{at.year:04d}-{at.month:02d}-{at.day:02d}T10:00:00-11:30"),
    st.integers(0, 2**40).map(str),
    cells,
)
#: `json.dumps` of what an extractor might give, and texts that are nothing of the kind.
values = st.one_of(st.floats(), st.integers(), st.none(), st.booleans(), texts, st.lists(st.floats(), max_size=2))
features = st.one_of(
    st.dictionaries(st.text(max_size=4), st.floats(allow_nan=False, allow_infinity=False), max_size=4).map(json.dumps),
    st.dictionaries(st.text(max_size=4), values, max_size=4).map(json.dumps),
    cells,
)
documents = st.one_of(
    st.none(), features, st.lists(texts, max_size=3).map(json.dumps), st.just("[" * 2000), st.just(str(10**400))
)
ids = st.one_of(*[st.sampled_from(["a", "b", "c"])] * 4, texts, blobs)
binaries = st.one_of(st.sampled_from([0, 1, 2, -1]), cells)


def rows_of(key: Mapping[str, st.SearchStrategy[Any]], odd: Mapping[str, st.SearchStrategy[Any]]) -> Any:
    """Rows that are odd in one or two columns, and in the rest as the specification's code writes them."""
    columns = st.lists(st.sampled_from(sorted(odd)), max_size=2, unique=True)
    return columns.flatmap(lambda names: st.fixed_dictionaries({**key, **{name: odd[name] for name in names}}))


vectors = rows_of(
    {"signal_id": ids},
    {
        "features": features,
        "timestamp": times,
        "target_r_multiple": st.floats(-5, 5) | st.floats() | cells,
        "target_binary": binaries,
        "target_return_pct": cells,
        "created_at": times,
        "updated_at": times,
        "feature_version": st.just("1.0") | texts | blobs,
        "symbol": cells,
        "asset_class": cells,
        "signal_type": cells,
        "conviction": cells,
    },
)
models = rows_of(
    {"model_id": ids},
    {
        "model_type": st.sampled_from(["return_predictor", "risk_predictor", "oracle"]) | cells,
        "version": texts | blobs,
        "created_at": times,
        "deployed_at": times,
        "retired_at": times,
        "train_start_date": cells,
        "train_samples": cells,
        "validation_samples": cells,
        "train_metrics": documents,
        "validation_metrics": documents,
        "feature_names": documents,
        "feature_importance": documents,
        "model_path": cells,
        "is_active": binaries,
    },
)
predictions = rows_of(
    {"signal_id": ids, "model_id": ids},
    {
        "predicted_at": times,
        "quality_score": cells,
        "predicted_r": st.floats(-5, 5) | cells,
        "confidence": cells,
        "actual_r": st.floats(-5, 5) | cells,
        "prediction_error": cells,
    },
)
runs = rows_of(
    {"run_id": ids},
    {
        "model_type": st.just("risk_predictor") | cells,
        "started_at": times,
        "completed_at": times,
        "status": st.sampled_from(["running", "failed"]) | cells,
        "config": documents,
        "metrics": documents,
        "train_samples": cells,
        "best_iteration": cells,
        "model_id": cells,
        "error_message": cells,
    },
)
definitions = st.fixed_dictionaries(
    {"name": ids}, optional={"category": cells, "created_at": times, "dependencies": documents, "computation": cells}
)


@contextmanager
def written(rows: Mapping[str, list[Mapping[str, Any]]]) -> Iterator[tuple[Path, dict[str, set[int]]]]:
    """A store of these rows, and the numbers of those that the tables took."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.db"
        with SpecificationStore(path) as store:
            writers: dict[str, Callable[..., None]] = {
                "model_registry": store.model,
                "feature_vectors": store.vector,
                "prediction_log": store.prediction,
                "training_runs": store.run,
                "feature_definitions": store.definition,
            }
            for table, write in writers.items():
                for row in rows[table]:
                    store.write_if_it_fits(write, row)
            taken = {table: {n for (n,) in store.connection.execute(f"SELECT id FROM {table}")} for table in TABLES}  # noqa: S608
        yield path, taken


# Shrinking would take minutes: each example is a file of its own.
@settings(max_examples=60, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    st.fixed_dictionaries(
        {
            "feature_vectors": st.lists(vectors, max_size=5),
            "model_registry": st.lists(models, max_size=3),
            "prediction_log": st.lists(predictions, max_size=6),
            "training_runs": st.lists(runs, max_size=2),
            "feature_definitions": st.lists(definitions, max_size=2),
        }
    )
)
def test_everything_opens_is_accounted_for_and_can_be_read(rows: Mapping[str, list[Mapping[str, Any]]]) -> None:
    with written(rows) as (path, taken):
        with FeatureDatabase(path) as db:
            for table in TABLES:
                stands = {n for (n,) in db.connection.query(f"SELECT id FROM {table}")}  # noqa: S608
                aside = {row.row_id for row in db.quarantine.rows() if (row.table, row.action) == (table, "removed")}
                assert stands | aside == taken[table]
                assert not stands & aside
            assert db.counts().quarantined == len(db.quarantine.rows())
            read_everything(db)
            first = db.connection.query("SELECT * FROM feature_vectors"), db.quarantine.rows()
        with FeatureDatabase(path) as db:
            assert (db.connection.query("SELECT * FROM feature_vectors"), db.quarantine.rows()) == first
        assert problems(path) == []


def read_everything(db: FeatureDatabase) -> None:
    """Every way to read, and what must hold of what it gives."""
    versions = [version for (version,) in db.connection.query("SELECT DISTINCT feature_version FROM feature_vectors")]
    for version in [None, *versions]:
        for labelled in (True, False):
            X, y, names = db.get_training_data(
                "0001-01-01", "9999-12-31", require_target=labelled, feature_version=version
            )
            assert X.shape == (len(y), len(names))
            assert not np.isinf(X).any()
            assert not np.isinf(y).any()
    for version in versions:
        matrix = db.vectors.training_matrix(feature_version=version, names=["a", "b"])
        assert np.isfinite(matrix.r).all()
        assert (matrix.label_us >= matrix.timestamp_us).all()
    counts = db.counts()
    assert db.count_samples(require_target=False) == counts.signals
    assert db.count_samples() == counts.labelled == counts.labels_total == counts.outcomes
    for found in db.signals.find(SignalFilter(), limit=50):
        us_from_text(found.timestamp)
        vector, stored = db.get_feature_vector(found.signal_id), db.signals.get(found.signal_id)
        assert vector is not None
        assert stored is not None
        assert vector.features == stored.features
        assert np.isfinite(list(vector.features.values())).all()
        assert vector.target_binary in (None, 0, 1)
        for logged in db.scores.of_signal(found.signal_id):
            logged.prediction.check()
            us_from_text(logged.prediction.predicted_at)
    for kind in ("signal_quality", "return_predictor", "risk_predictor"):
        assert db.get_active_model(kind) is None or db.get_active_model(kind).model_id.endswith("")
        for about in db.get_model_history(kind, limit=50):
            us_from_text(about.created_at)
            assert not db.activate_model(about.model_id) or db.models.get(about.model_id).model_path.endswith(".skops")
    db.models.base_rates(row.model_id for row in db.models.history())
    db.scores.served_history()
    db.scores.answered()
    db.signals.kinds()
    db.signals.newest()
    db.runs.recent()
    db.runs.count_by_ending()
    db.definitions.all()
