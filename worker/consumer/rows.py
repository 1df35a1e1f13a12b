"""Events and scores as the rows that the store keeps; pure functions."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import repeat

import numpy as np
import orjson

from trading_system.ml_refinement.scoring import Scores, ShadowScores
from trading_system.ml_refinement.storage import OutcomeRow, PredictionRow, ServedRow
from trading_system.ml_refinement.storage.tables.scores import Role
from trading_system.ml_refinement.storage.times import text_from_us
from trading_system.ml_refinement.typing import FloatArray
from worker.events.decoding import SignalCreated, TradeClosed
from worker.streams.entries import Entry

_LARGEST = sys.float_info.max


def outcome_row(entry: Entry, outcome: TradeClosed) -> OutcomeRow:
    """An outcome's row."""
    return OutcomeRow(
        signal_id=outcome.signal_id,
        revision=outcome.revision,
        closed_at=text_from_us(outcome.closed_at_us),
        r_multiple=outcome.r_multiple,
        return_pct=outcome.return_pct,
        exit_reason=outcome.exit_reason,
        entry_id=entry.stored_id,
        payload=entry.data,
    )


def prediction_rows(signals: Sequence[SignalCreated], scores: Scores, at: str) -> list[PredictionRow]:
    """What the champion said of each signal, and what the candidate that is watched beside it did."""
    shadow = scores.shadow
    rows = _rows_of("champion", scores.model_id, scores, signals, at) if scores.model_id is not None else []
    return rows + (_rows_of("shadow", shadow.model_id, shadow, signals, at) if shadow is not None else [])


def _rows_of(
    role: Role, model_id: str, said: Scores | ShadowScores, signals: Sequence[SignalCreated], at: str
) -> list[PredictionRow]:
    columns = zip(
        [signal.signal_id for signal in signals],
        repeat(model_id, len(signals)),
        repeat(at, len(signals)),
        _or_none(said.quality),
        _or_none(said.predicted_r),
        _or_none(said.confidence),
        repeat(role, len(signals)),
        strict=True,
    )
    return list(map(PredictionRow._make, columns))


def served_rows(signals: Sequence[SignalCreated], scores: Scores, at: str) -> list[ServedRow]:
    """What is published for each signal, as the bytes that a redelivery will publish again: a `SignalScored` each.

    Raises:
        ValueError: a score is not within its bounds.
    """
    if not signals:
        return []
    # Not through the model, nor a dictionary: it is all there in columns, whose numbers are written at once.
    shared = {
        "status": scores.status,
        "proven": scores.proven,
        "not_proven": scores.not_proven,
        "model_id": scores.model_id,
    }
    end = {"feature_version": scores.feature_version, "scored_at": at}
    ids = [signal.signal_id for signal in signals]
    columns = (
        repeat(b'{"signal_id":', len(ids)),
        map(orjson.dumps, ids),
        repeat(b",%b" % _inner(shared), len(ids)),
        repeat(b',"quality_score":', len(ids)),
        _texts(scores.quality, 0.0, 1.0),
        repeat(b',"quality_band":', len(ids)),
        _words(scores.band),
        repeat(b',"predicted_r":', len(ids)),
        _texts(scores.predicted_r),
        repeat(b',"risk_r":', len(ids)),
        _texts(scores.risk_r),
        repeat(b',"regime":', len(ids)),
        _words(scores.regime),
        repeat(b',"confidence":', len(ids)),
        _texts(scores.confidence, 0.0, 1.0),
        repeat(b',"out_of_distribution":', len(ids)),
        _words(scores.out_of_distribution),
        repeat(b',"combined_score":', len(ids)),
        _texts(scores.combined, 0.0, 10.0),
        repeat(b",%b}" % _inner(end), len(ids)),
    )
    answers = map(b"".join, zip(*columns, strict=True))
    return list(zip(ids, repeat(scores.model_id, len(ids)), repeat(scores.status, len(ids)), answers, strict=True))


def _inner(fields: Mapping[str, object]) -> bytes:
    """Fields of an object, without its braces."""
    return orjson.dumps(fields)[1:-1]


def _texts(column: FloatArray, low: float = -_LARGEST, high: float = _LARGEST) -> list[bytes]:
    """The column's numbers as JSON has them: what is no number is null.

    Raises:
        ValueError: a number is below `low`, above `high`, or infinite.
    """
    _check(column, low, high)
    numbers = np.ascontiguousarray(column, np.float64)
    return orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")


def _words(column: Sequence[object]) -> list[bytes]:
    """The column's values as JSON has them; a handful of them, each of many rows."""
    known = {value: orjson.dumps(value) for value in set(column)}
    return [known[value] for value in column]


def _or_none(column: FloatArray) -> list[float | None]:
    """The column as JSON can say it: what is no number is None.

    Raises:
        ValueError: a number is infinite.
    """
    _check(column, -_LARGEST, _LARGEST)
    return [None if value != value else value for value in column.tolist()]


def _check(column: FloatArray, low: float, high: float) -> None:
    outside = (column < low) | (column > high)
    if outside.any():
        raise ValueError(f"a score is not within {low:g} and {high:g}: {column[outside][0]}")


def outcome_bytes(row: OutcomeRow) -> bytes:
    """An outcome that no event brought (a notebook recorded it), as the event that would have: for a dead letter."""
    fields = {
        "signal_id": row.signal_id,
        "closed_at": row.closed_at,
        "r_multiple": row.r_multiple,
        "return_pct": row.return_pct,
        "exit_reason": row.exit_reason,
        "revision": row.revision,
    }
    return orjson.dumps(fields)
