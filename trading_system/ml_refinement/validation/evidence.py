"""Probabilities that were made before their outcomes, and the figures that they are judged by everywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from trading_system.ml_refinement.storage.times import DAY_US
from trading_system.ml_refinement.typing import BoolArray, FloatArray, IntArray, TimeArray
from trading_system.ml_refinement.validation import metrics
from trading_system.ml_refinement.validation.walk_forward import time_blocks

MIN_BLOCKS = 6
MIN_ROWS = 100
MIN_PER_CLASS = 30
MIN_BLOCK_DAYS = 10

#: From a Monday to the epoch, which was a Thursday.
_MONDAY_US = 3 * DAY_US


@dataclass(frozen=True, slots=True)
class Evidence:
    """Pooled out-of-sample predictions: outcomes, probabilities, the base rate known when each was made, and when.

    All arrays have shape (n,). `window` numbers the fit a prediction came from; wins are ranked against losses of the
    same window only. `block_us` is the length of a block of shared luck.
    """

    won: BoolArray
    p: FloatArray
    base: FloatArray
    entered_us: TimeArray
    window: IntArray
    block_us: int

    @property
    def cluster(self) -> IntArray:
        """The block each row lies in, shape (n,)."""
        return time_blocks(self.entered_us, block_us=self.block_us)

    def auc(self) -> metrics.Estimate:
        """AUC within windows, with its error over blocks."""
        return metrics.clustered_auc(self.won, self.p, self.cluster, self.window)

    @property
    def week(self) -> IntArray:
        """The week of entry and the window each row lies in, as one label, shape (n,). Weeks begin on Mondays."""
        week = time_blocks(self.entered_us + _MONDAY_US, block_us=7 * DAY_US)
        _, label = np.unique(np.column_stack([self.window, week]), axis=0, return_inverse=True)
        return np.asarray(label.ravel(), dtype=np.int64)

    def auc_within_weeks(self) -> metrics.Estimate:
        """AUC of wins against losses of the same week of entry: what all trades of a week share is taken out."""
        return metrics.clustered_auc(self.won, self.p, self.cluster, self.week)

    def gain_within_weeks(self) -> float:
        """What `metrics.conditional_gain` says of the weeks: above 0, the probabilities tell a week's trades apart."""
        return metrics.conditional_gain(self.won, logit(self.p), self.week)

    @property
    def gain(self) -> FloatArray:
        """Log loss of the base rate minus that of `p`, shape (n,): above 0 is better than the base rate."""
        return metrics.log_losses(self.won, self.base) - metrics.log_losses(self.won, self.p)

    def rows(self, chosen: BoolArray) -> Evidence:
        """The same evidence on the rows chosen by a mask of shape (n,)."""
        return Evidence(
            self.won[chosen],
            self.p[chosen],
            self.base[chosen],
            self.entered_us[chosen],
            self.window[chosen],
            self.block_us,
        )

    def newest(self, days: float) -> Evidence:
        """The same evidence on the signals of the newest `days`."""
        return self.rows(self.entered_us > self.entered_us.max(initial=0) - days * DAY_US)

    def shortfall(self, *, min_blocks: int = MIN_BLOCKS) -> str:
        """What is missing to judge by, in words; empty where nothing is."""
        smaller = min(int(self.won.sum()), int((~self.won).sum()))
        have = ((len(np.unique(self.cluster)), min_blocks, "blocks"), (len(self.won), MIN_ROWS, "rows"))
        missing = [f"{seen} of {wanted} {what}" for seen, wanted, what in have if seen < wanted]
        missing += [f"{smaller} of {MIN_PER_CLASS} rows of the rarer outcome"] * (smaller < MIN_PER_CLASS)
        return ", ".join(missing)


@dataclass(frozen=True, slots=True)
class PredictionRecord:
    """Probabilities with all that became of them, in order of time; every array has shape (n,).

    `entered_us` is when each signal was known and `known_us` when its outcome was; `base`, `window` and `block_us` are
    those of `Evidence`.
    """

    name: str
    signal_ids: NDArray[np.str_]
    entered_us: TimeArray
    known_us: TimeArray
    p: FloatArray
    r: FloatArray
    base: FloatArray
    window: IntArray
    block_us: int

    @property
    def won(self) -> BoolArray:
        """R above 0, shape (n,)."""
        return self.r > 0

    @property
    def evidence(self) -> Evidence:
        """The same, as the gate takes it."""
        return Evidence(self.won, self.p, self.base, self.entered_us, self.window, self.block_us)

    def lift(self) -> metrics.Estimate:
        """Mean R of the fifth scored highest less that of the fifth scored lowest, with its error over blocks."""
        return metrics.clustered_lift(self.r, self.p, self.evidence.cluster)

    def part(self, start: int, stop: int) -> PredictionRecord:
        """Rows `start` to `stop`."""
        rows = slice(start, stop)
        return PredictionRecord(
            self.name,
            self.signal_ids[rows],
            self.entered_us[rows],
            self.known_us[rows],
            self.p[rows],
            self.r[rows],
            self.base[rows],
            self.window[rows],
            self.block_us,
        )

    def __len__(self) -> int:
        return len(self.p)


def block_us(max_hold_us: int) -> int:
    """The length of a block: the longest holding, and at least ten days."""
    return max(MIN_BLOCK_DAYS * DAY_US, max_hold_us)


def evidence_figures(evidence: Evidence) -> dict[str, float]:
    """The figures of pooled out-of-sample predictions; what cannot be computed is left out."""
    return served_evidence_figures(evidence) | finite(_figures_within_weeks(evidence))


def served_evidence_figures(evidence: Evidence) -> dict[str, float]:
    """Those of `evidence_figures` that compare no rows within weeks: what compares them takes a week's rows squared."""
    won, p = evidence.won, evidence.p
    if not len(won):
        return {"rows": 0.0, "blocks": 0.0}
    auc = evidence.auc()
    gain = metrics.clustered_mean(evidence.gain, evidence.cluster)
    error, chance = metrics.calibration_error(won, p)
    low, high = auc.interval()
    return finite(
        {
            "rows": len(won),
            "blocks": len(np.unique(evidence.cluster)),
            "win_rate": float(won.mean()),
            "auc": auc.value,
            "auc_low": low,
            "auc_high": high,
            "auc_t": auc.t(0.5),
            "log_loss": float(metrics.log_losses(won, p).mean()),
            "base_rate_log_loss": float(metrics.log_losses(won, evidence.base).mean()),
            "log_loss_gain": gain.value,
            "log_loss_gain_t": gain.t(),
            "brier": metrics.brier(won, p),
            "calibration_error": error,
            "calibration_error_by_chance": chance,
        }
    )


def _figures_within_weeks(evidence: Evidence) -> dict[str, float]:
    if not len(evidence.won):
        return {}
    within = evidence.auc_within_weeks()
    return {
        "auc_within_weeks": within.value,
        "auc_within_weeks_t": within.t(0.5),
        "gain_within_weeks": evidence.gain_within_weeks(),
    }


def finite(figures: Mapping[str, float]) -> dict[str, float]:
    """Those of the figures that are numbers."""
    return {name: float(value) for name, value in figures.items() if math.isfinite(value)}
