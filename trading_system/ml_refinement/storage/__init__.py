"""The store: one SQLite file for features, outcomes, predictions and models, and an archive of received events.

What needs numpy is loaded when it is first asked for: those who only look at the store do without.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trading_system.ml_refinement.storage.connection import Connection
from trading_system.ml_refinement.storage.counters import DuplicateRow, StoreCounts
from trading_system.ml_refinement.storage.dead_letters import (
    AuditEntry,
    DeadLetterGroup,
    DeadLetterRow,
    Filter,
    NewDeadLetter,
)
from trading_system.ml_refinement.storage.definitions import DefinitionRow
from trading_system.ml_refinement.storage.errors import (
    ConstraintRefused,
    SchemaMismatch,
    StaleActivation,
    StoreDamaged,
    StoreError,
    StoreUnavailable,
    UnknownModel,
)
from trading_system.ml_refinement.storage.event_archive import ArchivedEvent, EventArchive
from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.storage.models import ANY, Promotion, RegistryRow
from trading_system.ml_refinement.storage.replays import Replay, ReplayProgress
from trading_system.ml_refinement.storage.runs import TrainingRun

if TYPE_CHECKING:
    from trading_system.ml_refinement.storage.feature_versions import FeatureVersions, StoredVector
    from trading_system.ml_refinement.storage.outcomes import OutcomeResult, OutcomeRow
    from trading_system.ml_refinement.storage.scores import (
        LoggedPrediction,
        PredictionRow,
        ServedHistory,
        ServedRow,
    )
    from trading_system.ml_refinement.storage.vectors import KnownSignal, TrainingMatrix, VectorRow

__all__ = [
    "ANY",
    "ArchivedEvent",
    "AuditEntry",
    "Connection",
    "ConstraintRefused",
    "DeadLetterGroup",
    "DeadLetterRow",
    "DefinitionRow",
    "DuplicateRow",
    "EventArchive",
    "FeatureDatabase",
    "FeatureVersions",
    "Filter",
    "KnownSignal",
    "LoggedPrediction",
    "NewDeadLetter",
    "OutcomeResult",
    "OutcomeRow",
    "PredictionRow",
    "Promotion",
    "RegistryRow",
    "Replay",
    "ReplayProgress",
    "SchemaMismatch",
    "ServedHistory",
    "ServedRow",
    "StaleActivation",
    "StoreCounts",
    "StoreDamaged",
    "StoreError",
    "StoreUnavailable",
    "StoredVector",
    "TrainingMatrix",
    "TrainingRun",
    "UnknownModel",
    "VectorRow",
]

_WITH_NUMPY = {
    "feature_versions": ("FeatureVersions", "StoredVector"),
    "outcomes": ("OutcomeResult", "OutcomeRow"),
    "scores": ("LoggedPrediction", "PredictionRow", "ServedHistory", "ServedRow"),
    "vectors": ("KnownSignal", "TrainingMatrix", "VectorRow"),
}


def __getattr__(name: str) -> Any:
    for module, names in _WITH_NUMPY.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
