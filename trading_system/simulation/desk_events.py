"""A desk's world as the events of its signal generator and its position tracker, beside what only the world knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from trading_system.ml_refinement.storage.times import DAY_US
from trading_system.simulation.desks import DeskWorld, Plan, drawn
from trading_system.simulation.position_tracker import OutcomeEvent
from trading_system.simulation.signal_generator import SignalEvent
from trading_system.simulation.timeline import Moment
from trading_system.simulation.walks import STOP, TARGET
from trading_system.simulation.worlds import START_US

_ENTRY, _RISK = 100.0, 5.0


@dataclass(frozen=True)
class PlantedDesk:
    """A desk whose edge is known: what is published of it, and the truth by signal, which nobody is told.

    One moment a day, at noon: what closed since the noon before, then the day's signals. `truth` is P(R > 0) given the
    features; `alive` are the ids of signals given while the edge lived, `died_on` is the first day without it.
    """

    plan: Plan
    timeline: tuple[Moment, ...]
    names: tuple[str, ...]
    truth: Mapping[str, float]
    alive: frozenset[str]
    died_on: str


def planted_desk(plan: Plan, seed: int) -> PlantedDesk:
    """The desk of a plan with an edge; the same for the same seed.

    The combined score of a signal is the desk's own opinion, which knows nothing.

    Raises:
        ValueError: the plan has no edge, or it outlives the plan.
    """
    if plan.edge is None or plan.edge.ends >= plan.days:
        raise ValueError("a desk whose edge lives and dies is wanted")
    rng = np.random.default_rng(seed)
    world = drawn(plan, rng)
    ids = [f"edge-{number:05d}" for number in range(len(world.r))]
    return PlantedDesk(
        plan=plan,
        timeline=_by_day(world, ids, np.round(rng.uniform(3.0, 7.0, len(ids)), 2)),
        names=world.names,
        truth=dict(zip(ids, world.truth.tolist(), strict=True)),
        alive=frozenset(one for one, lives in zip(ids, world.alive.tolist(), strict=True) if lives),
        died_on=_text(START_US + plan.edge.ends * DAY_US)[:10],
    )


def _by_day(world: DeskWorld, ids: list[str], own: np.ndarray) -> tuple[Moment, ...]:
    noon = (world.entered_us - START_US) // DAY_US
    closed = (world.known_us - START_US - DAY_US // 2) // DAY_US + 1
    signals: dict[int, list[SignalEvent]] = {}
    outcomes: dict[int, list[OutcomeEvent]] = {}
    for row, day in enumerate(noon.tolist()):
        signals.setdefault(day, []).append(_signal(world, row, ids[row], float(own[row]), _at_noon(day)))
    for row in np.argsort(world.known_us, kind="stable").tolist():
        outcomes.setdefault(int(closed[row]), []).append(_outcome(world, row, ids[row]))
    last = int(noon.max())
    return tuple(
        Moment(_at_noon(day), tuple(outcomes.get(day, ())), tuple(signals.get(day, ()))) for day in range(last + 1)
    )


def _signal(world: DeskWorld, row: int, signal_id: str, own: float, at: str) -> SignalEvent:
    return SignalEvent(
        signal_id=signal_id,
        timestamp=at,
        symbol=str(world.symbol[row]),
        asset_class="equity",
        signal_type=str(world.signal_type[row]),
        direction="long",
        conviction="MEDIUM",
        technical_score=own,
        combined_score=own,
        entry_price=_ENTRY,
        target_price=_ENTRY + TARGET * _RISK,
        stop_price=_ENTRY + STOP * _RISK,
        position_size_pct=1.0,
        features=dict(zip(world.names, np.round(world.X[row], 6).tolist(), strict=True)),
    )


def _outcome(world: DeskWorld, row: int, signal_id: str) -> OutcomeEvent:
    r = round(float(world.r[row]), 4)
    return OutcomeEvent(
        signal_id=signal_id,
        closed_at=_text(int(world.known_us[row])),
        r_multiple=r,
        return_pct=round(r * _RISK / _ENTRY * 100.0, 4),
        exit_reason="stop" if r <= STOP else "target" if r >= TARGET else "time",
    )


def _at_noon(day: int) -> str:
    return _text(START_US + day * DAY_US + DAY_US // 2)


def _text(us: int) -> str:
    return datetime.fromtimestamp(us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
