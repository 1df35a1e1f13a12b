"""Learning on desks as they are: the cases, and how one of them is measured.

Every case is a world lived through in lockstep (`lockstep.py`): signals scored at entry, outcomes told at close, a
training every so many days. A case's seed is its name and what it is drawn for: `reporting` for the tables, `choosing`
for whatever is decided by them.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.desk_figures import of_a_life
from benchmarks.lockstep import Life, lived
from trading_system.ml_refinement.training import champion_record, promotion
from trading_system.simulation.desks import PLANS, SMALL_DESK, DeskWorld, Edge, drawn
from trading_system.simulation.learning_experiments import Experiment, Figures, as_desk, noise_or_edge
from trading_system.simulation.seeds import Case

CLUSTERED_LOOKS = 42
#: The first training of a clustered world is on this day, so that one falls on day 273.
CLUSTERED_FIRST = 63
CLUSTERED_DAY = 273


def plan() -> list[Experiment]:
    """Every part with its cases, repetitions outermost."""
    return [
        Experiment("clustered proof", [(k,) for k in range(20)], of_a_clustered_proof),
        Experiment("small desk", [(k,) for k in range(20)], of_a_small_desk),
        Experiment("desk", [(k,) for k in range(20)], of_a_desk),
    ]


def of_a_desk(case: Case, rng: np.random.Generator) -> Figures:
    """Case (repetition,): the desk, a training every 21 days."""
    del case
    return _life_of("desk", rng)


def of_a_small_desk(case: Case, rng: np.random.Generator) -> Figures:
    """Case (repetition,): the small desk, a training every 21 days."""
    del case
    return _life_of("small desk", rng)


def _life_of(name: str, rng: np.random.Generator) -> Figures:
    edge = PLANS[name].edge
    assert edge is not None
    world = drawn(PLANS[name], rng)
    return of_a_life(world, _live(world), edge)


def of_a_clustered_proof(case: Case, rng: np.random.Generator) -> Figures:
    """Case (repetition,): clustered trades with an edge of AUC .65, looked at every 42 days for a year and a half."""
    del case
    world = as_desk(noise_or_edge("clustered .65", 540, rng))
    looks = _live(world, every_days=CLUSTERED_LOOKS, first_day=CLUSTERED_FIRST).looks
    proven = [look.day for look in looks if look.proven]
    figures: Figures = {
        "proven": [float(look.proven) for look in looks],
        "by_day": float(any(day <= CLUSTERED_DAY for day in proven)),
    }
    return figures | ({"first_proof": float(proven[0])} if proven else {})


def behaviour() -> str:
    """What this code does in the life of one brief desk whose edge dies, and its levels, in 12 letters."""
    edge = Edge(auc=0.8, weights=((1.0, -0.8, 0.6),), scopes=("own", "own", "own"), begins=0, ends=160)
    small = {"market_features": 1, "symbol_features": 0, "own_features": 3}
    world = drawn(replace(SMALL_DESK, days=290, holds=(1, 5), edge=edge, **small), np.random.default_rng(0))
    life = _live(world, every_days=60, first_day=100)
    said = np.nan_to_num(life.quality).round(7).tolist()
    words = json.dumps([said, [(look.day, look.verdict, look.proven) for look in life.looks], _levels()])
    return hashlib.sha256(words.encode()).hexdigest()[:12]


def _levels() -> list[tuple[str, str, float]]:
    """What the brief desk is too plain to tell apart."""
    return [
        (module.__name__, name, value)
        for module in (promotion, champion_record)
        for name, value in sorted(vars(module).items())
        if name.isupper() and isinstance(value, int | float)
    ]


def _live(world: DeskWorld, *, every_days: int = 21, first_day: int = 21) -> Life:
    with tempfile.TemporaryDirectory() as directory:
        return lived(world, Path(directory), every_days=every_days, first_day=first_day)
