"""Why a signal got its score: which features moved it, by how much, and how such signals ended before."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trading_system.ml_refinement.models.errors import LearningError
from trading_system.ml_refinement.models.model_registry import ModelRegistry
from trading_system.ml_refinement.models.signal_quality import SignalQualityModel
from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.typing import FloatArray

#: So many signals with the nearest scores are "such signals".
ALIKE = 50


class NotExplained(LearningError):
    """The signal, its score or the model that gave it is not there."""

    reason = "not_explained"


@dataclass(frozen=True, slots=True)
class Move:
    """What one feature did: P(win) with the signal's value minus P(win) with the value typical of the training rows.

    `columns` is what its columns in the linear members add in log-odds: its line, its fold and the line of the signal's
    type, summed. These do add up over features.
    """

    name: str
    value: float
    typical: float
    moved: float
    columns: float


@dataclass(frozen=True, slots=True)
class Earlier:
    """The signals with the nearest scores whose trades had closed before this signal was known."""

    count: int
    lowest_score: float | None
    highest_score: float | None
    win_rate: float | None
    mean_r: float | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """A served score and its reasons. `moves` are sorted by size; they do not add up, since features act together.

    `signal_type` is the signal's own, and `type_adds` the log-odds that being of it adds by itself.
    """

    signal_id: str
    timestamp: str
    model_id: str
    score: float
    base_rate: float
    reproduced: bool
    moves: tuple[Move, ...]
    signal_type: str
    type_adds: float
    earlier: Earlier
    actual_r: float | None


def explain(
    db: FeatureDatabase, registry: ModelRegistry, signal_id: str, *, most_rows: int | None = None
) -> Explanation:
    """Explain the score that was served for a signal, by the model that served it.

    Each feature in turn is set to its median over the model's training rows, the others as they were (occlusion;
    Robnik-Sikonja and Kononenko 2008). Reads the model's training window and the served history; with `most_rows` the
    newest so many vectors of that window, labelled or not, and the newest so many signals that had closed by then.

    Raises:
        NotExplained: the signal is not stored, no model has scored it, or the model's features are not the vector's.
        ModelFileRefused: the model's file is not what it was.
    """
    vector = db.get_feature_vector(signal_id)
    if vector is None:
        raise NotExplained(f"there is no signal {signal_id}")
    served = [logged for logged in db.scores.of_signal(signal_id) if logged.prediction.role == "champion"]
    if not served or served[0].prediction.quality_score is None:
        raise NotExplained(f"no model had scored {signal_id}: it was a cold start")
    said, score = served[0].prediction, served[0].prediction.quality_score
    model, row = registry.load(said.model_id), db.models.get(said.model_id)
    if not isinstance(model, SignalQualityModel) or row is None:
        raise NotExplained(f"{said.model_id} is no model of signal quality in the registry")
    missing = [name for name in model.feature_names if name not in vector.features]
    if missing:
        raise NotExplained(f"the stored vector was rebuilt since: it lacks {', '.join(missing[:3])}")
    values = np.array([vector.features[name] for name in model.feature_names])
    typical = _typical(db, model, row.metadata.train_start_date, row.metadata.train_end_date, most_rows)
    stored = db.signals.get(signal_id)
    kind = (stored and stored.signal_type) or ""
    p, without = _occluded(model, values, typical, kind)
    *added, type_adds = model.contributions(values[None], [kind])[0].tolist()
    columns = zip(model.feature_names, values.tolist(), typical.tolist(), (p - without).tolist(), added, strict=True)
    moves = [Move(*column) for column in columns if column[3] != 0.0 or column[4] != 0.0]
    return Explanation(
        signal_id=signal_id,
        timestamp=vector.timestamp,
        model_id=said.model_id,
        score=score,
        base_rate=model.base_rate,
        reproduced=abs(p - score) <= 1e-9,
        moves=tuple(sorted(moves, key=lambda move: -abs(move.moved))),
        signal_type=kind,
        type_adds=type_adds,
        earlier=_earlier(db, vector.timestamp, score, most_rows),
        actual_r=served[0].actual_r,
    )


def _typical(db: FeatureDatabase, model: SignalQualityModel, start: str, end: str, most_rows: int | None) -> FloatArray:
    """Medians of the features over the rows the model was trained on; NaN, which a model handles, without rows."""
    version, names = model.feature_version or "", model.feature_names
    if most_rows is None:
        X = db.vectors.training_matrix(feature_version=version, names=names, start=start, end=end).X
    else:
        X = db.vectors.newest_between(start, end, names=names, feature_version=version, limit=most_rows)
    if not len(X):
        return np.full(len(names), np.nan)
    return np.asarray(np.nanmedian(X, axis=0), dtype=np.float64)


def _occluded(
    model: SignalQualityModel, values: FloatArray, typical: FloatArray, signal_type: str
) -> tuple[float, FloatArray]:
    """P(win) of the row, and with each feature at its typical value, shape (n_features,)."""
    rows = np.repeat(values[None], len(values) + 1, axis=0)
    features = np.arange(len(values))
    rows[features + 1, features] = typical
    p = model.predict_proba(rows, [signal_type] * len(rows))
    return float(p[0]), p[1:]


def _earlier(db: FeatureDatabase, timestamp: str, score: float, most_rows: int | None) -> Earlier:
    score_of, r_of = db.scores.known_by(timestamp, newest=most_rows)
    nearest = np.argsort(np.abs(score_of - score), kind="stable")[:ALIKE]
    if not len(nearest):
        return Earlier(0, None, None, None, None)
    scores, r = score_of[nearest], r_of[nearest]
    return Earlier(len(nearest), float(scores.min()), float(scores.max()), float((r > 0).mean()), float(r.mean()))
