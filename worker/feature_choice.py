"""The features that an installation's settings choose."""

from __future__ import annotations

from trading_system.ml_refinement.features.feature_registry import UnknownFeatureError
from trading_system.ml_refinement.features.pipeline import FeaturePipeline
from worker.errors import ConfigurationError
from worker.settings import Settings


def feature_pipeline(settings: Settings) -> FeaturePipeline:
    """The features that these settings choose.

    Raises:
        ConfigurationError: they choose one that does not exist, or none.
    """
    try:
        return FeaturePipeline(settings.ml.features.to_config())
    except (ValueError, UnknownFeatureError) as error:
        raise ConfigurationError(f"the features cannot be computed: {error}") from error
