"""The store of features, outcomes, predictions and models, and an archive of received events: SQLite or PostgreSQL."""

from typing import TYPE_CHECKING

from trading_system.lazy_names import attach

if TYPE_CHECKING:
    from trading_system.ml_refinement.storage.connection import Connection as Connection
    from trading_system.ml_refinement.storage.counters import StoreCounts as StoreCounts
    from trading_system.ml_refinement.storage.errors import (
        ConstraintRefused as ConstraintRefused,
        SchemaMismatch as SchemaMismatch,
        StaleActivation as StaleActivation,
        StoreDamaged as StoreDamaged,
        StoreError as StoreError,
        StoreMoved as StoreMoved,
        StoreUnavailable as StoreUnavailable,
        UnknownModel as UnknownModel,
        UnusableValue as UnusableValue,
    )
    from trading_system.ml_refinement.storage.event_archive import (
        ArchivedEntry as ArchivedEntry,
        ArchivedEvent as ArchivedEvent,
        EventArchive as EventArchive,
    )
    from trading_system.ml_refinement.storage.feature_db import FeatureDatabase as FeatureDatabase
    from trading_system.ml_refinement.storage.outbox import Outbox as Outbox
    from trading_system.ml_refinement.storage.sqlite.connection import SqliteConnection as SqliteConnection
    from trading_system.ml_refinement.storage.tables.dead_letters import (
        AuditEntry as AuditEntry,
        DeadLetterGroup as DeadLetterGroup,
        DeadLetterRow as DeadLetterRow,
        Filter as Filter,
        NewDeadLetter as NewDeadLetter,
    )
    from trading_system.ml_refinement.storage.tables.definitions import DefinitionRow as DefinitionRow
    from trading_system.ml_refinement.storage.tables.duplicates import DuplicateRow as DuplicateRow
    from trading_system.ml_refinement.storage.tables.feature_versions import (
        FeatureVersions as FeatureVersions,
        StoredVector as StoredVector,
    )
    from trading_system.ml_refinement.storage.tables.models import (
        ANY as ANY,
        Promotion as Promotion,
        RegistryRow as RegistryRow,
    )
    from trading_system.ml_refinement.storage.tables.outcomes import (
        OutcomeResult as OutcomeResult,
        OutcomeRow as OutcomeRow,
    )
    from trading_system.ml_refinement.storage.tables.replays import (
        Replay as Replay,
        ReplayProgress as ReplayProgress,
    )
    from trading_system.ml_refinement.storage.tables.runs import TrainingRun as TrainingRun
    from trading_system.ml_refinement.storage.tables.scores import (
        LoggedPrediction as LoggedPrediction,
        PredictionRow as PredictionRow,
        ServedHistory as ServedHistory,
        ServedRow as ServedRow,
    )
    from trading_system.ml_refinement.storage.tables.vectors import (
        KnownSignal as KnownSignal,
        TrainingMatrix as TrainingMatrix,
        VectorRow as VectorRow,
    )

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "connection": ("Connection",),
        "counters": ("StoreCounts",),
        "errors": (
            "ConstraintRefused",
            "SchemaMismatch",
            "StaleActivation",
            "StoreDamaged",
            "StoreError",
            "StoreMoved",
            "StoreUnavailable",
            "UnknownModel",
            "UnusableValue",
        ),
        "event_archive": ("ArchivedEntry", "ArchivedEvent", "EventArchive"),
        "feature_db": ("FeatureDatabase",),
        "outbox": ("Outbox",),
        "sqlite.connection": ("SqliteConnection",),
        "tables.dead_letters": ("AuditEntry", "DeadLetterGroup", "DeadLetterRow", "Filter", "NewDeadLetter"),
        "tables.definitions": ("DefinitionRow",),
        "tables.duplicates": ("DuplicateRow",),
        "tables.feature_versions": ("FeatureVersions", "StoredVector"),
        "tables.models": ("ANY", "Promotion", "RegistryRow"),
        "tables.outcomes": ("OutcomeResult", "OutcomeRow"),
        "tables.replays": ("Replay", "ReplayProgress"),
        "tables.runs": ("TrainingRun",),
        "tables.scores": ("LoggedPrediction", "PredictionRow", "ServedHistory", "ServedRow"),
        "tables.vectors": ("KnownSignal", "TrainingMatrix", "VectorRow"),
    },
)
