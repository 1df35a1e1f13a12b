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

from benchmarks.desk_figures import of_a_life, of_noise
from benchmarks.lockstep import Life, lived
from trading_system.simulation import worlds
from trading_system.simulation.desks import PLANS, SMALL_DESK, DeskWorld, Edge, drawn
from trading_system.simulation.learning_experiments import Experiment, Figures, noise_or_edge
from trading_system.simulation.seeds import Case

NOISES = ("independent", "clustered", "trend noise")
#: Three years of looks in a world, and the time before there are labels enough for the first.
NOISE_DAYS = 3 * 365 + 80
#: Days from one look to the next: as the tables have it, and as a busy desk's labels make it due.
STEPS = (21, 7)
CLUSTERED_LOOKS = 42
#: The first training of a clustered world is on this day, so that one falls on day 273.
CLUSTERED_FIRST = 63
CLUSTERED_DAY = 273


def plan() -> list[Experiment]:
    """Every part with its cases, repetitions outermost."""
    noise = [(kind, step, k) for k in range(100) for step in STEPS for kind in NOISES]
    return [
        Experiment("clustered proof", [(k,) for k in range(20)], of_a_clustered_proof),
        Experiment("small desk", [(k,) for k in range(20)], of_a_small_desk),
        Experiment("desk", [(k,) for k in range(20)], of_a_desk),
        Experiment("noise", noise, of_looks_at_noise),
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


def of_looks_at_noise(case: Case, rng: np.random.Generator) -> Figures:
    """Case (kind, days from look to look, repetition): three years of looks at a world where nothing can be learned."""
    kind, step = str(case[0]), int(case[1])
    if kind == "trend noise":
        world = drawn(replace(PLANS[kind], days=NOISE_DAYS), rng)
    else:
        world = as_desk(noise_or_edge(kind, NOISE_DAYS, rng))
    return of_noise(_live(world, every_days=step).looks)


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


def as_desk(world: worlds.World) -> DeskWorld:
    """A world of one symbol and one kind of signal as a desk: its rows in order of entry."""
    order = np.argsort(world.entered_us, kind="stable")
    n, k = world.X.shape
    entered, known = world.entered_us[order], world.known_us[order]
    return DeskWorld(
        X=world.X[order],
        r=world.r[order],
        truth=world.truth[order],
        entered_us=entered,
        known_us=known,
        names=tuple(f"x{column:02d}" for column in range(k)),
        signal_type=np.full(n, "breakout"),
        symbol=np.full(n, "SYM"),
        alive=np.full(n, float(np.ptp(world.truth)) > 0.0),
        day=(entered - worlds.START_US) // worlds.DAY_US,
        open_days=-((entered - known) // worlds.DAY_US),
        scopes=("own",) * k,
        informative=(),
    )


def behaviour() -> str:
    """What this code does in the life of one brief desk whose edge dies, in 12 letters."""
    edge = Edge(auc=0.8, weights=((1.0, -0.8, 0.6),), scopes=("own", "own", "own"), begins=0, ends=160)
    small = {"market_features": 1, "symbol_features": 0, "own_features": 3}
    world = drawn(replace(SMALL_DESK, days=290, holds=(1, 5), edge=edge, **small), np.random.default_rng(0))
    life = _live(world, every_days=60, first_day=100)
    said = np.nan_to_num(life.quality).round(7).tolist()
    words = json.dumps([said, [(look.day, look.verdict, look.proven) for look in life.looks]])
    return hashlib.sha256(words.encode()).hexdigest()[:12]


def _live(world: DeskWorld, *, every_days: int = 21, first_day: int = 21) -> Life:
    with tempfile.TemporaryDirectory() as directory:
        return lived(world, Path(directory), every_days=every_days, first_day=first_day)
