"""Events and scores as the rows that the store keeps; pure functions."""

from __future__ import annotations

import sys
from collections.abc import Sequence

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
        entry_id=entry.entry_id,
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
    columns = zip(signals, _or_none(said.quality), _or_none(said.predicted_r), _or_none(said.confidence), strict=True)
    return [
        PredictionRow(signal.signal_id, model_id, at, quality, predicted_r, confidence, role)
        for signal, quality, predicted_r, confidence in columns
    ]


def served_rows(signals: Sequence[SignalCreated], scores: Scores, at: str) -> list[ServedRow]:
    """What is published for each signal, as the bytes that a redelivery will publish again: a `SignalScored` each.

    Raises:
        ValueError: a score is not within its bounds.
    """
    columns = zip(
        signals,
        _or_none(scores.quality, 0.0, 1.0),
        scores.band,
        _or_none(scores.predicted_r),
        _or_none(scores.risk_r),
        scores.regime,
        _or_none(scores.confidence, 0.0, 1.0),
        scores.out_of_distribution,
        _or_none(scores.combined, 0.0, 10.0),
        strict=True,
    )
    rows: list[ServedRow] = []
    for signal, quality, band, predicted_r, risk_r, regime, confidence, is_unlike, combined in columns:
        # Not through the model: it would check each answer for three times what everything else here costs.
        answer = {
            "signal_id": signal.signal_id,
            "status": scores.status,
            "proven": scores.proven,
            "not_proven": scores.not_proven,
            "model_id": scores.model_id,
            "quality_score": quality,
            "quality_band": band,
            "predicted_r": predicted_r,
            "risk_r": risk_r,
            "regime": regime,
            "confidence": confidence,
            "out_of_distribution": is_unlike,
            "combined_score": combined,
            "feature_version": scores.feature_version,
            "scored_at": at,
        }
        rows.append((signal.signal_id, scores.model_id, scores.status, orjson.dumps(answer)))
    return rows


def _or_none(column: FloatArray, low: float = -_LARGEST, high: float = _LARGEST) -> list[float | None]:
    """The column as JSON can say it: what is no number is None.

    Raises:
        ValueError: a number is below `low`, above `high`, or infinite.
    """
    if ((column < low) | (column > high)).any():
        raise ValueError(f"a score is not within {low:g} and {high:g}: {column[(column < low) | (column > high)][0]}")
    return [None if value != value else value for value in column.tolist()]


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
