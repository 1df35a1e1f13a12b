"""What the gate calls the same recipe, and the configuration that a run was made with."""

from __future__ import annotations

from dataclasses import fields

from trading_system.ml_refinement.config import FeatureConfig, FeatureSet, MLConfig, TrainingConfig
from trading_system.ml_refinement.models.artefact import digest
from trading_system.ml_refinement.models.estimators import RECIPES
from trading_system.ml_refinement.models.signal_quality import SignalQualityModel
from trading_system.ml_refinement.storage.tables.runs import TrainingRun

#: Settings besides the recipe's parameters that make another model, or other evidence about it.
_SHAPING = (
    ("training", "train_window_days"),
    ("training", "step_size_days"),
    ("training", "min_training_samples"),
    ("training", "early_stopping"),
    ("training", "early_stopping_rounds"),
    ("training", "max_features"),
    ("training", "feature_selection"),
    ("training", "feature_importance_threshold"),
    ("features", "scale_features"),
    ("features", "scaling_method"),
)

#: Where virtual outcomes are learned from, what they are labelled by.
_VIRTUAL = ("virtual_outcomes", "virtual_hold_days", "virtual_session_hours")


def config_of(run: TrainingRun) -> MLConfig:
    """The configuration a run was made with. With it, on the same labels, `train` gives the same models to the bit.

    What a release before did not know of is as it is by default.
    """
    told = {item.name: run.config[item.name] for item in fields(MLConfig) if item.name in run.config}
    features = FeatureConfig(**{**told["features"], "feature_set": FeatureSet(told["features"]["feature_set"])})
    return MLConfig(**{**told, "features": features, "training": TrainingConfig(**told["training"])})


def recipe_of(model: SignalQualityModel, config: MLConfig) -> str:
    """What the gate calls the same recipe: its name, and a digest of whatever shapes a model and is not the default.

    The parameters, the seed among them, scaling, selection, stopping and windows. Models of two feature versions are of
    two recipes as well; the registry keeps the version beside this name.
    """
    changed = {name: value for name, value in model.params.items() if RECIPES[model.recipe].defaults[name] != value}
    plain = MLConfig()
    for part, name in _SHAPING:
        if (value := getattr(getattr(config, part), name)) != getattr(getattr(plain, part), name):
            changed[f"{part}.{name}"] = value
    if config.virtual_outcomes != "off":
        changed |= {name: getattr(config, name) for name in _VIRTUAL}
    return f"{model.recipe}-{digest(changed)[:8]}" if changed else model.recipe
