"""The champion's record: what it and its line said when it counted, never what it would say now.

A refit re-predicting the past has seen it; only logged probabilities are evidence.
"""

from __future__ import annotations

import numpy as np
from loguru import logger

from trading_system.ml_refinement.actors import GATE
from trading_system.ml_refinement.monitoring.served import read_served, record_figures, worse_than_base_rate
from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.storage.tables.models import RegistryRow
from trading_system.ml_refinement.storage.times import text_from_us
from trading_system.ml_refinement.training.promotion import ChampionRecord
from trading_system.ml_refinement.typing import StringArray


def champion_line(db: FeatureDatabase, active: RegistryRow) -> set[str]:
    """Ids of the champion and the proven models of its recipe that it refreshed."""
    return {active.model_id, *db.models.proven_of_recipe(active.metadata.model_type.value, active.recipe)}


def champion_record(
    db: FeatureDatabase, active: RegistryRow, signal_ids: StringArray, *, since_us: int
) -> ChampionRecord:
    """The champion with what its line served for these signals, shape (n,), NaN where it served none."""
    served = np.full(len(signal_ids), np.nan)
    if len(signal_ids):
        history = db.scores.served_history(text_from_us(since_us), model_ids=champion_line(db, active))
        place = {signal_id: index for index, signal_id in enumerate(signal_ids.tolist())}
        for signal_id, p in zip(history.signal_id.tolist(), history.quality_score.tolist(), strict=True):
            if signal_id in place:
                served[place[signal_id]] = p
    return ChampionRecord(active.model_id, active.recipe or "", active.proven, served)


def demote_if_failing(db: FeatureDatabase, active: RegistryRow, *, train_window_days: int) -> RegistryRow:
    """The champion's row, proven no longer where what its line served was worse than the base rate beyond doubt."""
    if not active.proven:
        return active
    record = read_served(db, train_window_days=train_window_days, model_ids=champion_line(db, active))
    failing, why = worse_than_base_rate(record.evidence)
    if not failing:
        return active
    logger.warning("champion {} is demoted to provisional: {}", active.model_id, why)
    db.models.set_proven(active.model_id, False, reason=why, figures=record_figures(record), actor=GATE)
    return db.models.get(active.model_id) or active
