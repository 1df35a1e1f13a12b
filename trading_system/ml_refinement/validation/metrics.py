"""Figures of predictions, as pure functions of arrays. Where scikit-learn or scipy has it, theirs is called.

Throughout: `won` bool (n,), `p` probabilities in (0, 1) (n,), `r` R-multiples (n,), `score` anything that ranks (n,),
`cluster` labels (n,) of rows that share their luck. What cannot be computed (one class, no rows) is NaN, never 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.special import gammaln, xlog1py, xlogy
from sklearn.metrics import roc_auc_score

from trading_system.ml_refinement.typing import BoolArray, FloatArray, IntArray

_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with a standard error that allows for clusters, and its degrees of freedom (clusters - 1)."""

    value: float
    error: float
    freedom: int

    def t(self, against: float = 0.0) -> float:
        """Student's t of `value - against`; 0 where there is no spread to judge by but that of rounding."""
        return (self.value - against) / self.error if self.error > _TINY else 0.0

    def above(self, against: float, level: float) -> bool:
        """Is it above `against` at one-sided `level`? Never, with fewer than two clusters."""
        return self.freedom > 0 and self.t(against) > float(stats.t.isf(level, self.freedom))

    def below(self, against: float, level: float) -> bool:
        """Is it below `against` at one-sided `level`?"""
        return self.freedom > 0 and self.t(against) < -float(stats.t.isf(level, self.freedom))

    def interval(self, coverage: float = 0.95) -> tuple[float, float]:
        """Two-sided interval; unbounded with fewer than two clusters."""
        if self.freedom < 1:
            return (-math.inf, math.inf)
        half = float(stats.t.isf((1.0 - coverage) / 2.0, self.freedom)) * self.error
        return (self.value - half, self.value + half)


def clustered_mean(values: FloatArray, cluster: IntArray) -> Estimate:
    """Mean with a cluster-robust standard error: from sums of deviations per cluster (Liang and Zeger 1986).

    Args:
        values: shape (n,).
        cluster: labels of rows that share their luck, shape (n,).
    """
    if not len(values):
        return Estimate(math.nan, math.nan, 0)
    mean = float(values.mean())
    return Estimate(mean, *_robust_error((values - mean) / len(values), cluster))


def clustered_auc(won: BoolArray, score: FloatArray, cluster: IntArray, window: IntArray | None = None) -> Estimate:
    """AUC with a cluster-robust standard error, from placement values (DeLong 1988, clustered as Obuchowski 1997).

    With `window` labels (n,), a win is compared only with losses of its own window, and windows are averaged with
    weights wins * losses / (rows + 1) (van Elteren). Pooled predictions of a walk-forward need it: a later window's
    base rate contains the earlier windows' outcomes, which pulls the AUC of noise below 0.5.
    """
    _, stratum = np.unique(np.zeros(len(won)) if window is None else window, return_inverse=True)
    rows = np.bincount(stratum).astype(np.float64)
    wins = np.bincount(stratum, weights=won).astype(np.float64)
    losses = rows - wins
    both = np.minimum(wins, losses) > 0
    weight = np.where(both, wins * losses / (rows + 1.0), 0.0)
    if not weight.sum():
        return Estimate(math.nan, math.nan, 0)
    beaten = _placements(won, score, stratum, wins, losses)
    auc_of = np.bincount(stratum, weights=beaten * won) / np.where(both, wins, 1.0)
    value = float(np.average(auc_of, weights=weight))
    own = np.where(won, wins[stratum], losses[stratum])
    within = weight[stratum] * (beaten - auc_of[stratum]) / np.where(both[stratum], own, 1.0)
    influence = (within + (weight / rows * (auc_of - value))[stratum]) / weight.sum()
    return Estimate(value, *_robust_error(influence, cluster))


def _placements(
    won: BoolArray, score: FloatArray, stratum: IntArray, wins: FloatArray, losses: FloatArray
) -> FloatArray:
    """For a win the share of its stratum's losses it outranks, for a loss the share of wins that outrank it, (n,).

    Ties count half. `wins` and `losses` are counts of each stratum; where one is 0 there is nothing to outrank.
    """
    order = np.lexsort((score, stratum))
    first = np.r_[True, (np.diff(score[order]) != 0) | (np.diff(stratum[order]) != 0)]
    tie = np.empty(len(score), dtype=np.int64)
    tie[order] = np.cumsum(first) - 1
    of_other = []
    for mine, other, total in ((won, ~won, losses), (~won, won, wins)):
        tied = np.bincount(tie, weights=other)
        ahead = np.r_[0.0, np.cumsum(total)][stratum[mine]]  # of the strata before this one
        outranked = (np.cumsum(tied) - tied)[tie[mine]] - ahead + tied[tie[mine]] / 2.0
        of_other.append(outranked / np.maximum(total[stratum[mine]], 1.0))
    shares = np.empty(len(score))
    shares[won], shares[~won] = of_other[0], 1.0 - of_other[1]
    return shares


def _robust_error(influence: FloatArray, cluster: IntArray) -> tuple[float, int]:
    _, member = np.unique(cluster, return_inverse=True)
    sums = np.bincount(member, weights=influence)
    count = len(sums)
    if count < 2:
        return math.nan, 0
    return math.sqrt(float((sums**2).sum()) * count / (count - 1)), count - 1


def log_losses(won: BoolArray, p: FloatArray) -> FloatArray:
    """Log loss of each row, shape (n,), in nats."""
    clipped = np.clip(p, _TINY, 1.0 - _TINY)
    return np.asarray(-(xlogy(won, clipped) + xlog1py(1.0 - won, -clipped)), dtype=np.float64)


