"""Two models on the same signals, by what each logged before the outcome was known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.storage.tables.scores import Role, ServedHistory
from trading_system.ml_refinement.typing import FloatArray, IntArray
from trading_system.ml_refinement.validation import metrics
from trading_system.ml_refinement.validation.evidence import block_us
from trading_system.ml_refinement.validation.walk_forward import measured_hold_us, time_blocks

#: Probability, R, and when the signal was known and its outcome was, in microseconds.
Said = tuple[float, float, int, int]

SERVED = "served"
ALL_CHALLENGERS = "all challengers"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the same signals, all of which have an outcome. NaN where a figure cannot be computed.

    `margin` is the log loss of `first` minus that of `second`: above 0, the second was better.
    """

    first: str
    second: str
    rows: int
    log_loss: tuple[float, float]
    auc: tuple[float, float]
    lift: tuple[float, float]
    margin: float
    margin_low: float
    margin_high: float

    @property
    def words(self) -> str:
        """What can be said of it."""
        if not self.rows:
            return "no signal with an outcome was scored by both"
        if self.margin_low > 0:
            return f"better beyond chance: {self.second}"
        if self.margin_high < 0:
            return f"better beyond chance: {self.first}"
        return "no difference beyond chance"


def compare(
    names: tuple[str, str],
    r: FloatArray,
    p: tuple[FloatArray, FloatArray],
    cluster: IntArray,
) -> Comparison:
    """Two models' logged probabilities for the same signals.

    Args:
        names: of the two.
        r: outcomes, shape (n,).
        p: the probabilities of each, shape (n,), logged before the outcomes.
        cluster: rows that share their luck, shape (n,).
    """
    won = r > 0
    if not len(r):
        nothing = (math.nan, math.nan)
        return Comparison(*names, 0, nothing, nothing, nothing, math.nan, -math.inf, math.inf)
    losses = tuple(metrics.log_losses(won, each) for each in p)
    margin = metrics.clustered_mean(losses[0] - losses[1], cluster)
    low, high = margin.interval()
    return Comparison(
        *names,
        len(r),
        (float(losses[0].mean()), float(losses[1].mean())),
        (metrics.auc(won, p[0]), metrics.auc(won, p[1])),
        (metrics.clustered_lift(r, p[0], cluster).value, metrics.clustered_lift(r, p[1], cluster).value),
        margin.value,
        low,
        high,
    )


def compare_logged(db: FeatureDatabase, first: str, second: str, *, train_window_days: int) -> Comparison:
    """What two models said, as champion or in the shadow, of the signals that both scored and whose trades closed.

    A quarter of `train_window_days` is the longest holding that counts.
    """
    roles: tuple[Role, Role] = ("champion", "shadow")
    said: list[dict[str, Said]] = []
    for model_id in (first, second):
        logged: dict[str, Said] = {}
        for role in roles:
            logged |= _by_signal(db.scores.served_history(model_ids=[model_id], role=role))
        said.append(logged)
    return _compare((first, second), *said, train_window_days=train_window_days)


def compare_challengers(db: FeatureDatabase, *, train_window_days: int, newest: int = 4) -> list[Comparison]:
    """What was served against what challengers said in the shadow: all of them together, then the newest each."""
    served = _by_signal(db.scores.served_history())
    silent = db.scores.served_history(role="shadow")
    if not len(silent.r):
        return []
    found = [_compare((SERVED, ALL_CHALLENGERS), served, _by_signal(silent), train_window_days=train_window_days)]
    models = list(dict.fromkeys(silent.model_id[::-1].tolist()))[:newest]
    for model_id in models:
        mine = _by_signal(db.scores.served_history(model_ids=[model_id], role="shadow"))
        found.append(_compare((SERVED, model_id), served, mine, train_window_days=train_window_days))
    return found


def _compare(
    names: tuple[str, str], first: dict[str, Said], second: dict[str, Said], *, train_window_days: int
) -> Comparison:
    both = [signal_id for signal_id in first if signal_id in second]
    rows = np.array([first[signal_id] for signal_id in both], dtype=np.float64).reshape(-1, 4)
    other = np.array([second[signal_id][0] for signal_id in both], dtype=np.float64)
    entered, known = rows[:, 2].astype(np.int64), rows[:, 3].astype(np.int64)
    hold = measured_hold_us(entered, known, train_days=train_window_days)
    cluster = time_blocks(entered, block_us=block_us(hold))
    return compare(names, rows[:, 1], (rows[:, 0], other), cluster)


def _by_signal(history: ServedHistory) -> dict[str, Said]:
    columns = (history.quality_score, history.r, history.timestamp_us, history.label_us)
    values = zip(*(column.tolist() for column in columns), strict=True)
    return dict(zip(history.signal_id.tolist(), values, strict=True))
