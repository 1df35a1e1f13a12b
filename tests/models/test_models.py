"""The model of signal quality: what it predicts, what it refuses, and that a saved one answers the same."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier
from sklearn.exceptions import NotFittedError

from tests.support.learning_installation import fitted
from trading_system.ml_refinement.models import SignalQualityModel
from trading_system.ml_refinement.models.calibration import fit_calibration, to_logit
from trading_system.ml_refinement.models.errors import (
    BadData,
    FeatureContractError,
    NoUsableFeatures,
    OneClass,
    UnknownParameter,
)
from trading_system.ml_refinement.models.fitting import FitPlan, RowSplit
from trading_system.ml_refinement.models.selection import SelectionRule, select_columns
from trading_system.ml_refinement.models.trees import from_gradient_boosting, from_histogram_boosting
from trading_system.ml_refinement.recipe_parameters import PARAMETERS, defaults, wrong_parameters
from trading_system.ml_refinement.storage.times import DAY_US

RECIPES = ["ensemble", "gradient_boosting"]


def noise(rows: int = 100, columns: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, columns)), rng.standard_normal(rows)


@pytest.mark.parametrize("recipe", RECIPES)
def test_fitting_reports_the_training_metrics(recipe: str) -> None:
    model = SignalQualityModel(recipe=recipe)
    metrics = model.fit(*noise())
    assert model.is_fitted
    assert {"accuracy", "auc", "f1", "log_loss"} <= metrics.keys()
    assert model.get_metadata().train_samples == 100


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_saved_model_answers_the_same_to_the_bit(tmp_path: Path, recipe: str) -> None:
    X, r = noise(300)
    model = SignalQualityModel(recipe=recipe)
    model.fit(X, r + X[:, 0])
    path = str(tmp_path / "model.pkl")
    assert model.save(path)
    loaded = SignalQualityModel()
    assert loaded.load(path)
    assert loaded.is_fitted
    for answer in ("predict_proba", "predict", "predict_r", "confidence", "novelty"):
        np.testing.assert_array_equal(getattr(model, answer)(X), getattr(loaded, answer)(X))
    assert (loaded.model_id, loaded.recipe, loaded.digest()) == (model.model_id, recipe, model.digest())
    assert loaded.get_metadata() == model.get_metadata()


def test_the_specifications_parameters_choose_the_specifications_recipe() -> None:
    assert SignalQualityModel(n_estimators=30, max_depth=3).recipe == "gradient_boosting"
    assert SignalQualityModel().recipe == "ensemble"
    assert SignalQualityModel(recipe="gradient_boosting").params["max_depth"] == 5
    with pytest.raises(UnknownParameter, match="n_trees"):
        SignalQualityModel(n_trees=5)
    with pytest.raises(UnknownParameter, match="gradient_boosting knows all that was given"):
        SignalQualityModel(recipe="ensemble", n_estimators=5)
    with pytest.raises(UnknownParameter, match="forest"):
        SignalQualityModel(recipe="forest")
    with pytest.raises(UnknownParameter, match="log"):
        SignalQualityModel(scaling="log")


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        ({"max_iter": 2.5}, "a valid integer"),
        ({"max_iter": 0}, "greater than or equal to 1"),
        ({"max_iter": True}, "a valid integer"),
        ({"slab": "much"}, "a valid number"),
        ({"slab": float("inf")}, "a finite number"),
        ({"max_bins": 256}, "less than or equal to 255"),
        ({"subsample": 1.5}, "less than or equal to 1"),
        ({"max_depth": -1}, "greater than or equal to 1"),
        ({"random_state": "42"}, "a valid integer"),
    ],
)
def test_a_hyperparameter_that_cannot_be_used_is_named_with_what_it_may_be(
    given: dict[str, object], allowed: str
) -> None:
    (name, value), *_ = given.items()
    with pytest.raises(UnknownParameter, match=allowed) as caught:
        SignalQualityModel(**given)  # type: ignore[arg-type]
    assert f"cannot use {name}={value!r}" in str(caught.value)


def test_every_parameter_can_be_what_it_is_by_default_and_what_its_recipe_takes() -> None:
    for recipe in PARAMETERS:
        assert wrong_parameters(recipe, defaults(recipe)) == ""
        assert SignalQualityModel(recipe=recipe).params == defaults(recipe)
    assert (
        wrong_parameters("gradient_boosting", {"max_depth": None, "min_samples_leaf": 0.1, "random_state": None}) == ""
    )
    assert wrong_parameters("ensemble", {"max_iter": np.int64(7), "slab": 1, "max_leaf_nodes": None}) == ""


def test_the_forest_of_arrays_answers_as_scikit_learn_does() -> None:
    rng = np.random.default_rng(1)
    X = rng.standard_normal((400, 7))
    X[rng.random(X.shape) < 0.05] = np.nan
    won = np.nan_to_num(X[:, 0]) + rng.standard_normal(400) > 0
    asked = 3.0 * rng.standard_normal((500, 7))
    asked[rng.random(asked.shape) < 0.1] = np.nan
    histogram = HistGradientBoostingClassifier(max_iter=20, random_state=0).fit(X, won)
    np.testing.assert_allclose(
        from_histogram_boosting(histogram).raw(asked), histogram.decision_function(asked), atol=1e-12
    )
    medians = np.nanmedian(X, axis=0)
    exact = GradientBoostingClassifier(n_estimators=20, random_state=0).fit(np.where(np.isnan(X), medians, X), won)
    ours = from_gradient_boosting(exact, medians=medians).raw(asked)
    np.testing.assert_allclose(ours, exact.decision_function(np.where(np.isnan(asked), medians, asked)), atol=1e-12)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_row_alone_scores_as_in_any_batch(recipe: str) -> None:
    model = SignalQualityModel(recipe=recipe)
    X, r = noise(200)
    model.fit(X, r + X[:, 1])
    alone = np.concatenate([model.predict_proba(row[None, :]) for row in X])
    np.testing.assert_allclose(alone, model.predict_proba(X), rtol=1e-12)


def test_columns_of_a_frame_are_taken_by_name_in_any_order() -> None:
    model = fitted()
    frame = pd.DataFrame(noise(20, 6)[0], columns=list(model.feature_names))
    shuffled = frame[list(frame.columns[::-1])].assign(another=1.0)
    np.testing.assert_array_equal(model.predict_proba(shuffled), model.predict_proba(frame.to_numpy()))
    with pytest.raises(FeatureContractError, match="x03"):
        model.predict_proba(frame.drop(columns="x03"))
    with pytest.raises(FeatureContractError, match="6 features, not 5"):
        model.predict_proba(frame.to_numpy()[:, :5])


def test_other_features_than_those_fitted_on_are_refused() -> None:
    model = fitted()
    model.check_features(model.feature_names, "bench-1")
    with pytest.raises(FeatureContractError, match="the order"):
        model.check_features(model.feature_names[::-1], "bench-1")
    with pytest.raises(FeatureContractError, match="bench-2"):
        model.check_features(model.feature_names, "bench-2")
    with pytest.raises(FeatureContractError, match="x99"):
        model.check_features((*model.feature_names[:-1], "x99"), "bench-1")


def test_missing_values_are_handled_and_infinite_ones_refused() -> None:
    X, r = noise(200)
    X[::3, 2] = np.nan
    X[:, 4] = np.nan
    model = SignalQualityModel()
    model.fit(X, r)
    assert np.isfinite(model.predict_proba(np.full((3, 10), np.nan))).all()
    X[0, 0] = np.inf
    with pytest.raises(BadData, match="infinite"):
        model.predict_proba(X)
    with pytest.raises(BadData, match="infinite"):
        SignalQualityModel().fit(X, r)


def test_what_cannot_be_learned_from_is_named_before_fitting() -> None:
    X, r = noise()
    with pytest.raises(OneClass, match="won"):
        SignalQualityModel().fit(X, np.abs(r) + 0.1)
    with pytest.raises(NoUsableFeatures):
        SignalQualityModel().fit(np.ones_like(X), r)
    with pytest.raises(NoUsableFeatures):
        SignalQualityModel().fit(np.full_like(X, np.nan), r)
    with pytest.raises(BadData, match="target"):
        SignalQualityModel().fit(X, np.where(r > 2, np.nan, r) * np.nan)
    with pytest.raises(BadData, match="targets"):
        SignalQualityModel().fit(X, r[:-1])
    with pytest.raises(BadData, match="names"):
        SignalQualityModel().fit(X, r, feature_names=["same"] * 10)
    with pytest.raises(NotFittedError):
        SignalQualityModel().predict(X)
    with pytest.raises(NotFittedError):
        SignalQualityModel().to_bytes()


def test_with_too_few_rows_the_base_rate_is_served() -> None:
    X, r = noise(60)
    model = SignalQualityModel()
    model.fit(X, r)
    assert np.ptp(model.predict_proba(X)) == 0.0
    assert model.predict_proba(X)[0] == pytest.approx(((r > 0).sum() + 1) / 62)
    assert (model.confidence(X) == 0.0).all()


def test_calibration_shrinks_and_never_inverts() -> None:
    rng = np.random.default_rng(2)
    p = rng.uniform(0.1, 0.9, 20_000)
    won, score, period = rng.random(20_000) < p, to_logit(p)[:, None], np.arange(20_000) // 100
    assert fit_calibration(score, won, period, all_won=won).slope == pytest.approx(1.0, abs=0.05)
    inverted = fit_calibration(-score, won, period, all_won=won)
    assert 0.0 <= inverted.slope < 0.01
    np.testing.assert_allclose(inverted(-score), won.mean(), atol=0.01)
    shrunk = fit_calibration(3.0 * score, won, period, all_won=won)
    assert shrunk.slope == pytest.approx(1 / 3, abs=0.05)
    np.testing.assert_allclose(shrunk(3.0 * score), p, atol=0.03)


def test_held_out_rows_decide_between_members_and_few_of_them_decide_little() -> None:
    rng = np.random.default_rng(3)
    p = rng.uniform(0.2, 0.8, 6_000)
    won, period = rng.random(6_000) < p, np.arange(6_000) // 100
    scores = np.column_stack([to_logit(p), rng.standard_normal(6_000), rng.standard_normal(6_000)])
    many = fit_calibration(scores, won, period, all_won=won).weights
    assert many[0] > 0.85
    assert many[1:].max() < 0.1
    few = fit_calibration(scores[:120], won[:120], period[:120], all_won=won[:120]).weights
    assert few.min() > 0.02
    assert np.isclose(few.sum(), few.sum().clip(0.0, 1.0))


def test_a_weeks_luck_is_not_taken_for_an_opinion_and_the_training_rows_win_rate_is_served() -> None:
    rng = np.random.default_rng(4)
    period = np.arange(5_000) // 50
    luck = rng.standard_normal(100)[period]
    won = rng.random(5_000) < 1.0 / (1.0 + np.exp(-1.5 * luck))
    told_the_week = (luck + 0.1 * rng.standard_normal(5_000))[:, None]
    found = fit_calibration(told_the_week, won, period, all_won=np.arange(1_000) < 300)
    assert fit_calibration(told_the_week, won, np.zeros(5_000, dtype=np.int64), all_won=won).slope > 0.9
    assert found.slope < 0.6
    assert found(told_the_week).mean() == pytest.approx(0.3, abs=0.01)


def test_too_little_to_calibrate_on_serves_the_base_rate() -> None:
    score, period = np.linspace(-2.0, 2.0, 99)[:, None], np.zeros(99, dtype=np.int64)
    few = fit_calibration(score, score[:, 0] > 0, period, all_won=score[:, 0] > 0)
    assert (few.slope, few.rows) == (0.0, 0)
    rare = np.arange(500) < 29
    told = np.where(rare, 2.0, -2.0)[:, None]
    assert fit_calibration(told, rare, np.zeros(500, dtype=np.int64), all_won=rare).slope == 0.0


def test_on_noise_the_probabilities_are_hardly_worse_than_the_base_rate() -> None:
    excess = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        X, won = rng.standard_normal((400, 30)), rng.random(400) < 0.45
        model = SignalQualityModel()
        model.fit(X, np.where(won, 1.4, -1.0))
        p = model.predict_proba(rng.standard_normal((2000, 30)))
        excess.append(np.mean(-0.45 * np.log(p) - 0.55 * np.log(1 - p)) + 0.45 * np.log(0.45) + 0.55 * np.log(0.55))
    assert np.mean(excess) < 0.005


def test_expected_r_lies_between_what_losers_and_winners_made() -> None:
    model = fitted()
    X = noise(50, 6)[0]
    p, r = model.predict_proba(X), model.predict_r(X)
    np.testing.assert_allclose(r, p * 1.4 - (1 - p), atol=1e-9)


def test_one_absurd_outcome_does_not_move_expected_r() -> None:
    X, r = noise(400)
    tame, wild = SignalQualityModel(max_iter=5), SignalQualityModel(max_iter=5)
    tame.fit(X, r)
    r[np.argmax(r)] = 1e6
    wild.fit(X, r)
    assert np.abs(tame.predict_r(X) - wild.predict_r(X)).max() < 0.5


def test_importance_is_shared_out_and_finds_what_matters() -> None:
    model = fitted(rows=400)
    importance = model.get_metadata().feature_importance
    assert sum(importance.values()) == pytest.approx(1.0)
    assert model.get_top_features(1)[0][0] == "x00"


def test_selection_keeps_at_most_so_many_and_only_what_matters() -> None:
    rng = np.random.default_rng(3)
    X = rng.standard_normal((500, 30))
    X[:, 7] = 4.0
    won = X[:, 5] + np.abs(X[:, 9]) + 0.5 * rng.standard_normal(500) > 0.8
    kept = select_columns(X, won, SelectionRule(max_features=3)).columns
    assert {5, 9} <= set(kept.tolist())
    assert len(kept) == 3
    assert set(select_columns(X, won, SelectionRule(threshold=0.1)).columns.tolist()) == {5, 9}
    assert 7 not in select_columns(X, won, SelectionRule(enabled=False)).columns
    assert len(select_columns(X, won, SelectionRule(enabled=False)).columns) == 29


def test_a_feature_that_points_two_ways_for_two_types_is_important() -> None:
    rng = np.random.default_rng(3)
    X, first = rng.standard_normal((800, 30)), np.arange(800) % 2 == 0
    won = np.where(first, X[:, 4], -X[:, 4]) + rng.standard_normal(800) > 0
    rule = SelectionRule(threshold=0.2)
    assert select_columns(X, won, rule, [first, ~first]).columns.tolist() == [4]
    assert select_columns(X, won, rule).columns.tolist() != [4]


def test_what_trades_of_one_week_share_is_not_taken_for_what_a_feature_knows() -> None:
    rng = np.random.default_rng(3)
    week = np.repeat(np.arange(20), 40)
    of_the_week = rng.standard_normal((20, 1))
    market = of_the_week[week] + 0.01 * rng.standard_normal((800, 12))
    own = rng.standard_normal(800)
    won = 2.0 * of_the_week[week, 0] + 0.6 * own + rng.standard_normal(800) > 0
    X, rule = np.column_stack([market, own]), SelectionRule(threshold=0.3)
    assert select_columns(X, won, rule, period=week).columns.tolist() == [12]
    assert select_columns(X, won, rule).columns.tolist() != [12]
    used = []
    for entered_us in (20_000 * DAY_US + week * 7 * DAY_US, None):
        model = SignalQualityModel(selection=rule, max_iter=4)
        plan = replace(FitPlan.by_rows(800), entered_us=entered_us)
        model.fit(X, np.where(won, 1.4, -1.0), plan=plan)
        used.append(len(model.used_features) == 1 and model.used_features[0] == model.feature_names[12])
    assert used == [True, False]


def test_selection_settings_reach_the_fit() -> None:
    X, r = noise(200)
    model = SignalQualityModel(selection=SelectionRule(max_features=4))
    model.fit(X, r)
    assert sum(share > 0 for share in model.get_metadata().feature_importance.values()) <= 4


def test_early_stopping_looks_at_the_tail_and_grows_fewer_trees() -> None:
    X, r = noise(400)
    stopped = SignalQualityModel(recipe="gradient_boosting", stopping_rounds=20)
    stopped.fit(X, r)
    full = SignalQualityModel(recipe="gradient_boosting")
    full.fit(X, r)
    assert stopped.iterations < full.iterations == 100


def test_held_out_rows_decide_the_slope_and_nothing_else() -> None:
    X, r = noise(300)
    r = r + X[:, 0]
    rows = np.arange(300)
    plan = FitPlan([RowSplit(rows[:200], rows[200:]), RowSplit(rows[100:], rows[:100])], [])
    fair, poisoned = SignalQualityModel(max_iter=10), SignalQualityModel(max_iter=10)
    fair.fit(X, r, plan=plan)
    flipped = FitPlan([RowSplit(rows[:200], rows[200:])], [])
    poisoned.fit(X, r, plan=flipped)
    grown = [model._classifier.estimator.scores(X[:, model._classifier.columns], None) for model in (fair, poisoned)]
    np.testing.assert_array_equal(*grown)


def test_what_was_seen_in_training_is_familiar_and_what_was_not_is_flagged() -> None:
    rng = np.random.default_rng(4)
    scale = rng.uniform(0.1, 100.0, 20)
    X = rng.standard_t(5, (600, 20)) * scale
    model = SignalQualityModel(max_iter=5)
    model.fit(X, rng.standard_normal(600))
    assert (model.novelty(rng.standard_t(5, (2000, 20)) * scale) > 1).mean() < 0.02
    assert (model.novelty(3.5 * rng.standard_t(5, (500, 20)) * scale) > 1).mean() > 0.8
    one_wild_feature = X[:50].copy()
    one_wild_feature[:, 3] = 1e4
    assert (model.novelty(one_wild_feature) > 1).all()


def test_confidence_is_lower_for_what_is_unlike_the_training_rows() -> None:
    model = fitted()
    X = noise(50, 6)[0]
    assert ((model.confidence(X) >= 0) & (model.confidence(X) <= 1)).all()
    assert model.confidence(X + 50.0).max() <= 0.5


LEARN = """
import numpy as np
from trading_system.ml_refinement.models import SignalQualityModel
rng = np.random.default_rng(9)
X = rng.standard_normal((250, 12))
for settings in ({"max_iter": 20}, {"n_estimators": 20}):
    model = SignalQualityModel(**settings)
    model.fit(X, rng.standard_normal(250) + X[:, 0])
    print(model.digest())
"""


def test_the_same_training_in_another_process_gives_the_same_bits() -> None:
    runs = [subprocess.run([sys.executable, "-c", LEARN], capture_output=True, text=True, check=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout
    assert len(set(runs[0].stdout.split())) == 2
