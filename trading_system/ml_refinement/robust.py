"""Extremes that one strange value cannot move: what producers send decides about windows, blocks and calendars."""

from __future__ import annotations

import numpy as np

from trading_system.ml_refinement.typing import AnyArray

#: Nineteen of twenty values count as they are; beyond twice the largest of those, a value is an outlier.
_ORDINARY = 0.95
_REACH = 2.0
#: The span of the middle nine tenths of evenly spread values, times this, is more than the whole.
_SPAN_REACH = 1.25


def largest(values: AnyArray) -> float:
    """The largest of values (n,) at or above 0, or twice their 95 % quantile where that is less; 0 without values."""
    if not len(values):
        return 0.0
    return min(float(values.max()), _REACH * float(np.quantile(values, _ORDINARY)))


def span(values: AnyArray) -> float:
    """From the smallest of values (n,) to the largest; 1.25 times what the middle nine tenths span, if less."""
    if not len(values):
        return 0.0
    low, high = np.quantile(values, [0.05, 0.95])
    return min(float(values.max() - values.min()), _SPAN_REACH * float(high - low))
