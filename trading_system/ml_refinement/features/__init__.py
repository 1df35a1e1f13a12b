"""From bars, news and what a signal says of itself to rows of numbers."""

from trading_system.ml_refinement.features.feature_registry import FeatureRegistry, UnknownFeatureError
from trading_system.ml_refinement.features.pipeline import (
    FeatureBatch,
    FeaturePipeline,
    FeatureRequest,
    FeatureScaler,
)

__all__ = [
    "FeatureBatch",
    "FeaturePipeline",
    "FeatureRegistry",
    "FeatureRequest",
    "FeatureScaler",
    "UnknownFeatureError",
]
