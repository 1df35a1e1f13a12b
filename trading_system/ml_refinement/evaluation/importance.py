"""Which features matter out of sample: what is lost when one is exchanged for another signal's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trading_system.ml_refinement.models.signal_quality import SignalQualityModel
from trading_system.ml_refinement.training.dataset import Dataset
from trading_system.ml_refinement.typing import FloatArray, IndexArray
from trading_system.ml_refinement.validation import metrics
from trading_system.ml_refinement.validation.walk_forward import Fold, time_blocks

_REPEATS = 3
_SEED = 11


@dataclass(frozen=True, slots=True)
class Importance:
    """Log loss lost on unseen signals without what a feature says, with its 95 % interval; below 0 it misled."""

    name: str
    loss: float
    low: float
    high: float


def fold_importance(
    data: Dataset, fitted: Sequence[tuple[Fold, SignalQualityModel]], *, block_us: int
) -> tuple[Importance, ...]:
    """Permutation importance (Breiman 2001) on the reported test rows of a walk-forward, largest first.

    Each feature in turn takes the values of signals drawn from the fold's training rows; the model was fitted on none
    of the rows whose loss is counted.

    Args:
        data: the rows.
        fitted: each fold with the model that was fitted on its training rows.
        block_us: rows entered in the same block share their luck.
    """
    rng = np.random.default_rng(_SEED)
    tests = [fold.test[data.reported[fold.test]] for fold, _ in fitted]
    parts = [_lost(data, fold.train, test, model, rng) for (fold, model), test in zip(fitted, tests, strict=True)]
    if not parts:
        return ()
    lost = np.concatenate(parts)
    cluster = time_blocks(data.entered_us[np.concatenate(tests)], block_us=block_us)
    found = []
    for column, name in enumerate(data.names):
        if lost[:, column].any():
            estimate = metrics.clustered_mean(lost[:, column], cluster)
            found.append(Importance(name, estimate.value, *estimate.interval()))
    return tuple(sorted(found, key=lambda item: -item.loss))


def _lost(
    data: Dataset, train: IndexArray, test: IndexArray, model: SignalQualityModel, rng: np.random.Generator
) -> FloatArray:
    """Log loss lost by each test row without each feature, shape (rows, features)."""
    X, won, types = data.X[test], data.won[test], data.types_of(test)
    rows, features = X.shape
    before = metrics.log_losses(won, model.predict_proba(X, types))
    lost = np.zeros((rows, features))
    for _ in range(_REPEATS):
        strangers = data.X[rng.choice(train, size=(rows,))]
        copies = np.repeat(X[None], features, axis=0)
        for column in range(features):
            copies[column, :, column] = strangers[:, column]
        repeated = None if types is None else np.tile(types, features)
        p = model.predict_proba(copies.reshape(features * rows, features), repeated).reshape(features, rows)
        lost += (metrics.log_losses(np.tile(won, features), p.ravel()).reshape(features, rows) - before).T
    return lost / _REPEATS
