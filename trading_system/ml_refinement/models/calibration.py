"""Probabilities that are right about themselves: held-out rows decide how much of each member's opinion is served."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit

from trading_system.ml_refinement import robust
from trading_system.ml_refinement.models.errors import ModelFileRefused
from trading_system.ml_refinement.storage.times import DAY_US
from trading_system.ml_refinement.typing import BoolArray, FloatArray, IntArray, TimeArray

MIN_ROWS = 100
MIN_PER_CLASS = 30

#: How likely it is, before any held-out row is seen, that the members know nothing.
NOTHING = 0.5

_EPSILON = 1e-6
_WEEK_US = 7 * DAY_US
_ROWS_A_PERIOD = 20
#: Steps from 0 to 1 in which weights are looked at, by the number of members.
_STEPS = {1: 100, 2: 25, 3: 12}
_ROUNDS = 8
_LARGEST_LOG_ODDS = 15.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """`sigmoid(intercept + weights . scores)`: weights (members,) are at least 0 and sum to at most 1.

    Scores are log-odds beyond the base rate's. What held-out rows do not confirm is shrunk away; nothing is inverted.
    """

    intercept: float
    weights: FloatArray
    #: Held-out rows it was fitted on; 0 where there were too few, and the base rate is served.
    rows: int

    @property
    def slope(self) -> float:
        """How much of the members' opinion is served, 0 to 1."""
        return float(self.weights.sum())

    def __call__(self, scores: FloatArray) -> FloatArray:
        """Calibrated probabilities of scores (n, members), shape (n,)."""
        # Not `@`: row by row the same sum, however many rows there are.
        return np.asarray(expit(self.intercept + np.einsum("nm,m->n", scores, self.weights)), dtype=np.float64)

    def state(self) -> dict[str, Any]:
        """Plain values only; the inverse of `from_state`."""
        return {"intercept": self.intercept, "weights": self.weights, "rows": self.rows}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, members: int) -> Calibration:
        """Rebuild, checking shape and range.

        Raises:
            ModelFileRefused: malformed.
        """
        weights = state["weights"]
        allowed = weights.shape == (members,) and (weights >= 0).all() and weights.sum() <= 1.0 + _EPSILON
        if not allowed or not np.isfinite(state["intercept"]):
            raise ModelFileRefused("the calibration is malformed")
        return cls(float(state["intercept"]), weights, int(state["rows"]))


def to_logit(probability: FloatArray) -> FloatArray:
    """Log-odds of probabilities, same shape; finite for 0 and 1 too."""
    return np.asarray(logit(np.clip(probability, _EPSILON, 1.0 - _EPSILON)), dtype=np.float64)


def base_rate_only(wins: int, rows: int, *, members: int) -> Calibration:
    """What is served when there is too little to calibrate on: the win rate, with one win and one loss added."""
    return Calibration(intercept=float(logit((wins + 1.0) / (rows + 2.0))), weights=np.zeros(members), rows=0)


def periods(entered_us: TimeArray) -> IntArray:
    """The week of entry of rows (n,), or as many weeks as hold twenty of them on average, shape (n,)."""
    if not len(entered_us):
        return np.zeros(0, dtype=np.int64)
    weeks = robust.span(entered_us) / _WEEK_US + 1.0
    length = max(1, int(np.ceil(_ROWS_A_PERIOD * weeks / len(entered_us))))
    return np.asarray(entered_us // (length * _WEEK_US), dtype=np.int64)


def fit_calibration(scores: FloatArray, won: BoolArray, period: IntArray, *, all_won: BoolArray) -> Calibration:
    """Weights from held-out scores: their mean over everything that is possible, by how well it explains the outcomes.

    Within periods only: each has an intercept of its own, so that neither a week's luck nor a fold's base rate is
    taken for an opinion. Before anything is seen, it is as likely as not that the members know nothing, and where they
    know something all weights that are allowed are equally likely. Few rows leave the members about equal, noise
    leaves little of them, and 0 is never reached. The intercept then serves the training rows' win rate.

    Args:
        scores: log-odds beyond the base rate's, shape (n, members), each from a fit that knew nothing of its row.
        won: the outcomes of the same rows, shape (n,).
        period: which rows share an intercept, shape (n,).
        all_won: the outcomes of all training rows, shape (n_train,); their rate is served where `n` < 100 or either
            class has < 30 rows.
    """
    smaller_class = min(int(won.sum()), int((~won).sum()))
    wins, rows, members = int(all_won.sum()), len(all_won), scores.shape[1]
    if len(won) < MIN_ROWS or smaller_class < MIN_PER_CLASS:
        return base_rate_only(wins, rows, members=members)
    weights = _expected_weights(scores, won.astype(np.float64), np.unique(period, return_inverse=True)[1])
    opinion, target = scores @ weights, (wins + 1.0) / (rows + 2.0)
    reach = _LARGEST_LOG_ODDS + float(np.abs(opinion).max())
    intercept = brentq(lambda shift: float(expit(shift + opinion).mean()) - target, -reach, reach)
    return Calibration(float(intercept), weights, len(won))


def _expected_weights(scores: FloatArray, won: FloatArray, period: IntArray) -> FloatArray:
    """Posterior mean over a grid, the likelihood expanded to second order about the mean until that stays."""
    grid = _possible(scores.shape[1])
    prior = np.full(len(grid), (1.0 - NOTHING) / (len(grid) - 1))
    prior[0] = NOTHING
    weights, intercept = prior @ grid, np.full(period.max() + 1, float(logit(won.mean())))
    for _ in range(_ROUNDS):
        for _ in range(2):
            p, spread = _fitted(scores @ weights, intercept, period)
            step = np.bincount(period, won - p) / (np.bincount(period, spread) + _EPSILON)
            intercept = np.clip(intercept + np.clip(step, -1.0, 1.0), -_LARGEST_LOG_ODDS, _LARGEST_LOG_ODDS)
        p, spread = _fitted(scores @ weights, intercept, period)
        total = np.bincount(period, spread)
        mean = np.column_stack([np.bincount(period, spread * column) for column in scores.T]) / total[:, None]
        centred = scores - mean[period]
        slope, curvature = centred.T @ (won - p), (centred * spread[:, None]).T @ centred
        away = grid - weights
        likelihood = away @ slope - 0.5 * np.einsum("gi,ij,gj->g", away, curvature, away)
        posterior = prior * np.exp(likelihood - likelihood.max())
        before, weights = weights, posterior @ grid / posterior.sum()
        if np.abs(weights - before).max() < 1e-4:
            break
    return np.asarray(weights, dtype=np.float64)


def _fitted(opinion: FloatArray, intercept: FloatArray, period: IntArray) -> tuple[FloatArray, FloatArray]:
    p = np.asarray(expit(opinion + intercept[period]), dtype=np.float64)
    return p, np.maximum(p * (1.0 - p), 1e-9)


@cache
def _possible(members: int) -> FloatArray:
    """All weights of so many members that are looked at, none at all first, shape (grid, members)."""
    steps = _STEPS[members]
    every = itertools.product(range(steps + 1), repeat=members)
    return np.array([weights for weights in every if sum(weights) <= steps]) / steps
