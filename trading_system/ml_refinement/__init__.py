"""Learning from the outcomes of trading signals: features, models, validation, scores."""

from trading_system.ml_refinement.config import (
    FeatureConfig,
    FeatureSet,
    FeatureVector,
    MLConfig,
    ModelMetadata,
    ModelType,
    TrainingConfig,
)

__all__ = ["FeatureConfig", "FeatureSet", "FeatureVector", "MLConfig", "ModelMetadata", "ModelType", "TrainingConfig"]
