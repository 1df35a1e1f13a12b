"""The champion's record: what it and its line said when it counted, never what it would say now.

A refit re-predicting the past has seen it; only logged probabilities are evidence.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from loguru import logger

from trading_system.ml_refinement.actors import GATE
from trading_system.ml_refinement.config import TrainingConfig
from trading_system.ml_refinement.monitoring.served import read_served, record_figures, worse_than_base_rate
from trading_system.ml_refinement.standing import NotProven
from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.storage.tables.models import NOT_PROVEN, Models, RegistryRow
from trading_system.ml_refinement.storage.times import DAY_US, text_from_us, us_from_text
from trading_system.ml_refinement.training.promotion import KEEP_LEVEL, ChampionRecord, skill
from trading_system.ml_refinement.training.verdicts import Verdict
from trading_system.ml_refinement.typing import StringArray

#: Skill is looked for in what was served of so many days' signals ...
PROOF_DAYS = 252
#: ... and in the newest of them, where it has to show at one-sided `NEWEST_LEVEL` and fewer blocks will do.
NEWEST_DAYS = 126
NEWEST_LEVEL = 0.50
_NEWEST_BLOCKS = 4


def champion_line(db: FeatureDatabase, active: RegistryRow, *, proven: bool = True) -> set[str]:
    """Ids of the champion and the models of its recipe that it refreshed; not `proven`: the provisional ones too."""
    return {active.model_id, *db.models.alike(active, proven=proven)}


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


def ended_by_what_was_served(models: Models, model_type: str) -> bool:
    """Whether the last proof was ended by what was served under it, and none has followed; one that expired was not."""
    last = models.last_proof(model_type)
    ended = last is not None and last.action == "demote" and last.figures.get(NOT_PROVEN)
    return ended in (NotProven.HARM, NotProven.SKILL_NOT_SHOWN)


def unless_pinned(verdict: Verdict, models: Models, model_type: str) -> Verdict:
    """The verdict; where an operator pinned what serves, with a candidate that is watched and does not serve."""
    pinned = models.pinned(model_type)
    return verdict if pinned is None else verdict.beside_a_pin(pinned.model_id, pinned.pinned_by or "")


def end_proof_if_failing(
    db: FeatureDatabase, active: RegistryRow, *, training: TrainingConfig, now_us: int
) -> RegistryRow:
    """The champion's row, proven no longer where its proof has ended; the ledger says why.

    It ends by its age; by what its line served, worse than the base rate beyond doubt; or by what models of its recipe
    served over `PROOF_DAYS`, in which skill does not even show at `KEEP_LEVEL`, or over `NEWEST_DAYS`, in which next to
    none does. As many rows, blocks and rows of each class are asked for as of any proof: a record that is too short
    ends nothing.
    """
    if not active.proven:
        return active
    why, figures = _failing(db, active, training, now_us)
    if not why:
        return active
    logger.warning("champion {} is not proven any more: {}", active.model_id, why)
    db.models.set_proven(active.model_id, False, reason=why, figures=figures, actor=GATE)
    return db.models.get(active.model_id) or active


def _failing(
    db: FeatureDatabase, active: RegistryRow, training: TrainingConfig, now_us: int
) -> tuple[str, dict[str, Any]]:
    """Why the proof has ended, on which figures, the code of it among them; an empty reason where it has not."""
    age_days = (now_us - us_from_text(active.metadata.created_at)) / DAY_US
    if age_days > training.expiry_days:
        why = f"it has expired: trained {age_days:.0f} days ago, {training.expiry_days:.0f} are allowed"
        return why, _because(NotProven.PROOF_EXPIRED)
    days = training.train_window_days
    record = read_served(db, train_window_days=days, model_ids=champion_line(db, active))
    failing, why = worse_than_base_rate(record.evidence)
    if failing:
        return why, record_figures(record) | _because(NotProven.HARM)
    alike = champion_line(db, active, proven=False)
    record = read_served(db, train_window_days=days, days=PROOF_DAYS, model_ids=alike)
    if record.evidence.shortfall():
        return "", {}
    newest = record.evidence.newest(NEWEST_DAYS)
    for evidence, told_days, level in ((record.evidence, PROOF_DAYS, KEEP_LEVEL), (newest, NEWEST_DAYS, NEWEST_LEVEL)):
        shown, words = skill(evidence, level)
        if not shown and not evidence.shortfall(min_blocks=_NEWEST_BLOCKS):
            why = f"skill does not show in what was served of {told_days} days: {words}"
            return why, record_figures(record) | _because(NotProven.SKILL_NOT_SHOWN)
    return "", {}


def _because(code: NotProven) -> dict[str, Any]:
    return {NOT_PROVEN: code.value}
