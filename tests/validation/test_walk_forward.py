"""Who is trained on when: the splits, and the law that no outcome is used before it was known."""

from __future__ import annotations

import numpy as np
import pytest

from trading_system.ml_refinement.storage.times import DAY_US
from trading_system.ml_refinement.validation import metrics
from trading_system.ml_refinement.validation.walk_forward import (
    Fold,
    LeakageError,
    PurgedWalkForward,
    checked,
    measured_hold_us,
    purged_blocks,
    purged_tail,
)


def days(*values: float) -> np.ndarray:
    return (np.array(values) * DAY_US).astype(np.int64)


def test_the_folds_of_a_small_schedule_are_the_ones_written_out_here() -> None:
    entered = days(*range(0, 20, 2))  # 0, 2, ..., 18
    known = entered + 3 * DAY_US  # the last one at 21, so that rows up to 18 are tested
    walk = PurgedWalkForward(max_hold_us=3 * DAY_US, train_days=10, test_days=4, step_days=4, pool_days=10, min_train=1)
    folds = list(walk.split(entered, known))
    assert [(f.train.tolist(), f.test.tolist()) for f in folds] == [
        ([0, 1, 2], [4, 5]),  # at day 8: entered before 5 and known before 8; rows 0, 2, 4
        ([1, 2, 3, 4], [6, 7]),  # at day 12: entered in [2, 9)
        ([3, 4, 5, 6], [8, 9]),  # at day 16: entered in [6, 13)
    ]


def test_a_trade_that_was_still_open_is_not_trained_on() -> None:
    entered, known = days(0, 1, 2, 10), days(1, 11, 3, 12)
    walk = PurgedWalkForward(max_hold_us=2 * DAY_US, train_days=50, test_days=10, step_days=10, min_train=1)
    (fold,) = walk.split(entered, known)
    assert (fold.train.tolist(), fold.test.tolist()) == ([0, 2], [3])


def test_rows_too_young_for_slow_losers_to_have_closed_are_on_neither_side() -> None:
    entered = days(*range(100))
    known = entered + np.where(np.arange(100) % 2, 1, 9) * DAY_US
    walk = PurgedWalkForward(max_hold_us=9 * DAY_US, train_days=50, test_days=7, step_days=7, min_train=1)
    folds = list(walk.split(entered, known))
    for fold in folds:
        assert entered[fold.train].max() < fold.start_us - 9 * DAY_US
    assert max(entered[fold.test].max() for fold in folds) <= known.max() - 9 * DAY_US


def test_no_outcome_is_used_before_it_was_known_in_random_schedules() -> None:
    rng = np.random.default_rng(5)
    for _ in range(1_000):
        n = int(rng.integers(5, 80))
        entered = np.sort(rng.integers(0, int(rng.integers(20, 900)) * DAY_US, n))
        known = entered + (rng.exponential(rng.uniform(0.5, 30.0), n) * DAY_US).astype(np.int64)
        walk = PurgedWalkForward(
            max_hold_us=measured_hold_us(entered, known, train_days=160), train_days=120, pool_days=200, min_train=2
        )
        for fold in walk.split(entered, known):
            assert known[fold.train].max() < entered[fold.test].min()
            assert len(np.intersect1d(fold.train, fold.test)) == 0
        for fold in purged_blocks(entered, known, n_folds=4, max_hold_us=walk.max_hold_us):
            start, end = entered[fold.test].min(), known[fold.test].max()
            assert not np.any((known[fold.train] >= start) & (entered[fold.train] <= end))


def test_every_row_is_held_out_once_by_the_blocks() -> None:
    entered = days(*np.random.default_rng(0).permutation(50))
    folds = purged_blocks(entered, entered + DAY_US, n_folds=4, max_hold_us=DAY_US)
    assert sorted(np.concatenate([fold.test for fold in folds]).tolist()) == list(range(50))


def test_the_window_reaches_back_where_signals_are_rare() -> None:
    entered = days(*range(0, 3000, 50))
    walk = PurgedWalkForward(max_hold_us=DAY_US, train_days=100, min_train=20)
    rows = walk.training_rows(entered, entered + DAY_US, at_us=2990 * DAY_US)
    assert rows.tolist() == list(range(40, 60))


def test_windows_stay_where_they_are_when_new_rows_come() -> None:
    entered = days(*range(400))
    walk = PurgedWalkForward(max_hold_us=5 * DAY_US, train_days=100, pool_days=150)
    before = {fold.start_us: fold.train.tolist() for fold in walk.split(entered[:390], entered[:390] + 4 * DAY_US)}
    after = {fold.start_us: fold.train.tolist() for fold in walk.split(entered, entered + 4 * DAY_US)}
    shared = before.keys() & after.keys()
    assert len(shared) >= 6
    assert all(before[start] == after[start] for start in shared)


