"""A desk's life in order of time, through the product itself: store, scorer, trainings, gate, ledger, served record.

Signals are stored and scored at their entry by whatever serves then; an outcome is told when its trade has closed;
every so many days there is a training at the clock of that day. Nothing here fits, judges or predicts: another recipe
or gate is measured by changing the product.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from trading_system.ml_refinement.config import FeatureConfig, FeatureSet, MLConfig, ModelType
from trading_system.ml_refinement.features.extractors.base_extractor import BaseFeatureExtractor
from trading_system.ml_refinement.features.feature_registry import FeatureRegistry
from trading_system.ml_refinement.features.pipeline import FeaturePipeline
from trading_system.ml_refinement.models import ModelRegistry
from trading_system.ml_refinement.scoring import Scorer, Scores
from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.storage.tables.models import RegistryRow
from trading_system.ml_refinement.storage.tables.outcomes import OutcomeRow
from trading_system.ml_refinement.storage.tables.scores import PredictionRow
from trading_system.ml_refinement.storage.tables.vectors import VectorRow
from trading_system.ml_refinement.storage.times import DAY_US, texts_from_us, us_from_text, utc_text
from trading_system.ml_refinement.training.pipeline import train
from trading_system.simulation.desks import DeskWorld
from trading_system.simulation.remembered_fits import RememberedFits
from trading_system.simulation.worlds import START_US

_QUALITY = ModelType.SIGNAL_QUALITY.value


@dataclass(frozen=True)
class Look:
    """One training: the calendar day, how it ended, what serves after it, and whether that is proven and not stale."""

    day: int
    verdict: str
    rule: str
    reason: str
    rows: int
    serving: str | None
    proven: bool


@dataclass(frozen=True)
class Life:
    """What a desk was told. All arrays have shape (n,), as the world's signals.

    `quality` is NaN at cold start; `trusted` says that the model was proven and not stale when it scored.
    """

    quality: np.ndarray
    trusted: np.ndarray
    looks: list[Look]


class ToldFeatures(BaseFeatureExtractor):
    """Names for features that a world gives as they are; there is nothing to extract them from."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    @property
    def name(self) -> str:
        return "told_features"

    @property
    def feature_names(self) -> list[str]:
        return list(self._names)

    def extract(self, data: Any) -> dict[str, float]:
        raise NotImplementedError(f"{self.name} are told, not extracted: {data!r}")


def lived(
    world: DeskWorld,
    directory: Path,
    *,
    every_days: int = 21,
    first_day: int = 21,
    config: MLConfig | None = None,
    auxiliary: bool = False,
) -> Life:
    """Live a world through with a training every so many days, once there are labels enough for one.

    Args:
        world: what happens.
        directory: for the store and the models; empty.
        every_days: calendar days from one training to the next.
        first_day: the day of the first, if there are labels enough by then.
        config: of learning; the features are the world's own, whatever it says of them.
        auxiliary: whether the models beside that of signal quality are trained too; nothing here is measured of them.
    """
    return _Installation(world, directory, config or MLConfig(), auxiliary).live(every_days, first_day)


