"""What a life on a desk was worth: pure functions of a world, whose truth is known, and of what it was told."""

from __future__ import annotations

import itertools
import math

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, xlog1py, xlogy

from benchmarks.lockstep import Life, Look
from trading_system.ml_refinement.models.calibration import to_logit
from trading_system.ml_refinement.validation import metrics
from trading_system.simulation.desks import DeskWorld, Edge
from trading_system.simulation.worlds import expected_auc

Figures = dict[str, float | list[float]]

WINDOW_DAYS = 21
YEAR_DAYS = 365
QUARTER_DAYS = 91
#: After its death an edge's proof has so long to end.
NOTICE_DAYS = 180

_CALIBRATION = ("error_quarter", "error", "slope_quarter", "slope", "slope_information")
#: That of a quarter of a desk's scores whose logits vary by two thousandths: no slope can be told from less.
_NO_INFORMATION = 1e-3


def of_a_life(world: DeskWorld, life: Life, edge: Edge) -> Figures:
    """All figures of a desk with an edge. What cannot be said, as when nothing was ever proven, is left out."""
    return {
        **of_ranking(world, life.quality),
        **of_proof(life.looks, edge.begins, edge.ends),
        **of_calibration(world, life.quality),
        "looks": float(len(life.looks)),
    }


def of_ranking(world: DeskWorld, quality: np.ndarray) -> Figures:
    """How what was served ranks while the edge lives: shares of attainable AUC, and R.

    `share`: AUC within windows of 21 days, in expectation over outcomes of the true chances; `auc` and `truth_auc`: on
    the outcomes there were. Signals scored at cold start are ranked by nothing. `uplift`: mean R of a week's upper half
    by score over the mean of all of that week's; `uplift_error`: its standard error over weeks.
    """
    rows = np.flatnonzero(world.alive)
    score, truth = np.nan_to_num(quality[rows], nan=0.5), world.truth[rows]
    window, won = world.day[rows] // WINDOW_DAYS, (world.r[rows] > 0).astype(np.float64)
    figures: Figures = {}
    for name, ranked in (("", score), ("truth_", truth)):
        figures[f"{name}auc"] = auc_within(won, ranked, window)
        uplift, error = upper_half(world.r[rows], ranked, world.day[rows] // 7)
        figures |= {f"{name}uplift": uplift, f"{name}uplift_error": error}
    attainable = auc_within(truth, truth, window) - 0.5
    figures["share"] = (auc_within(truth, score, window) - 0.5) / attainable
    figures["share_on_outcomes"] = (float(figures["auc"]) - 0.5) / (float(figures["truth_auc"]) - 0.5)
    return figures


def auc_within(chance: np.ndarray, score: np.ndarray, window: np.ndarray) -> float:
    """AUC within windows, all of shape (n,), weighted by wins x losses / (rows + 1); outcomes are chances of 0 or 1."""
    total = weights = 0.0
    for label in np.unique(window):
        mine = window == label
        wins, n = float(chance[mine].sum()), int(mine.sum())
        if 0.0 < wins < n and n > 1:
            weight = wins * (n - wins) / (n + 1.0)
            total, weights = total + weight * expected_auc(chance[mine], score[mine]), weights + weight
    return total / weights if weights else math.nan


def upper_half(r: np.ndarray, score: np.ndarray, week: np.ndarray) -> tuple[float, float]:
    """Mean R of the upper half by score over its week's mean, and its standard error over weeks; arrays (n,)."""
    gains, rows = [], []
    for label in np.unique(week):
        mine = week == label
        if mine.sum() > 1:
            gains.append(metrics.top_mean(r[mine], score[mine], share=0.5) - float(r[mine].mean()))
            rows.append(int(mine.sum()))
    if len(gains) < 2:
        return math.nan, math.nan
    gain, weight = np.array(gains), np.array(rows) / np.sum(rows)
    mean = float(gain @ weight)
    return mean, float(np.sqrt((weight**2 * (gain - mean) ** 2).sum() * len(gain) / (len(gain) - 1)))


def of_proof(looks: list[Look], begins: int, ends: int) -> Figures:
    """When something proven first served, how it was kept, and when it ended.

    `first_proof`: days from the edge's beginning (or from the first signal) to the first look after which something
    proven served; left out where that never was. `lost`: of looks while the edge lives that began proven, those that
    ended it. `notice`: days from the edge's death until nothing proven served, left out where it never ended, and
    `ended_in_time`: within `NOTICE_DAYS`; both are left out where nothing proven served at death. `proven_after`: looks
    after `NOTICE_DAYS` at which something proven served.
    """
    figures: Figures = {"proven_before": float(any(look.proven for look in looks if look.day < begins))}
    alive = [look for look in looks if begins <= look.day < ends]
    dead = [look for look in looks if look.day >= ends]
    proven = [look.day - begins for look in alive if look.proven]
    if proven:
        figures["first_proof"] = float(proven[0])
    figures["lost"] = [float(not now.proven) for was, now in itertools.pairwise(alive) if was.proven]
    if alive and alive[-1].proven:
        ended = [look.day - ends for look in dead if not look.proven]
        figures["ended_in_time"] = float(bool(ended) and ended[0] <= NOTICE_DAYS)
        if ended:
            figures["notice"] = float(ended[0])
    figures["proven_after"] = [float(look.proven) for look in dead if look.day >= ends + NOTICE_DAYS]
    return figures


def of_calibration(world: DeskWorld, quality: np.ndarray) -> Figures:
    """Calibration by quarters of a year: `error` against the true chances, and the slope of outcomes on the logit.

    A quarter without scores is left out of both, one whose scores do not vary of the slopes; each value has its
    quarter beside it. A slope of 1 is right, below 1 is too sure, 0 is worth nothing. `slope_information` is what each
    slope weighs in a mean of them: the less the scores vary, the less.
    """
    quarter = world.day // QUARTER_DAYS
    figures: dict[str, list[float]] = {name: [] for name in _CALIBRATION}
    for label in np.unique(quarter):
        rows = np.flatnonzero((quarter == label) & ~np.isnan(quality))
        if not len(rows):
            continue
        figures["error_quarter"].append(float(label))
        figures["error"].append(metrics.calibration_error(world.truth[rows], quality[rows])[0])
        logit = to_logit(quality[rows])
        information = float((quality[rows] * (1.0 - quality[rows]) * (logit - logit.mean()) ** 2).sum())
        if information > _NO_INFORMATION:
            figures["slope_quarter"].append(float(label))
            figures["slope"].append(slope((world.r[rows] > 0).astype(np.float64), logit))
            figures["slope_information"].append(information)
    return dict(figures)


def slope(won: np.ndarray, logit: np.ndarray) -> float:
    """Slope of a logistic regression of outcomes on a logit, with an intercept; both of shape (n,)."""

    def loss(told: np.ndarray) -> float:
        p = np.clip(expit(told[0] + told[1] * (logit - logit.mean())), 1e-12, 1.0 - 1e-12)
        return float(-(xlogy(won, p) + xlog1py(1.0 - won, -p)).mean())

    return float(minimize(loss, np.zeros(2), method="BFGS").x[1])
