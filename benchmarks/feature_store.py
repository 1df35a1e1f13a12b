"""Reading stored vectors into a matrix: against `json.loads` and a loop over dictionaries, in the same run.

python -m benchmarks.feature_store [ROWS]
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from trading_system.ml_refinement.features import FeaturePipeline, FeatureRequest
from trading_system.ml_refinement.features.checks import sample_bars
from trading_system.ml_refinement.features.feature_store import Capture, FeatureStore
from trading_system.ml_refinement.features.pipeline import SignalMetadata
from trading_system.ml_refinement.storage import FeatureDatabase, OutcomeRow
from trading_system.ml_refinement.storage.times import utc_text


def fill(db: FeatureDatabase, store: FeatureStore, count: int) -> None:
    bars = sample_bars(1, 1_000)
    closed = utc_text(datetime(2100, 1, 1, tzinfo=UTC) - timedelta(days=1))
    for start in range(0, count, 5_000):
        ids = range(start, min(start + 5_000, count))
        requests = [FeatureRequest(f"s{at}", int(bars.timestamp[at % 1_000]), SignalMetadata(), bars) for at in ids]
        store.capture([Capture(request, "AAPL") for request in requests])
        db.outcomes.record([OutcomeRow(f"s{at}", 0, closed, at % 7 - 3.0) for at in ids])


def by_dictionaries(db: FeatureDatabase, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """What one would write first."""
    rows = db.connection.query("SELECT features, target_r_multiple FROM feature_vectors ORDER BY timestamp, signal_id")
    features = [json.loads(text) for text, _ in rows]
    return np.array([[one[name] for name in names] for one in features]), np.array([target for _, target in rows])


def least(run: Callable[[], object], rounds: int = 3) -> float:
    took = []
    for _ in range(rounds):
        began = time.thread_time()
        run()
        took.append(time.thread_time() - began)
    return min(took)


def peak_bytes(run: Callable[[], object]) -> int:
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    pipeline = FeaturePipeline()
    with tempfile.TemporaryDirectory() as folder, FeatureDatabase(Path(folder) / "features.db") as db:
        store = FeatureStore(db, pipeline)
        fill(db, store, count)
        X, r = by_dictionaries(db, pipeline.names)
        matrix = store.training_matrix()
        assert np.array_equal(matrix.X, X)
        assert np.array_equal(matrix.r, r)
        slow, fast = least(lambda: by_dictionaries(db, pipeline.names)), least(store.training_matrix)
        plain, ours = peak_bytes(lambda: by_dictionaries(db, pipeline.names)), peak_bytes(store.training_matrix)
    print(f"| {count:,} vectors of STANDARD | processor seconds | ratio | peak memory / matrix |\n|---|---|---|---|")
    print(f"| json.loads and a loop over dictionaries | {slow:.2f} | 1 | {plain / X.nbytes:.1f} |")
    print(f"| training_matrix | {fast:.2f} | {slow / fast:.1f} | {ours / X.nbytes:.1f} |")


if __name__ == "__main__":
    main()
