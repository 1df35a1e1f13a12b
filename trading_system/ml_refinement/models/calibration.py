"""Probabilities that are right about themselves: a sigmoid that can shrink a model's opinion and never invert it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit, xlog1py, xlogy

from trading_system.ml_refinement.typing import BoolArray, FloatArray

MIN_ROWS = 100
MIN_PER_CLASS = 30

_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class Calibration:
    """`sigmoid(intercept + slope * logit)`, slope in [0, 1]. A slope of 0 serves the base rate.

    Platt's sigmoid (Platt 1999), constrained: what out-of-fold predictions do not confirm is shrunk away.
    """

    intercept: float
    slope: float
    #: Out-of-fold rows it was fitted on; 0 where there were too few.
    rows: int

    def __call__(self, probability: FloatArray) -> FloatArray:
        """Calibrated probabilities of raw ones, same shape."""
        return np.asarray(expit(self.intercept + self.slope * to_logit(probability)), dtype=np.float64)


def to_logit(probability: FloatArray) -> FloatArray:
    """Log-odds of probabilities, same shape; finite for 0 and 1 too."""
    return np.asarray(logit(np.clip(probability, _EPSILON, 1.0 - _EPSILON)), dtype=np.float64)


def base_rate_only(wins: int, rows: int) -> Calibration:
    """What is served when there is too little to calibrate on: the win rate, with one win and one loss added."""
    return Calibration(intercept=float(logit((wins + 1.0) / (rows + 2.0))), slope=0.0, rows=0)


def fit_calibration(out_of_fold: FloatArray, won: BoolArray, *, all_won: BoolArray) -> Calibration:
    """Fit by maximum likelihood on out-of-fold raw probabilities.

    Args:
        out_of_fold: raw probabilities, shape (n,), each from a fit that knew nothing of its row.
        won: the outcomes of the same rows, shape (n,).
        all_won: the outcomes of all training rows, shape (n_train,), for the base rate when `n` < 100 or either class
            has < 30 rows.
    """
    smaller_class = min(int(won.sum()), int((~won).sum()))
    if len(won) < MIN_ROWS or smaller_class < MIN_PER_CLASS:
        return base_rate_only(int(all_won.sum()), len(all_won))
    logits = to_logit(out_of_fold)
    target = won.astype(np.float64)

    def loss(parameters: FloatArray) -> tuple[float, FloatArray]:
        p = np.clip(expit(parameters[0] + parameters[1] * logits), 1e-12, 1.0 - 1e-12)
        gradient = np.array([np.mean(p - target), np.mean((p - target) * logits)])
        return float(-np.mean(xlogy(target, p) + xlog1py(1.0 - target, -p))), gradient

    start = np.array([float(logit(target.mean())), 0.0])
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=[(None, None), (0.0, 1.0)], options={"gtol": 1e-9}
    )
    return Calibration(intercept=float(found.x[0]), slope=float(found.x[1]), rows=len(won))
