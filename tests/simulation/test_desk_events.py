"""A planted desk as events: what is published is what happened, when it could be known, and nothing of the truth."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import orjson
import pytest

from trading_system.simulation.desk_events import PlantedDesk, planted_desk
from trading_system.simulation.desks import DEMO_EDGE, drawn
from trading_system.simulation.worlds import START_US
from worker.events.decoding import Limits, decode

PLAN = replace(DEMO_EDGE, days=40, edge=replace(DEMO_EDGE.edge, ends=25))  # type: ignore[type-var]
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def desk() -> PlantedDesk:
    return planted_desk(PLAN, 3)


def test_every_event_is_one_that_the_worker_takes(desk: PlantedDesk) -> None:
    for moment in desk.timeline:
        for kind, events in (("signal.created", moment.signals), ("trade.closed", moment.outcomes)):
            for event in events:
                assert decode(kind, orjson.dumps(event), now=NOW, limits=Limits()).unknown_fields == 0


def test_what_is_published_is_the_world_s_own_and_in_its_order(desk: PlantedDesk) -> None:
    world = drawn(PLAN, np.random.default_rng(3))
    signals = [signal for moment in desk.timeline for signal in moment.signals]
    told = np.array([[signal["features"][name] for name in desk.names] for signal in signals])
    np.testing.assert_allclose(told, world.X, atol=1e-6)
    assert [signal["signal_type"] for signal in signals] == world.signal_type.tolist()
    outcomes = {outcome["signal_id"]: outcome for moment in desk.timeline for outcome in moment.outcomes}
    for signal, r in zip(signals, world.r.tolist(), strict=True):
        if signal["signal_id"] in outcomes:
            assert outcomes[signal["signal_id"]]["r_multiple"] == pytest.approx(r, abs=1e-4)
    assert len(outcomes) > 0.9 * len(signals)


def test_nothing_is_known_before_its_time(desk: PlantedDesk) -> None:
    given = {signal["signal_id"]: signal["timestamp"] for moment in desk.timeline for signal in moment.signals}
    assert [moment.instant for moment in desk.timeline] == sorted(moment.instant for moment in desk.timeline)
    for moment in desk.timeline:
        assert all(signal["timestamp"] == moment.instant for signal in moment.signals)
        for outcome in moment.outcomes:
            assert given[outcome["signal_id"]] < outcome["closed_at"] <= moment.instant


def test_the_truth_is_the_judge_s_alone(desk: PlantedDesk) -> None:
    world = drawn(PLAN, np.random.default_rng(3))
    signals = [signal for moment in desk.timeline for signal in moment.signals]
    np.testing.assert_array_equal([desk.truth[signal["signal_id"]] for signal in signals], world.truth)
    living = [signal["timestamp"][:10] < desk.died_on for signal in signals]
    assert [signal["signal_id"] in desk.alive for signal in signals] == living
    assert desk.died_on == datetime.fromtimestamp(START_US / 1e6 + 25 * 86_400, UTC).strftime("%Y-%m-%d")
    assert not any("truth" in orjson.dumps(signal).decode() for signal in signals)


def test_a_desk_has_the_same_life_for_the_same_seed_and_one_without_a_death_is_refused() -> None:
    assert planted_desk(PLAN, 3) == planted_desk(PLAN, 3)
    assert planted_desk(PLAN, 4).timeline != planted_desk(PLAN, 3).timeline
    for plan in (replace(PLAN, edge=None), replace(PLAN, days=20)):
        with pytest.raises(ValueError, match="lives and dies"):
            planted_desk(plan, 3)
