"""The figures of a record, each with its interval, and how each window of a walk-forward went."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trading_system.ml_refinement.evaluation.equity import Interval, block_bootstrap
from trading_system.ml_refinement.training.dataset import Dataset
from trading_system.ml_refinement.typing import IndexArray
from trading_system.ml_refinement.validation import metrics
from trading_system.ml_refinement.validation.evidence import PredictionRecord
from trading_system.ml_refinement.validation.walk_forward import Fold


@dataclass(frozen=True, slots=True)
class FigureLine:
    """One figure: its interval, and what it would be without any skill."""

    name: str
    meaning: str
    found: Interval
    without_skill: float


@dataclass(frozen=True, slots=True)
class WindowFigures:
    """One step of the walk-forward, and how it went."""

    train_from_us: int
    train_to_us: int
    start_us: int
    end_us: int
    train_rows: int
    test_rows: int
    #: Log loss below the base rate's; above 0 is better.
    gain: float
    mean_r: float


def figures(record: PredictionRecord) -> tuple[FigureLine, ...]:
    """The figures of a record, each with its 95 % interval over blocks of shared luck."""
    evidence = record.evidence
    won, p, r, cluster = record.won, record.p, record.r, evidence.cluster
    auc = evidence.auc()
    gain = metrics.clustered_mean(evidence.gain, cluster)
    brier = metrics.clustered_mean((won - record.base) ** 2 - (won - p) ** 2, cluster)
    error, chance = metrics.calibration_error(won, p)
    calibration = block_bootstrap(cluster, lambda rows: metrics.calibration_error(won[rows], p[rows])[0], resamples=300)

    def top(rows: IndexArray) -> float:
        return metrics.top_mean(r[rows], p[rows], share=0.2)

    def lift(rows: IndexArray) -> float:
        return top(rows) - metrics.top_mean(r[rows], -p[rows], share=0.2)

    def coefficient(rows: IndexArray) -> float:
        return metrics.information_coefficient(r[rows], p[rows])

    mean_r = float(r.mean()) if len(r) else math.nan
    calibrated = Interval(error, calibration.low, calibration.high)
    ranked = block_bootstrap(cluster, coefficient, resamples=300)
    told = (
        ("AUC", "wins ranked above losses of the same window", interval_of(auc), 0.5),
        ("log loss gained", "below that of always saying the base rate, nats a signal", interval_of(gain), 0.0),
        ("Brier score gained", "below that of the base rate", interval_of(brier), 0.0),
        ("calibration error", "mean gap of P(win) and win rate; beside it: by chance alone", calibrated, chance),
        ("rank correlation with R", "of P(win) and the result", ranked, 0.0),
        ("mean R of the top fifth", "by P(win); beside it: of all", block_bootstrap(cluster, top), mean_r),
        ("lift, R", "top fifth less bottom fifth", interval_of(record.lift()), 0.0),
    )
    return tuple(FigureLine(*each) for each in told)


def interval_of(estimate: metrics.Estimate) -> Interval:
    """An estimate with its 95 % interval."""
    return Interval(estimate.value, *estimate.interval())


def window_figures(record: PredictionRecord, data: Dataset, folds: Sequence[Fold]) -> tuple[WindowFigures, ...]:
    """How each window that was predicted went, oldest first."""
    gains = record.evidence.gain
    found = []
    for number, fold in enumerate(folds):
        rows = record.window == number
        if not rows.any():
            continue
        entered = data.entered_us[fold.train]
        span = int(entered.min()), int(entered.max())
        sizes = len(fold.train), int(rows.sum())
        found.append(
            WindowFigures(
                *span, fold.start_us, fold.end_us, *sizes, float(gains[rows].mean()), float(record.r[rows].mean())
            )
        )
    return tuple(found)
