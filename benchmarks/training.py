"""Figure 6: reading training data, and one walk-forward, beside plain scripts that do the same work.

The plain walk-forward is scikit-learn's: the same rows, a logistic regression and a boosting of the same size,
averaged, and calibrated by a sigmoid on four held-out folds. Both use one thread.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from trading_system.ml_refinement.config import FeatureConfig, MLConfig, TrainingConfig
from trading_system.ml_refinement.models.estimators import RECIPES
from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.training.backtest import splitter, walk_forward
from trading_system.ml_refinement.training.dataset import Dataset
from trading_system.simulation.worlds import independent, stored

FOLDS = 10


@dataclass(frozen=True)
class Beside:
    """Seconds of processor time of ours and of the plain script, round by round."""

    ours: list[float]
    plain: list[float]

    @property
    def ratio(self) -> float:
        return median(a / b for a, b in zip(self.ours, self.plain, strict=True))

    def to_json(self) -> dict[str, object]:
        return {"ours_s": self.ours, "plain_s": self.plain}


def reading(directory: Path, *, rows: int, rounds: int) -> Beside:
    """A training matrix of so many vectors: the store's own, and SELECT, json.loads and a loop."""
    names = [f"x{i:02d}" for i in range(60)]
    path = directory / "reading.db"
    with FeatureDatabase(str(path)) as store:
        stored(store, independent(rows, np.random.default_rng(1)), names=names)

        def plain() -> None:
            with sqlite3.connect(path) as connection:
                sql = "SELECT features, target_r_multiple FROM feature_vectors WHERE target_r_multiple IS NOT NULL"
                found = connection.execute(f"{sql} ORDER BY timestamp, signal_id").fetchall()
            documents = [json.loads(text) for text, _ in found]
            X = np.array([[document[name] for name in names] for document in documents])
            assert X.shape == (rows, len(names))

        def ours() -> None:
            assert len(store.vectors.training_matrix(feature_version="bench-1", names=names).r) == rows

        return _beside(ours, plain, rounds)


def validation(*, rows: int, rounds: int) -> Beside:
    """A walk-forward of ten folds over so many samples."""
    days = rows // 40
    step = days // (2 * FOLDS)
    training = TrainingConfig(train_window_days=step * FOLDS, step_size_days=step, feature_selection=False)
    config = MLConfig(features=FeatureConfig(), training=training)
    world = independent(rows, np.random.default_rng(2), kind="linear", per_day=40.0, hold_days=2.0)
    names = tuple(f"x{i:02d}" for i in range(world.X.shape[1]))
    ids = np.array([f"s{i}" for i in range(rows)])
    data = Dataset(world.X, world.r, names, ids, world.entered_us, world.known_us, {})
    folds = list(splitter(data, config).split(data.entered_us, data.known_us))

    def ours() -> None:
        walk_forward(data, config, clock=lambda: datetime(2026, 1, 1, tzinfo=UTC))

    def plain() -> None:
        for fold in folds:
            model = CalibratedClassifierCV(_members(), method="sigmoid", cv=4, ensemble=False)
            model.fit(data.X[fold.train], data.won[fold.train])
            model.predict_proba(data.X[fold.test])

    return _beside(ours, plain, rounds)


def _members() -> VotingClassifier:
    sizes = {**RECIPES["ensemble"].defaults, "l2_regularization": 20.0}
    logistic = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    known = HistGradientBoostingClassifier().get_params()
    boosting = HistGradientBoostingClassifier(
        **{name: value for name, value in sizes.items() if name in known}, early_stopping=False
    )
    return VotingClassifier([("linear", logistic), ("trees", boosting)], voting="soft")


def _beside(ours: Callable[[], None], plain: Callable[[], None], rounds: int) -> Beside:
    with threadpool_limits(1):
        ours()
        plain()
        took = [(_seconds(ours), _seconds(plain)) for _ in range(rounds)]
    return Beside([a for a, _ in took], [b for _, b in took])


def _seconds(job: Callable[[], None]) -> float:
    began = time.process_time()
    job()
    return time.process_time() - began
