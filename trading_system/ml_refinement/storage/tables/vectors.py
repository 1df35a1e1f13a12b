"""Feature vectors: stored once for each signal, read back as matrices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import orjson

from trading_system.ml_refinement.storage.connection import Connection, Row, id_list
from trading_system.ml_refinement.storage.packing import feature_texts, fill, packed_rows
from trading_system.ml_refinement.storage.times import Clock, check_texts, parse_bound, us_array, utc_text
from trading_system.ml_refinement.typing import FloatArray, StringArray, TimeArray


class VectorRow(NamedTuple):
    """One signal as received, without its values. `timestamp` is the store's fixed-width text.

    The order is that of the statement that inserts it.
    """

    signal_id: str
    timestamp: str
    symbol: str
    asset_class: str
    signal_type: str
    conviction: str | None
    feature_version: str
    complete: bool
    event_hash: bytes
    entry_id: str


@dataclass(frozen=True, slots=True)
class EncodedVectors:
    """Vectors as they are written, made before the transaction for which other writers wait.

    `rows[i]` goes with `texts[i]` and `packed[i]`, the values of `names`.
    """

    rows: Sequence[VectorRow]
    names: Sequence[str]
    texts: list[str]
    packed: list[bytes]

    @classmethod
    def of(cls, rows: Sequence[VectorRow], names: Sequence[str], values: FloatArray) -> EncodedVectors:
        """`values` is (len(rows), len(names)).

        Raises:
            ValueError: the shapes disagree, a value is not finite, or a timestamp is not of the store's form.
        """
        check_texts(row.timestamp for row in rows)
        return cls(rows, names, feature_texts(names, values, len(rows)), packed_rows(values))


class KnownSignal(NamedTuple):
    """What tells a redelivery from a conflict of identity; None for a vector that did not come from an event."""

    event_hash: bytes | None
    entry_id: str | None


@dataclass(frozen=True, slots=True)
class TrainingMatrix:
    """Labelled, complete vectors of one feature version, ordered by (timestamp, signal_id).

    X is (n, f) in the order of `names`, NaN where a vector lacks the feature; `r` the R-multiples (n,); `timestamp_us`
    when the signal was known and `label_us` when its trade had closed, int64; `signal_types` (n,);
    `incomplete` how many labelled vectors of the same selection were left out because an extractor had failed.
    """

    X: FloatArray
    r: FloatArray
    names: tuple[str, ...]
    signal_ids: list[str]
    timestamp_us: TimeArray
    label_us: TimeArray
    incomplete: int
    signal_types: StringArray


@dataclass(frozen=True, slots=True)
class RecentRows:
    """What was stored in a span of signal time, oldest first, labelled or not.

    X is (n, f): complete vectors of one feature version, NaN where a feature is missing; `timestamp_us` (n,) when their
    signals were known, `signal_types` (n,) of which type. `signals` counts those of any version in that span,
    `incomplete` those an extractor failed on.
    """

    X: FloatArray
    timestamp_us: TimeArray
    signals: int
    incomplete: int
    signal_types: StringArray


@dataclass(frozen=True, slots=True)
class Selection:
    """Which vectors: bounds as a person writes them (`parse_bound`), None for no condition."""

    start: str | None = None
    end: str | None = None
    asset_class: str | None = None
    signal_type: str | None = None
    feature_version: str | None = None

    def where(self, *fixed: str) -> tuple[str, list[str]]:
        """The WHERE clause, with further fixed conditions, and its parameters."""
        conditions, params = list(fixed), []
        for condition, value in (
            ("feature_version = ?", self.feature_version),
            ("timestamp >= ?", self.start and parse_bound(self.start, end=False)),
            ("timestamp <= ?", self.end and parse_bound(self.end, end=True)),
            # `+`: an asset class is a large part of the table, and its index a detour to all of it.
            ("+asset_class = ?", self.asset_class),
            ("signal_type = ?", self.signal_type),
        ):
            if value:
                conditions.append(condition)
                params.append(value)
        return f"WHERE {' AND '.join(conditions or ['TRUE'])}", params


class Vectors:
    """The table `feature_vectors`."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    def known(self, signal_ids: Iterable[str]) -> dict[str, KnownSignal]:
        """Those of the signals that are stored."""
        ids = list(signal_ids)
        rows = self._connection.query(KNOWN, (id_list(ids),)) if ids else []
        return {signal_id: KnownSignal(event_hash, entry_id) for signal_id, event_hash, entry_id in rows}

    def insert_new(self, rows: Sequence[VectorRow], names: Sequence[str], values: FloatArray) -> list[bool]:
        """`insert_encoded` of vectors whose values are (len(rows), len(names)).

        Raises:
            ValueError: the shapes disagree, a value is not finite, or a timestamp is not of the store's form.
        """
        return self.insert_encoded(EncodedVectors.of(rows, names, values))

    def insert_encoded(self, vectors: EncodedVectors) -> list[bool]:
        """Store the vectors of the signals that are not known; True where it was new.

        A stored vector is never changed by this. Call inside `atomic()` together with `outcomes.apply_waiting`.
        """
        rows = vectors.rows
        now = utc_text(self._clock())
        with self._connection.atomic():
            taken = {signal_id for (signal_id,) in self._connection.query(TAKEN, (id_list(r.signal_id for r in rows),))}
            fresh = [_first(row.signal_id, taken) for row in rows]
            list_id = self.list_id(vectors.names)
            stored = zip(rows, vectors.texts, vectors.packed, fresh, strict=True)
            new = [(*row, text, now, list_id, pack) for row, text, pack, is_new in stored if is_new]
            self._connection.write_counted(INSERT_NEW, new, "signals")
        return fresh

    def list_id(self, names: Sequence[str]) -> int:
        """The number of this list of names, entered if it is new. Call inside `atomic()`."""
        text = orjson.dumps(list(names)).decode()
        row = self._connection.one(LIST_ID, (text,))
        # Another shard's transaction may enter the same list at the same time: waited for, and then read.
        row = row or self._connection.one(ADD_LIST, (text,)) or self._connection.one(LIST_ID, (text,))
        assert row is not None  # noqa: S101 - it was there, or was added
        return int(row[0])

    def trainable_at(self, feature_version: str, *, now: str, before: str | None = None, skip: int = 0) -> str | None:
        """When the newest signal but `skip` was known, of those that may be trained on at `now`, at or before `before`.

        Both are the store's text; None where there are not so many. The cost grows with `skip`, not with the store.
        """
        row = self._connection.one(TRAINABLE_AT, (feature_version, before or now, now, skip))
        return None if row is None else str(row[0])

    def training_matrix(
        self,
        *,
        feature_version: str,
        names: Sequence[str],
        start: str | None = None,
        end: str | None = None,
        asset_class: str | None = None,
        signal_type: str | None = None,
    ) -> TrainingMatrix:
        """What a model may be trained on. Bounds are on the signal's time, inclusive, as `parse_bound` reads them."""
        selection = Selection(start, end, asset_class, signal_type, feature_version)
        labelled, params = selection.where(LABELLED)
        columns = tuple(names)
        with self._connection.snapshot() as reads:
            complete, total = reads.query(SIZE.format(where=labelled), params)[0]
            X = np.full((int(complete), len(columns)), np.nan)
            lists = feature_lists(reads)
            rest: list[Row] = []
            for chunk in reads.chunks(TRAINING.format(where=labelled), params):
                fill(X[len(rest) : len(rest) + len(chunk)], chunk, columns, lists)
                rest += [row[3:] for row in chunk]
        signal_ids, stamps, labels, targets, types = (
            (list(column) for column in zip(*rest, strict=True)) if rest else ([],) * 5
        )
        return TrainingMatrix(
            X,
            np.array(targets, dtype=float),
            columns,
            signal_ids,
            us_array(stamps),
            us_array(labels),
            int(total - complete),
            np.array([name or "" for name in types], dtype=np.str_),
        )

    def between(self, start: str, end: str, *, names: Sequence[str], feature_version: str, limit: int) -> RecentRows:
        """Signals with `start` < time <= `end`, of which at most the newest `limit` vectors."""
        with self._connection.snapshot() as reads:
            X, vectors = _between(reads, (start, end, feature_version, limit), tuple(names))
            signals, incomplete = reads.query(COMPLETENESS, (start, end))[0]
        types = np.array([row[4] or "" for row in vectors], dtype=np.str_)
        return RecentRows(X, us_array([row[3] for row in vectors]), int(signals), int(incomplete), types)

    def newest_between(
        self, start: str, end: str, *, names: Sequence[str], feature_version: str, limit: int
    ) -> FloatArray:
        """The vectors of `between`, shape (n, n_names), and no count of how many signals there are."""
        with self._connection.snapshot() as reads:
            return _between(reads, (start, end, feature_version, limit), tuple(names))[0]


