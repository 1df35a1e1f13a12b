"""Learning from the outcomes of trading signals: features, models, validation, scores."""

from typing import TYPE_CHECKING

from trading_system.lazy_names import attach

if TYPE_CHECKING:
    from trading_system.ml_refinement.config import (
        FeatureConfig as FeatureConfig,
        FeatureSet as FeatureSet,
        FeatureVector as FeatureVector,
        MLConfig as MLConfig,
        ModelMetadata as ModelMetadata,
        ModelType as ModelType,
        TrainingConfig as TrainingConfig,
    )

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "config": (
            "FeatureConfig",
            "FeatureSet",
            "FeatureVector",
            "MLConfig",
            "ModelMetadata",
            "ModelType",
            "TrainingConfig",
        ),
    },
)
