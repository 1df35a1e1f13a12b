"""The families of features."""

from trading_system.ml_refinement.features.extractors.base_extractor import (
    BaseFeatureExtractor,
    FeatureDefinition,
    FeatureError,
    OHLCVExtractor,
)
from trading_system.ml_refinement.features.extractors.batch import BarsBatch, FeatureRequest, SignalBatch
from trading_system.ml_refinement.features.extractors.market_features import MarketRegimeFeatures
from trading_system.ml_refinement.features.extractors.news_features import NewsFeatures, NewsItem
from trading_system.ml_refinement.features.extractors.signal_features import SignalMetadata, SignalMetadataFeatures
from trading_system.ml_refinement.features.extractors.technical_features import (
    MomentumFeatures,
    TrendFeatures,
    VolatilityFeatures,
)

__all__ = [
    "BarsBatch",
    "BaseFeatureExtractor",
    "FeatureDefinition",
    "FeatureError",
    "FeatureRequest",
    "MarketRegimeFeatures",
    "MomentumFeatures",
    "NewsFeatures",
    "NewsItem",
    "OHLCVExtractor",
    "SignalBatch",
    "SignalMetadata",
    "SignalMetadataFeatures",
    "TrendFeatures",
    "VolatilityFeatures",
]
