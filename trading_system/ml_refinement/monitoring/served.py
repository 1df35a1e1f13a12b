"""What was served against what came of it: the one reader of the served record, and the figures of it."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import orjson

from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.storage.times import DAY_US, text_from_us, us_from_text
from trading_system.ml_refinement.validation import metrics
from trading_system.ml_refinement.validation.evidence import (
    MIN_ROWS,
    Evidence,
    PredictionRecord,
    block_us,
    evidence_figures,
    finite,
    served_evidence_figures,
)
from trading_system.ml_refinement.validation.walk_forward import measured_hold_us

#: What was served is judged by the signals of so many days, up to the newest that has an outcome ...
SERVED_DAYS = 126
#: ... and never by more than so many of them, whatever the size of the store.
MOST_ROWS = 50_000
#: One-sided level at which what was served is worse than the base rate.
WORSE_LEVEL = 0.01
#: More of the newest signals than this share unlike those trained on, and it is worth a look.
OUT_OF_DISTRIBUTION_SHARE = 0.3
_NEWEST_PAYLOADS = 500


@dataclass(frozen=True, slots=True)
class ServedFigures:
    """Figures of a served record. NaN where one cannot be computed.

    `excess` is the log loss above that of the base rates, those of the models that served, as they were trained; below
    0 is better. `lift` is the mean R of the fifth scored highest less that of the fifth scored lowest, with its 95 %
    interval. `worse`: the excess is above 0 beyond doubt.
    """

    rows: int
    log_loss: float
    base_rate_log_loss: float
    excess: float
    excess_t: float
    auc: float
    calibration_error: float
    calibration_error_by_chance: float
    mean_r: float
    lift: float
    lift_low: float
    lift_high: float
    worse: bool


def read_served(
    db: FeatureDatabase,
    *,
    train_window_days: int,
    days: int | None = SERVED_DAYS,
    newest: int | None = MOST_ROWS,
    model_ids: Collection[str] | None = None,
) -> PredictionRecord:
    """What champions served, when it counted, for signals that have an outcome by now.

    The base rate beside a probability is that of the model that served it. Models that were registered without one are
    no evidence: their rows are left out. Each model is a window of its own.

    Args:
        db: the store.
        train_window_days: of the configuration; a quarter of it is the longest holding that counts.
        days: up to the newest such signal; None: all there are.
        newest: at most so many rows; None: all there are.
        model_ids: of these models only.
    """
    since = None
    last = db.scores.newest_served(model_ids=model_ids)
    if days is not None and last is not None:
        since = text_from_us(us_from_text(last) - days * DAY_US + 1)
    history = db.scores.served_history(since, model_ids=model_ids, newest=newest)
    models, window = np.unique(history.model_id, return_inverse=True)
    rates = db.models.base_rates(models.tolist())
    base = np.array([rates.get(model_id, math.nan) for model_id in models.tolist()], dtype=np.float64)[window]
    known = ~np.isnan(base)
    entered, closed = history.timestamp_us[known], history.label_us[known]
    return PredictionRecord(
        "served",
        history.signal_id[known],
        entered,
        closed,
        history.quality_score[known],
        history.r[known],
        base[known],
        window[known].astype(np.int64),
        block_us(measured_hold_us(entered, closed, train_days=train_window_days)),
    )


def record_figures(record: PredictionRecord) -> dict[str, float]:
    """The figures of a record as a ledger keeps them; what cannot be computed is left out."""
    return evidence_figures(record.evidence) | _figures_of_r(record)


def _figures_of_r(record: PredictionRecord) -> dict[str, float]:
    lift = record.lift()
    low, high = lift.interval()
    mean_r = float(record.r.mean()) if len(record) else math.nan
    return finite({"mean_r": mean_r, "lift": lift.value, "lift_low": low, "lift_high": high})


def served_figures(record: PredictionRecord) -> ServedFigures:
    """The figures that every place shows of what was served."""
    found = served_evidence_figures(record.evidence) | _figures_of_r(record)

    def figure(name: str) -> float:
        return found.get(name, math.nan)

    return ServedFigures(
        rows=len(record),
        log_loss=figure("log_loss"),
        base_rate_log_loss=figure("base_rate_log_loss"),
        excess=-figure("log_loss_gain"),
        excess_t=-figure("log_loss_gain_t"),
        auc=figure("auc"),
        calibration_error=figure("calibration_error"),
        calibration_error_by_chance=figure("calibration_error_by_chance"),
        mean_r=figure("mean_r"),
        lift=figure("lift"),
        lift_low=found.get("lift_low", -math.inf),
        lift_high=found.get("lift_high", math.inf),
        worse=worse_than_base_rate(record.evidence)[0],
    )


def worse_than_base_rate(served: Evidence) -> tuple[bool, str]:
    """Is served log loss above that of the base rate beyond doubt? With the words that say so or why not."""
    if len(served.won) < MIN_ROWS:
        return False, f"{len(served.won)} served rows are too few to demote on"
    excess = metrics.clustered_mean(-served.gain, served.cluster)
    words = f"served log loss {excess.value:+.4f} above the base rate's on {len(served.won)} rows (t {excess.t():.2f})"
    return excess.above(0.0, WORSE_LEVEL), words


def out_of_distribution_share(db: FeatureDatabase) -> float | None:
    """Share of the newest 500 scores that were of signals unlike the training rows; None when no model scored any."""
    said = [orjson.loads(payload).get("out_of_distribution") for payload in db.scores.newest_payloads(_NEWEST_PAYLOADS)]
    known = [bool(value) for value in said if value is not None]
    return sum(known) / len(known) if known else None
