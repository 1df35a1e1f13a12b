"""Worlds with known truth are what they say they are."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest

from trading_system.ml_refinement.storage.times import DAY_US
from trading_system.simulation import families, walks
from trading_system.simulation.desks import DESK, PLANS, SMALL_DESK, TREND_NOISE, DeskWorld, drawn, without_edge
from trading_system.simulation.seeds import Seeds, generator
from trading_system.simulation.worlds import BASE_RATE, START_US, expected_auc

DRAWN = 4


@cache
def world(name: str, seed: int = 0) -> DeskWorld:
    return drawn(PLANS[name], np.random.default_rng(seed))


def share_explained(values: np.ndarray, group: np.ndarray) -> float:
    """The part of a column's variance that lies between groups."""
    _, place, counts = np.unique(group, return_inverse=True, return_counts=True)
    means = np.bincount(place, values) / counts
    return float(means[place].var() / values.var())


@pytest.mark.parametrize("name", PLANS)
def test_a_world_is_its_seed(name: str) -> None:
    again = drawn(PLANS[name], np.random.default_rng(0))
    for item in fields(DeskWorld):
        assert np.array_equal(getattr(world(name), item.name), getattr(again, item.name)), item.name
    assert not np.array_equal(world(name).r[:100], world(name, 1).r[:100])


@pytest.mark.parametrize("shared", [0.0, 0.35])
def test_the_chance_of_a_win_is_what_walks_come_to(shared: float) -> None:
    rng = np.random.default_rng(5)
    n, days = 60_000, 60_000
    hold, first = rng.integers(2, 21, n), rng.integers(0, days - 21, n)
    market = walks.market_days(days, rng)
    for drift in (-0.08, 0.0, 0.05):
        r, _ = walks.walked(first, hold, np.full(n, drift), market, shared=shared, rng=rng)
        chance = float(walks.win_chance(np.array([drift]), shared=shared, holds=(2, 20))[0])
        assert (r > 0).mean() == pytest.approx(chance, abs=0.012)


def test_a_trade_ends_at_its_stop_behind_a_gap_at_its_target_or_in_time() -> None:
    rng = np.random.default_rng(2)
    n = 20_000
    r, open_days = walks.walked(
        np.zeros(n, dtype=np.int64), np.full(n, 20), np.zeros(n), np.zeros(21), shared=0.0, rng=rng
    )
    stopped = r <= walks.STOP
    assert (r <= walks.TARGET).all()
    assert (r < walks.STOP).sum() / stopped.sum() == pytest.approx(walks.GAP_SHARE, abs=0.008)
    inside = (r > walks.STOP) & (r < walks.TARGET)
    assert (open_days[inside] == 20).all()
    assert (open_days >= 1).all()
    assert (r == walks.TARGET).mean() > 0.15


def test_trades_that_are_open_together_share_the_market() -> None:
    rng = np.random.default_rng(3)
    plan = replace(DESK, edge=None, regimes=(0.0,), daily=(30, 30, 30.0, 0.0), holds=(1, 1), days=1400)
    told = drawn(plan, rng)
    inside = (told.r > walks.STOP) & (told.r < walks.TARGET)
    between = share_explained(told.r[inside], told.day[inside])
    assert 0.2 < between < 0.45
    alone = drawn(replace(plan, shared=1e-9), rng)
    inside = (alone.r > walks.STOP) & (alone.r < walks.TARGET)
    assert share_explained(alone.r[inside], alone.day[inside]) == pytest.approx(1 / 30, abs=0.02)


@pytest.mark.parametrize(("name", "auc"), [("desk", 0.58), ("small desk", 0.60)])
def test_the_truth_ranks_as_well_as_the_edge_is_said_to_and_only_while_it_lives(name: str, auc: float) -> None:
    edge = PLANS[name].edge
    living, dead, won = [], [], []
    for seed in range(DRAWN):
        told = world(name, seed)
        assert np.array_equal(told.alive, (told.day >= edge.begins) & (told.day < edge.ends))
        living.append(expected_auc(told.truth[told.alive], told.truth[told.alive]))
        dead.append(np.ptp(told.truth[~told.alive]))
        upper = told.truth > np.median(told.truth[told.alive])
        won.append((told.r > 0)[told.alive & upper].mean() - (told.r > 0)[told.alive & ~upper].mean())
    assert np.mean(living) == pytest.approx(auc, abs=0.004)
    assert max(dead) < 1e-12
    assert np.mean(won) > 0.08


