"""Stores with labels to train on, without a worker."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np

from tests.support.rows import vector
from trading_system.ml_refinement.features.pipeline import FeaturePipeline
from trading_system.ml_refinement.storage import FeatureDatabase, OutcomeRow
from trading_system.ml_refinement.storage.times import utc_text
from worker.settings.schema import Settings


def label(store: FeatureDatabase, settings: Settings, count: int, *, first: int = 0, win_rate: float = 0.45) -> None:
    """Stores `count` signals of noise, one every six hours, each closed two days later."""
    pipeline = FeaturePipeline(settings.to_ml_config().features)
    rng = np.random.default_rng(first)
    start = datetime(2025, 1, 1, tzinfo=UTC)
    rows, outcomes = [], []
    for number in range(first, first + count):
        at = start + timedelta(hours=6 * number)
        rows.append(
            vector(
                f"s{number}",
                timestamp=utc_text(at),
                symbol="A",
                feature_version=pipeline.feature_version,
                event_hash=number.to_bytes(16, "big"),
                entry_id=f"{number}-0",
            )
        )
        closed_at = utc_text(at + timedelta(days=2))
        outcomes.append(OutcomeRow(f"s{number}", 0, closed_at, 1.5 if rng.random() < win_rate else -1.0))
    with store.atomic():
        store.vectors.insert_new(rows, pipeline.names, rng.normal(size=(count, len(pipeline.names))))
        store.outcomes.record(outcomes)
