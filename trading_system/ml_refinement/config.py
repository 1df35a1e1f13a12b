"""What the library can be told, and the records it hands around. Plain dataclasses: no I/O, nothing read at import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class ModelType(StrEnum):
    """What a model predicts."""

    SIGNAL_QUALITY = "signal_quality"
    RETURN_PREDICTOR = "return_predictor"
    REGIME_CLASSIFIER = "regime_classifier"
    RISK_PREDICTOR = "risk_predictor"


class FeatureSet(StrEnum):
    """Which extractors a pipeline runs."""

    MINIMAL = "minimal"
    STANDARD = "standard"
    EXTENDED = "extended"
    CUSTOM = "custom"


@dataclass
class FeatureConfig:
    """What is extracted, and over which windows. Every field but the two on scaling is part of `feature_version`."""

    feature_set: FeatureSet = FeatureSet.STANDARD
    #: Names of extractors or of single features; read when `feature_set` is CUSTOM.
    custom_features: list[str] = field(default_factory=list)
    #: Moving-average windows in bars; the momentum family uses those up to 50.
    technical_lookbacks: list[int] = field(default_factory=lambda: [5, 10, 20, 50, 200])
    market_regime_window: int = 20
    volatility_window: int = 20
    news_lookback_hours: int = 48
    include_news_features: bool = True
    #: Scaling is fitted on training rows and stored with the model; the store keeps unscaled values.
    scale_features: bool = True
    #: "standard", "minmax" or "robust".
    scaling_method: str = "standard"


@dataclass
class TrainingConfig:
    """How a model is trained and validated. Windows are in calendar days of signal time."""

    train_window_days: int = 252
    validation_window_days: int = 63
    step_size_days: int = 21
    min_training_samples: int = 100
    min_validation_samples: int = 20
    #: "ensemble", or "gradient_boosting" with the parameters of `hyperparameters`.
    model_type: str = "ensemble"
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    early_stopping: bool = True
    early_stopping_rounds: int = 50
    max_features: int = 50
    feature_selection: bool = True
    #: Features below this share of the total importance inside a training fold are left out of that fold's model.
    feature_importance_threshold: float = 0.01

    @property
    def expiry_days(self) -> float:
        """A champion older than half of its training window has expired: its scores are served as `stale`."""
        return 0.5 * self.train_window_days


@dataclass
class MLConfig:
    """Everything about learning."""

    enabled: bool = True
    features: FeatureConfig = field(default_factory=FeatureConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    model_dir: str = "models/"
    feature_db_path: str = "features.db"
    retrain_frequency_days: int = 7
    min_new_samples_for_retrain: int = 20
    quality_threshold_high: float = 0.7
    quality_threshold_low: float = 0.3
    use_ml_scores: bool = True
    #: Share of the ML score in the combined score, 0 to 1.
    ml_score_weight: float = 0.3


@dataclass
class FeatureVector:
    """The features of one signal as of its timestamp, and its outcome once that is known."""

    signal_id: str
    timestamp: str
    features: dict[str, float]
    #: R-multiple of the trade.
    target: float | None = None
    #: 1 for a win (R > 0), 0 for a loss.
    target_binary: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of plain values, as `from_dict` takes it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FeatureVector:
        """The inverse of `to_dict`; `target` and `target_binary` may be missing.

        Raises:
            KeyError: `signal_id`, `timestamp` or `features` is missing.
        """
        required = {name: data[name] for name in ("signal_id", "timestamp", "features")}
        return cls(**required, target=data.get("target"), target_binary=data.get("target_binary"))


@dataclass
class ModelMetadata:
    """What the registry knows about a trained model. Dates are UTC text."""

    model_id: str
    model_type: ModelType
    version: str
    created_at: str
    train_start_date: str
    train_end_date: str
    train_samples: int
    validation_samples: int
    train_metrics: dict[str, float] = field(default_factory=dict)
    validation_metrics: dict[str, float] = field(default_factory=dict)
    feature_names: list[str] = field(default_factory=list)
    feature_importance: dict[str, float] = field(default_factory=dict)
    is_active: bool = False
    deployed_at: str | None = None
