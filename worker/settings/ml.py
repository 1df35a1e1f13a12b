"""Settings of learning: the library's configuration, with its defaults and with what is allowed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trading_system.ml_refinement.config import FeatureConfig, FeatureSet, MLConfig, TrainingConfig

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]

_FEATURES, _TRAINING, _ML = FeatureConfig(), TrainingConfig(), MLConfig()


class Part(BaseModel):
    """A named group of settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FeatureSettings(Part):
    """What is extracted; the fields of the library's `FeatureConfig`."""

    feature_set: FeatureSet = _FEATURES.feature_set
    """Which extractors run."""
    custom_features: tuple[str, ...] = tuple(_FEATURES.custom_features)
    """Names of extractors or of single features; read when `feature_set` is `custom`. JSON list."""
    technical_lookbacks: Annotated[tuple[Count, ...], Field(min_length=1)] = tuple(_FEATURES.technical_lookbacks)
    """Moving-average windows in bars. JSON list."""
    market_regime_window: Annotated[int, Field(ge=2)] = _FEATURES.market_regime_window
    """Window of the market-regime features in bars."""
    volatility_window: Annotated[int, Field(ge=2)] = _FEATURES.volatility_window
    """Window of the volatility features in bars."""
    news_lookback_hours: Count = _FEATURES.news_lookback_hours
    """How old a news item may be."""
    include_news_features: bool = _FEATURES.include_news_features
    """Whether the extended set has news features."""
    scale_features: bool = _FEATURES.scale_features
    """Whether features are scaled in training."""
    scaling_method: Literal["standard", "minmax", "robust"] = "standard"
    """How features are scaled."""

    @model_validator(mode="after")
    def _custom_names(self) -> FeatureSettings:
        if self.feature_set is FeatureSet.CUSTOM and not self.custom_features:
            raise ValueError("must name custom_features when feature_set is custom")
        return self

    def to_config(self) -> FeatureConfig:
        """The library's configuration with these values."""
        values = self.model_dump()
        lists = {name: list(values[name]) for name in ("custom_features", "technical_lookbacks")}
        return FeatureConfig(**values | lists)


class TrainingSettings(Part):
    """How models are trained and validated; the fields of the library's `TrainingConfig`."""

    train_window_days: Count = _TRAINING.train_window_days
    """Training window in calendar days of signal time."""
    validation_window_days: Count = _TRAINING.validation_window_days
    """Reported validation window in calendar days."""
    step_size_days: Count = _TRAINING.step_size_days
    """Step of the walk-forward in calendar days."""
    min_training_samples: Annotated[int, Field(ge=10)] = _TRAINING.min_training_samples
    """Fewer labelled samples than this, and no training is started."""
    min_validation_samples: Count = _TRAINING.min_validation_samples
    """Fewer samples in the validation window than this, and it is not reported."""
    model_type: Literal["ensemble", "gradient_boosting"] = "ensemble"
    """Recipe of the model."""
    hyperparameters: dict[str, Any] = Field(default_factory=dict)
    """Parameters of the recipe. JSON object."""
    early_stopping: bool = _TRAINING.early_stopping
    """Whether boosting stops early, on the purged tail of the training window."""
    early_stopping_rounds: Count = _TRAINING.early_stopping_rounds
    """Rounds without progress after which boosting stops."""
    max_features: Count = _TRAINING.max_features
    """At most this many features enter a model."""
    feature_selection: bool = _TRAINING.feature_selection
    """Whether unimportant features are left out, inside each training fold."""
    feature_importance_threshold: Share = _TRAINING.feature_importance_threshold
    """Features below this share of the total importance are left out."""


class MLSettings(Part):
    """Everything about learning; the fields of the library's `MLConfig`, whose paths follow from `state_dir`."""

    enabled: bool = _ML.enabled
    """Whether models are trained and signals scored."""
    features: FeatureSettings = FeatureSettings()
    """What is extracted."""
    training: TrainingSettings = TrainingSettings()
    """How models are trained."""
    retrain_frequency_days: Count = _ML.retrain_frequency_days
    """Retrain after this many days when at least one label is new."""
    min_new_samples_for_retrain: Count = _ML.min_new_samples_for_retrain
    """Retrain when this many labels are new since the last training."""
    quality_threshold_high: Share = _ML.quality_threshold_high
    """From this P(win) on the quality band is `high`."""
    quality_threshold_low: Share = _ML.quality_threshold_low
    """Below this P(win) the quality band is `low`."""
    use_ml_scores: bool = _ML.use_ml_scores
    """Whether a proven model moves the combined score."""
    ml_score_weight: Share = _ML.ml_score_weight
    """Share of the ML score in the combined score."""

    @model_validator(mode="after")
    def _thresholds(self) -> MLSettings:
        if self.quality_threshold_low >= self.quality_threshold_high:
            raise ValueError("must have quality_threshold_low below quality_threshold_high")
        return self

    def to_config(self, *, model_dir: str, feature_db_path: str) -> MLConfig:
        """The library's configuration with these values and the given paths."""
        values = self.model_dump(exclude={"features", "training"})
        return MLConfig(
            features=self.features.to_config(),
            training=TrainingConfig(**self.training.model_dump()),
            model_dir=model_dir,
            feature_db_path=feature_db_path,
            **values,
        )
