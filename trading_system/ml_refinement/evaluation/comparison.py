"""Two models on the same signals, by what each logged before the outcome was known."""

from __future__ import annotations

import numpy as np

from trading_system.ml_refinement.monitoring.liveness import Comparison, compare
from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.storage.tables.scores import Role, ServedHistory
from trading_system.ml_refinement.training.promotion import block_us
from trading_system.ml_refinement.validation.walk_forward import measured_hold_us, time_blocks

#: Probability, R, and when the signal was known and its outcome was, in microseconds.
Said = tuple[float, float, int, int]

#: The holding that blocks of shared luck are made from is measured, up to a quarter of the default training window.
_MOST_HOLD_DAYS = 63.0


SERVED = "served"
ALL_CHALLENGERS = "all challengers"


def compare_logged(db: FeatureDatabase, first: str, second: str) -> Comparison:
    """What two models said, as champion or in the shadow, of the signals that both scored and whose trades closed."""
    roles: tuple[Role, Role] = ("champion", "shadow")
    said: list[dict[str, Said]] = []
    for model_id in (first, second):
        logged: dict[str, Said] = {}
        for role in roles:
            logged |= _by_signal(db.scores.served_history(model_id=model_id, role=role))
        said.append(logged)
    return _compare((first, second), *said)


def compare_challengers(db: FeatureDatabase, *, newest: int = 4) -> list[Comparison]:
    """What was served against what challengers said in the shadow: all of them together, then the newest each."""
    served = _by_signal(db.scores.served_history())
    silent = db.scores.served_history(role="shadow")
    if not len(silent.r):
        return []
    found = [_compare((SERVED, ALL_CHALLENGERS), served, _by_signal(silent))]
    models = list(dict.fromkeys(silent.model_id[::-1].tolist()))[:newest]
    for model_id in models:
        mine = _by_signal(db.scores.served_history(model_id=model_id, role="shadow"))
        found.append(_compare((SERVED, model_id), served, mine))
    return found


def _compare(names: tuple[str, str], first: dict[str, Said], second: dict[str, Said]) -> Comparison:
    both = [signal_id for signal_id in first if signal_id in second]
    rows = np.array([first[signal_id] for signal_id in both], dtype=np.float64).reshape(-1, 4)
    other = np.array([second[signal_id][0] for signal_id in both], dtype=np.float64)
    entered, known = rows[:, 2].astype(np.int64), rows[:, 3].astype(np.int64)
    hold = measured_hold_us(entered, known, at_most_days=_MOST_HOLD_DAYS)
    cluster = time_blocks(entered, block_us=block_us(hold))
    return compare(names, rows[:, 1], (rows[:, 0], other), cluster)


def _by_signal(history: ServedHistory) -> dict[str, Said]:
    columns = (history.quality_score, history.r, history.timestamp_us, history.label_us)
    values = zip(*(column.tolist() for column in columns), strict=True)
    return dict(zip(history.signal_id.tolist(), values, strict=True))
