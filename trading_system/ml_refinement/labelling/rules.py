"""How long a virtual trade may last, and when its bars open: by the settings, or by what the desk's own trades did."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from trading_system.ml_refinement.config import MLConfig
from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.storage.tables.virtual_outcomes import BothOutcomes, VirtualRows
from trading_system.ml_refinement.storage.times import DAY_US

#: The rule of `triple_barrier`: what it does differently is another number, and every signal is walked again.
RULE = 1

#: Until the desk's own trades say how long they last.
DEFAULT_HOLD_DAYS = 10.0
#: The holding that so large a share of a kind's own trades did not exceed ...
HOLD_QUANTILE = 0.9
#: ... of at least so many, among the newest that closed.
MIN_TRADES = 30
NEWEST_TRADES = 2_000

#: Holdings of the desk's own trades are rounded up to one of these, times a power of ten: a few more trades must not
#: mean that everything is labelled again.
_STEPS = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
_ROUNDING = 1.0 + 1e-9
_HOUR_US = DAY_US // 24


@dataclass(frozen=True, slots=True)
class LabellingRule:
    """Everything that a virtual outcome depends on beside the signal and the bars.

    `hold_days` are by signal type, `other_hold_days` is for all other types; `session_hours` by asset class.
    """

    other_hold_days: float
    hold_days: Mapping[str, float] = field(default_factory=dict)
    session_hours: Mapping[str, float] = field(default_factory=dict)

    def hold_us(self, signal_type: str) -> int:
        """After how long a trade of this type is ended."""
        return int(self.hold_days.get(signal_type, self.other_hold_days) * DAY_US)

    def session_us(self, asset_class: str) -> int:
        """How long before its close a bar opens at the earliest; 0: not known."""
        return int(self.session_hours.get(asset_class, 0.0) * _HOUR_US)

    def version(self, signal_type: str, asset_class: str) -> str:
        """What an outcome of such a signal is labelled with: another version, and it is walked again."""
        hold = self.hold_days.get(signal_type, self.other_hold_days)
        return f"{RULE}:{hold:g}d:{self.session_hours.get(asset_class, 0.0):g}h"

    def rows(
        self, db: FeatureDatabase, *, feature_version: str, names: Sequence[str], start: str | None
    ) -> VirtualRows:
        """The virtual outcomes that are of this rule and may be trained on beside the reported ones."""
        return db.virtual_outcomes.training_rows(
            feature_version=feature_version, names=names, version_of=self.version, start=start
        )

    def both(self, db: FeatureDatabase, *, newest: int = NEWEST_TRADES) -> BothOutcomes:
        """Signals with a reported outcome and a virtual one of this rule, of the trades that closed last."""
        return db.virtual_outcomes.both(newest, self.version)


def labelling_rule(db: FeatureDatabase, config: MLConfig) -> LabellingRule:
    """The rule that the settings make; where they say nothing of holdings, what the desk's newest trades say.

    A pure function of the settings and the store: of the times of the newest `NEWEST_TRADES` reported outcomes.
    """
    if config.virtual_hold_days is not None:
        return LabellingRule(config.virtual_hold_days, session_hours=config.virtual_session_hours)
    days: dict[str, list[float]] = {}
    for holding in db.virtual_outcomes.holdings(NEWEST_TRADES):
        days.setdefault(holding.signal_type, []).append(holding.days)
    every = [one for held in days.values() for one in held]
    measured = {name: _hold_days(held) for name, held in sorted(days.items()) if len(held) >= MIN_TRADES}
    other = _hold_days(every) if len(every) >= MIN_TRADES else DEFAULT_HOLD_DAYS
    return LabellingRule(other, measured, config.virtual_session_hours)


def _hold_days(days: list[float]) -> float:
    """The quantile of the holdings, rounded up to a step; trades of no length say nothing."""
    return rounded_up(float(np.quantile(days, HOLD_QUANTILE, method="higher"))) or DEFAULT_HOLD_DAYS


def rounded_up(days: float) -> float:
    """The next step at or above; 0 for 0.

    Example:
        >>> [rounded_up(days) for days in (0.0, 0.021, 6.0, 7.0, 29.4)]
        [0.0, 0.025, 6.0, 8.0, 30.0]
    """
    if days <= 0.0:
        return 0.0
    power = 10.0 ** math.floor(math.log10(days))
    step = next(step for step in _STEPS if days <= step * power * _ROUNDING)
    return float(f"{step * power:.6g}")
