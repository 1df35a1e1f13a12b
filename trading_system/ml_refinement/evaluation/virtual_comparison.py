"""Are virtual outcomes what trades report? Both, on the signals that have both."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trading_system.ml_refinement.evaluation.equity import Interval
from trading_system.ml_refinement.evaluation.figures import interval_of
from trading_system.ml_refinement.labelling.rules import LabellingRule
from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.validation import metrics
from trading_system.ml_refinement.validation.evidence import block_us
from trading_system.ml_refinement.validation.walk_forward import measured_hold_us, time_blocks

#: With fewer signals that have both nothing is said of how they agree.
MIN_BOTH = 30


@dataclass(frozen=True, slots=True)
class VirtualComparison:
    """Virtual against reported outcomes of the same signals, 95 % intervals over blocks of shared luck; NaN: unknown.

    `difference` is the mean of virtual less reported R, `win_difference` that of the win rates; `agreement` is the
    share of signals where both won or both lost, `rank_correlation` that of the two R.
    """

    rows: int
    reported_mean_r: float
    virtual_mean_r: float
    difference: Interval
    win_difference: Interval
    agreement: Interval
    rank_correlation: float

    @property
    def disagree(self) -> bool:
        """Whether the difference of mean R, or of win rates, is more than chance."""
        return any(not one.low <= 0.0 <= one.high for one in (self.difference, self.win_difference) if _known(one))

    @property
    def words(self) -> str:
        """What the comparison says, in one sentence."""
        if self.rows < MIN_BOTH:
            return f"{self.rows} signals have a reported and a virtual outcome: too few to compare them ({MIN_BOTH})"
        said = (
            f"on {self.rows:,} signals that have both, virtual less reported R is {_told(self.difference, '+.3f')}, "
            f"of the win rate {_told(self.win_difference, '+.3f')}; they agree on win or loss in "
            f"{_told(self.agreement, '.0%')}"
        )
        if not self.disagree:
            return said
        return f"{said}. They do not say the same: costs, fills or exits of real trades are not those of the walk"


def compare_virtual(db: FeatureDatabase, rule: LabellingRule, *, train_window_days: int) -> VirtualComparison:
    """The comparison over the trades that closed last.

    Args:
        db: the store.
        rule: outcomes of another rule are left out.
        train_window_days: of the configuration; a quarter of it is the longest holding that counts.
    """
    both = rule.both(db)
    virtual, reported = both.virtual_r, both.reported_r
    if len(virtual) < MIN_BOTH:
        unknown = Interval(math.nan, math.nan, math.nan)
        return VirtualComparison(len(virtual), math.nan, math.nan, unknown, unknown, unknown, math.nan)
    ended = np.maximum(both.closed_us, both.known_us)
    hold = measured_hold_us(both.timestamp_us, ended, train_days=train_window_days)
    cluster = time_blocks(both.timestamp_us, block_us=block_us(hold))
    won, real = virtual > 0, reported > 0

    def mean(values: np.ndarray) -> Interval:
        return interval_of(metrics.clustered_mean(np.asarray(values, dtype=np.float64), cluster))

    return VirtualComparison(
        rows=len(virtual),
        reported_mean_r=float(reported.mean()),
        virtual_mean_r=float(virtual.mean()),
        difference=mean(virtual - reported),
        win_difference=mean(won.astype(float) - real.astype(float)),
        agreement=mean(won == real),
        rank_correlation=metrics.information_coefficient(reported, virtual),
    )


def _known(found: Interval) -> bool:
    return math.isfinite(found.low) and math.isfinite(found.high)


def _told(found: Interval, form: str) -> str:
    if not _known(found):
        return f"{found.value:{form}}"
    return f"{found.value:{form}} [{found.low:{form}}, {found.high:{form}}]"
