"""Learning by signal type and beside a market that trades share, as a model does it; and bad input of either kind."""

from __future__ import annotations

import numpy as np
import pytest

from trading_system.ml_refinement.models import SignalQualityModel
from trading_system.ml_refinement.models.errors import BadData
from trading_system.ml_refinement.models.fitting import FitPlan
from trading_system.ml_refinement.models.neutral.design import MOST_TYPES
from trading_system.ml_refinement.storage.times import DAY_US
from trading_system.ml_refinement.training.backtest import fit_plan

NAMES = ("pulse", "calm", "breakout", "x3", "x4", "x5")
HOUR_US = DAY_US // 24


def signals(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Six features; `pulse` is good for a breakout and bad for a reversal."""
    rng = np.random.default_rng(seed)
    X, types = rng.standard_normal((n, 6)), rng.choice(["breakout", "reversal"], n)
    lean = np.where(types == "breakout", 1.0, -1.0) * X[:, 0]
    return X, np.where(rng.random(n) < 1.0 / (1.0 + np.exp(-1.2 * lean)), 1.4, -1.0), types


def plan(n: int, types: np.ndarray | None, *, held_days: float = 3.0, a_day: int = 8) -> FitPlan:
    entered = 15_000 * DAY_US + np.arange(n) // a_day * DAY_US + np.arange(n) % a_day * HOUR_US
    known = entered + int(held_days * DAY_US)
    return fit_plan(entered, known, int(held_days * DAY_US), types)


def learned(n: int = 800, **changes: object) -> SignalQualityModel:
    X, r, types = signals(n)
    model = SignalQualityModel(max_iter=8)
    model.fit(X, r, feature_names=NAMES, plan=changes.get("plan", plan(n, types)))
    return model


def ranked(model: SignalQualityModel, types: np.ndarray | None = None) -> float:
    """Mean P(win) of winners less that of losers, on new signals."""
    X, r, own = signals(2000, seed=1)
    p = model.predict_proba(X, own if types is None else types)
    return float(p[r > 0].mean() - p[r < 0].mean())


def test_a_feature_that_points_two_ways_for_two_types_is_learned_for_each() -> None:
    assert ranked(learned()) > 0.1
    assert ranked(learned(plan=plan(800, None))) < 0.03


def test_a_type_never_seen_and_no_type_at_all_are_answered_alike() -> None:
    model, X = learned(), signals(50, seed=2)[0]
    unseen = model.predict_proba(X, ["never_seen"] * 50)
    np.testing.assert_array_equal(unseen, model.predict_proba(X))
    assert np.abs(unseen - model.predict_proba(X, ["breakout"] * 50)).max() > 0.05


def test_a_signal_alone_scores_as_in_any_batch_of_types() -> None:
    model = learned()
    X, _, types = signals(60, seed=3)
    types[::7] = "never_seen"
    together = model.assess(X, types)
    for i in range(60):
        alone = model.assess(X[i : i + 1], types[i : i + 1])
        np.testing.assert_allclose(alone.p, together.p[i : i + 1], rtol=1e-12)
        np.testing.assert_allclose(alone.confidence, together.confidence[i : i + 1], rtol=1e-12)


def test_a_saved_model_knows_its_types_and_replays_rows_of_them() -> None:
    model = learned()
    X, _, types = signals(60, seed=4)
    again = SignalQualityModel()
    again.from_bytes(model.to_bytes())
    np.testing.assert_array_equal(again.predict_proba(X, types), model.predict_proba(X, types))
    assert set(model._golden["signal_types"]) == {"breakout", "reversal"}
    assert again.digest() == model.digest() == learned().digest()


def test_what_columns_add_is_told_apart_for_each_feature_and_adds_up() -> None:
    model = learned()
    X, _, types = signals(40, seed=6)
    added = model.contributions(X, types)
    assert added.shape == (40, 7)
    linear = model._classifier.estimator.linear.scores(X, types) @ model._classifier.calibration.weights[:2]  # type: ignore[union-attr]
    assert np.ptp(linear - added.sum(axis=1)) < 1e-12
    assert np.abs(added[:, 0]).mean() > 3 * np.abs(added[:, 3]).mean()
    opposite = model.contributions(X, np.where(types == "breakout", "reversal", "breakout"))
    assert np.corrcoef(added[:, 0], opposite[:, 0])[0, 1] < 0


def test_the_columns_that_are_served_are_those_that_scores_are_made_of() -> None:
    model = learned()
    X, _, types = signals(40, seed=6)
    served, design = model.columns_served(), model._classifier.estimator.linear.design  # type: ignore[union-attr]
    z = design.lines(X)
    number = [served.types.index(name) for name in types]
    made = z * served.line + (np.abs(z) - design.fold_mean) * served.fold + z * served.of_type[number]
    added = model.contributions(X, types)
    assert np.allclose(made, added[:, :-1], atol=1e-12)
    assert np.allclose(served.type_itself[number], added[:, -1], atol=1e-12)


def test_types_beside_another_number_of_rows_are_refused() -> None:
    with pytest.raises(BadData, match="signal types"):
        learned().predict_proba(np.zeros((3, 6)), ["breakout"] * 2)


def test_rare_types_pool_with_the_rest_and_two_hundred_of_them_do_too() -> None:
    X, r, _ = signals(900)
    own = {}
    for case, types in {
        "one": np.full(900, "breakout"),
        "a rare one": np.where(np.arange(900) < 850, "common", "rare"),
        "two hundred": np.array([f"kind{i % 200}" for i in range(900)]),
        "twelve": np.array([f"kind{i % 12:02d}" for i in range(900)]),
    }.items():
        model = SignalQualityModel(max_iter=4)
        model.fit(X, r, plan=plan(900, types))
        estimator = model._classifier.estimator
        assert estimator is not None
        assert estimator.linear is not None
        own[case] = estimator.linear.design.types
    assert own["one"] == own["two hundred"] == ()
    assert own["a rare one"] == ("common",)
    assert len(own["twelve"]) == MOST_TYPES


@pytest.mark.parametrize("r_like", ["two values", "one absurd"])
@pytest.mark.parametrize("when", ["one day", "all overlap", "zero length", "one a fortnight"])
def test_schedules_and_outcomes_at_the_edges_are_learned_from(when: str, r_like: str) -> None:
    X, r, types = signals(300)
    if r_like == "one absurd":
        r[np.argmax(r)] = 1e3
    entered = 15_000 * DAY_US + np.arange(300) * {"one day": 1, "one a fortnight": 14 * DAY_US}.get(when, DAY_US)
    held = {"one day": HOUR_US, "all overlap": 400 * DAY_US, "zero length": 0, "one a fortnight": DAY_US}[when]
    known = entered + held
    model = SignalQualityModel(max_iter=4)
    model.fit(X, r, plan=fit_plan(entered, known, min(held, 60 * DAY_US), types))
    p = model.predict_proba(X, types)
    assert np.isfinite(p).all()
    assert ((p > 0) & (p < 1)).all()
    assert model.calibration_slope >= 0.0


def test_what_open_trades_share_is_not_taken_for_a_features_doing() -> None:
    """A feature follows the market of its days; another says something of each trade. Only the second one counts."""
    rng = np.random.default_rng(5)
    n, a_day = 1200, 8
    day = np.arange(n) // a_day
    market = np.cumsum(rng.standard_normal(n // a_day + 30))
    shared = (market[day + 4] - market[day]) / 2.0
    X = rng.standard_normal((n, 6))
    X[:, 1] = np.convolve(market, np.ones(15) / 15, mode="same")[day]
    r = np.where(0.5 * X[:, 0] + 1.5 * shared + rng.standard_normal(n) > 0, 1.3, -1.0)
    found = {}
    for name, known in (("neutral", plan(n, None, held_days=4.0)), ("blind", FitPlan.by_rows(n))):
        model = SignalQualityModel(max_iter=4)
        model.fit(X, r, feature_names=NAMES, plan=known)
        estimator = model._classifier.estimator
        assert estimator is not None
        assert estimator.linear is not None
        found[name] = np.abs(estimator.linear.line[1]) + np.abs(estimator.linear.fold[1])
        assert (estimator.linear.shared_days > 0) == (name == "neutral")
    assert found["neutral"][1] / found["neutral"][0] < found["blind"][1] / found["blind"][0]