def conditional_gain(won: BoolArray, logit: FloatArray, stratum: IntArray) -> float:
    """Log likelihood of who won, given how many of each stratum did, above that of all being alike; nats a row.

    The conditional likelihood (Cox 1972): what is the same for a whole stratum, a week's luck among it, cancels, and no
    intercept is fitted. Above 0, the scores tell the rows of a stratum apart, and are not too sure of it.

    Args:
        won: shape (n,).
        logit: log odds of a win, shape (n,); adding a constant to a stratum's changes nothing.
        stratum: labels (n,); strata of wins or of losses alone say nothing.
    """
    total = 0.0
    for rows in _groups(stratum):
        count, wins = len(rows), int(won[rows].sum())
        if 0 < wins < count:
            centred = logit[rows] - logit[rows].mean()
            chance = gammaln(count + 1) - gammaln(wins + 1) - gammaln(count - wins + 1)
            total += float(centred[won[rows]].sum()) - _log_elementary(centred, wins) + float(chance)
    return total / len(won) if len(won) else math.nan


def _log_elementary(logit: FloatArray, degree: int) -> float:
    """Log of the elementary symmetric polynomial of exp(logit): the sum over all sets of `degree` rows."""
    sums = np.full(degree + 1, -np.inf)
    sums[0] = 0.0
    for value in logit:
        sums[1:] = np.logaddexp(sums[1:], sums[:-1] + value)
    return float(sums[degree])


def _groups(label: IntArray) -> list[IntArray]:
    """The rows of each label, shape (n_of_it,) each."""
    _, member, sizes = np.unique(label, return_inverse=True, return_counts=True)
    return np.split(np.argsort(member, kind="stable"), np.cumsum(sizes)[:-1]) if len(label) else []


def auc(won: BoolArray, score: FloatArray) -> float:
    """Area under the ROC curve of outcomes and scores, both of shape (n,); NaN with one class."""
    return float(roc_auc_score(won, score)) if 0 < won.sum() < len(won) else math.nan


def brier(won: BoolArray, p: FloatArray) -> float:
    """Mean squared error of the probabilities (Brier 1950), both of shape (n,); NaN without rows."""
    return float(np.square(p - won).mean()) if len(won) else math.nan


def calibration_error(won: BoolArray, p: FloatArray, *, bins: int = 10) -> tuple[float, float]:
    """Expected calibration error over equal-mass bins, and what a perfectly calibrated `p` would show by chance.

    Both arrays have shape (n,); without rows both figures are NaN.

    The second is the mean absolute deviation of a bin's win rate from its mean probability, normal approximation.
    """
    if not len(won):
        return math.nan, math.nan
    gap = chance = 0.0
    for rows in np.array_split(np.argsort(p, kind="stable"), min(bins, len(won))):
        gap += abs(float(p[rows].mean() - won[rows].mean())) * len(rows)
        spread = math.sqrt(float((p[rows] * (1.0 - p[rows])).sum()))
        chance += math.sqrt(2.0 / math.pi) * spread
    return gap / len(won), chance / len(won)


def reliability(won: BoolArray, p: FloatArray, *, bins: int = 10) -> FloatArray:
    """Equal-mass bins, shape (bins, 3): mean probability, win rate, rows."""
    parts = np.array_split(np.argsort(p, kind="stable"), max(1, min(bins, len(won))))
    return np.array([[p[rows].mean(), won[rows].mean(), len(rows)] for rows in parts if len(rows)]).reshape(-1, 3)


def top_mean(values: FloatArray, score: FloatArray, *, share: float) -> float:
    """Mean of `values` over the `share` of rows scored highest, both of shape (n,); NaN where the share is of nothing.

    Rows tied at the edge count in part.
    With `won` it is precision at the top; with `r`, mean R.
    """
    return float(values @ _top_weights(score, share)) if share * len(score) > 0 else math.nan


def clustered_lift(r: FloatArray, score: FloatArray, cluster: IntArray, *, share: float = 0.2) -> Estimate:
    """Mean R of the `share` scored highest less that of the `share` scored lowest; NaN where that is less than a row.

    All three arrays have shape (n,). The cluster-robust error takes both ends as they are, as if the next scores would
    be drawn alike.
    """
    if share * len(score) < 1.0:
        return Estimate(math.nan, math.nan, 0)
    top, bottom = _top_weights(score, share), _top_weights(-score, share)
    high, low = float(r @ top), float(r @ bottom)
    return Estimate(high - low, *_robust_error(top * (r - high) - bottom * (r - low), cluster))


def _top_weights(score: FloatArray, share: float) -> FloatArray:
    """Weights that sum to 1: equal over the `share` scored highest, a part of it for rows tied at the edge."""
    wanted = share * len(score)
    order = np.argsort(-score, kind="stable")
    edge = score[order[math.ceil(wanted - 1e-9) - 1]]
    above, tied = score > edge, score == edge
    return np.asarray((above + tied * ((wanted - above.sum()) / tied.sum())) / wanted, dtype=np.float64)


def by_decile(values: FloatArray, score: FloatArray, *, bins: int = 10) -> FloatArray:
    """Mean of `values` in each tenth of the rows by score, lowest first, shape (bins,); fewer rows than bins: NaN."""
    if len(score) < bins:
        return np.full(bins, math.nan)
    return np.array([values[rows].mean() for rows in np.array_split(np.argsort(score, kind="stable"), bins)])


def information_coefficient(r: FloatArray, score: FloatArray) -> float:
    """Spearman's rank correlation of score and R, both of shape (n,); NaN below 3 rows, or where one does not vary."""
    if len(r) < 3 or np.ptp(r) == 0 or np.ptp(score) == 0:
        return math.nan
    return float(stats.spearmanr(score, r).statistic)
