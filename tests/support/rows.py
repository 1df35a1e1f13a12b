"""Rows as the worker writes them, and the whole store as plain values."""

from __future__ import annotations

from typing import Any

import numpy as np

from trading_system.ml_refinement.config import FeatureVector, ModelMetadata, ModelType
from trading_system.ml_refinement.storage import (
    FeatureDatabase,
    NewDeadLetter,
    OutcomeRow,
    PredictionRow,
    VectorRow,
)

NAMES = ("atr", "rsi")
QUALITY = ModelType.SIGNAL_QUALITY.value


def at(day: int, hour: int = 10) -> str:
    return f"2024-01-{day:02d}T{hour:02d}:00:00.000000Z"


def vector(signal_id: str, day: int = 5, **changes: Any) -> VectorRow:
    fields: dict[str, Any] = {
        "timestamp": at(day),
        "symbol": "AAPL",
        "asset_class": "equity",
        "signal_type": "breakout",
        "conviction": None,
        "feature_version": "standard-1",
        "complete": True,
        "event_hash": b"0123456789abcdef",
        "entry_id": f"{day}-0",
    }
    return VectorRow(signal_id, **(fields | changes))


def insert(db: FeatureDatabase, *rows: VectorRow) -> list[bool]:
    """As the worker does it: store, then apply what waited, then hand out what came before its signal."""
    values = np.array([[float(index), 0.5] for index in range(len(rows))]).reshape(len(rows), 2)
    with db.atomic():
        fresh = db.vectors.insert_new(rows, NAMES, values)
        ids = [row.signal_id for row in rows]
        db.outcomes.apply_waiting(ids)
        db.outcomes.take_before_signal(ids)
    return fresh


def outcome(signal_id: str, r: float = 1.5, revision: int = 0, day: int = 10, **changes: Any) -> OutcomeRow:
    fields = {"return_pct": None, "exit_reason": "target", "entry_id": None} | changes
    return OutcomeRow(signal_id, revision, at(day), r, **fields)


def prediction(signal_id: str, model_id: str = "m1", predicted_r: float | None = 0.5, **changes: Any) -> PredictionRow:
    fields = {"quality_score": 0.6, "confidence": None, "role": "champion"} | changes
    return PredictionRow(signal_id, model_id, at(6), predicted_r=predicted_r, **fields)


def metadata(model_id: str = "m1", created_at: str = at(1), **changes: Any) -> ModelMetadata:
    fields: dict[str, Any] = {"train_metrics": {"auc": 0.6}, "feature_names": list(NAMES)} | changes
    return ModelMetadata(model_id, ModelType.SIGNAL_QUALITY, "1.0", created_at, at(1), at(2), 100, 20, **fields)


def dead(entry_id: str = "1-0", **changes: Any) -> NewDeadLetter:
    fields: dict[str, Any] = {
        "stream": "signals.created",
        "reason": "lookahead",
        "error": "bar after the signal",
        "payload": b'{"signal_id": "s1"}',
        "attempts": 1,
        "worker_version": "0.1.0",
        "fingerprint": "f1",
    }
    return NewDeadLetter(entry_id=entry_id, **(fields | changes))


def plain(signal_id: str, timestamp: str = "2024-01-05T10:00:00", **fields: Any) -> FeatureVector:
    return FeatureVector(signal_id, timestamp, fields.pop("features", {"rsi": 65.0, "atr": 2.5}), **fields)


def contents(db: FeatureDatabase) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that the order of arrival must not change: all but row numbers and times of writing."""
    queries = {
        "vectors": """
            SELECT signal_id, timestamp, features, target_r_multiple, target_binary, target_return_pct, label_time,
                label_revision, complete FROM feature_vectors ORDER BY 1""",
        "outcomes": """
            SELECT signal_id, revision, closed_at, r_multiple, return_pct, exit_reason
            FROM trade_outcomes ORDER BY 1, 2""",
        "predictions": """
            SELECT signal_id, model_id, predicted_r, actual_r, prediction_error FROM prediction_log ORDER BY 1, 2""",
        "counters": "SELECT name, value FROM counters ORDER BY 1",
    }
    return {name: db._connection.query(sql) for name, sql in queries.items()}
