"""What the library can be told, and the records it hands around. Dataclasses: no I/O, nothing read at import.

The constructors of what it can be told check what they are given; the worker's settings are made from the same classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass as validated

from trading_system.ml_refinement.provided_limits import MOST_PROVIDED, PROVIDED_MAX, PROVIDED_NAME


def _each_once(names: list[str]) -> list[str]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"must name each feature once, and names {', '.join(twice)} twice")
    return names


Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
#: Beyond a hundred years back a day's arithmetic leaves the calendar.
MOST_DAYS = 36_500
Count = Annotated[int, Field(ge=1, le=10**9)]
Days = Annotated[int, Field(ge=1, le=MOST_DAYS)]
Window = Annotated[int, Field(ge=2, le=100_000)]
ProvidedName = Annotated[str, Field(pattern=PROVIDED_NAME)]
ProvidedNumber = Annotated[float, Field(ge=-PROVIDED_MAX, le=PROVIDED_MAX, allow_inf_nan=False)]

_STRICT = ConfigDict(extra="forbid")


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


@validated(config=_STRICT)
class FeatureConfig:
    """What is extracted, and over which windows. Every field but the two on scaling is part of `feature_version`.

    Raises:
        pydantic.ValidationError: a ValueError, where a value is not allowed.
    """

    feature_set: FeatureSet = FeatureSet.STANDARD
    """Which extractors run."""
    custom_features: list[str] = field(default_factory=list)
    """Names of extractors or of single features, at least one, when `feature_set` is `custom`. JSON list."""
    technical_lookbacks: Annotated[list[Count], Field(min_length=1)] = field(
        default_factory=lambda: [5, 10, 20, 50, 200]
    )
    """Moving-average windows in bars. JSON list."""
    market_regime_window: Window = 20
    """Window of the market-regime features in bars."""
    volatility_window: Window = 20
    """Window of the volatility features in bars."""
    news_lookback_hours: Count = 48
    """How old a news item may be."""
    include_news_features: bool = True
    """Whether the extended set has news features."""
    scale_features: bool = True
    """Whether features are scaled in training; recipe `ensemble` only."""
    # Scaling is fitted on training rows and stored with the model; the store keeps unscaled values.
    scaling_method: Literal["standard", "minmax", "robust"] = "standard"
    """How features are scaled; recipe `ensemble` only."""
    provided: Annotated[list[ProvidedName], Field(max_length=MOST_PROVIDED), AfterValidator(_each_once)] = field(
        default_factory=list
    )
    """Names in the events' `features` that become features, in this order, at most 64. JSON list."""
    provided_neutral: dict[str, ProvidedNumber] = field(default_factory=dict)
    """What stands for a provided feature that an event does not bring, by name; 0 for the others. JSON object."""

    @model_validator(mode="after")
    def _neutral_of_provided(self) -> FeatureConfig:
        unknown = sorted(set(self.provided_neutral).difference(self.provided))
        if unknown:
            raise ValueError(f"must list in `provided` what `provided_neutral` names: {', '.join(unknown)}")
        return self


@validated(config=_STRICT)
class TrainingConfig:
    """How a model is trained and validated.

    Raises:
        pydantic.ValidationError: a ValueError, where a value is not allowed.
    """

    train_window_days: Days = 252
    """Training window in calendar days of signal time."""
    validation_window_days: Days = 63
    """Reported validation window in calendar days."""
    step_size_days: Days = 21
    """Step of the walk-forward in calendar days."""
    min_training_samples: Annotated[int, Field(ge=10, le=10**9)] = 100
    """Fewer labelled samples than this, and a retraining job trains nothing: it is held until there are more."""
    min_validation_samples: Count = 20
    """With fewer out-of-sample rows than this a candidate is held, and does not serve."""
    model_type: Literal["ensemble", "gradient_boosting"] = "ensemble"
    """Recipe of the model."""
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    """Parameters of the recipe. JSON object."""
    early_stopping: bool = True
    """Whether boosting stops early, on the purged tail of the training window; recipe `gradient_boosting` only."""
    early_stopping_rounds: Count = 50
    """Rounds without progress after which boosting stops; recipe `gradient_boosting` only."""
    max_features: Count = 50
    """At most this many features enter a model, with `feature_selection` or without."""
    feature_selection: bool = True
    """Whether unimportant features are left out, inside each training fold."""
    feature_importance_threshold: Share = 0.01
    """Features below this share of the total importance are left out; the strongest never is."""

    @property
    def expiry_days(self) -> float:
        """A champion older than half of its training window has expired: its scores are served as `stale`."""
        return 0.5 * self.train_window_days