class _Installation:
    """A store, its models, and the clock of the world."""

    def __init__(self, world: DeskWorld, directory: Path, config: MLConfig, beside: bool) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        registry = FeatureRegistry()
        registry.register(ToldFeatures(world.names))
        told = FeatureConfig(feature_set=FeatureSet.CUSTOM, custom_features=["told_features"])
        self.world = world
        self.config = MLConfig(features=told, training=config.training)
        self.beside = beside
        self.now_us = START_US
        self.pipeline = FeaturePipeline(told, registry)
        self.db = FeatureDatabase(directory / "features.db", clock=self.clock)
        self.models = ModelRegistry(directory / "models", self.db)
        self.scorer = Scorer(self.db, self.models, self.config, self.pipeline, clock=self.clock)
        self.fit = RememberedFits()
        self.ids = [f"s{number:06d}" for number in range(len(world.r))]
        self.closing = np.argsort(world.known_us, kind="stable")
        self.told = 0

    def clock(self) -> datetime:
        return datetime.fromtimestamp(self.now_us / 1e6, UTC)

    def live(self, every_days: int, first_day: int) -> Life:
        world, end = self.world, int(self.world.day.max()) + 1
        quality, trusted = np.full(len(world.r), np.nan), np.zeros(len(world.r), dtype=bool)
        looks, days = [], [0, *range(first_day, end, every_days), end]
        with self.db:
            for day, until in itertools.pairwise(days):
                if day and self.db.counts().labels_total >= self.config.training.min_training_samples:
                    looks.append(self._look(day))
                first, last = np.searchsorted(world.day, (day, until))
                scores = self._score(slice(first, last))
                quality[first:last] = scores.quality
                trusted[first:last] = scores.proven and scores.status == "scored"
                self.now_us = START_US + until * DAY_US
                self._tell_outcomes()
        return Life(quality, trusted, looks)

    def _score(self, rows: slice) -> Scores:
        """Score signals, and store them with what was said of them, as the worker does."""
        world, ids = self.world, self.ids[rows]
        self.scorer.refresh()
        scores = self.scorer.score(world.X[rows], [None] * len(ids), world.signal_type[rows])
        at = texts_from_us(world.entered_us[rows].tolist()) if ids else []
        version = self.pipeline.feature_version
        kinds, symbols = world.signal_type[rows].tolist(), world.symbol[rows].tolist()
        with self.db.atomic():
            self.db.vectors.insert_new(
                [
                    VectorRow(signal_id, entered, symbol, "equity", kind, None, version, True, b"0" * 16, signal_id)
                    for signal_id, entered, symbol, kind in zip(ids, at, symbols, kinds, strict=True)
                ],
                self.pipeline.names,
                world.X[rows],
            )
            self.db.scores.log_predictions(_predictions(ids, scores, utc_text(self.clock())))
        return scores

    def _tell_outcomes(self) -> None:
        """Tell of the trades that have closed by now."""
        world = self.world
        until = int(np.searchsorted(world.known_us[self.closing], self.now_us))
        rows = self.closing[self.told : until]
        closed = texts_from_us(world.known_us[rows].tolist()) if len(rows) else []
        self.db.outcomes.record(
            [
                OutcomeRow(self.ids[row], 0, at, float(world.r[row]), None, None, self.ids[row])
                for row, at in zip(rows.tolist(), closed, strict=True)
            ]
        )
        self.told = until

    def _look(self, day: int) -> Look:
        result = train(
            self.db,
            self.models,
            self.config,
            pipeline_names=self.pipeline.names,
            feature_version=self.pipeline.feature_version,
            clock=self.clock,
            run_id=f"day-{day}",
            label_watermark=self.db.counts().labels_total,
            fit=self.fit,
            auxiliary=self.beside,
        )
        verdict, serving = result.verdict, self.db.models.active(_QUALITY)
        return Look(
            day,
            verdict.decision.value if verdict else "failed",
            verdict.rule if verdict else "",
            result.reason,
            int(result.figures.get("rows", 0)),
            serving.model_id if serving else None,
            bool(serving and serving.proven and self._is_fresh(serving)),
        )

    def _is_fresh(self, serving: RegistryRow) -> bool:
        age_us = self.now_us - us_from_text(serving.metadata.created_at)
        return age_us <= self.config.training.expiry_days * DAY_US


def _predictions(ids: list[str], scores: Scores, at: str) -> list[PredictionRow]:
    """What the champion said; nothing at cold start."""
    if scores.model_id is None:
        return []
    columns = zip(ids, scores.quality.tolist(), scores.predicted_r.tolist(), scores.confidence.tolist(), strict=True)
    return [
        PredictionRow(signal_id, scores.model_id, at, quality, None if r != r else r, confidence)
        for signal_id, quality, r, confidence in columns
    ]
