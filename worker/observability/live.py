"""What was served against what came of it, and how far the features have moved: bounded reads of the newest rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import orjson

from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.monitoring.drift import FeatureDrift, column_drift
from trading_system.ml_refinement.storage import Connection, FeatureDatabase, RegistryRow
from trading_system.ml_refinement.storage.times import us_array
from trading_system.ml_refinement.typing import BoolArray, FloatArray, IntArray, TimeArray
from trading_system.ml_refinement.validation import metrics

#: At most this many rows are read, whatever the size of the store.
NEWEST_ROWS = 2_000
DRIFT_ROWS = 250


@dataclass(frozen=True, slots=True)
class Served:
    """Served probabilities of the newest labelled signals, oldest label first; every array is (n,)."""

    label_us: TimeArray
    p: FloatArray
    r: FloatArray

    @property
    def won(self) -> BoolArray:
        return self.r > 0

    def __len__(self) -> int:
        return len(self.p)

    def part(self, start: int, stop: int) -> Served:
        """Rows `start` to `stop`."""
        return Served(self.label_us[start:stop], self.p[start:stop], self.r[start:stop])


@dataclass(frozen=True, slots=True)
class Quality:
    """Figures of served probabilities. NaN where they cannot be computed."""

    rows: int
    log_loss: float
    base_rate_log_loss: float
    auc: float
    calibration_error: float
    calibration_error_by_chance: float
    mean_r: float
    #: Mean R of the fifth scored highest minus that of the fifth scored lowest, and its 95 % interval.
    lift: float
    lift_low: float
    lift_high: float


def served_rows(store: FeatureDatabase, *, model_id: str | None = None, limit: int = NEWEST_ROWS) -> Served:
    """What champions said about the signals that were labelled last; of one model, or of all."""
    by_model, params = ("AND p.model_id = ?", (model_id, limit)) if model_id else ("", (limit,))
    rows = store.connection.query(SERVED.format(by_model=by_model), params)[::-1]
    labels, p, r = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
    return Served(us_array(labels), np.array(p, dtype=float), np.array(r, dtype=float))


def quality(served: Served, *, base_rate: float | None = None) -> Quality:
    """Figures of `served`, beside those of always saying `base_rate` (without one: the rows' own win rate)."""
    if not len(served):
        return Quality(0, *[float("nan")] * 9)
    won = served.won
    base = np.full(len(served), float(won.mean()) if base_rate is None else base_rate)
    error, chance = metrics.calibration_error(won, served.p)
    return Quality(
        len(served),
        float(metrics.log_losses(won, served.p).mean()),
        float(metrics.log_losses(won, base).mean()),
        metrics.auc(won, served.p),
        error,
        chance,
        float(served.r.mean()),
        *_lift(served),
    )


def _lift(served: Served) -> tuple[float, float, float]:
    fifth = len(served) // 5
    if fifth < 5:
        return (float("nan"),) * 3
    order = np.argsort(served.p, kind="stable")
    low, high = served.r[order[:fifth]], served.r[order[-fifth:]]
    lift = float(high.mean() - low.mean())
    half = 1.96 * float(np.sqrt(low.var(ddof=1) / fifth + high.var(ddof=1) / fifth))
    return lift, lift - half, lift + half


def base_rate_of(champion: RegistryRow | None) -> float | None:
    """The win rate that the champion was trained on."""
    rate = champion.metadata.train_metrics.get("base_rate") if champion else None
    return None if rate is None else float(rate)


def out_of_distribution_share(store: FeatureDatabase, *, limit: int = 500) -> float | None:
    """Share of the newest scored signals that are unlike the training rows; None when none was scored by a model."""
    payloads = store.connection.query(PAYLOADS, (limit,))
    said = [orjson.loads(payload).get("out_of_distribution") for (payload,) in payloads]
    known = [bool(value) for value in said if value is not None]
    return sum(known) / len(known) if known else None


def feature_drift(store: FeatureDatabase, champion: RegistryRow | None) -> list[FeatureDrift]:
    """How far each feature of the newest signals lies from those the champion was trained on, the farthest first.

    Empty without a champion, or with too few signals on either side.
    """
    if champion is None or champion.metadata.train_end_date is None:
        return []
    about = champion.metadata
    names = tuple(about.feature_names)
    version = champion.feature_version
    reads = store.connection
    stamps, reference = _vectors(reads, names, version, about.train_start_date or "", about.train_end_date, NEWEST_ROWS)
    _, recent = _vectors(reads, names, version, about.train_end_date, "9999", DRIFT_ROWS)
    return column_drift(names, reference, stamps, recent)


def _vectors(
    reads: Connection, names: tuple[str, ...], version: str | None, start: str, end: str, limit: int
) -> tuple[IntArray, FloatArray]:
    rows = reads.query(VECTORS, (start, end, version, limit))
    parsed = [orjson.loads(text) for _, text in rows]
    values = np.array([[row.get(name) for name in names] for row in parsed], dtype=float).reshape(-1, len(names))
    return us_array([stamp for stamp, _ in rows]), values


def champion_of(store: FeatureDatabase) -> RegistryRow | None:
    """The model that scores signals now."""
    return store.models.active(ModelType.SIGNAL_QUALITY)


# The literals are ours alone; every value is bound.
SERVED = """
    SELECT v.label_time, p.quality_score, v.target_r_multiple
    FROM feature_vectors AS v CROSS JOIN prediction_log AS p ON p.signal_id = v.signal_id
    WHERE v.label_time IS NOT NULL AND v.complete = 1 AND p.role = 'champion' AND p.quality_score IS NOT NULL {by_model}
    ORDER BY v.label_time DESC LIMIT ?"""
PAYLOADS = "SELECT payload FROM served_scores ORDER BY vector_id DESC LIMIT ?"
VECTORS = """
    SELECT timestamp, features FROM feature_vectors INDEXED BY idx_fv_timestamp
    WHERE timestamp > ? AND timestamp <= ? AND feature_version = ? AND complete = 1
    ORDER BY timestamp DESC LIMIT ?"""
