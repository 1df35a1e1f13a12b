"""A store as the specification's own code writes one: another driver, local times, `json.dumps`, nothing checked."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from trading_system.ml_refinement.storage.schema import steps


class SpecificationStore:
    """Writes what the specification's `FeatureDatabase` would, value by value as it is told."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.connection = sqlite3.connect(path)
        self.connection.executescript(steps()[1])
        self.connection.execute("INSERT OR IGNORE INTO ml_schema_migrations VALUES (1, datetime('now'))")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.connection.commit()
        self.connection.close()

    def vector(
        self, signal_id: Any, features: Any = None, timestamp: Any = "2024-01-05T10:00:00", **other: Any
    ) -> None:
        """`features` as given where it is text or bytes, else as `json.dumps` writes it."""
        if not isinstance(features, str | bytes):
            features = json.dumps({"rsi": 65.0, "atr": 2.5} if features is None else features)
        row = {
            "signal_id": signal_id,
            "timestamp": timestamp,
            "features": features,
            "feature_version": "1.0",
            "created_at": local_now(),
            "symbol": "AAPL",
            "asset_class": "equity",
            "signal_type": "",
            "conviction": "",
        }
        self._insert("feature_vectors", row | other, "INSERT OR REPLACE")

    def target(self, signal_id: str, r_multiple: Any, return_pct: Any = None) -> None:
        self.connection.execute(
            "UPDATE feature_vectors SET target_r_multiple = ?, target_binary = ?, target_return_pct = ?, updated_at = ?"
            " WHERE signal_id = ?",
            (r_multiple, int(r_multiple > 0), return_pct, local_now(), signal_id),
        )

    def model(self, model_id: Any = "m1", **other: Any) -> None:
        row = {
            "model_id": model_id,
            "model_type": "signal_quality",
            "version": "1.0",
            "created_at": local_now(),
            "train_start_date": "2023-01-01",
            "train_end_date": "2023-12-31",
            "train_samples": 500,
            "validation_samples": 100,
            "train_metrics": json.dumps({"accuracy": 0.7}),
            "validation_metrics": json.dumps({"auc": 0.6}),
            "feature_names": json.dumps(["rsi", "atr"]),
            "feature_importance": json.dumps({"rsi": 0.6, "atr": 0.4}),
            "model_path": f"{model_id}.pkl",
            "is_active": 0,
        }
        self._insert("model_registry", row | other)

    def activate(self, model_id: str) -> None:
        self.connection.execute(
            "UPDATE model_registry SET is_active = 1, deployed_at = ? WHERE model_id = ?", (local_now(), model_id)
        )

    def prediction(self, signal_id: Any, model_id: Any = "m1", predicted_r: Any = 0.5, **other: Any) -> None:
        row = {
            "signal_id": signal_id,
            "model_id": model_id,
            "predicted_at": local_now(),
            "quality_score": 0.6,
            "predicted_r": predicted_r,
            "confidence": 0.2,
        }
        self._insert("prediction_log", row | other)

    def actual(self, signal_id: str, actual_r: float) -> None:
        """Writes the first row's error into every row of the signal, as the specification does."""
        first = self.connection.execute("SELECT predicted_r FROM prediction_log WHERE signal_id = ?", (signal_id,))
        error = actual_r - first.fetchone()[0]
        self.connection.execute(
            "UPDATE prediction_log SET actual_r = ?, prediction_error = ? WHERE signal_id = ?",
            (actual_r, error, signal_id),
        )

    def run(self, run_id: Any, **other: Any) -> None:
        row = {"run_id": run_id, "model_type": "signal_quality", "started_at": local_now(), "status": "completed"}
        self._insert("training_runs", row | other)

    def definition(self, name: Any, **other: Any) -> None:
        row = {"name": name, "category": "technical", "data_type": "float", "created_at": local_now()}
        self._insert("feature_definitions", row | other)

    def write_if_it_fits(self, write: Callable[..., None], row: Mapping[str, Any]) -> None:
        """Write a row, unless a constraint of the specification's own tables refuses it."""
        with suppress(sqlite3.IntegrityError):
            write(**row)

    def _insert(self, table: str, row: Mapping[str, Any], verb: str = "INSERT") -> None:
        marks = ", ".join("?" * len(row))
        sql = f"{verb} INTO {table} ({', '.join(row)}) VALUES ({marks})"
        self.connection.execute(sql, tuple(row.values()))


def local_now() -> str:
    """As `datetime.now().isoformat()` has it."""
    return datetime.now().isoformat()  # noqa: DTZ005 - without an offset, as it is there


def filled(path: Path, rows: int = 60, dirty: Iterable[Mapping[str, Any]] = ()) -> None:
    """A store of labelled signals with predictions of a model, and further vectors as they are told."""
    with SpecificationStore(path) as store:
        store.model()
        store.activate("m1")
        for n in range(rows):
            signal_id = f"s-{n:03d}"
            store.vector(signal_id, {"rsi": 30.0 + n, "atr": n % 7 / 2}, f"2024-01-{n % 28 + 1:02d}T10:{n % 60:02d}:00")
            store.prediction(signal_id)
            store.target(signal_id, 1.5 if n % 3 else -1.0)
            store.actual(signal_id, 1.5 if n % 3 else -1.0)
        for one in dirty:
            store.vector(**one)
