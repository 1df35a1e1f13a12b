"""Two models on the same signals, by what each says of the stored vectors now, whether or not it ever served."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trading_system.ml_refinement.evaluation.comparison import Comparison, compare
from trading_system.ml_refinement.models.errors import LearningError
from trading_system.ml_refinement.models.model_registry import ModelRegistry
from trading_system.ml_refinement.models.signal_quality import SignalQualityModel
from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.storage.tables.vectors import TrainingMatrix
from trading_system.ml_refinement.storage.times import us_from_text
from trading_system.ml_refinement.typing import FloatArray
from trading_system.ml_refinement.validation.evidence import block_us
from trading_system.ml_refinement.validation.walk_forward import measured_hold_us, time_blocks


class NotRescored(LearningError):
    """A model of the two is not there, is of another type, or needs other vectors than those stored."""

    reason = "not_rescored"


@dataclass(frozen=True, slots=True)
class Rescored:
    """The comparison over signals that neither model was trained on, and over all that were looked at.

    `trained_on` says how many of the latter lie in the training period of each: figures of those flatter it.
    """

    unseen: Comparison
    all: Comparison
    trained_on: tuple[int, int]


def compare_rescored(
    db: FeatureDatabase,
    registry: ModelRegistry,
    first: str,
    second: str,
    *,
    train_window_days: int,
    newest: int = 5_000,
) -> Rescored:
    """Rescore the labelled signals among the `newest`; a quarter of `train_window_days` is the longest holding.

    Raises:
        NotRescored: it cannot be done with these two.
        ModelFileRefused: a model's file is not what it was.
    """
    models = [_loaded(registry, name) for name in (first, second)]
    if models[0].feature_version != models[1].feature_version:
        raise NotRescored("they were fitted on vectors of different feature versions, and the store holds one of them")
    names = (first, second)
    columns = tuple(dict.fromkeys((*models[0].feature_names, *models[1].feature_names)))
    version, start = models[0].feature_version or "", db.signals.nth_newest(newest)
    rows = db.vectors.training_matrix(feature_version=version, names=columns, start=start)
    p = (_said(models[0], rows), _said(models[1], rows))
    entered, known = rows.timestamp_us, rows.label_us
    cluster = time_blocks(entered, block_us=block_us(measured_hold_us(entered, known, train_days=train_window_days)))
    ends = [_trained_until(db, name) for name in (first, second)]
    later = entered > max(ends)
    return Rescored(
        compare(names, rows.r[later], (p[0][later], p[1][later]), cluster[later]),
        compare(names, rows.r, p, cluster),
        (int((entered <= ends[0]).sum()), int((entered <= ends[1]).sum())),
    )


def _loaded(registry: ModelRegistry, model_id: str) -> SignalQualityModel:
    model = registry.load(model_id)
    if not isinstance(model, SignalQualityModel):
        raise NotRescored(f"{model_id} is no model of signal quality")
    return model


def _said(model: SignalQualityModel, rows: TrainingMatrix) -> FloatArray:
    if not len(rows.X):
        return np.empty(0)
    places = [rows.names.index(name) for name in model.feature_names]
    return model.predict_proba(rows.X[:, places], rows.signal_types)


def _trained_until(db: FeatureDatabase, model_id: str) -> int:
    """The last signal it may have been trained on; the end of time where that is not known."""
    row = db.models.get(model_id)
    end = row.metadata.train_end_date if row else None
    return us_from_text(end) if end else np.iinfo(np.int64).max
