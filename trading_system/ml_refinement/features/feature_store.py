"""The one way in for features: live, by a backfill and by a rebuild, and for people the way to read them back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple

from trading_system.ml_refinement.features.extractors.base_extractor import FeatureDefinition
from trading_system.ml_refinement.features.pipeline import FeatureBatch, FeaturePipeline, FeatureRequest
from trading_system.ml_refinement.storage import (
    DefinitionRow,
    FeatureDatabase,
    OutcomeResult,
    OutcomeRow,
    StoredVector,
    TrainingMatrix,
    VectorRow,
)
from trading_system.ml_refinement.storage.tables.feature_versions import ReplaceResult
from trading_system.ml_refinement.storage.tables.vectors import EncodedVectors
from trading_system.ml_refinement.storage.times import texts_from_us, utc_text
from trading_system.ml_refinement.typing import FloatArray

if TYPE_CHECKING:
    import pandas as pd


class Capture(NamedTuple):
    """A signal to be stored: all that may be known of it, and where it came from if it came as an event."""

    request: FeatureRequest
    symbol: str
    event_hash: bytes = b""
    entry_id: str = ""


@dataclass(frozen=True, slots=True)
class Captured:
    """Computed and not yet stored: `vectors.rows[i]` goes with `features.values[i]`."""

    vectors: EncodedVectors
    features: FeatureBatch


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of a batch.

    `new[i]` is False where the signal was there already: it was left as it was. `labelled` are signals whose outcome
    had come first. `refused` are such outcomes that closed before their signal was known; they are gone from the store.
    """

    new: list[bool]
    labelled: list[str]
    refused: list[OutcomeRow]


class FeatureStore:
    """A pipeline and a store: what the one computes, the other holds under the pipeline's version and names.

    Learning reads by names and version alone, from `FeatureDatabase.vectors`: a model outlives its pipeline.

    Example:
        with FeatureDatabase("features.db") as db:
            store = FeatureStore(db, FeaturePipeline())
            store.capture([Capture(request, symbol="AAPL")])
            store.label("sig-1", 1.8, closed_at=datetime(2024, 3, 1, tzinfo=UTC))
            matrix = store.training_matrix(end="2024-06-30")
    """

    def __init__(self, db: FeatureDatabase, pipeline: FeaturePipeline) -> None:
        self._db = db
        self._pipeline = pipeline

    def describe(self) -> None:
        """Enter the definitions of the pipeline's features into the table `feature_definitions`."""
        self._db.definitions.put([_definition_row(one) for one in self._pipeline.definitions()])

    def compute(self, captures: Sequence[Capture]) -> Captured:
        """The features of a batch of signals, each as of its own time, with the rows to store them under."""
        features = self._pipeline.extract_batch([one.request for one in captures])
        version, count = self._pipeline.feature_version, len(captures)
        said = [one.request.metadata for one in captures]
        columns = (
            [one.request.signal_id for one in captures],
            texts_from_us([one.request.timestamp_us for one in captures]),
            [one.symbol for one in captures],
            [one.asset_class or "" for one in said],
            [one.signal_type or "" for one in said],
            [one.conviction for one in said],
            repeat(version, count),
            features.complete.tolist(),
            [one.event_hash for one in captures],
            [one.entry_id for one in captures],
        )
        rows = list(map(VectorRow._make, zip(*columns, strict=True)))
        return Captured(EncodedVectors.of(rows, self._pipeline.names, features.values), features)

    def store(self, captured: Captured) -> Stored:
        """Store what was computed, and apply the outcomes that came first, in one transaction."""
        with self._db.atomic():
            new = self._db.vectors.insert_encoded(captured.vectors)
            ids = [row.signal_id for row, fresh in zip(captured.vectors.rows, new, strict=True) if fresh]
            awaited = self._db.outcomes.came_first(ids)
            if not awaited:
                return Stored(new, [], [])
            refused = self._db.outcomes.take_before_signal(awaited)
            return Stored(new, self._db.outcomes.apply_waiting(awaited), refused)

    def replace(self, before: Sequence[StoredVector], values: FloatArray) -> list[ReplaceResult]:
        """Put complete features of this pipeline, (len(before), f), in the place of those that were read.

        See `FeatureDatabase.versions`, which reads them, for what becomes of each.
        """
        return self._db.versions.replace(before, self._pipeline.feature_version, self._pipeline.names, values)

    def capture(self, captures: Sequence[Capture]) -> Stored:
        """Compute and store."""
        return self.store(self.compute(captures))

    def label(
        self,
        signal_id: str,
        r_multiple: float,
        closed_at: datetime,
        *,
        return_pct: float | None = None,
        exit_reason: str | None = None,
        revision: int = 0,
    ) -> OutcomeResult:
        """Say what became of a signal's trade; before the signal is there, it waits for it.

        Args:
            signal_id: the signal.
            r_multiple: the outcome in units of the risk taken.
            closed_at: when it was known; naive means UTC.
            return_pct: the outcome in percent.
            exit_reason: in the tracker's words.
            revision: a higher one corrects an earlier outcome.

        Raises:
            ValueError: a figure is not finite, or the revision is negative.
        """
        outcome = OutcomeRow(signal_id, revision, utc_text(closed_at), r_multiple, return_pct, exit_reason)
        return self._db.outcomes.record([outcome])[0]

    def training_matrix(
        self,
        *,
        start: str | None = None,
        end: str | None = None,
        asset_class: str | None = None,
        signal_type: str | None = None,
    ) -> TrainingMatrix:
        """The labelled, complete vectors of this pipeline's feature version, ordered by time.

        Bounds are on the signal's time and inclusive; a date alone means the whole day, no offset means UTC. Vectors
        that an extractor failed on are left out and counted in `incomplete`.
        """
        return self._db.vectors.training_matrix(
            feature_version=self._pipeline.feature_version,
            names=self._pipeline.names,
            start=start,
            end=end,
            asset_class=asset_class,
            signal_type=signal_type,
        )

    def training_frame(
        self,
        *,
        start: str | None = None,
        end: str | None = None,
        asset_class: str | None = None,
        signal_type: str | None = None,
    ) -> pd.DataFrame:
        """`training_matrix` for notebooks: by signal, the features, `r_multiple`, `timestamp` and `label_time`."""
        import pandas as pd  # takes long to load, and the worker has no use for it

        matrix = self.training_matrix(start=start, end=end, asset_class=asset_class, signal_type=signal_type)
        frame = pd.DataFrame(matrix.X, index=pd.Index(matrix.signal_ids, name="signal_id"), columns=list(matrix.names))
        return frame.assign(
            r_multiple=matrix.r,
            timestamp=pd.to_datetime(matrix.timestamp_us, unit="us", utc=True),
            label_time=pd.to_datetime(matrix.label_us, unit="us", utc=True),
        )


def _definition_row(one: FeatureDefinition) -> DefinitionRow:
    reach = "all bars given" if one.lookback_bars is None else f"the newest {one.lookback_bars} bars at most"
    computation = f"{one.low:g} to {one.high:g}; {one.neutral:g} with fewer than {one.min_bars} bars; from {reach}"
    return DefinitionRow(one.name, one.category, one.meaning, computation, one.dependencies)
