"""Every field of the configuration changes what the page of settings says it changes, and nothing where it says so."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic.dataclasses import is_pydantic_dataclass

from tests.support.labels import replaced_by_virtual
from tests.support.learning_installation import NOW, LearningInstallation, dataset, learning_installation, narrow
from trading_system.ml_refinement.config import FeatureConfig, FeatureSet, MLConfig, TrainingConfig
from trading_system.ml_refinement.config_effects import EFFECTS, idle
from trading_system.ml_refinement.features.checks import sample_bars
from trading_system.ml_refinement.features.extractors.news_item import NewsItem
from trading_system.ml_refinement.features.pipeline import FeaturePipeline
from trading_system.ml_refinement.labelling.rules import labelling_rule
from trading_system.ml_refinement.models import ModelRegistry, SignalQualityModel
from trading_system.ml_refinement.scoring import Scorer, Scores
from trading_system.ml_refinement.storage import FeatureDatabase
from trading_system.ml_refinement.storage.times import DAY_US, utc_now
from trading_system.ml_refinement.training import backtest
from trading_system.ml_refinement.training.promotion import Decision, Serve
from trading_system.simulation.worlds import independent
from worker.retraining.policy import RetrainReason
from worker.retraining.requests import reason_if_due
from worker.settings import reference
from worker.settings.schema import Settings

DATA = dataset(narrow(independent(420, np.random.default_rng(0), kind="linear", auc=0.75, per_day=1.5), 8))
ROWS = np.arange(len(DATA.r))
EXTENDED = FeatureConfig(feature_set=FeatureSet.EXTENDED)
GRADIENT = {"model_type": "gradient_boosting", "hyperparameters": {"n_estimators": 60, "max_depth": 2}}


def training(**fields: Any) -> MLConfig:
    return MLConfig(training=TrainingConfig(**{"hyperparameters": {"max_iter": 5}, **fields}))


def fitted_on(config: MLConfig) -> SignalQualityModel:
    """A model of these settings on the same rows."""
    return backtest.fit_on(DATA, ROWS, config, max_hold_us=5 * DAY_US, min_samples=100, clock=lambda: NOW)


def opinion(config: MLConfig) -> str:
    return fitted_on(config).opinion_digest()


def folds(config: MLConfig) -> list[int]:
    """Training rows of each fold of the walk-forward."""
    walk = backtest.splitter(DATA, config)
    return [len(fold.train) for fold in walk.split(DATA.entered_us, DATA.known_us)]


def features(config: FeatureConfig) -> dict[str, float]:
    """What is extracted of the same signal."""
    bars, benchmark = sample_bars(1), sample_bars(2)
    now = int(bars.timestamp[-1])
    news = [NewsItem(now - 3_600_000_000, 0.5), NewsItem(now - 40 * 3_600_000_000, -1.0)]
    return FeaturePipeline(config).extract_features(
        "s", bars.to_frame(), {"technical_score": 5, "features": {"edge": 2.0}}, benchmark.to_frame(), news=news
    )


def moved(config: FeatureConfig, other: FeatureConfig) -> set[str]:
    """Features that are another, or there in one alone."""
    one, two = features(config), features(other)
    return {name for name in one.keys() | two.keys() if one.get(name) != two.get(name)}


PIPELINE = FeaturePipeline()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LearningInstallation]:
    """Ten days ago a training began; 25 labels, five of them since. A proven model serves."""
    directory = tmp_path_factory.mktemp("desk")
    world = narrow(independent(25, np.random.default_rng(1), per_day=1.5), 4)
    installation = learning_installation(directory, world)
    past = FeatureDatabase(directory / "features.db", clock=lambda: utc_now() - timedelta(days=10))
    past.runs.start("retrain-1", "signal_quality", {}, label_watermark=20)
    past.runs.finish("retrain-1", "failed", error_message="x")
    past.close()
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, len(PIPELINE.names)))
    model = SignalQualityModel(max_iter=5, clock=lambda: NOW)
    model.fit(X, np.where(X[:, 0] + rng.standard_normal(300) > 0, 1.4, -1.0), feature_names=PIPELINE.names)
    model.feature_version = PIPELINE.feature_version
    installation.registry.enter(model)
    installation.registry.promote(model.model_id, proven=True)
    yield installation
    installation.db.close()


def scores(desk: LearningInstallation, **fields: Any) -> Scores:
    scorer = Scorer(desk.db, desk.registry, MLConfig(**fields), PIPELINE, lambda: NOW)
    scorer.refresh()
    rows = np.random.default_rng(5).standard_normal((200, len(PIPELINE.names)))
    return scorer.score(rows, [5.0] * 200)


def reason(desk: LearningInstallation, **fields: Any) -> RetrainReason | None:
    """Why a training is due; without anything said, it is not."""
    quiet = {"retrain_frequency_days": 30, "training": TrainingConfig(min_training_samples=10), **fields}
    return reason_if_due(Settings(state_dir=desk.directory, ml=MLConfig(**quiet)), desk.db)


def enabled(desk: LearningInstallation) -> None:
    assert (scores(desk).status, scores(desk, enabled=False).status) == ("scored", "cold_start")
    assert reason(desk, min_new_samples_for_retrain=5) is not None
    assert reason(desk, min_new_samples_for_retrain=5, enabled=False) is None


def the_parts(desk: LearningInstallation) -> None:
    config = MLConfig(features=EXTENDED, training=TrainingConfig(max_features=3))
    assert len(FeaturePipeline(config.features).names) == 55
    assert len(fitted_on(config).used_features) == 3


def the_paths(desk: LearningInstallation) -> None:
    config = MLConfig(model_dir=str(desk.directory / "own models"), feature_db_path=str(desk.directory / "own.db"))
    registry = ModelRegistry.from_config(config)
    assert registry.db is not None
    registry.db.close()
    assert (desk.directory / "own models").is_dir()
    assert (desk.directory / "own.db").is_file()
    with FeatureDatabase.from_config(config) as db:
        assert ModelRegistry.from_config(config, db).db is db


def retrain_frequency_days(desk: LearningInstallation) -> None:
    assert reason(desk) is None
    assert reason(desk, retrain_frequency_days=9) is RetrainReason.SCHEDULE


def min_new_samples_for_retrain(desk: LearningInstallation) -> None:
    assert reason(desk, min_new_samples_for_retrain=6) is None
    assert reason(desk, min_new_samples_for_retrain=5) is RetrainReason.NEW_LABELS


def virtual_outcomes(desk: LearningInstallation) -> None:
    """The last hundred outcomes never came; the bars said the same of them."""
    samples = {}
    for how in ("off", "fill"):
        installation = learning_installation(
            desk.directory / how, narrow(independent(300, np.random.default_rng(2)), 4)
        )
        replaced_by_virtual(installation.db, 100, MLConfig())
        config = replace(training(step_size_days=63), virtual_outcomes=how)
        figures = installation.train(config).figures
        samples[how] = figures.get("virtual_samples"), figures["rows"]
        installation.db.close()
    assert samples["off"][0] is None
    assert samples["fill"][0] == 100


def virtual_hold_days(desk: LearningInstallation) -> None:
    rules = [labelling_rule(desk.db, MLConfig(virtual_hold_days=days)).hold_us("breakout") for days in (None, 3, 4)]
    assert rules == [10 * DAY_US, 3 * DAY_US, 4 * DAY_US]  # fewer than 30 trades say nothing


def virtual_session_hours(desk: LearningInstallation) -> None:
    rule = labelling_rule(desk.db, MLConfig(virtual_session_hours={"equity": 6.5}))
    assert [rule.session_us(kind) for kind in ("equity", "crypto")] == [int(6.5 / 24 * DAY_US), 0]


def quality_thresholds(desk: LearningInstallation) -> None:
    middle = float(np.median(scores(desk).quality))
    for high, low in ((middle, 0.001), (0.999, middle), (0.999, 0.001)):
        said = scores(desk, quality_threshold_high=high, quality_threshold_low=low)
        expected = ["high" if p >= high else "low" if p <= low else "medium" for p in said.quality]
        assert list(said.band) == expected
        assert len(set(expected)) == (2 if middle in (high, low) else 1)


def use_ml_scores(desk: LearningInstallation) -> None:
    assert (scores(desk, use_ml_scores=False).combined == 5.0).all()
    assert (scores(desk).combined != 5.0).any()


def ml_score_weight(desk: LearningInstallation) -> None:
    for weight in (0.0, 0.3, 1.0):
        said = scores(desk, ml_score_weight=weight)
        np.testing.assert_allclose(said.combined, (1 - weight) * 5.0 + weight * 10 * said.quality)
    unused = [scores(desk, use_ml_scores=False, ml_score_weight=weight).combined for weight in (0.1, 0.9)]
    np.testing.assert_array_equal(*unused)


def feature_set(desk: LearningInstallation) -> None:
    counts = [len(features(FeatureConfig(feature_set=one))) for one in list(FeatureSet)[:3]]
    assert counts == [26, 40, 55]


def custom_features(desk: LearningInstallation) -> None:
    custom = FeatureConfig(feature_set=FeatureSet.CUSTOM, custom_features=["rsi_14", "news_any"])
    assert set(features(custom)) == {"rsi_14", "news_any"}
    assert moved(FeatureConfig(), FeatureConfig(custom_features=["rsi_14"])) == set()


def technical_lookbacks(desk: LearningInstallation) -> None:
    names = moved(FeatureConfig(), FeatureConfig(technical_lookbacks=[5, 10, 20, 50, 200, 7]))
    assert names == {"price_vs_ma7", "ma7_slope", "roc_7"}


def market_regime_window(desk: LearningInstallation) -> None:
    names = moved(EXTENDED, replace(EXTENDED, market_regime_window=30))
    assert names == {"market_breadth", "correlation_regime", "volatility_regime", "rally_strength"}
    assert moved(FeatureConfig(), FeatureConfig(market_regime_window=30)) == set()


def volatility_window(desk: LearningInstallation) -> None:
    names = moved(FeatureConfig(), FeatureConfig(volatility_window=30))
    assert names == {"volatility_percentile", "volatility_trend", "range_ratio"}
    minimal = FeatureConfig(feature_set=FeatureSet.MINIMAL)
    assert moved(minimal, replace(minimal, volatility_window=30)) == set()


def news_lookback_hours(desk: LearningInstallation) -> None:
    assert features(EXTENDED)["news_count"] == 2
    assert features(replace(EXTENDED, news_lookback_hours=24))["news_count"] == 1
    assert moved(FeatureConfig(), FeatureConfig(news_lookback_hours=24)) == set()


def include_news_features(desk: LearningInstallation) -> None:
    names = moved(EXTENDED, replace(EXTENDED, include_news_features=False))
    assert len(names) == 8
    assert all(name.startswith("news_") for name in names)
    assert moved(FeatureConfig(), FeatureConfig(include_news_features=False)) == set()


def scale_features(desk: LearningInstallation) -> None:
    off = FeatureConfig(scale_features=False)
    assert opinion(training()) != opinion(replace(training(), features=off))
    assert opinion(training(**GRADIENT)) == opinion(replace(training(**GRADIENT), features=off))
    assert moved(FeatureConfig(), off) == set()


def scaling_method(desk: LearningInstallation) -> None:
    methods = [FeatureConfig(scaling_method=one) for one in ("standard", "minmax", "robust")]  # type: ignore[arg-type]
    assert len({opinion(replace(training(), features=one)) for one in methods}) == 3
    assert len({opinion(replace(training(), features=replace(one, scale_features=False))) for one in methods}) == 1
    assert len({opinion(replace(training(**GRADIENT), features=one)) for one in methods}) == 1


def provided(desk: LearningInstallation) -> None:
    listed = FeatureConfig(provided=["edge", "rest"])
    assert moved(FeatureConfig(), listed) == {"edge", "rest"}
    assert (features(listed)["edge"], features(listed)["rest"]) == (2.0, 0.0)
    custom = FeatureConfig(feature_set=FeatureSet.CUSTOM, custom_features=["rsi_14"])
    assert moved(custom, replace(custom, provided=["edge"])) == set()
    assert moved(custom, replace(custom, provided=["edge"], custom_features=["rsi_14", "edge"])) == {"edge"}


def provided_neutral(desk: LearningInstallation) -> None:
    listed = FeatureConfig(provided=["edge", "rest"])
    assert moved(listed, replace(listed, provided_neutral={"edge": 5.0, "rest": 1.0})) == {"rest"}


def train_window_days(desk: LearningInstallation) -> None:
    assert max(folds(training(train_window_days=90))) < max(folds(training()))
    assert training(train_window_days=90).training.expiry_days == 45


def run_figures(desk: LearningInstallation, **fields: Any) -> Any:
    """A whole training of these settings."""
    directory = desk.directory / f"run-{sorted(fields.items())}"
    world = narrow(independent(420, np.random.default_rng(0), kind="linear", auc=0.75, per_day=1.5), 8)
    installation = learning_installation(directory, world)
    try:
        return installation.train(training(step_size_days=63, **fields))
    finally:
        installation.db.close()


def validation_window_days(desk: LearningInstallation) -> None:
    rows = [run_figures(desk, validation_window_days=days).figures["newest_window_rows"] for days in (20, 100)]
    assert 0 < rows[0] < rows[1]


def step_size_days(desk: LearningInstallation) -> None:
    assert len(folds(training(step_size_days=42))) < len(folds(training()))


def min_training_samples(desk: LearningInstallation) -> None:
    assert min(folds(training(min_training_samples=20))) < min(folds(training(min_training_samples=200)))


def min_validation_samples(desk: LearningInstallation) -> None:
    asked = run_figures(desk, min_validation_samples=10_000)
    assert (asked.verdict.decision, asked.verdict.serve) == (Decision.HOLD, Serve.NO)
    assert f"{int(asked.figures['rows'])} of 10,000 validation samples" in asked.reason
    assert run_figures(desk).verdict.serve is not Serve.NO


def model_type(desk: LearningInstallation) -> None:
    assert [fitted_on(one).recipe for one in (training(), training(**GRADIENT))] == ["ensemble", "gradient_boosting"]
    assert opinion(training()) != opinion(training(**GRADIENT))


def hyperparameters(desk: LearningInstallation) -> None:
    assert fitted_on(training(hyperparameters={"max_iter": 7})).iterations == 7


def early_stopping(desk: LearningInstallation) -> None:
    on, off = (fitted_on(training(**GRADIENT, early_stopping=one, early_stopping_rounds=3)) for one in (True, False))
    assert on.iterations < off.iterations == 60
    assert opinion(training(early_stopping=True)) == opinion(training(early_stopping=False))


def early_stopping_rounds(desk: LearningInstallation) -> None:
    few, many = (fitted_on(training(**GRADIENT, early_stopping_rounds=one)).iterations for one in (1, 60))
    assert few < many
    assert opinion(training(early_stopping_rounds=1)) == opinion(training(early_stopping_rounds=60))
    off = {**GRADIENT, "early_stopping": False}
    assert opinion(training(**off, early_stopping_rounds=1)) == opinion(training(**off, early_stopping_rounds=60))


def max_features(desk: LearningInstallation) -> None:
    for selection in (True, False):
        used = [
            fitted_on(training(feature_selection=selection, feature_importance_threshold=0, max_features=one))
            for one in (1, 3, 8, 50)
        ]
        assert [len(one.used_features) for one in used] == [1, 3, 8, 8]


def feature_selection(desk: LearningInstallation) -> None:
    kept = [
        len(fitted_on(training(feature_selection=one, feature_importance_threshold=0.1)).used_features)
        for one in (True, False)
    ]
    assert kept[0] < kept[1] == 8


def feature_importance_threshold(desk: LearningInstallation) -> None:
    models = [
        fitted_on(training(feature_importance_threshold=one)) for one in (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.6, 1.0)
    ]
    kept = [len(one.used_features) for one in models]
    assert kept == sorted(kept, reverse=True)
    assert (kept[0], kept[-1]) == (8, 1)
    assert [bool(one.selection_note) for one in models][:: len(models) - 1] == [False, True]
    result = run_figures(desk, feature_importance_threshold=1.0)
    assert result.figures["used_features"] == 1
    assert "feature_importance_threshold 1: the strongest alone is used" in result.figures["selection_note"]
    off = {"feature_selection": False}
    assert opinion(training(**off)) == opinion(training(**off, feature_importance_threshold=1.0))


SHOWN: dict[str, Callable[[LearningInstallation], None]] = {
    "enabled": enabled,
    "features": the_parts,
    "training": the_parts,
    "model_dir": the_paths,
    "feature_db_path": the_paths,
    "retrain_frequency_days": retrain_frequency_days,
    "min_new_samples_for_retrain": min_new_samples_for_retrain,
    "virtual_outcomes": virtual_outcomes,
    "virtual_hold_days": virtual_hold_days,
    "virtual_session_hours": virtual_session_hours,
    "quality_threshold_high": quality_thresholds,
    "quality_threshold_low": quality_thresholds,
    "use_ml_scores": use_ml_scores,
    "ml_score_weight": ml_score_weight,
    "features.feature_set": feature_set,
    "features.custom_features": custom_features,
    "features.technical_lookbacks": technical_lookbacks,
    "features.market_regime_window": market_regime_window,
    "features.volatility_window": volatility_window,
    "features.news_lookback_hours": news_lookback_hours,
    "features.include_news_features": include_news_features,
    "features.scale_features": scale_features,
    "features.scaling_method": scaling_method,
    "features.provided": provided,
    "features.provided_neutral": provided_neutral,
    "training.train_window_days": train_window_days,
    "training.validation_window_days": validation_window_days,
    "training.step_size_days": step_size_days,
    "training.min_training_samples": min_training_samples,
    "training.min_validation_samples": min_validation_samples,
    "training.model_type": model_type,
    "training.hyperparameters": hyperparameters,
    "training.early_stopping": early_stopping,
    "training.early_stopping_rounds": early_stopping_rounds,
    "training.max_features": max_features,
    "training.feature_selection": feature_selection,
    "training.feature_importance_threshold": feature_importance_threshold,
}


def fields_below(group: Any, above: str = "") -> Iterator[str]:
    for field in dataclasses.fields(group):
        yield above + field.name
        kind = group.__pydantic_fields__[field.name].annotation
        if is_pydantic_dataclass(kind):
            yield from fields_below(kind, f"{above}{field.name}.")


@pytest.mark.parametrize("name", SHOWN)
def test_changing_a_field_changes_what_it_is_said_to_change(name: str, desk: LearningInstallation) -> None:
    SHOWN[name](desk)


def test_no_field_is_without_its_effect_and_its_test() -> None:
    known = set(fields_below(MLConfig))
    assert set(EFFECTS) == known
    assert set(SHOWN) == known


def test_the_page_of_settings_is_what_the_code_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == reference.page(), "python -m worker.settings.reference > docs/settings.md prints the new one"
    for name, effect in EFFECTS.items():
        assert f"| `{name}` |" in page
        assert f"| {effect.changes} | {effect.acts} |" in page


def test_a_setting_that_does_nothing_beside_the_others_is_named() -> None:
    every = list(EFFECTS)
    assert set(idle(MLConfig(), every)) == {
        "features.custom_features",
        "features.market_regime_window",
        "features.news_lookback_hours",
        "features.include_news_features",
        "training.early_stopping",
        "training.early_stopping_rounds",
    }
    assert set(idle(MLConfig(features=EXTENDED), every)) == {
        "features.custom_features",
        "training.early_stopping",
        "training.early_stopping_rounds",
    }
    pair = {"features.provided", "features.provided_neutral"}
    custom = FeatureConfig(feature_set=FeatureSet.CUSTOM, custom_features=["rsi_14"], provided=["edge"])
    assert pair <= set(idle(MLConfig(features=custom), every))
    for named in ("provided_features", "edge"):
        chosen = replace(custom, custom_features=["rsi_14", named])
        assert not pair.intersection(idle(MLConfig(features=chosen), every))
    boosted = MLConfig(features=EXTENDED, training=TrainingConfig(**GRADIENT))
    assert set(idle(boosted, every)) == {
        "features.custom_features",
        "features.scale_features",
        "features.scaling_method",
    }
    assert idle(MLConfig(), ["enabled", "features"]) == {}