@pytest.mark.parametrize("name", PLANS)
def test_what_was_said_of_a_desk_holds(name: str) -> None:
    plan = PLANS[name]
    told = [world(name, seed) for seed in range(DRAWN)]
    daily = np.concatenate([np.unique(one.day, return_counts=True)[1] for one in told])
    least, most, mean, size = plan.daily
    assert least <= daily.min() <= daily.max() <= most
    assert daily.mean() == pytest.approx(mean, rel=0.03)
    if size:
        assert daily.var() == pytest.approx(mean + mean**2 / size, rel=0.25)
    for one in told:
        kinds = [np.mean(one.signal_type == kind) for kind, _ in plan.types]
        assert kinds == pytest.approx([share for _, share in plan.types], abs=0.02)
        assert len(np.unique(one.symbol)) == plan.symbols
        assert 1 <= one.open_days.min() <= one.open_days.max() == plan.holds[1]
        assert one.truth.mean() == pytest.approx((one.r > 0).mean(), abs=0.09)
        assert (np.diff(one.entered_us) > 0).all()
        assert (one.known_us > one.entered_us).all()
        since_noon = one.entered_us - START_US - one.day * DAY_US - DAY_US // 2
        assert 0 <= since_noon.min() <= since_noon.max() < 60_000_000
        assert len(one.names) == one.X.shape[1] == len(one.scopes)
    won = 0.51 if name == "demo edge" else 0.45  # its trades are short, and more of them end by time above 0
    assert np.mean([(one.r > 0).mean() for one in told]) == pytest.approx(won, abs=0.05)


def test_a_desk_has_the_features_that_desks_have() -> None:
    told = world("desk")
    assert told.X.shape[1] == 57
    by_scope = {scope: [i for i, what in enumerate(told.scopes) if what == scope] for scope in set(told.scopes)}
    assert {scope: len(columns) for scope, columns in by_scope.items()} == {
        "market": 15, "symbol": 25, "own": 12, "event": 5,
    }  # fmt: skip
    for column in by_scope["market"]:
        assert share_explained(told.X[:, column], told.day) == pytest.approx(1.0)
    within = [share_explained(told.X[:, column], told.day) for column in by_scope["symbol"]]
    assert np.mean(within) == pytest.approx(0.33, abs=0.07)
    for column in by_scope["own"]:
        assert share_explained(told.X[:, column], told.day) < 0.08
        assert told.X[:, column].std() == pytest.approx(1.0, abs=0.1)
    assert [told.scopes[column] for column in told.informative] == ["symbol", "symbol", "own"]
    assert told.informative != world("desk", 1).informative


def test_each_type_has_drivers_of_its_own() -> None:
    told = world("desk")
    truth = np.where(told.alive, told.truth, np.nan)
    z = told.X[:, told.informative]
    for kind, weights in zip([name for name, _ in DESK.types], DESK.edge.weights, strict=True):
        mine = told.alive & (told.signal_type == kind)
        slopes = np.linalg.lstsq(np.column_stack([z[mine], np.ones(mine.sum())]), truth[mine], rcond=None)[0][:3]
        assert slopes / np.linalg.norm(slopes) == pytest.approx(np.array(weights) / np.linalg.norm(weights), abs=0.05)


def test_in_trend_noise_wins_and_six_features_of_the_market_trend_and_nothing_tells_a_day_apart() -> None:
    for seed in range(DRAWN):
        told = world("trend noise", seed)
        assert not told.alive.any()
        assert told.informative == ()
        assert share_explained(told.truth, told.day) == pytest.approx(1.0)
        assert np.ptp(told.truth) > 0.1
        market = [i for i, what in enumerate(told.scopes) if what == "market"]
        along = [abs(np.corrcoef(told.X[:, column], told.truth)[0, 1]) for column in market]
        assert sum(share > 0.6 for share in along) >= TREND_NOISE.trending


def test_a_desk_without_its_edge_says_nothing() -> None:
    told = drawn(without_edge(SMALL_DESK), np.random.default_rng(0))
    assert np.ptp(told.truth) < 1e-12
    assert not told.alive.any()


def test_what_is_chosen_on_is_never_what_is_reported() -> None:
    drawn_for = {seeds: generator("desk", ("desk", 0), seeds).random() for seeds in Seeds}
    assert len(set(drawn_for.values())) == len(Seeds)
    assert drawn_for[Seeds.REPORTING] == generator("desk", ("desk", 0)).random()


@pytest.mark.parametrize("kind", ["linear", "mixed"])
@pytest.mark.parametrize("auc", [0.6, 0.7])
def test_a_family_drawn_anew_is_as_hard_as_it_is_said_to_be(kind: str, auc: float) -> None:
    informative = set()
    for seed in range(DRAWN):
        rng = np.random.default_rng(seed)
        drawn_family = families.family(kind, auc, rng)
        X = drawn_family.features(40_000, rng)
        truth = drawn_family.truth(X)
        assert expected_auc(truth, truth) == pytest.approx(auc, abs=0.01)
        assert truth.mean() == pytest.approx(BASE_RATE, abs=0.01)
        assert X.std(axis=0) == pytest.approx(np.ones(60), abs=0.06)
        least, most = families.INFORMATIVE
        assert least <= len(drawn_family.informative) <= most
        informative.add(drawn_family.informative)
        noise = np.setdiff1d(np.arange(60), drawn_family.informative)
        shuffled = X.copy()
        shuffled[:, noise] = 0.0
        assert drawn_family.truth(shuffled) == pytest.approx(truth)
        if kind == "linear":
            assert {term.form for term in drawn_family.terms} == {"line"}
    assert len(informative) == DRAWN
