"""Desks as desks are: trades that share days, kinds of signals with drivers of their own, an edge that comes and goes.

`desk`, `small desk` and `trend noise` are plans; `drawn` makes a world of one. What a world tells the learner is what
the worker would have stored: features under names that say nothing, signal types, times, R. What is beside that (truth,
whether the edge lives, which features are the market's) is for whoever judges the learner.

`truth` is P(R > 0) given the features alone: the market's regime, its days and the longest holding are averaged over.
It is computed by following the density of the walk (`walks.win_chance`), not by drawing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
from scipy.optimize import brentq

from trading_system.ml_refinement.storage.times import DAY_US
from trading_system.ml_refinement.typing import BoolArray, FloatArray, IntArray, StringArray
from trading_system.simulation.walks import DAILY_SD, market_days, walked, win_chance
from trading_system.simulation.worlds import START_US, World, bayes_auc

Rng = np.random.Generator
#: What a feature is one of: the market's, the symbol's, the signal's own, or a part of the event itself.
Scope = Literal["market", "symbol", "own", "event"]

_NOON_US, _CLOSE_US, _SECOND_US = DAY_US // 2, DAY_US * 5 // 6, 1_000_000
#: Days beyond the last entry that the market goes on, for the trades that are still open.
_AFTER = 60
_CALIBRATION_ROWS = 60_000
#: Share of a symbol's feature that all symbols have in common.
_COMMON = 0.3


@dataclass(frozen=True)
class Edge:
    """What sets a trade's drift: one weight vector for each signal type, over features of these scopes.

    Scaled so that the truth ranks with this AUC; for signals entered on days `[begins, ends)`.
    """

    auc: float
    weights: tuple[tuple[float, ...], ...]
    scopes: tuple[Scope, ...]
    begins: int
    ends: int


@dataclass(frozen=True)
class Plan:
    """A desk. Days are calendar days from a Monday; holdings are in days on which the desk trades."""

    days: int
    symbols: int
    types: tuple[tuple[str, float], ...]
    #: Least, most, mean and size of the negative binomial of a day's signals; least = most: always as many.
    daily: tuple[int, int, float, float]
    holds: tuple[int, int]
    market_features: int
    symbol_features: int
    own_features: int
    #: Share of a day's variance that open trades share.
    shared: float = 0.35
    weekends: bool = False
    edge: Edge | None = None
    #: Drifts a day of the market's regimes, and how many days one lasts on average.
    regimes: tuple[float, ...] = (0.0,)
    regime_days: float = 85.0
    #: How far the drift a day moves up or down from the first day to the last; so many market features move with it.
    trend: float = 0.0
    trending: int = 0


DESK = Plan(
    days=2000,
    symbols=60,
    types=(("breakout", 0.5), ("reversal", 0.3), ("carry", 0.2)),
    daily=(8, 40, 20.0, 10.0),
    holds=(2, 20),
    market_features=15,
    symbol_features=25,
    own_features=12,
    edge=Edge(
        auc=0.58,
        weights=((1.0, 0.0, 0.6), (-0.5, 0.9, 0.0), (0.0, 0.6, -1.0)),
        scopes=("symbol", "symbol", "own"),
        begins=600,
        ends=1330,
    ),
    regimes=(-0.035, 0.0, 0.035),
)
TREND_NOISE = Plan(
    days=1461,
    symbols=30,
    types=DESK.types,
    daily=(4, 30, 12.0, 10.0),
    holds=(2, 20),
    market_features=15,
    symbol_features=25,
    own_features=12,
    shared=0.7,
    trend=0.06,
    trending=6,
)
SMALL_DESK = Plan(
    days=2000,
    symbols=20,
    types=(("breakout", 1.0),),
    daily=(2, 2, 2.0, 0.0),
    holds=(1, 10),
    market_features=10,
    symbol_features=15,
    own_features=15,
    weekends=True,
    edge=Edge(auc=0.60, weights=((1.0, -0.8, 0.6),), scopes=("own", "own", "own"), begins=0, ends=1250),
)
#: Simple and strong, so that a whole life fits into a few minutes: nothing is measured on it, and it is no benchmark.
DEMO_EDGE = Plan(
    days=560,
    symbols=20,
    types=(("breakout", 0.6), ("reversal", 0.4)),
    daily=(4, 4, 4.0, 0.0),
    holds=(1, 5),
    market_features=2,
    symbol_features=4,
    own_features=8,
    weekends=True,
    edge=Edge(auc=0.66, weights=((1.0, -0.8, 0.0), (0.0, -0.6, 1.0)), scopes=("own", "own", "own"), begins=0, ends=280),
)
PLANS = {"desk": DESK, "trend noise": TREND_NOISE, "small desk": SMALL_DESK, "demo edge": DEMO_EDGE}


@dataclass(frozen=True)
class DeskWorld(World):
    """A world of a desk, n signals in order of time, k features.

    `names` (k,) say nothing of what a feature is. Told to the learner besides: `signal_type` and `symbol`, (n,). For
    the judge alone: `alive` (n,), whether the edge lived when a signal was entered; `day` (n,), the calendar day of
    entry; `open_days` (n,), days on which it moved; `scopes` (k,), and `informative`, indices of what matters.
    """

    names: tuple[str, ...]
    signal_type: StringArray
    symbol: StringArray
    alive: BoolArray
    day: IntArray
    open_days: IntArray
    scopes: tuple[Scope, ...]
    informative: tuple[int, ...]


def without_edge(plan: Plan) -> Plan:
    """The same desk, where nothing says anything."""
    return replace(plan, edge=None)


def drawn(plan: Plan, rng: Rng) -> DeskWorld:
    """A world of the plan; the same for the same state of `rng`."""
    trading = _trading_days(plan.days + _AFTER, weekends=plan.weekends)
    entry_days = int((trading < plan.days).sum())
    at = np.repeat(np.arange(entry_days), _counts(plan, entry_days, rng))
    n = len(at)
    kinds = np.searchsorted(np.cumsum([share for _, share in plan.types])[:-1], rng.random(n), side="right")
    symbol = _symbols(at, plan.symbols, rng)
    trend = _trend(plan, entry_days, rng)
    columns, scopes = _features(plan, at, symbol, kinds, trend, rng)
    informative = _informative(plan, scopes, rng)
    alive = np.zeros(n, dtype=bool)
    drift = trend[at] * plan.trend
    if plan.edge is not None:
        alive = (trading[at] >= plan.edge.begins) & (trading[at] < plan.edge.ends)
        opinion = (columns[:, informative] * np.array(plan.edge.weights)[kinds]).sum(axis=1)
        drift = drift + np.where(alive, edge_scale(plan) * opinion, 0.0)
    hold = rng.integers(plan.holds[0], plan.holds[1] + 1, n)
    market = market_days(len(trading), rng) + _regime(plan, len(trading), rng) / (DAILY_SD * np.sqrt(plan.shared))
    r, open_days = walked(at + 1, hold, drift, market, shared=plan.shared, rng=rng)
    order = rng.permutation(len(scopes))
    place = np.argsort(order)
    return DeskWorld(
        X=columns[:, order],
        r=r,
        truth=_truth(plan, drift),
        entered_us=START_US + trading[at] * DAY_US + _NOON_US + _within_day(at) * _SECOND_US,
        known_us=START_US + trading[at + open_days] * DAY_US + _CLOSE_US,
        names=tuple(f"x{column:02d}" for column in range(len(scopes))),
        signal_type=np.array([name for name, _ in plan.types])[kinds],
        symbol=np.array([f"S{number:02d}" for number in range(plan.symbols)])[symbol],
        alive=alive,
        day=trading[at],
        open_days=open_days,
        scopes=tuple(scopes[column] for column in order),
        informative=tuple(int(place[column]) for column in informative),
    )


@cache
def edge_scale(plan: Plan) -> float:
    """Drift a day for one unit of opinion, at which the truth ranks with the AUC the edge is said to have.

    Raises:
        ValueError: the plan has no edge.
    """
    if plan.edge is None:
        raise ValueError("a plan without an edge has no scale")
    rng = np.random.default_rng(57)
    kinds = np.searchsorted(
        np.cumsum([share for _, share in plan.types])[:-1], rng.random(_CALIBRATION_ROWS), side="right"
    )
    parts = [
        _heavy(rng, _CALIBRATION_ROWS) if scope == "own" else rng.standard_normal(_CALIBRATION_ROWS)
        for scope in plan.edge.scopes
    ]
    opinion = (np.column_stack(parts) * np.array(plan.edge.weights)[kinds]).sum(axis=1)
    auc = plan.edge.auc
    return float(brentq(lambda scale: bayes_auc(_truth(plan, scale * opinion)) - auc, 1e-4, 0.5, xtol=1e-6))


def _truth(plan: Plan, drift: FloatArray) -> FloatArray:
    """P(R > 0) by drift, shape (n,): the regimes are as frequent as each other, and outlast a trade."""
    chances = [win_chance(drift + regime, shared=plan.shared, holds=plan.holds) for regime in plan.regimes]
    mean: FloatArray = np.mean(chances, axis=0)
    return mean


def _trading_days(days: int, *, weekends: bool) -> IntArray:
    """Calendar days on which the desk trades."""
    calendar = np.arange(days, dtype=np.int64)
    return calendar if weekends else calendar[calendar % 7 < 5]


def _counts(plan: Plan, days: int, rng: Rng) -> IntArray:
    least, most, mean, size = plan.daily
    if least == most:
        return np.full(days, least, dtype=np.int64)
    return np.clip(rng.negative_binomial(size, size / (size + mean), days), least, most).astype(np.int64)


def _symbols(at: IntArray, symbols: int, rng: Rng) -> IntArray:
    """A symbol signals at most once a day."""
    taken = [rng.permutation(symbols)[:count] for count in np.unique(at, return_counts=True)[1]]
    return np.concatenate(taken).astype(np.int64)


def _within_day(at: IntArray) -> IntArray:
    """The place of each signal among those of its day."""
    first = np.flatnonzero(np.r_[True, at[1:] != at[:-1]])
    places: IntArray = np.arange(len(at)) - np.repeat(first, np.diff(np.r_[first, len(at)]))
    return places


def _trend(plan: Plan, days: int, rng: Rng) -> FloatArray:
    """From -1 to 1 or from 1 to -1, with a slow wave on it; 0 in plans without a trend."""
    line = np.linspace(-1.0, 1.0, days) * rng.choice([-1.0, 1.0])
    wave = 0.3 * np.sin(2.0 * np.pi * (np.arange(days) / days * rng.uniform(1.0, 3.0) + rng.random()))
    moved: FloatArray = (line + wave) * (plan.trend != 0.0)
    return moved


def _regime(plan: Plan, days: int, rng: Rng) -> FloatArray:
    """The market's drift on each day: a regime ends with the same chance every day, and another follows."""
    kinds = len(plan.regimes)
    moves = (rng.random(days) < 1.0 / plan.regime_days) * rng.integers(1, max(kinds, 2), days)
    drifts: FloatArray = np.array(plan.regimes)[(rng.integers(kinds) + np.cumsum(moves)) % kinds]
    return drifts


