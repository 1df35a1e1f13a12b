"""What the models said: the prediction log, and what was published."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from operator import itemgetter
from typing import Literal, NamedTuple

import numpy as np

from trading_system.ml_refinement.storage.connection import Connection, id_list
from trading_system.ml_refinement.storage.counters import count_inserted
from trading_system.ml_refinement.storage.statement import Statement
from trading_system.ml_refinement.storage.times import check_texts, parse_bound, us_array
from trading_system.ml_refinement.typing import BoolArray, FloatArray, StringArray, TimeArray

Role = Literal["champion", "shadow"]
#: (signal_id, model_id or None, status, the published bytes)
ServedRow = tuple[str, str | None, str, bytes]


class PredictionRow(NamedTuple):
    """One model's word on one signal. `predicted_at` is the store's fixed-width text."""

    signal_id: str
    model_id: str
    predicted_at: str
    quality_score: float | None
    predicted_r: float | None = None
    confidence: float | None = None
    role: Role = "champion"

    def check(self) -> None:
        """Raises ValueError unless the figures may be stored."""
        for value in (self.quality_score, self.predicted_r, self.confidence):
            if value is not None and not isfinite(value):
                raise ValueError(f"prediction of {self.model_id!r} for {self.signal_id!r} is not finite: {value}")


@dataclass(frozen=True, slots=True)
class LoggedPrediction:
    """A prediction and, once the trade has closed, what came of it."""

    prediction: PredictionRow
    actual_r: float | None
    prediction_error: float | None


@dataclass(frozen=True, slots=True)
class ServedHistory:
    """Served probabilities of labelled signals, ordered by (timestamp, signal_id); every array is (n,)."""

    signal_id: StringArray
    timestamp_us: TimeArray
    label_us: TimeArray
    quality_score: FloatArray
    r: FloatArray
    model_id: StringArray


@dataclass(frozen=True, slots=True)
class AnsweredScores:
    """Served scores and whether their signal has an outcome by now, oldest first; every array is (n,)."""

    timestamp_us: TimeArray
    score: FloatArray
    labelled: BoolArray


class PredictionLog:
    """The tables `prediction_log` and `served_scores`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def log_predictions(self, rows: Sequence[PredictionRow], *, labelled: Collection[str] | None = None) -> None:
        """Log predictions, the first of each (signal, model) for ever.

        A prediction of a signal that is labelled already gets its actual at once.

        Args:
            rows: any number, each signal's in the order they are to be listed.
            labelled: the signals of the batch that may have an outcome, from whoever stored them in this transaction;
                None: any of them may.

        Raises:
            ValueError: a figure is not finite; nothing was stored.
            ConstraintRefused: a model is not in the registry; nothing was stored.
        """
        _check(rows)
        with self._connection.atomic():
            ids = {row.signal_id for row in rows} if labelled is None else labelled
            actual: dict[str, float] = dict(self._connection.query(LABELLED, (id_list(ids),))) if ids else {}
            # By signal: neighbours in the index are written one after the other.
            in_order = sorted(rows, key=_signal_id)
            new = self._connection.write_new(LOG, [(*row, *_outcome(row, actual)) for row in in_order])
            count_inserted(self._connection, "predictions", new)

    def update_actual(self, signal_id: str, actual_r: float) -> int:
        """Write an outcome into every prediction of the signal, each with its own error; how many there were.

        Raises:
            ValueError: it is not finite.
        """
        if not isfinite(actual_r):
            raise ValueError(f"outcome of {signal_id!r} is not finite: {actual_r}")
        with self._connection.atomic():
            return self._connection.run(UPDATE_ACTUAL, (actual_r, actual_r, signal_id))

    def of_signal(self, signal_id: str) -> list[LoggedPrediction]:
        """Every model's prediction for one signal, in the order they were logged."""
        return [
            LoggedPrediction(PredictionRow(*row[:7]), *row[7:])
            for row in self._connection.query(OF_SIGNAL, (signal_id,))
        ]

    def put_served(self, rows: Sequence[ServedRow]) -> None:
        """Keep what was published for the signals, the first for ever. The signals must be stored.

        Raises:
            ConstraintRefused: a signal or a model is not known; nothing was stored.
        """
        with self._connection.atomic():
            self._connection.write_rows(PUT_SERVED, rows)

    def served(self, signal_ids: Iterable[str]) -> dict[str, bytes]:
        """The published bytes of those of the signals that have any."""
        ids = list(signal_ids)
        return dict(self._connection.query(SERVED, (id_list(ids),))) if ids else {}

    def newest_served(self, *, model_ids: Collection[str] | None = None, role: Role = "champion") -> str | None:
        """The time of the newest signal that `served_history` tells of, or None."""
        by_model = "" if model_ids is None else BY_MODEL
        params = ("", role) if model_ids is None else ("", role, id_list(model_ids))
        rows = self._connection.query(HISTORY.format(by_model=by_model), (*params, 1))
        return rows[0][1] if rows else None

    def newest_payloads(self, limit: int) -> list[bytes]:
        """What was published for the signals that were stored last, newest first."""
        return [payload for (payload,) in self._connection.query(NEWEST_PAYLOADS, (limit,))]

    def served_history(
        self,
        since: str | None = None,
        *,
        model_ids: Collection[str] | None = None,
        role: Role = "champion",
        newest: int | None = None,
    ) -> ServedHistory:
        """What was predicted at the time for signals that are labelled now, incomplete vectors left out.

        So is what a model said of a signal that is no later than those it was trained on, as one that was imported.

        Args:
            since: a bound on the signal's time, as `parse_bound` reads it.
            model_ids: of these models only.
            role: as what they predicted.
            newest: at most so many rows, those of the newest signals.
        """
        bound = parse_bound(since, end=False) if since else ""
        by_model = "" if model_ids is None else BY_MODEL
        params = (bound, role) if model_ids is None else (bound, role, id_list(model_ids))
        sql = HISTORY.format(by_model=by_model)
        rows = self._connection.query(sql, (*params, _ALL if newest is None else newest))[::-1]
        ids, stamps, labels, scores, r, models = (list(c) for c in zip(*rows, strict=True)) if rows else ([],) * 6
        return ServedHistory(
            np.array(ids, dtype=np.str_),
            us_array(stamps),
            us_array(labels),
            np.array(scores, dtype=float),
            np.array(r, dtype=float),
            np.array(models, dtype=np.str_),
        )

    def known_by(self, at: str, *, newest: int | None = None) -> tuple[FloatArray, FloatArray]:
        """The champions' scores of signals whose trades had closed before a time, and their R; oldest first, each (n,).

        Left out is what `served_history` leaves out.

        Args:
            at: the store's text.
            newest: of so many signals, the newest of them.
        """
        rows = self._connection.query(KNOWN_BY, (at, at, _ALL if newest is None else newest))
        found = np.array(rows, dtype=np.float64).reshape(-1, 2)
        return found[:, 0], found[:, 1]

    def answered(self) -> AnsweredScores:
        """What champions scored, labelled or not."""
        rows = self._connection.query(ANSWERED)
        stamps, scores, labelled = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
        return AnsweredScores(us_array(stamps), np.array(scores, dtype=float), np.array(labelled, dtype=bool))

    def prune(self, older_than: str, *, dry_run: bool = False, at_once: int = 5000) -> int:
        """Drop predictions that nothing needs any more, in short transactions; how many.

        Kept are those of models that serve, and those whose trade has not closed: their actual is still to come.

        Args:
            older_than: the store's text; what was predicted since is kept.
            dry_run: count only.
            at_once: rows looked at in one transaction.
        """
        dropped = after = 0
        while True:
            last = self._connection.query(WINDOW, (after, at_once))[0][0]
            if last is None:
                return dropped
            if dry_run:
                dropped += int(self._connection.query(f"SELECT count(*) {NOT_NEEDED}", (after, last, older_than))[0][0])
            else:
                with self._connection.atomic():
                    dropped += self._connection.run(f"DELETE {NOT_NEEDED}", (after, last, older_than))
            after = last


