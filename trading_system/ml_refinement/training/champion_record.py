"""The champion's record: what it and its line said when it counted, never what it would say now.

A refit re-predicting the past has seen it; only logged probabilities are evidence.
"""

from __future__ import annotations

import numpy as np
from loguru import logger

from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.storage.tables.models import RegistryRow
from trading_system.ml_refinement.storage.times import text_from_us
from trading_system.ml_refinement.training.promotion import (
    Champion,
    Evidence,
    block_us,
    demoted,
    evidence_figures,
)
from trading_system.ml_refinement.typing import StringArray

_HISTORY = 500


def served_line(db: FeatureDatabase, active: RegistryRow) -> dict[str, float]:
    """Training base rates, by id, of the champion and the proven models of its recipe that it refreshed."""
    rows = db.models.history(active.metadata.model_type.value, _HISTORY)
    line = [row for row in rows if row.proven and row.recipe == active.recipe]
    return {row.model_id: row.metadata.train_metrics.get("base_rate", 0.5) for row in [*line, active]}


def served_evidence(db: FeatureDatabase, active: RegistryRow, *, max_hold_us: int) -> Evidence:
    """All the champion's line served for signals whose outcome is known."""
    base_rates = served_line(db, active)
    served = db.scores.served_history()
    mine = np.array([model_id in base_rates for model_id in served.model_id.tolist()], dtype=bool)
    base = np.array([base_rates[model_id] for model_id in served.model_id[mine].tolist()], dtype=np.float64)
    return Evidence(
        served.r[mine] > 0,
        served.quality_score[mine],
        base,
        served.timestamp_us[mine],
        np.zeros(len(base), dtype=np.int64),
        block_us(max_hold_us),
    )


def champion_record(db: FeatureDatabase, active: RegistryRow, signal_ids: StringArray, *, since_us: int) -> Champion:
    """The champion with what its line served for these signals, NaN where it served none."""
    served = np.full(len(signal_ids), np.nan)
    if len(signal_ids):
        history = db.scores.served_history(text_from_us(since_us))
        line = served_line(db, active)
        place = {signal_id: index for index, signal_id in enumerate(signal_ids.tolist())}
        logged = (history.signal_id.tolist(), history.model_id.tolist(), history.quality_score.tolist())
        for signal_id, model_id, p in zip(*logged, strict=True):
            if model_id in line and signal_id in place:
                served[place[signal_id]] = p
    return Champion(active.model_id, active.recipe or "", active.proven, served)


def demote_if_failing(db: FeatureDatabase, active: RegistryRow, *, max_hold_us: int) -> RegistryRow:
    """The champion's row, proven no longer where what it served was worse than the base rate beyond doubt."""
    if not active.proven:
        return active
    evidence = served_evidence(db, active, max_hold_us=max_hold_us)
    failing, why = demoted(evidence)
    if not failing:
        return active
    logger.warning("champion {} is demoted to provisional: {}", active.model_id, why)
    db.models.set_proven(active.model_id, False, reason=why, figures=evidence_figures(evidence))
    return db.models.get(active.model_id) or active
