"""What each field of the configuration changes, and where it acts: for the page of settings, and for doctor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from trading_system.ml_refinement.config import FeatureSet, MLConfig
from trading_system.ml_refinement.provided_limits import PROVIDED_FEATURES


def _always(config: MLConfig) -> bool:
    del config
    return True


class Effect(NamedTuple):
    """What a field changes; where it acts, in words and as a test of the configuration."""

    changes: str
    acts: str = "always"
    acts_in: Callable[[MLConfig], bool] = _always


def _learning(config: MLConfig) -> bool:
    return config.enabled


def _boosting(config: MLConfig) -> bool:
    return config.enabled and config.training.model_type == "gradient_boosting"


def _scaled(config: MLConfig) -> bool:
    return config.enabled and config.training.model_type == "ensemble"


def _has(*sets: FeatureSet) -> Callable[[MLConfig], bool]:
    return lambda config: config.features.feature_set in sets


_EXTENDED = _has(FeatureSet.EXTENDED, FeatureSet.CUSTOM)


def _provided(config: MLConfig) -> bool:
    told = config.features
    if told.feature_set != FeatureSet.CUSTOM:
        return True
    return not set(told.custom_features).isdisjoint([PROVIDED_FEATURES, *told.provided])


_PROVIDED = f"every set; `custom` where it names `{PROVIDED_FEATURES}` or one of the names"
_ENABLED = "while `enabled`"
_BOOSTING = "recipe `gradient_boosting` (`ensemble` never stops early)"
_SETS = "sets `extended` and `custom`, where they have such features"

#: By the field's place below `MLConfig`.
EFFECTS: Mapping[str, Effect] = {
    "enabled": Effect("off: no training is asked for and no model is taken up; features are stored all the same"),
    "features": Effect("the part below"),
    "training": Effect("the part below"),
    "model_dir": Effect(
        "where `ModelRegistry.from_config` keeps model files",
        "in the library; the worker's is `REFINERY_STATE_DIR`/models",
    ),
    "feature_db_path": Effect(
        "which store `FeatureDatabase.from_config` opens", "in the library; the worker's is in `REFINERY_STATE_DIR`"
    ),
    "retrain_frequency_days": Effect("after how long one new label makes a training due", _ENABLED, _learning),
    "min_new_samples_for_retrain": Effect("how many new labels make a training due", _ENABLED, _learning),
    "virtual_outcomes": Effect(
        "`fill`: what a training learns from; the gate judges by reported outcomes alone", _ENABLED, _learning
    ),
    "virtual_hold_days": Effect("when a virtual trade is ended that met neither stop nor target"),
    "virtual_session_hours": Effect("which bar a virtual trade is entered in"),
    "quality_threshold_high": Effect("from which P(win) on the published band is `high`", _ENABLED, _learning),
    "quality_threshold_low": Effect("up to which P(win) the published band is `low`", _ENABLED, _learning),
    "use_ml_scores": Effect("off: the combined score is the signal's own, whatever model serves", _ENABLED, _learning),
    "ml_score_weight": Effect(
        "the model's share of the combined score",
        "while `enabled` and `use_ml_scores`, with a proven model",
        lambda config: config.enabled and config.use_ml_scores,
    ),
    "features.feature_set": Effect("which features there are"),
    "features.custom_features": Effect("which features there are", "set `custom`", _has(FeatureSet.CUSTOM)),
    "features.technical_lookbacks": Effect("the moving averages, and up to 50 bars the rates of change"),
    "features.market_regime_window": Effect("the window of the market features", _SETS, _EXTENDED),
    "features.volatility_window": Effect(
        "the window of the volatility features",
        "every set but `minimal`",
        _has(FeatureSet.STANDARD, FeatureSet.EXTENDED, FeatureSet.CUSTOM),
    ),
    "features.news_lookback_hours": Effect(
        "how old news may be to count",
        f"{_SETS}, while `include_news_features`",
        lambda config: _EXTENDED(config) and config.features.include_news_features,
    ),
    "features.include_news_features": Effect("whether there are news features", _SETS, _EXTENDED),
    "features.scale_features": Effect(
        "off: the linear members' features are not clipped; their columns have unit variance all the same",
        "recipe `ensemble` (trees need no scaling)",
        _scaled,
    ),
    "features.scaling_method": Effect(
        "the scaler that the linear members' features are clipped by, fitted on training rows",
        "recipe `ensemble`, while `scale_features`",
        lambda config: _scaled(config) and config.features.scale_features,
    ),
    "features.provided": Effect("which values of the events' `features` are features", _PROVIDED, _provided),
    "features.provided_neutral": Effect("what stands for a provided value that is missing", _PROVIDED, _provided),
    "training.train_window_days": Effect(
        "how far back a fit and the pool of validation reach; a model expires at half of it", _ENABLED, _learning
    ),
    "training.validation_window_days": Effect(
        "over which newest days the run's `newest_window_*` figures are; it decides nothing", _ENABLED, _learning
    ),
    "training.step_size_days": Effect("the length of a walk-forward fold, and its step", _ENABLED, _learning),
    "training.min_training_samples": Effect(
        "with fewer labelled samples nothing is fitted; a fold needs half as many", _ENABLED, _learning
    ),
    "training.min_validation_samples": Effect(
        "with fewer out-of-sample rows a candidate is held, and does not serve", _ENABLED, _learning
    ),
    "training.model_type": Effect("the recipe", _ENABLED, _learning),
    "training.hyperparameters": Effect(
        "parameters of the recipe; one it does not know, or a value it cannot use, stops the start", _ENABLED, _learning
    ),
    "training.early_stopping": Effect(
        "whether the number of trees is looked for on the purged tail of the training window", _BOOSTING, _boosting
    ),
    "training.early_stopping_rounds": Effect(
        "how many trees ahead it looks for an improvement",
        f"{_BOOSTING}, while `early_stopping`",
        lambda config: _boosting(config) and config.training.early_stopping,
    ),
    "training.max_features": Effect("how many features a fit uses at most, the strongest", _ENABLED, _learning),
    "training.feature_selection": Effect(
        "off: the threshold is not asked; `max_features` is all the same", _ENABLED, _learning
    ),
    "training.feature_importance_threshold": Effect(
        "features of a smaller share are left out; where all are, the strongest alone stays, and the run says so",
        "while `feature_selection`",
        lambda config: config.enabled and config.training.feature_selection,
    ),
}


def idle(config: MLConfig, given: Iterable[str]) -> dict[str, str]:
    """Those of the fields that do nothing in this configuration, with where they would act."""
    return {name: EFFECTS[name].acts for name in given if not EFFECTS[name].acts_in(config)}