def _features(
    plan: Plan, at: IntArray, symbol: IntArray, kinds: IntArray, trend: FloatArray, rng: Rng
) -> tuple[FloatArray, list[Scope]]:
    """Columns by scope, of unit variance but for the event's own, shape (n, k)."""
    days, n = len(trend), len(at)
    market = _persistent((plan.market_features,), days, (0.9, 0.99), rng)
    told = np.sqrt(0.7) * trend / max(float(trend.std()), 1e-12)
    with_it = told[:, None] * rng.choice([-1.0, 1.0], plan.trending)
    market[:, : plan.trending] = with_it + np.sqrt(0.3) * market[:, : plan.trending]
    common = _persistent((1, plan.symbol_features), days, (0.8, 0.98), rng)
    alone = _persistent((plan.symbols, plan.symbol_features), days, (0.8, 0.98), rng)
    by_symbol = np.sqrt(_COMMON) * common + np.sqrt(1.0 - _COMMON) * alone
    own = _heavy(rng, n, plan.own_features)
    conviction = rng.integers(1, 4, n).astype(np.float64)
    kind_columns = [(kinds == kind).astype(np.float64) for kind in range(1, len(plan.types))]
    weekday = (at % 5 if not plan.weekends else at % 7).astype(np.float64)
    event = np.column_stack([*kind_columns, conviction, np.full(n, 12.0), weekday])
    parts: tuple[tuple[Scope, FloatArray], ...] = (
        ("market", market[at]),
        ("symbol", by_symbol[at, symbol]),
        ("own", own),
        ("event", event),
    )
    scopes = [scope for scope, values in parts for _ in range(values.shape[1])]
    return np.hstack([values for _, values in parts]), scopes


def _persistent(shape: tuple[int, ...], days: int, memory: tuple[float, float], rng: Rng) -> FloatArray:
    """First-order autoregressions of unit variance, shape (days, *shape); one memory for each of the last axis."""
    phi = rng.uniform(*memory, shape[-1])
    values = np.empty((days, *shape))
    values[0] = rng.standard_normal(shape)
    shocks = np.sqrt(1.0 - phi**2) * rng.standard_normal((days, *shape))
    for day in range(1, days):
        values[day] = phi * values[day - 1] + shocks[day]
    return values


def _heavy(rng: Rng, *shape: int) -> FloatArray:
    """Student's t with five degrees of freedom, of unit variance."""
    values: FloatArray = rng.standard_t(5, shape) / np.sqrt(5.0 / 3.0)
    return values


def _informative(plan: Plan, scopes: list[Scope], rng: Rng) -> list[int]:
    """Which columns matter: of the edge's scopes, each another one."""
    chosen: list[int] = []
    for scope in plan.edge.scopes if plan.edge is not None else ():
        of_scope = [column for column, what in enumerate(scopes) if what == scope and column not in chosen]
        chosen.append(int(rng.choice(of_scope)))
    return chosen