# The literals are ours alone; every value is bound.
LIST_ID = "SELECT id FROM feature_lists WHERE names = ?"
ADD_LIST = "INSERT INTO feature_lists (names) VALUES (?) ON CONFLICT DO NOTHING RETURNING id"
KNOWN = """
    SELECT v.signal_id, v.event_hash, v.entry_id
    FROM json_each(?) AS wanted CROSS JOIN feature_vectors AS v ON v.signal_id = wanted.value"""
TAKEN = "SELECT v.signal_id FROM json_each(?) AS wanted CROSS JOIN feature_vectors AS v ON v.signal_id = wanted.value"
INSERT_NEW = """
    INSERT OR FAIL INTO feature_vectors (signal_id, timestamp, symbol, asset_class, signal_type, conviction,
        feature_version, complete, event_hash, entry_id, features, created_at, list_id, packed)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
TRAINABLE_AT = """
    SELECT timestamp FROM feature_vectors
    WHERE feature_version = ? AND timestamp <= ? AND target_r_multiple IS NOT NULL AND complete = 1 AND label_time <= ?
    ORDER BY timestamp DESC LIMIT 1 OFFSET ?"""
LABELLED = "target_r_multiple IS NOT NULL"
SIZE = "SELECT coalesce(sum(complete), 0), count(*) FROM feature_vectors {where}"
TRAINING = """
    SELECT list_id, packed, CASE WHEN packed IS NULL THEN features END, signal_id, timestamp, label_time,
        target_r_multiple, signal_type
    FROM feature_vectors {where} AND complete = 1 ORDER BY timestamp, signal_id"""
BETWEEN = """
    SELECT list_id, packed, CASE WHEN packed IS NULL THEN features END, timestamp, signal_type
    FROM feature_vectors INDEXED BY idx_fv_timestamp
    WHERE timestamp > ? AND timestamp <= ? AND feature_version = ? AND complete = 1
    ORDER BY timestamp DESC LIMIT ?"""
COMPLETENESS = """
    SELECT count(*), coalesce(sum(1 - complete), 0) FROM feature_vectors INDEXED BY idx_fv_timestamp
    WHERE timestamp > ? AND timestamp <= ?"""


def _between(reads: Connection, params: tuple[str | int, ...], names: tuple[str, ...]) -> tuple[FloatArray, list[Row]]:
    """The vectors that `BETWEEN` finds, the oldest first, shape (n, n_names), and its rows."""
    lists = feature_lists(reads)
    vectors = reads.query(BETWEEN, params)[::-1]
    X = np.full((len(vectors), len(names)), np.nan)
    fill(X, vectors, names, lists)
    return X, vectors


def feature_lists(reads: Connection) -> dict[int, tuple[str, ...]]:
    """The lists of names that vectors are packed by, by number."""
    return {number: tuple(orjson.loads(text)) for number, text in reads.query("SELECT id, names FROM feature_lists")}


def _first(signal_id: str, taken: set[str]) -> bool:
    """Whether the id is not taken; from now on it is."""
    if signal_id in taken:
        return False
    taken.add(signal_id)
    return True