# The literals are ours alone; every value is bound.
LABELLED = """
    SELECT v.signal_id, v.target_r_multiple
    FROM json_each(?) AS wanted CROSS JOIN feature_vectors AS v ON v.signal_id = wanted.value
    WHERE v.target_r_multiple IS NOT NULL"""
LOG = """
    INSERT OR FAIL INTO prediction_log
        (signal_id, model_id, predicted_at, quality_score, predicted_r, confidence, role, actual_r, prediction_error)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""
UPDATE_ACTUAL = "UPDATE prediction_log SET actual_r = ?, prediction_error = ? - predicted_r WHERE signal_id = ?"
OF_SIGNAL = """
    SELECT signal_id, model_id, predicted_at, quality_score, predicted_r, confidence, role, actual_r, prediction_error
    FROM prediction_log WHERE signal_id = ? ORDER BY id"""
PUT_SERVED = Statement(
    """
    INSERT OR FAIL INTO served_scores (vector_id, model_id, status, payload)
    VALUES ((SELECT id FROM feature_vectors WHERE signal_id = ?), ?, ?, ?)
    ON CONFLICT (vector_id) DO NOTHING""",
    postgres="""
    INSERT INTO served_scores (vector_id, model_id, status, payload)
    SELECT v.id, s.model_id, s.status, s.payload
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[]) AS s (signal_id, model_id, status, payload)
    LEFT JOIN feature_vectors AS v ON v.signal_id = s.signal_id
    ON CONFLICT (vector_id) DO NOTHING""",
)
SERVED = """
    SELECT v.signal_id, s.payload FROM json_each(?) AS wanted
    CROSS JOIN feature_vectors AS v ON v.signal_id = wanted.value
    CROSS JOIN served_scores AS s ON s.vector_id = v.id"""
# `+`: a signal has a handful of predictions, a model one for each signal.
BY_MODEL = "AND +p.model_id IN (SELECT value FROM json_each(?))"
HISTORY = """
    SELECT v.signal_id, v.timestamp, v.label_time, p.quality_score, v.target_r_multiple, p.model_id
    FROM feature_vectors AS v CROSS JOIN prediction_log AS p ON p.signal_id = v.signal_id
    CROSS JOIN model_registry AS m ON m.model_id = p.model_id AND v.timestamp > coalesce(m.train_end_date, '')
    WHERE v.timestamp >= ? AND v.target_r_multiple IS NOT NULL AND v.complete = 1
        AND p.role = ? AND p.quality_score IS NOT NULL {by_model}
    ORDER BY v.timestamp DESC, v.signal_id DESC, p.id DESC LIMIT ?"""
# The limit is on what is looked at, so that a store of signals that nothing served is not read from end to end.
KNOWN_BY = """
    SELECT p.quality_score, v.target_r_multiple
    FROM (
        SELECT signal_id, timestamp, target_r_multiple FROM feature_vectors INDEXED BY idx_fv_timestamp
        WHERE timestamp < ? AND label_time < ? AND target_r_multiple IS NOT NULL AND complete = 1
        ORDER BY timestamp DESC LIMIT ?
    ) AS v CROSS JOIN prediction_log AS p ON p.signal_id = v.signal_id
    CROSS JOIN model_registry AS m ON m.model_id = p.model_id AND v.timestamp > coalesce(m.train_end_date, '')
    WHERE p.role = 'champion' AND p.quality_score IS NOT NULL
    ORDER BY v.timestamp, v.signal_id, p.id"""
ANSWERED = """
    SELECT v.timestamp, p.quality_score, v.target_r_multiple IS NOT NULL
    FROM feature_vectors AS v JOIN prediction_log AS p ON p.signal_id = v.signal_id
    WHERE p.role = 'champion' AND p.quality_score IS NOT NULL ORDER BY v.timestamp, v.signal_id"""
WINDOW = "SELECT max(id) FROM (SELECT id FROM prediction_log WHERE id > ? ORDER BY id LIMIT ?) AS next"
NOT_NEEDED = """
    FROM prediction_log WHERE id > ? AND id <= ? AND predicted_at < ? AND actual_r IS NOT NULL
        AND model_id NOT IN (SELECT model_id FROM model_registry WHERE is_active = 1)"""
NEWEST_PAYLOADS = "SELECT payload FROM served_scores ORDER BY vector_id DESC LIMIT ?"


_signal_id = itemgetter(0)
_ALL = 2**62


def _outcome(row: PredictionRow, actual: Mapping[str, float]) -> tuple[float | None, float | None]:
    """What came of the signal and by how much the prediction was wrong, where each is known."""
    r = actual.get(row[0])
    return r, None if r is None or row[4] is None else r - row[4]


def _check(rows: Sequence[PredictionRow]) -> None:
    check_texts(row.predicted_at for row in rows)
    # What is not finite makes the sum not finite: the rows are looked at one by one only to name the one.
    if not isfinite(sum((row[3] or 0.0) + (row[4] or 0.0) + (row[5] or 0.0) for row in rows)):
        for row in rows:
            row.check()