def test_a_fold_that_leaks_is_refused() -> None:
    entered, known = days(0, 1), days(5, 6)
    with pytest.raises(LeakageError):
        checked(Fold(np.array([0]), np.array([1]), 0, 1), entered, known)


def test_overlapping_test_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="step_days"):
        PurgedWalkForward(max_hold_us=0, test_days=30, step_days=21)


def test_the_early_stopping_tail_is_later_than_what_is_grown_on() -> None:
    entered = days(*range(50))
    known = entered + 4 * DAY_US
    fold = purged_tail(entered, known, share=0.2, max_hold_us=4 * DAY_US)
    assert fold.test.tolist() == list(range(40, 50))
    assert known[fold.train].max() < entered[fold.test].min()


def test_no_rows_give_no_folds() -> None:
    none = np.array([], dtype=np.int64)
    assert list(PurgedWalkForward(max_hold_us=0).split(none, none)) == []
    assert len(PurgedWalkForward(max_hold_us=0).training_rows(none, none, at_us=0)) == 0


def luck_of_the_market(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise: trades of 20 days whose outcome is the market's path while they are open."""
    rng = np.random.default_rng(seed)
    path = np.concatenate([[0.0], np.cumsum(rng.standard_normal(1600))])
    entered = np.repeat(np.arange(1500), 2)
    return days(*entered), days(*(entered + 20)), path[entered + 20] > path[entered]


def recent_wins(train: np.ndarray, won: np.ndarray) -> float:
    """The canary: a forecast that is only ever the luck of the last trades it was shown."""
    return float(won[train[-20:]].mean())


def test_the_canary_sings_without_the_purge_and_is_silent_with_it() -> None:
    entered, known, won = luck_of_the_market(3)
    walk = PurgedWalkForward(max_hold_us=20 * DAY_US, train_days=252, test_days=1, step_days=1, pool_days=1400)
    folds = list(walk.split(entered, known))
    test = np.concatenate([fold.test for fold in folds])
    purged = np.concatenate([np.full(len(f.test), recent_wins(f.train, won)) for f in folds])
    leaking = np.concatenate([np.full(len(f.test), recent_wins(np.arange(f.test[0]), won)) for f in folds])
    blocks = entered[test] // (20 * DAY_US)
    low, high = metrics.clustered_auc(won[test], purged, blocks).interval()
    assert low < 0.5 < high
    assert metrics.clustered_auc(won[test], leaking, blocks).value > 0.62


def test_a_label_known_at_the_very_moment_a_window_begins_is_not_trained_on() -> None:
    """Known then means known to whoever was about to be predicted: at the same moment is too late, everywhere."""
    entered, known = days(0, 1, 10, 11), days(5, 10, 12, 13)
    walk = PurgedWalkForward(max_hold_us=2 * DAY_US, train_days=50, min_train=1)
    assert walk.training_rows(entered, known, at_us=10 * DAY_US).tolist() == [0]
    assert walk.training_rows(entered, known, at_us=10 * DAY_US + 1).tolist() == [0, 1]
    with pytest.raises(LeakageError):
        checked(Fold(np.array([1]), np.array([2]), 0, 1), entered, known)
    assert purged_tail(entered, known, share=0.5, max_hold_us=2 * DAY_US).train.tolist() == [0]
    [_, block] = purged_blocks(entered, known, n_folds=2, max_hold_us=2 * DAY_US)
    assert (block.test.tolist(), block.train.tolist()) == ([2, 3], [0])


def test_rows_entered_a_day_after_a_calibration_block_was_known_are_embargoed() -> None:
    entered, known = days(0, 1, 4, 4.1, 20, 21), days(2, 3, 5, 5.1, 22, 23)
    [block, *_] = purged_blocks(entered, known, n_folds=3, max_hold_us=0)
    assert block.test.tolist() == [0, 1]  # the last of them is known on day 3
    assert block.train.tolist() == [3, 4, 5]  # more than a day later
    [block, *_] = purged_blocks(entered, known, n_folds=3, max_hold_us=0, embargo_us=10 * DAY_US)
    assert block.train.tolist() == [4, 5]


def test_rows_entered_within_the_longest_holding_before_a_block_are_purged() -> None:
    """Those that are known already are the quick losers of their days."""
    entered, known = days(0, 5, 8, 10, 11), days(1, 6, 9, 12, 13)
    for held_out in (
        purged_blocks(entered, known, n_folds=2, max_hold_us=4 * DAY_US)[1],
        purged_tail(entered, known, share=0.4, max_hold_us=4 * DAY_US),
    ):
        assert held_out.test.tolist() == [3, 4]
        assert held_out.train.tolist() == [0, 1]
