"""Purged walk-forward: who may be trained on when, and who is then predicted. Indices only; it knows no model.

A label is known later than its features. Every split here keeps that: no training row's outcome becomes known at or
after the moment the first row it is tested on was entered (Lopez de Prado 2018, chapter 7: purging and embargo).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from trading_system.ml_refinement import robust
from trading_system.ml_refinement.storage.times import DAY_US
from trading_system.ml_refinement.typing import IndexArray, IntArray, TimeArray

#: Holdings are measured, but no holding counts for more than this part of the training window.
HOLD_SHARE = 0.25


class LeakageError(AssertionError):
    """A split would have trained on what was not known yet. It is never raised unless this module is wrong."""


@dataclass(frozen=True, slots=True)
class Fold:
    """One step: rows trained on (n_train,), rows then predicted (n_test,), the window's bounds `[start_us, end_us)`."""

    train: IndexArray
    test: IndexArray
    start_us: int
    end_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgedWalkForward:
    """Windows of `test_days`, one every `step_days` on a fixed grid, so that every retraining sees the same ones.

    Training rows of a window that begins at v were entered in `[v - train_days, v - max_hold)` and known before v.
    The rows of the last `max_hold` are left out because only their quick losers have closed. Where that leaves fewer
    than `min_train`, the window reaches further back, to as many as there are. Test rows were entered in the window,
    `max_hold` or more before the last known outcome, and at most `pool_days` before that.
    """

    max_hold_us: int
    train_days: float = 252.0
    test_days: float = 21.0
    step_days: float = 21.0
    pool_days: float = 252.0
    min_train: int = 50

    def __post_init__(self) -> None:
        if not 0 < self.test_days <= self.step_days or self.max_hold_us < 0 or self.min_train < 1:
            raise ValueError("test_days must be in (0, step_days], max_hold_us >= 0 and min_train >= 1")

    def split(self, entered_us: TimeArray, known_us: TimeArray) -> Iterator[Fold]:
        """Folds in time order; windows without test rows or with fewer than `min_train` training rows are left out.

        Args:
            entered_us: when each signal was known, shape (n,), in any order.
            known_us: when its outcome was known, at or after `entered_us`, shape (n,).

        Raises:
            LeakageError: a fold trains on what was not known yet, which would be a defect of this module.

        Example:
            >>> entered = np.arange(8) * DAY_US  # one signal a day, each open for half a day
            >>> walk = PurgedWalkForward(max_hold_us=DAY_US // 2, test_days=2, step_days=2, min_train=2)
            >>> [(fold.train.tolist(), fold.test.tolist()) for fold in walk.split(entered, entered + DAY_US // 2)]
            [([0, 1], [2, 3]), ([0, 1, 2, 3], [4, 5]), ([0, 1, 2, 3, 4, 5], [6, 7])]
        """
        if not len(entered_us):
            return
        step, width = int(self.step_days * DAY_US), int(self.test_days * DAY_US)
        first, end = self.pool(known_us)
        for start in range(first // step * step, end + 1, step):
            inside = (entered_us >= max(start, first)) & (entered_us < min(start + width, end + 1))
            test = np.flatnonzero(inside)
            train = self.training_rows(entered_us, known_us, at_us=start)
            if len(test) and len(train) >= self.min_train:
                yield checked(Fold(train, test, start, min(start + width, end + 1)), entered_us, known_us)

    def pool(self, known_us: TimeArray) -> tuple[int, int]:
        """The first and the last moment at which a test row may have been entered.

        `known_us` has shape (n,), n at least 1: the pool counts back from the newest outcome.
        """
        end = int(known_us.max()) - self.max_hold_us
        return end - int(self.pool_days * DAY_US), end

    def training_rows(self, entered_us: TimeArray, known_us: TimeArray, *, at_us: int) -> IndexArray:
        """Indices of the rows a model fitted at `at_us` trains on, in time order, shape (n_train,).

        Args:
            entered_us: when each signal was known, shape (n,), in any order.
            known_us: when its outcome was known, shape (n,).
            at_us: the moment of the fit; nothing known at or after it is used.
        """
        known = np.flatnonzero((entered_us < at_us - self.max_hold_us) & (known_us < at_us))
        known = known[np.argsort(entered_us[known], kind="stable")]
        in_window = entered_us[known] >= at_us - int(self.train_days * DAY_US)
        return known[-max(int(in_window.sum()), min(self.min_train, len(known))) :] if len(known) else known


def checked(fold: Fold, entered_us: TimeArray, known_us: TimeArray) -> Fold:
    """The fold, if every training outcome was known before the first test row was entered.

    `entered_us` and `known_us` have shape (n,): of all rows that the fold's indices point into.

    Raises:
        LeakageError: otherwise.
    """
    if len(fold.train) and len(fold.test) and known_us[fold.train].max() >= entered_us[fold.test].min():
        raise LeakageError(f"the fold from {fold.start_us} trains on outcomes of its own future")
    return fold


def purged_blocks(
    entered_us: TimeArray, known_us: TimeArray, *, n_folds: int, max_hold_us: int, embargo_us: int = DAY_US
) -> list[Fold]:
    """Contiguous blocks in time, each held out once, for calibration inside a training window.

    Rows to fit on lie before the block (entered more than `max_hold_us` earlier, and known before it begins) or after
    it (entered more than `embargo_us` after the block's last outcome). Stragglers (`robust.largest`) are not held
    out: of what shares their days there may be nothing left to fit on.

    Args:
        entered_us: when each row was entered, shape (n,), in any order.
        known_us: when its outcome was known, shape (n,).
        n_folds: how many blocks; with fewer rows, as many as there are rows.
        max_hold_us: purge: rows that were entered so shortly before a block are left out.
        embargo_us: and rows that were entered so shortly after its last outcome.

    Raises:
        LeakageError: a block overlaps what is fitted on.
    """
    order = np.argsort(entered_us, kind="stable")
    held = known_us - entered_us
    longest = robust.largest(held)
    folds = []
    for part in np.array_split(order, n_folds):
        block = part[held[part] <= longest]
        if not len(block):
            continue
        start, end = int(entered_us[block].min()), int(entered_us[block].max())
        before = (known_us < start) & (entered_us < start - max_hold_us)
        after = entered_us > int(known_us[block].max()) + embargo_us
        train = order[(before | after)[order]]
        if np.any((known_us[train] >= start) & (entered_us[train] <= known_us[block].max())):
            raise LeakageError(f"the block from {start} overlaps what is fitted on")
        folds.append(Fold(train, block, start, end))
    return folds


def purged_tail(entered_us: TimeArray, known_us: TimeArray, *, share: float, max_hold_us: int) -> Fold:
    """The newest `share` of rows held out, and the rows known before they began: what early stopping may look at.

    Args:
        entered_us: when each row was entered, shape (n,), in any order.
        known_us: when its outcome was known, shape (n,).
        share: 0 to 1; where that is no row, nothing is held out and every row is in `train`.
        max_hold_us: rows that were entered so shortly before the tail are left out.
    """
    order = np.argsort(entered_us, kind="stable")
    tail = order[len(order) - int(len(order) * share) :]
    if not len(tail):
        return Fold(order, tail, 0, 0)
    start, end = int(entered_us[tail].min()), int(entered_us[tail].max())
    head = order[((known_us < start) & (entered_us < start - max_hold_us))[order]]
    return checked(Fold(head, tail, start, end), entered_us, known_us)


def measured_hold_us(entered_us: TimeArray, known_us: TimeArray, *, train_days: float) -> int:
    """The longest holding, but neither that of a straggler (`robust.largest`) nor beyond a quarter of a window.

    Both arrays have shape (n,), the training window is of `train_days`; 0 without rows. A straggler is purged by when
    it closed all the same.
    """
    return int(min(robust.largest(known_us - entered_us), train_days * HOLD_SHARE * DAY_US))


def time_blocks(entered_us: TimeArray, *, block_us: int) -> IntArray:
    """The number of the block of `block_us` each row lies in, on a fixed grid, shape (n,)."""
    return entered_us // block_us
