"""One strange value among what producers sent changes little: windows, blocks, calendars and the gate's answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.learning_installation import learning_installation, narrow
from trading_system.ml_refinement import robust
from trading_system.ml_refinement.models.calibration import periods
from trading_system.ml_refinement.models.neutral.shared_days import SharedDays
from trading_system.ml_refinement.storage.tables.outcomes import OutcomeRow
from trading_system.ml_refinement.storage.times import DAY_US
from trading_system.ml_refinement.training.verdicts import Serve
from trading_system.ml_refinement.validation.walk_forward import measured_hold_us, purged_blocks
from trading_system.simulation.worlds import START_US, World, independent

STRANGE = {
    "held for 60 days": lambda entered, known: (entered, known + 55 * DAY_US),
    "of 1970": lambda entered, known: (0 * entered, 2 * DAY_US + 0 * known),
    "of 1970 and open until today": lambda entered, known: (0 * entered, known),
}


def strong(rows: int = 840) -> World:
    world = narrow(independent(rows, np.random.default_rng(0), kind="linear", auc=0.7, per_day=1.5))
    hold = np.random.default_rng(1).integers(1, 6, rows) * DAY_US
    return World(world.X, world.r, world.truth, world.entered_us, world.entered_us + hold)


def with_one(world: World, strange: str, row: int = 820) -> World:
    entered, known = world.entered_us.copy(), world.known_us.copy()
    entered[row], known[row] = STRANGE[strange](entered[row], known[row])
    return World(world.X, world.r, world.truth, entered, known)


def test_ordinary_extremes_count_as_they_are_and_one_outlier_does_not() -> None:
    rng = np.random.default_rng(2)
    for values in (rng.integers(1, 21, 500), rng.uniform(0.0, 3.0, 30)):
        assert robust.largest(values) == values.max()
        assert robust.span(rng.uniform(0.0, 7.0, 300)) > 6.5
        assert robust.largest(np.append(values, 1e9)) < 4.0 * values.max()
        assert robust.span(np.append(values, -1e9)) < 4.0 * np.ptp(values)
    assert (robust.largest(np.array([])), robust.span(np.array([])), robust.largest(np.array([0.0]))) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("strange", STRANGE)
def test_one_strange_trade_changes_neither_blocks_nor_calendars(strange: str) -> None:
    plain, odd = strong(), with_one(strong(), strange)
    assert measured_hold_us(odd.entered_us, odd.known_us, train_days=252) <= 10 * DAY_US
    calendars = [SharedDays.of(world.entered_us, world.known_us).overlap for world in (plain, odd)]
    assert abs(len(calendars[0]) - len(calendars[1])) <= 10
    assert len(np.unique(periods(odd.entered_us))) > 0.6 * len(np.unique(periods(plain.entered_us)))
    rows = [
        sum(len(fold.train) for fold in purged_blocks(w.entered_us, w.known_us, n_folds=4, max_hold_us=10 * DAY_US))
        for w in (plain, odd)
    ]
    assert rows[1] > 0.98 * rows[0]


@pytest.mark.parametrize("strange", STRANGE)
def test_one_strange_trade_among_840_stops_no_promotion(tmp_path: Path, strange: str) -> None:
    verdict = learning_installation(tmp_path, with_one(strong(), strange)).train(auxiliary=False).verdict
    assert verdict.serve is Serve.PROVEN
    assert verdict.figures["blocks"] >= 20


def test_days_on_which_nothing_was_open_count_for_nothing() -> None:
    entered = START_US + np.array([0, 1, 400, 401]) * DAY_US
    gap, none = SharedDays.of(entered, entered + DAY_US), SharedDays.of(entered[:2], entered[:2] + DAY_US)
    assert gap.overlap.shape == (4, 4)
    assert np.array_equal(gap.overlap[:2, :2], none.overlap)


def test_an_outcome_of_a_year_to_come_is_not_the_newest_label(tmp_path: Path) -> None:
    world = strong(60)
    installation = learning_installation(tmp_path, world)
    newest = installation.db.counts().newest_label
    outcome = OutcomeRow("s000003", 1, "2099-01-01T00:00:00.000000Z", 1.0, None, None, "s000003")
    installation.db.outcomes.record([outcome])
    assert installation.db.counts().newest_label == newest
