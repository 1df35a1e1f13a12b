"""The families of features."""

from typing import TYPE_CHECKING

from trading_system.lazy_names import attach

if TYPE_CHECKING:
    from trading_system.ml_refinement.features.extractors.base_extractor import (
        BaseFeatureExtractor as BaseFeatureExtractor,
        FeatureDefinition as FeatureDefinition,
        FeatureError as FeatureError,
        OHLCVExtractor as OHLCVExtractor,
    )
    from trading_system.ml_refinement.features.extractors.batch import (
        BarsBatch as BarsBatch,
        FeatureRequest as FeatureRequest,
        SignalBatch as SignalBatch,
    )
    from trading_system.ml_refinement.features.extractors.market_features import (
        MarketRegimeFeatures as MarketRegimeFeatures,
    )
    from trading_system.ml_refinement.features.extractors.news_features import (
        NewsFeatures as NewsFeatures,
        NewsItem as NewsItem,
    )
    from trading_system.ml_refinement.features.extractors.provided_features import (
        ProvidedFeatures as ProvidedFeatures,
    )
    from trading_system.ml_refinement.features.extractors.signal_features import (
        SignalMetadata as SignalMetadata,
        SignalMetadataFeatures as SignalMetadataFeatures,
    )
    from trading_system.ml_refinement.features.extractors.technical_features import (
        MomentumFeatures as MomentumFeatures,
        TrendFeatures as TrendFeatures,
        VolatilityFeatures as VolatilityFeatures,
    )

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "base_extractor": ("BaseFeatureExtractor", "FeatureDefinition", "FeatureError", "OHLCVExtractor"),
        "batch": ("BarsBatch", "FeatureRequest", "SignalBatch"),
        "market_features": ("MarketRegimeFeatures",),
        "news_features": ("NewsFeatures", "NewsItem"),
        "provided_features": ("ProvidedFeatures",),
        "signal_features": ("SignalMetadata", "SignalMetadataFeatures"),
        "technical_features": ("MomentumFeatures", "TrendFeatures", "VolatilityFeatures"),
    },
)
