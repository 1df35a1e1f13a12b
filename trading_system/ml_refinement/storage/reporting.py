"""What a report wants to know beside the numbers: kinds of signals, and which of them ever got an outcome."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trading_system.ml_refinement.storage.connection import Connection
from trading_system.ml_refinement.storage.times import us_array
from trading_system.ml_refinement.typing import BoolArray, FloatArray, TimeArray


@dataclass(frozen=True, slots=True)
class SignalKind:
    """What a labelled signal was, and how its trade ended."""

    asset_class: str
    signal_type: str
    exit_reason: str


@dataclass(frozen=True, slots=True)
class Answered:
    """Served scores and whether the signal has an outcome by now; arrays are (n,)."""

    timestamp_us: TimeArray
    score: FloatArray
    labelled: BoolArray


def signal_kinds(connection: Connection) -> dict[str, SignalKind]:
    """Every labelled signal's kind, by id."""
    return {row[0]: SignalKind(*(text or "" for text in row[1:])) for row in connection.query(KINDS)}


def answered(connection: Connection) -> Answered:
    """What champions scored, labelled or not, oldest first."""
    rows = connection.query(ANSWERED)
    stamps, scores, labelled = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
    return Answered(us_array(stamps), np.array(scores, dtype=float), np.array(labelled, dtype=bool))


KINDS = """
    SELECT v.signal_id, v.asset_class, v.signal_type,
        (SELECT o.exit_reason FROM trade_outcomes AS o WHERE o.signal_id = v.signal_id ORDER BY o.revision DESC LIMIT 1)
    FROM feature_vectors AS v WHERE v.target_r_multiple IS NOT NULL"""
ANSWERED = """
    SELECT v.timestamp, p.quality_score, v.target_r_multiple IS NOT NULL
    FROM feature_vectors AS v JOIN prediction_log AS p ON p.signal_id = v.signal_id
    WHERE p.role = 'champion' AND p.quality_score IS NOT NULL ORDER BY v.timestamp, v.signal_id"""
