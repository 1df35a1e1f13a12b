"""What was served against what came of it, and whether learning is alive. Pure functions of arrays and counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trading_system.ml_refinement.training.promotion import (
    DEMOTION_DAYS,
    DEMOTION_LEVEL,
    MIN_ROWS,
    Evidence,
)
from trading_system.ml_refinement.typing import FloatArray, IntArray
from trading_system.ml_refinement.validation import metrics
from trading_system.ml_refinement.validation.walk_forward import DAY_US


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the same signals, all of which have an outcome. NaN where a figure cannot be computed.

    `margin` is the log loss of `first` minus that of `second`: above 0, the second was better.
    """

    first: str
    second: str
    rows: int
    log_loss: tuple[float, float]
    auc: tuple[float, float]
    lift: tuple[float, float]
    margin: float
    margin_low: float
    margin_high: float

    @property
    def words(self) -> str:
        """What can be said of it."""
        if not self.rows:
            return "no signal with an outcome was scored by both"
        if self.margin_low > 0:
            return f"better beyond chance: {self.second}"
        if self.margin_high < 0:
            return f"better beyond chance: {self.first}"
        return "no difference beyond chance"


def served_figures(served: Evidence) -> dict[str, float]:
    """Served log loss against the base rate's over the last 126 days, with what goes with it; empty without rows."""
    if not len(served.won):
        return {}
    recent = served.rows(served.entered_us > served.entered_us.max() - DEMOTION_DAYS * DAY_US)
    excess = metrics.clustered_mean(-recent.gain, recent.cluster)
    error, chance = metrics.calibration_error(recent.won, recent.p)
    figures = {
        "served_rows": float(len(recent.won)),
        "served_log_loss": float(metrics.log_losses(recent.won, recent.p).mean()),
        "served_base_rate_log_loss": float(metrics.log_losses(recent.won, recent.base).mean()),
        "served_excess": excess.value,
        "served_excess_t": excess.t() if excess.freedom else math.nan,
        "served_auc": metrics.auc(recent.won, recent.p),
        "served_calibration_error": error,
        "served_calibration_error_by_chance": chance,
        "served_worse": float(len(recent.won) >= MIN_ROWS and excess.above(0.0, DEMOTION_LEVEL)),
    }
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def compare(
    names: tuple[str, str],
    r: FloatArray,
    p: tuple[FloatArray, FloatArray],
    cluster: IntArray,
) -> Comparison:
    """Two models' logged probabilities for the same signals.

    Args:
        names: of the two.
        r: outcomes, shape (n,).
        p: the probabilities of each, shape (n,), logged before the outcomes.
        cluster: rows that share their luck, shape (n,).
    """
    won = r > 0
    if not len(r):
        nothing = (math.nan, math.nan)
        return Comparison(*names, 0, nothing, nothing, nothing, math.nan, -math.inf, math.inf)
    losses = tuple(metrics.log_losses(won, each) for each in p)
    margin = metrics.clustered_mean(losses[0] - losses[1], cluster)
    low, high = margin.interval()
    return Comparison(
        *names,
        len(r),
        (float(losses[0].mean()), float(losses[1].mean())),
        (metrics.auc(won, p[0]), metrics.auc(won, p[1])),
        (_lift(r, p[0]), _lift(r, p[1])),
        margin.value,
        low,
        high,
    )


def _lift(r: FloatArray, p: FloatArray) -> float:
    """Mean R of the fifth scored highest minus that of the fifth scored lowest."""
    return metrics.top_mean(r, p, share=0.2) - metrics.top_mean(r, -p, share=0.2)


#: So many outcomes in a row without one new label, and labels do not arrive.
OUTCOMES_WITHOUT_LABEL = 20
#: So many times the labels that make a training due, and none has succeeded.
TRAININGS_MISSED = 5
FAILED_IN_A_ROW = 3
#: Signals go on, and no trade has closed for so many times the longest holding, and never under this many days.
_QUIET_HOLDINGS = 3.0
_QUIET_DAYS = 21.0


@dataclass(frozen=True, slots=True)
class Pulse:
    """What tells whether learning is alive. Growth is since the look some time before; times are the events' own."""

    outcomes_grown: int
    labels_grown: int
    waiting_outcomes: int
    #: Labels since the last training that succeeded, and how many make one due.
    labels_unlearned: int
    labels_for_training: int
    failed_in_a_row: int
    #: Days from the newest label to the newest signal; None without either.
    quiet_days: float | None
    #: The longest time a trade was held, in days.
    longest_hold_days: float
    #: Days since a training succeeded by the clock, and how often one is due by age. None: there was none.
    days_since_training: float | None
    frequency_days: int


def lifeless(pulse: Pulse) -> list[tuple[str, str]]:
    """Why learning is not alive: (name, words) of each alarm; empty where it is."""
    found = []
    if pulse.outcomes_grown >= OUTCOMES_WITHOUT_LABEL and not pulse.labels_grown:
        why = (
            f"{pulse.outcomes_grown} trades closed and none became a label; {pulse.waiting_outcomes} wait for a signal"
        )
        found.append(("labels_do_not_arrive", why))
    quiet_limit = max(_QUIET_DAYS, _QUIET_HOLDINGS * pulse.longest_hold_days)
    if pulse.quiet_days is not None and pulse.quiet_days > quiet_limit:
        why = f"signals go on, and the newest label is {pulse.quiet_days:.0f} days older than the newest of them"
        found.append(("no_trade_closes", f"{why} (limit {quiet_limit:.0f})"))
    if pulse.failed_in_a_row >= FAILED_IN_A_ROW:
        found.append(("trainings_fail", f"the last {pulse.failed_in_a_row} trainings failed"))
    missed = pulse.labels_unlearned >= TRAININGS_MISSED * pulse.labels_for_training
    late = pulse.days_since_training is not None and pulse.days_since_training > 4.0 * pulse.frequency_days
    if missed or (late and pulse.labels_unlearned > 0):
        since = "ever" if pulse.days_since_training is None else f"for {pulse.days_since_training:.1f} days"
        found.append(("nothing_is_learned", f"no training succeeded {since}; {pulse.labels_unlearned} labels wait"))
    return found
