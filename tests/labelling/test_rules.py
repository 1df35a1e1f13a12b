"""How long a virtual trade may last: as the settings say, or as the desk's own trades did."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from tests.support.rows import insert, outcome, vector
from trading_system.ml_refinement.config import MLConfig
from trading_system.ml_refinement.labelling.rules import LabellingRule, labelling_rule, rounded_up
from trading_system.ml_refinement.storage import FeatureDatabase
from trading_system.ml_refinement.storage.times import DAY_US


@given(st.floats(1e-5, 1e4))
def test_a_holding_is_rounded_up_by_a_third_at_most(days: float) -> None:
    step = rounded_up(days)
    assert days * (1 - 1e-9) <= step <= days * 1.34
    assert rounded_up(step) == step


def close(db: FeatureDatabase, days: dict[str, list[int]]) -> None:
    """Trades of these types that were open for so many days."""
    rows = [vector(f"{kind}-{n}", day=1, signal_type=kind) for kind, held in days.items() for n in range(len(held))]
    insert(db, *rows)
    db.outcomes.record([outcome(f"{kind}-{n}", day=1 + d) for kind, held in days.items() for n, d in enumerate(held)])


@pytest.mark.parametrize(
    ("days", "holds", "other"),
    [
        ({}, {}, 10.0),
        ({"breakout": [5] * 29}, {}, 10.0),
        ({"breakout": [5] * 20, "reversion": [2] * 20}, {}, 5.0),
        ({"breakout": [5] * 30, "reversion": [2] * 10}, {"breakout": 5.0}, 5.0),
        ({"breakout": [7] * 30, "reversion": [2] * 400}, {"breakout": 8.0, "reversion": 2.0}, 2.0),
        ({"breakout": [0] * 40}, {"breakout": 10.0}, 10.0),  # trades of no length say nothing
    ],
)
def test_the_desks_own_trades_say_how_long(
    tmp_path: Path, days: dict[str, list[int]], holds: dict[str, float], other: float
) -> None:
    with FeatureDatabase(tmp_path / "features.db") as db:
        close(db, days)
        rule = labelling_rule(db, MLConfig())
        assert dict(rule.hold_days) == holds
        assert rule.other_hold_days == other
        assert labelling_rule(db, MLConfig()) == rule
        assert labelling_rule(db, MLConfig(virtual_hold_days=3.5)) == LabellingRule(3.5)


def test_a_version_is_of_all_that_shapes_a_label() -> None:
    rule = LabellingRule(10.0, {"breakout": 30.0}, {"equity": 6.5})
    kinds = [("breakout", "equity"), ("breakout", "crypto"), ("momentum", "equity"), ("momentum", "crypto")]
    assert len({rule.version(*kind) for kind in kinds}) == 4
    assert rule.hold_us("breakout") == 30 * DAY_US
    assert rule.session_us("equity") == int(6.5 * DAY_US / 24)
