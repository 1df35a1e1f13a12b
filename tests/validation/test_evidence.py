"""Evidence: figures whose errors count shared luck once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from trading_system.ml_refinement.storage.times import DAY_US
from trading_system.ml_refinement.validation.evidence import Evidence, block_us


def evidence(days: int = 252, per_day: int = 2) -> Evidence:
    rng = np.random.default_rng(0)
    n = days * per_day
    spread = 0.8 * rng.standard_normal(n)
    won = rng.random(n) < 1.0 / (1.0 + np.exp(-spread))
    entered = (np.arange(n) * DAY_US // per_day).astype(np.int64)
    p = 1.0 / (1.0 + np.exp(-spread))
    return Evidence(won, p, np.full(n, 0.5), entered, entered // (21 * DAY_US), block_us(5 * DAY_US))


@pytest.mark.parametrize("figure", ["auc", "auc_within_weeks"])
def test_rows_told_over_again_in_their_block_make_nothing_surer(figure: str) -> None:
    once = evidence()
    again = once.rows(np.repeat(np.arange(len(once.won)), 9))
    one, nine = getattr(once, figure)(), getattr(again, figure)()
    assert nine.freedom == one.freedom == len(np.unique(once.cluster)) - 1
    assert nine.value == pytest.approx(one.value, abs=0.01)
    assert nine.error == pytest.approx(one.error, rel=0.1)
    alone = replace(once, block_us=1)  # every row a block of its own
    assert getattr(alone, figure)().freedom > 10 * one.freedom


def test_the_newest_part_is_that_of_so_many_days() -> None:
    seen = evidence()
    newest = seen.newest(126)
    assert len(newest.won) == 2 * 126
    assert newest.entered_us.min() > seen.entered_us.max() - 126 * DAY_US
    assert "of 20 blocks" in newest.shortfall(min_blocks=20)
    assert newest.shortfall() == ""
