"""Stores filled from synthetic worlds, and trainings on them that take a second."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from tests.support.store_place import store_place
from trading_system.ml_refinement.config import FeatureConfig, MLConfig, TrainingConfig
from trading_system.ml_refinement.models import ModelRegistry, SignalQualityModel
from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.training.dataset import Dataset
from trading_system.ml_refinement.training.pipeline import TrainingResult, train
from trading_system.simulation.worlds import World, stored

VERSION = "bench-1"
NOW = datetime(2026, 1, 2, tzinfo=UTC)


def names(world: World) -> list[str]:
    return [f"x{i:02d}" for i in range(world.X.shape[1])]


def quick(**training: object) -> MLConfig:
    """The defaults, with a forest small enough for a test."""
    settings: dict[str, object] = {"hyperparameters": {"max_iter": 12}, **training}
    return MLConfig(features=FeatureConfig(), training=TrainingConfig(**settings))


def narrow(world: World, columns: int = 20) -> World:
    """The same world with its first columns only, the informative ones moved among them."""
    order = [3, 11, 19, 27, 38, 52, *(i for i in range(60) if i not in (3, 11, 19, 27, 38, 52))]
    return World(world.X[:, order[:columns]], world.r, world.truth, world.entered_us, world.known_us)


def dataset(world: World) -> Dataset:
    ids = np.array([f"s{i:06d}" for i in range(len(world.r))])
    return Dataset(world.X, world.r, tuple(names(world)), ids, world.entered_us, world.known_us, {})


def fitted(seed: int = 0, rows: int = 200, columns: int = 6, **settings: object) -> SignalQualityModel:
    """A small model that has learned something."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows, columns))
    r = np.where(rng.random(rows) < 1.0 / (1.0 + np.exp(-1.5 * X[:, 0])), 1.4, -1.0)
    model = SignalQualityModel(**{"max_iter": 12, **settings})
    model.fit(X, r, feature_names=[f"x{i:02d}" for i in range(columns)])
    model.feature_version = VERSION
    return model


@dataclass
class LearningInstallation:
    """A store, its models, and the worlds' feature names."""

    db: FeatureDatabase
    registry: ModelRegistry
    directory: Path
    feature_names: list[str]
    runs: int = 0

    def train(self, config: MLConfig | None = None, **changes: object) -> TrainingResult:
        self.runs += 1
        arguments: dict[str, object] = {
            "pipeline_names": self.feature_names,
            "feature_version": VERSION,
            "clock": lambda: NOW,
            "run_id": f"run-{self.runs}",
            "label_watermark": self.db.counts().labels_total,
        }
        return train(self.db, self.registry, config or quick(), **{**arguments, **changes})


def learning_installation(
    directory: Path, world: World | None = None, columns: list[str] | None = None
) -> LearningInstallation:
    directory.mkdir(parents=True, exist_ok=True)
    db = FeatureDatabase(store_place(directory), clock=lambda: NOW)
    db.initialize()
    feature_names = columns or (names(world) if world is not None else ["x00"])
    if world is not None:
        stored(db, world, names=feature_names)
    return LearningInstallation(db, ModelRegistry(directory / "models", db), directory, feature_names)
