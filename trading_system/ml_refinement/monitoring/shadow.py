"""Two models on the same signals, by what each logged before the outcome was known."""

from __future__ import annotations

import numpy as np

from trading_system.ml_refinement.monitoring.performance import Comparison, compare
from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.storage.scores import ServedHistory
from trading_system.ml_refinement.training.promotion import block_us
from trading_system.ml_refinement.validation.walk_forward import measured_hold_us, time_blocks

#: The holding that blocks of shared luck are made from is measured, up to a quarter of the default training window.
_MOST_HOLD_DAYS = 63.0


def compare_logged(db: FeatureDatabase, first: str, second: str) -> Comparison:
    """What two models said, as champion or in the shadow, of the signals that both scored and whose trades closed."""
    said: list[dict[str, tuple[float, float, int, int]]] = []
    for model_id in (first, second):
        logged: dict[str, tuple[float, float, int, int]] = {}
        for role in ("champion", "shadow"):
            logged |= _by_signal(db.scores.served_history(model_id=model_id, role=role))
        said.append(logged)
    both = [signal_id for signal_id in said[0] if signal_id in said[1]]
    rows = np.array([said[0][signal_id] for signal_id in both], dtype=np.float64).reshape(-1, 4)
    other = np.array([said[1][signal_id][0] for signal_id in both], dtype=np.float64)
    entered, known = rows[:, 2].astype(np.int64), rows[:, 3].astype(np.int64)
    hold = measured_hold_us(entered, known, at_most_days=_MOST_HOLD_DAYS)
    cluster = time_blocks(entered, block_us=block_us(hold))
    return compare((first, second), rows[:, 1], (rows[:, 0], other), cluster)


def newest_shadow(db: FeatureDatabase) -> str | None:
    """The model that scored a labelled signal in the shadow last."""
    row = db.connection.one(NEWEST_SHADOW)
    return None if row is None else str(row[0])


NEWEST_SHADOW = """
    SELECT model_id FROM prediction_log WHERE role = 'shadow' AND actual_r IS NOT NULL ORDER BY id DESC LIMIT 1"""


def _by_signal(history: ServedHistory) -> dict[str, tuple[float, float, int, int]]:
    columns = (history.quality_score, history.r, history.timestamp_us, history.label_us)
    values = zip(*(column.tolist() for column in columns), strict=True)
    return dict(zip(history.signal_id.tolist(), values, strict=True))
