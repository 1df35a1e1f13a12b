"""The store as the library sees it: signals, outcomes, predictions and models in one SQLite file."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import orjson

from trading_system.ml_refinement.config import FeatureVector, MLConfig, ModelMetadata
from trading_system.ml_refinement.storage.counters import StoreCounts, count_inserted, read_counts
from trading_system.ml_refinement.storage.engines import engine_at
from trading_system.ml_refinement.storage.errors import PickledModel, StoreError
from trading_system.ml_refinement.storage.json_text import read_features
from trading_system.ml_refinement.storage.notifications.table import Notifications
from trading_system.ml_refinement.storage.postgres.place import is_postgres
from trading_system.ml_refinement.storage.quarantine import (
    Quarantine,
)
from trading_system.ml_refinement.storage.schema import installation_id, made_at
from trading_system.ml_refinement.storage.shared.artefacts import Artefacts
from trading_system.ml_refinement.storage.shared.leases import Leases
from trading_system.ml_refinement.storage.sqlite.sql_connection import SqlConnection, SqlRow
from trading_system.ml_refinement.storage.tables.dead_letters import DeadLetterTable
from trading_system.ml_refinement.storage.tables.definitions import Definitions
from trading_system.ml_refinement.storage.tables.duplicates import Duplicates
from trading_system.ml_refinement.storage.tables.entries import Attempts, Entries, Marks
from trading_system.ml_refinement.storage.tables.models import Models, metadata_of
from trading_system.ml_refinement.storage.tables.monitoring import MonitoringReports
from trading_system.ml_refinement.storage.tables.outcomes import Outcomes
from trading_system.ml_refinement.storage.tables.replays import Replays
from trading_system.ml_refinement.storage.tables.runs import Runs
from trading_system.ml_refinement.storage.tables.signals import Signals
from trading_system.ml_refinement.storage.tables.tuning import TuningTrials
from trading_system.ml_refinement.storage.times import Clock, parse_bound, utc_now, utc_text

if TYPE_CHECKING:
    from trading_system.ml_refinement.storage.tables.feature_versions import FeatureVersions
    from trading_system.ml_refinement.storage.tables.scores import PredictionLog
    from trading_system.ml_refinement.storage.tables.vectors import Vectors
    from trading_system.ml_refinement.storage.tables.virtual_outcomes import VirtualOutcomes
    from trading_system.ml_refinement.typing import FloatArray, IntArray


class FeatureDatabase:
    """The feature store. Call `initialize()` before anything else, or use it as a context manager, which does.

    Times may be given in any ISO 8601 form; without an offset they are UTC; they come back as the store's fixed-width
    text. What goes wrong with the file is a `StoreError`; a value that may not be stored is a ValueError.
    The attributes are the same store by table and in batches, as the worker uses it; `vectors`, `versions`,
    `scores` and `virtual_outcomes` need numpy, and are loaded when they are first used.

    Example:
        with FeatureDatabase("features.db") as db:
            db.store_feature_vector(vector, symbol="AAPL")
            X, y, names = db.get_training_data("2023-01-01", "2023-12-31")
    """

    #: The version that `store_feature_vector` files a vector under when none is given.
    FEATURE_VERSION = "1.0"

    def __init__(self, db_path: str | Path = "features.db", *, clock: Clock = utc_now, read_only: bool = False) -> None:
        self.db_path = db_path if is_postgres(db_path) else Path(db_path)
        self._clock = clock
        #: What is done to the store as a whole, and told of it.
        self.engine = engine_at(db_path, read_only=read_only)
        self._connection = self.engine.connection
        self.duplicates = Duplicates(self._connection, clock)
        self.dead_letters = DeadLetterTable(self._connection, clock)
        self.replays = Replays(self._connection, self.dead_letters, clock)
        self.attempts = Attempts(self._connection, clock)
        self.artefacts = Artefacts(self._connection, clock)
        self.leases = Leases(self._connection)
        self.models = Models(self._connection, clock, self.artefacts)
        self.runs = Runs(self._connection, clock)
        self.definitions = Definitions(self._connection, clock)
        self.entries = Entries(self._connection)
        self.outcomes = Outcomes(self._connection, clock)
        self.marks = Marks(self._connection)
        self.quarantine = Quarantine(self._connection)
        self.signals = Signals(self._connection)
        self.monitoring = MonitoringReports(self._connection)
        self.notifications = Notifications(self._connection)
        self.tuning = TuningTrials(self._connection)

    @classmethod
    def from_config(cls, config: MLConfig, *, clock: Clock = utc_now, read_only: bool = False) -> Self:
        """The store at the configuration's `feature_db_path`, not yet opened."""
        return cls(config.feature_db_path, clock=clock, read_only=read_only)

    @cached_property
    def vectors(self) -> Vectors:
        """The signals with their features."""
        from trading_system.ml_refinement.storage.tables.vectors import Vectors  # loads numpy

        return Vectors(self._connection, self._clock)

    @cached_property
    def versions(self) -> FeatureVersions:
        """Vectors by the version of their features."""
        from trading_system.ml_refinement.storage.tables.feature_versions import FeatureVersions  # loads numpy

        return FeatureVersions(self._connection, self.vectors, self._clock)

    @cached_property
    def scores(self) -> PredictionLog:
        """Predictions, and the answers that were served."""
        from trading_system.ml_refinement.storage.tables.scores import PredictionLog  # loads numpy

        return PredictionLog(self._connection)

    @cached_property
    def virtual_outcomes(self) -> VirtualOutcomes:
        """What the bars after a signal say that its trade would have come to."""
        from trading_system.ml_refinement.storage.tables.virtual_outcomes import VirtualOutcomes  # loads numpy

        return VirtualOutcomes(self._connection, self._clock)

    @property
    def connection(self) -> SqlConnection:
        """The one connection, for SQL of one's own as with `sqlite3`. Our own code asks the tables.

        Raises:
            StoreError: the store is in PostgreSQL, for which its own tools are.
        """
        if not isinstance(self._connection, SqlConnection):
            raise StoreError(f"{self._connection.name} is no SQLite file: use PostgreSQL's own tools on its tables")
        return self._connection

    def initialize(self) -> None:
        """Create the file, or bring its schema up to date. Read-only, and in PostgreSQL: check that it is.

        Raises:
            SchemaMismatch: a newer release made it, or it is only checked here and is not up to date.
        """
        self.engine.initialize(self._clock)

    def upgrade(self, *, shards: int = 1) -> list[int]:
        """Bring the schema up to date, whichever engine holds it; the steps that were applied.

        Args:
            shards: how many a store in PostgreSQL has that is made by this.

        Raises:
            SchemaMismatch: a newer release made it.
            StoreRefused: PostgreSQL's role may not make what is needed.
        """
        return self.engine.upgrade(self._clock, shards=shards)

    def check_in_place(self) -> None:
        """See that the store which is open is still the one at its place.

        Raises:
            StoreMoved: it was removed, moved or replaced.
            StoreUnavailable: nobody can tell now.
        """
        self._connection.check_in_place()

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written through it."""
        return self._connection.read_only

    def installation_id(self) -> str:
        """Which store this is: made with it, and the same in its copies and backups."""
        return installation_id(self._connection)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        self.initialize()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @contextmanager
    def atomic(self, *, shards: Collection[int] = ()) -> Iterator[None]:
        """One unit of work: all of it is kept, or none. Inside another one it joins that.

        `shards` are those that it belongs to whole, so that others run beside it, where the engine can; without any it
        runs alone.
        """
        with self._connection.atomic(shards=shards):
            yield

    @contextmanager
    def transaction(self) -> Iterator[SqlConnection]:
        """The specification's name of `atomic()`, with the connection."""
        connection = self.connection
        with connection.atomic():
            yield connection

    def made_at(self) -> str | None:
        """When the file was made, as it was written then."""
        return made_at(self._connection)

    def counts(self) -> StoreCounts:
        """How much there is of everything, at a cost that does not grow with it."""
        return read_counts(self._connection, now=utc_text(self._clock()))

    def store_feature_vector(
        self,
        fv: FeatureVector,
        symbol: str = "",
        asset_class: str = "",
        signal_type: str = "",
        conviction: str = "",
        *,
        feature_version: str | None = None,
        complete: bool = True,
    ) -> bool:
        """Store a vector, or renew a stored one's time and features. True.

        It is complete unless `complete` or its own `incomplete` says otherwise; an incomplete one is never trained on.
        Without `feature_version` it is of its own, or of `FEATURE_VERSION`.
        Storing again keeps the target, the time of creation, and what is not given. An outcome that came before its
        signal is applied. A target given with the vector counts as an outcome known from now on; a `target_binary`
        alone is kept, and is no outcome.

        Raises:
            ValueError: a value is not a finite number, the time cannot be read, or the two targets disagree.
        """
        from trading_system.ml_refinement.storage.packing import plain_features  # loads numpy

        if fv.target is not None and fv.target_binary not in (None, int(fv.target > 0)):
            raise ValueError(f"{fv.signal_id}: target {fv.target} and target_binary {fv.target_binary} disagree")
        if fv.target_binary not in (None, 0, 1):
            raise ValueError(f"{fv.signal_id}: target_binary {fv.target_binary} is neither 1 nor 0")
        now = utc_text(self._clock())
        params = (
            fv.signal_id,
            parse_bound(fv.timestamp, end=False),
            orjson.dumps(plain_features(fv.features)).decode(),
            feature_version or fv.feature_version or self.FEATURE_VERSION,
            now,
            symbol,
            asset_class,
            signal_type,
            conviction,
            complete and not fv.incomplete,
            fv.target_binary if fv.target is None else None,
        )
        with self._connection.atomic() as connection:
            is_new = connection.one("SELECT 1 FROM feature_vectors WHERE signal_id = ?", (fv.signal_id,)) is None
            connection.run(STORE, params)
            count_inserted(connection, "signals", int(is_new))
            self.outcomes.apply_waiting([fv.signal_id])
            if fv.target is not None:
                self.update_target(fv.signal_id, fv.target)
        return True

    def update_target(
        self, signal_id: str, r_multiple: float, return_pct: float | None = None, *, closed_at: str | None = None
    ) -> bool:
        """Fill in the outcome of a trade, or correct it. False: the signal is not there, the outcome waits for it.

        `closed_at` is when the outcome became known; without it, now.
        """
        closed = None if closed_at is None else parse_bound(closed_at, end=False)
        return self.outcomes.correct(signal_id, float(r_multiple), return_pct, closed)

    def get_feature_vector(self, signal_id: str) -> FeatureVector | None:
        """One vector, or None. Of an incomplete one the store does not know the cause, only that there was one."""
        row = self._connection.one(GET, (signal_id,))
        if row is None:
            return None
        incomplete = "" if row[5] else "stored as incomplete"
        version = "" if row[6] == self.FEATURE_VERSION else row[6]
        return FeatureVector(row[0], row[1], read_features(row[2]), row[3], row[4], incomplete, version)

    def get_training_data(
        self,
        start_date: str,
        end_date: str,
        asset_class: str | None = None,
        signal_type: str | None = None,
        require_target: bool = True,
        *,
        feature_version: str | None = None,
    ) -> tuple[FloatArray, FloatArray, list[str]]:
        """X (n, f), y (n,) in R-multiples and the f feature names, oldest first; incomplete vectors left out.

        Both dates are inclusive. One feature version at a time: without `feature_version`, that of the vector stored
        last in the selection. NaN where a vector lacks a feature, and in y where there is no outcome
        (`require_target=False`). Nothing selected: shapes (0, 0) and (0,).
        """
        import numpy as np  # whoever asks for a status has no arrays

        from trading_system.ml_refinement.storage.packing import parse  # loads numpy
        from trading_system.ml_refinement.storage.tables.vectors import Selection

        fixed = ["complete = 1"] + ["target_r_multiple IS NOT NULL"] * require_target
        with self._connection.snapshot() as reads:
            version = feature_version
            if version is None:
                where, params = Selection(start_date, end_date, asset_class, signal_type).where(*fixed)
                newest = reads.one(NEWEST_VERSION.format(where=where), params)
                version = newest[0] if newest else ""
            where, params = Selection(start_date, end_date, asset_class, signal_type, version or "none").where(*fixed)
            rows = reads.query(TRAINING.format(where=where), params)
        texts = [row[0] for row in rows]
        names = sorted({name for text in texts for name in orjson.loads(text)})
        return parse(texts, tuple(names)), np.array([row[1] for row in rows], dtype=float), names

    def get_training_data_binary(
        self, start_date: str, end_date: str, **kwargs: Any
    ) -> tuple[FloatArray, IntArray, list[str]]:
        """`get_training_data` with y, shape (n,), 1 for a win (R > 0) and 0 for a loss.

        Raises:
            ValueError: `require_target=False`: a trade without an outcome is neither.
        """
        if not kwargs.get("require_target", True):
            raise ValueError("a binary target needs an outcome: require_target cannot be False")
        import numpy as np  # whoever asks for a status has no arrays

        X, y, names = self.get_training_data(start_date, end_date, **kwargs)
        return X, (y > 0).astype(np.int64), names

    def count_samples(
        self, start_date: str | None = None, end_date: str | None = None, require_target: bool = True
    ) -> int:
        """How many complete vectors there are between the dates, inclusive; with an outcome unless told otherwise."""
        from trading_system.ml_refinement.storage.tables.vectors import Selection  # loads numpy

        fixed = ["complete = 1"] + ["target_r_multiple IS NOT NULL"] * require_target
        where, params = Selection(start_date, end_date).where(*fixed)
        return int(self._connection.query(COUNT.format(where=where), params)[0][0])

    def register_model(self, metadata: ModelMetadata) -> bool:
        """Enter a trained model, not active. True. `models.register` takes the artefact's path and hash too."""
        self.models.register(metadata)
        return True

    def activate_model(self, model_id: str) -> bool:
        """Let a model serve, unconditionally, as proven as it was; the one before is retired.

        False: unknown id, or a model that can never be loaded, which the log says.
        """
        row = self.models.get(model_id)
        if row is None:
            return False
        try:
            self.models.activate(model_id, reason="activated by hand", proven=row.proven)
        except PickledModel as error:
            from loguru import logger  # only now, as above

            logger.error("{}", error)
            return False
        return True

    def get_active_model(self, model_type: str) -> ModelMetadata | None:
        """The model of that type that serves, or None."""
        row = self.models.active(model_type)
        return None if row is None else row.metadata

    def get_model_history(self, model_type: str, limit: int = 10) -> list[ModelMetadata]:
        """Registered models of a type, newest first."""
        return [row.metadata for row in self.models.history(model_type, limit)]

    def _row_to_metadata(self, row: SqlRow) -> ModelMetadata:
        """The metadata in a row of `model_registry`."""
        return metadata_of([row[field.name] for field in fields(ModelMetadata)])

    def log_prediction(
        self,
        signal_id: str,
        model_id: str,
        quality_score: float,
        predicted_r: float | None = None,
        confidence: float | None = None,
    ) -> bool:
        """Log a prediction. False: this model's prediction for the signal is logged already, and stays.

        Raises:
            ConstraintRefused: the model is not registered.
        """
        from trading_system.ml_refinement.storage.tables.scores import PredictionRow  # loads numpy

        row = PredictionRow(signal_id, model_id, utc_text(self._clock()), quality_score, predicted_r, confidence)
        with self.atomic():
            known = any(logged.prediction.model_id == model_id for logged in self.scores.of_signal(signal_id))
            self.scores.log_predictions([row])
        return not known

    def update_prediction_actual(self, signal_id: str, actual_r: float) -> bool:
        """Write an outcome into every prediction of the signal, each with its own error. False: there is none."""
        return self.scores.update_actual(signal_id, actual_r) > 0


