"""What a model's linear members learned of each feature, as the page of a model shows it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from loguru import logger

from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.models import ModelRegistry
from trading_system.ml_refinement.models.errors import ModelFileRefused
from trading_system.ml_refinement.models.signal_quality import SignalQualityModel
from trading_system.ml_refinement.storage import RegistryRow
from worker.console.queries import ConsoleQueries

_SHOWN = 14


class FeatureColumns(NamedTuple):
    """Log-odds for one standard deviation of a feature: for every signal, for being far out, and besides by type."""

    name: str
    line: float
    fold: float
    of_type: list[float]


class ModelColumns(NamedTuple):
    """The features that weigh most, of `weighed` that do; the types learned apart, and what being of each adds."""

    features: list[FeatureColumns]
    weighed: int
    types: list[str]
    type_itself: list[float]


def model_columns(queries: ConsoleQueries, row: RegistryRow) -> ModelColumns | None:
    """Read from the model's file; None for models without linear members, and where the file cannot be used."""
    if row.metadata.model_type != ModelType.SIGNAL_QUALITY:
        return None
    return queries.remembered(("columns", row.model_id), row.artefact_sha256, lambda: _read(queries, row.model_id))


def _read(queries: ConsoleQueries, model_id: str) -> ModelColumns | None:
    try:
        model = ModelRegistry.from_config(queries.settings.to_ml_config(), queries.store).load(model_id)
    except ModelFileRefused as error:
        logger.warning("the columns of {} are not shown: {}", model_id, error)
        return None
    if not isinstance(model, SignalQualityModel):
        return None
    served = model.columns_served()
    size = np.abs(served.line) + np.abs(served.fold) + np.abs(served.of_type).max(axis=0, initial=0.0)
    weighed = int((size > 0).sum())
    if not weighed:
        return None
    features = [
        FeatureColumns(
            model.feature_names[at], float(served.line[at]), float(served.fold[at]), served.of_type[:, at].tolist()
        )
        for at in np.argsort(-size, kind="stable")[: min(_SHOWN, weighed)].tolist()
    ]
    return ModelColumns(features, weighed, list(served.types), served.type_itself.tolist())
