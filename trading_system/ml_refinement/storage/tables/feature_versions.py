"""Vectors by feature version: read for a rebuild, and replaced by what it computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trading_system.ml_refinement.storage.connection import Connection
from trading_system.ml_refinement.storage.packing import feature_texts, packed_rows
from trading_system.ml_refinement.storage.tables.vectors import Vectors
from trading_system.ml_refinement.storage.times import Clock, utc_text
from trading_system.ml_refinement.typing import FloatArray

ReplaceResult = Literal["replaced", "same", "overtaken"]


@dataclass(frozen=True, slots=True)
class StoredVector:
    """A vector as it is now. `features` is its JSON text; an `event_hash` or `entry_id` that is empty or None says that
    it did not come from an event.
    """

    id: int
    signal_id: str
    timestamp: str
    symbol: str | None
    feature_version: str
    complete: bool
    event_hash: bytes | None
    entry_id: str | None
    features: str


class FeatureVersions:
    """The table `feature_vectors`, as a rebuild goes through it."""

    def __init__(self, connection: Connection, vectors: Vectors, clock: Clock) -> None:
        self._connection = connection
        self._vectors = vectors
        self._clock = clock

    def counts(self) -> dict[str, int]:
        """How many vectors there are of each feature version. Reads an index over all vectors."""
        return dict(self._connection.query(COUNTS))

    def last_id(self) -> int:
        """The number of the newest vector, below which none comes any more; 0 where there is none."""
        # Alone: shards commit side by side, and one that has taken a lower number may not have committed yet.
        with self._connection.atomic() as connection:
            return int(connection.query(LAST_ID)[0][0])

    def read(self, feature_version: str, *, after_id: int, up_to_id: int, limit: int) -> list[StoredVector]:
        """At most `limit` vectors of a version with numbers in (after_id, up_to_id], in their order."""
        rows = self._connection.query(READ, (feature_version, after_id, up_to_id, limit))
        return [
            StoredVector(number, signal_id, timestamp, symbol, version, bool(complete), event_hash, entry_id, text)
            for number, signal_id, timestamp, symbol, version, complete, event_hash, entry_id, text in rows
        ]

    def replace(
        self, before: Sequence[StoredVector], feature_version: str, names: Sequence[str], values: FloatArray
    ) -> list[ReplaceResult]:
        """Put complete features in the place of those read, and say what became of each vector.

        `replaced`; `same`: it said so already (version, features, completeness) and was not touched; `overtaken`: it
        is not any more as it was read, and was left alone. Labels, predictions, what was served, and `created_at` stay.
        `values` is (len(before), len(names)).

        Raises:
            ValueError: the shapes disagree, or a value is not finite.
        """
        texts = feature_texts(names, values, len(before))
        now = utc_text(self._clock())
        packed = packed_rows(values)
        results: list[ReplaceResult] = ["same"] * len(before)
        with self._connection.atomic():
            list_id = self._vectors.list_id(names)
            for place, (was, text) in enumerate(zip(before, texts, strict=True)):
                expected = was.id, was.feature_version, was.features
                if was.features != text:
                    new = text, list_id, packed[place], feature_version, now
                    changed = self._connection.run(REPLACE, (*new, *expected))
                elif was.feature_version != feature_version or not was.complete:
                    changed = self._connection.run(RESTAMP, (feature_version, now, *expected))
                else:
                    continue
                results[place] = "replaced" if changed else "overtaken"
        return results


# The literals are ours alone; every value is bound.
COUNTS = "SELECT feature_version, count(*) FROM feature_vectors GROUP BY feature_version ORDER BY feature_version"
LAST_ID = "SELECT coalesce(max(id), 0) FROM feature_vectors"
READ = """
    SELECT id, signal_id, timestamp, symbol, feature_version, complete, event_hash, entry_id, features
    FROM feature_vectors WHERE feature_version = ? AND id > ? AND id <= ? ORDER BY id LIMIT ?"""
REPLACE = """
    UPDATE feature_vectors
    SET features = ?, list_id = ?, packed = ?, feature_version = ?, complete = 1, updated_at = ?
    WHERE id = ? AND feature_version = ? AND features = ?"""
RESTAMP = """
    UPDATE feature_vectors SET feature_version = ?, complete = 1, updated_at = ?
    WHERE id = ? AND feature_version = ? AND features = ?"""
