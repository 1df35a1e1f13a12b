"""Bars of one symbol that came in pieces, joined where the pieces agree."""

from __future__ import annotations

import numpy as np

from trading_system.ml_refinement.bars import Bars

#: Relative: prices that were read back or adjusted column by column differ in their last bits.
_ROUNDING = 1e-6

_COLUMNS = ("open", "high", "low", "close")


def joined(run: Bars, piece: Bars) -> Bars | None:
    """The run continued by the later bars of a piece; None where the two are not of one series.

    They are where they share at least one bar, and between the first and the last bar they share have the same bars at
    the same prices. Another interval, another adjustment or a gap between them is another series. What the run has said
    already stays as it was: a piece adds later bars, and nothing else.
    """
    if not len(run) or not len(piece):
        return None
    first, last = max(run.timestamp[0], piece.timestamp[0]), min(run.timestamp[-1], piece.timestamp[-1])
    one, other = _between(run, first, last), _between(piece, first, last)
    if not len(one) or not np.array_equal(one.timestamp, other.timestamp):
        return None
    for name in _COLUMNS:
        if not np.allclose(getattr(one, name), getattr(other, name), rtol=_ROUNDING, atol=0.0):
            return None
    later = int(piece.timestamp.searchsorted(last, side="right"))
    return _appended(run, piece.tail(len(piece) - later)) if piece.timestamp[-1] > run.timestamp[-1] else run


def _between(bars: Bars, first: int, last: int) -> Bars:
    return bars.as_of(last).tail(int(np.count_nonzero((bars.timestamp >= first) & (bars.timestamp <= last))))


def _appended(run: Bars, later: Bars) -> Bars:
    names = ("timestamp", *_COLUMNS, "volume")
    return Bars(*(np.concatenate([getattr(run, name), getattr(later, name)]) for name in names))
