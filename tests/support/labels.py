"""Stores with labels to train on, without a worker."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np

from tests.support.rows import vector
from trading_system.ml_refinement.config import MLConfig
from trading_system.ml_refinement.features.pipeline import FeaturePipeline
from trading_system.ml_refinement.labelling.rules import labelling_rule
from trading_system.ml_refinement.storage import FeatureDatabase, OutcomeRow
from trading_system.ml_refinement.storage.tables.virtual_outcomes import VirtualOutcomeRow
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


def replaced_by_virtual(
    store: FeatureDatabase, count: int, config: MLConfig, *, newest: bool = True, every: int = 1
) -> list[str]:
    """Takes the outcomes of the newest signals, or the oldest, away; labels them virtually with the same R."""
    labelled = store._connection.query(
        "SELECT signal_id, target_r_multiple, label_time, signal_type, asset_class FROM feature_vectors "
        "WHERE target_r_multiple IS NOT NULL ORDER BY timestamp"
    )
    taken = (labelled[::-1] if newest else labelled)[::every][:count]
    ids = [row[0] for row in taken]
    with store.atomic():
        store._connection.run_many("DELETE FROM trade_outcomes WHERE signal_id = ?", [(one,) for one in ids])
        store._connection.run_many(
            "UPDATE feature_vectors SET target_r_multiple = NULL, target_binary = NULL, target_return_pct = NULL, "
            "label_time = NULL, label_revision = NULL WHERE signal_id = ?",
            [(one,) for one in ids],
        )
    rule = labelling_rule(store, config)
    store.virtual_outcomes.put(
        [VirtualOutcomeRow(row[0], row[1], "time", row[2], rule.version(row[3], row[4])) for row in taken]
    )
    return ids
