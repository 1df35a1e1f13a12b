"""From bars, news and what a signal says of itself to rows of numbers."""

from typing import TYPE_CHECKING

from trading_system.lazy_names import attach

if TYPE_CHECKING:
    from trading_system.ml_refinement.features.feature_registry import (
        FeatureRegistry as FeatureRegistry,
        UnknownFeatureError as UnknownFeatureError,
    )
    from trading_system.ml_refinement.features.pipeline import (
        FeatureBatch as FeatureBatch,
        FeaturePipeline as FeaturePipeline,
        FeatureRequest as FeatureRequest,
        FeatureScaler as FeatureScaler,
    )

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "feature_registry": ("FeatureRegistry", "UnknownFeatureError"),
        "pipeline": ("FeatureBatch", "FeaturePipeline", "FeatureRequest", "FeatureScaler"),
    },
)