# The literals are ours alone; every value is bound.
STORE = """
    INSERT INTO feature_vectors (signal_id, timestamp, features, feature_version, created_at, symbol, asset_class,
        signal_type, conviction, complete, target_binary)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (signal_id) DO UPDATE SET
        timestamp = excluded.timestamp, features = excluded.features, feature_version = excluded.feature_version,
        target_binary = CASE WHEN feature_vectors.target_r_multiple IS NULL
            THEN coalesce(excluded.target_binary, feature_vectors.target_binary) ELSE feature_vectors.target_binary END,
        list_id = NULL, packed = NULL, complete = excluded.complete, updated_at = excluded.created_at,
        symbol = coalesce(nullif(excluded.symbol, ''), feature_vectors.symbol),
        asset_class = coalesce(nullif(excluded.asset_class, ''), feature_vectors.asset_class),
        signal_type = coalesce(nullif(excluded.signal_type, ''), feature_vectors.signal_type),
        conviction = coalesce(nullif(excluded.conviction, ''), feature_vectors.conviction)"""
GET = """
    SELECT signal_id, timestamp, features, target_r_multiple, target_binary, complete,
        feature_version
    FROM feature_vectors WHERE signal_id = ?"""
NEWEST_VERSION = "SELECT feature_version FROM feature_vectors {where} ORDER BY id DESC LIMIT 1"
TRAINING = "SELECT features, target_r_multiple FROM feature_vectors {where} ORDER BY timestamp, signal_id"
COUNT = "SELECT count(*) FROM feature_vectors {where}"