@validated(config=_STRICT)
class MLConfig:
    """Everything about learning.

    Raises:
        pydantic.ValidationError: a ValueError, where a value is not allowed.
    """

    enabled: bool = True
    """Whether models are trained and signals scored."""
    features: FeatureConfig = field(default_factory=FeatureConfig)
    """What is extracted."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """How models are trained."""
    model_dir: str = "models/"
    """Where `ModelRegistry.from_config` keeps model files; the worker's are in `REFINERY_STATE_DIR`."""
    feature_db_path: str = "features.db"
    """Which store `FeatureDatabase.from_config` opens; the worker's is in `REFINERY_STATE_DIR`."""
    retrain_frequency_days: Days = 7
    """A retraining job is enqueued so many days after the last one, when at least one label is new."""
    min_new_samples_for_retrain: Count = 20
    """A retraining job is enqueued when this many labels are new since the last one."""
    quality_threshold_high: Share = 0.7
    """From this P(win) on the quality band is `high`."""
    quality_threshold_low: Share = 0.3
    """Up to this P(win) the quality band is `low`."""
    use_ml_scores: bool = True
    """Whether a proven model moves the combined score."""
    ml_score_weight: Share = 0.3
    """Share of the ML score in the combined score."""
    virtual_outcomes: Literal["off", "fill"] = "off"
    """`fill`: trainings learn from signals without a reported outcome too, labelled by the bars that followed."""
    virtual_hold_days: Annotated[float, Field(gt=0, le=3_650, allow_inf_nan=False)] | None = None
    """After how long a virtual trade is ended; unset: as long as nine tenths of the signal type's own trades lasted."""
    virtual_session_hours: dict[str, Annotated[float, Field(gt=0, le=168, allow_inf_nan=False)]] = field(
        default_factory=dict
    )
    """Hours from a bar's opening to its close by asset class, where there are breaks: `{"equity": 6.5}`."""

    @model_validator(mode="after")
    def _thresholds(self) -> MLConfig:
        if self.quality_threshold_low >= self.quality_threshold_high:
            raise ValueError("must have quality_threshold_low below quality_threshold_high")
        return self


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
    #: What was wrong with the data it was made from, which neutral values stand for: never trained on. Empty: nothing.
    incomplete: str = ""
    #: What made it: vectors of two versions are never in one training set. Empty: the store's own `FEATURE_VERSION`.
    feature_version: str = ""

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of plain values, as `from_dict` takes it; the last two fields only where they say something."""
        told = {**asdict(self), "features": dict(self.features)}
        return {name: value for name, value in told.items() if value or name not in ("incomplete", "feature_version")}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FeatureVector:
        """The inverse of `to_dict`; everything but the id, the time and the features may be missing.

        Raises:
            KeyError: `signal_id`, `timestamp` or `features` is missing.
        """
        required = {name: data[name] for name in ("signal_id", "timestamp", "features")}
        optional = {name: data.get(name) for name in ("target", "target_binary")}
        told: dict[str, Any] = {name: data.get(name, "") for name in ("incomplete", "feature_version")}
        return cls(**{**required, **optional, **told})


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
