"""The interface of every model; whoever has an estimator of another kind brings it in through this class."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from trading_system.ml_refinement.config import ModelMetadata, ModelType
from trading_system.ml_refinement.storage.times import Clock, utc_now, utc_text
from trading_system.ml_refinement.typing import AnyArray, FloatArray

if TYPE_CHECKING:
    from trading_system.ml_refinement.models.regime_classifier import RegimeClassifier
    from trading_system.ml_refinement.models.return_predictor import ReturnPredictor
    from trading_system.ml_refinement.models.risk_predictor import RiskPredictor
    from trading_system.ml_refinement.models.signal_quality import SignalQualityModel

__all__ = ["BaseModel", "RegimeClassifier", "ReturnPredictor", "RiskPredictor", "SignalQualityModel"]

_MODULE_OF = {
    "RegimeClassifier": "regime_classifier",
    "ReturnPredictor": "return_predictor",
    "RiskPredictor": "risk_predictor",
    "SignalQualityModel": "signal_quality",
}


def __getattr__(name: str) -> Any:
    # The specification has its models in this module. They are subclasses, so this module cannot load them first.
    if name in _MODULE_OF:
        return getattr(import_module(f"trading_system.ml_refinement.models.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class BaseModel(ABC):
    """A model that can be fitted, asked, saved and loaded: five methods, and the metadata that a registry keeps.

    `fit` sets `is_fitted`, and of the attributes with an underscore those that it knows; `get_metadata` reads them.
    Features are arrays of shape (n, n_features).

    Example:
        class Momentum(BaseModel):
            def __init__(self, version="1.0"):
                super().__init__(ModelType.SIGNAL_QUALITY, version)
            ...
    """

    def __init__(self, model_type: ModelType, version: str = "1.0", *, clock: Clock = utc_now) -> None:
        self.model_type = model_type
        self.version = version
        self.model_id = f"{model_type.value}_{version}_{uuid.uuid4().hex[:8]}"
        self.is_fitted = False
        self.created_at = utc_text(clock())
        #: Version of the feature extraction it was fitted on; empty where that was not told.
        self.feature_version = ""
        self._train_start_date: str | None = None
        self._train_end_date: str | None = None
        self._train_samples = 0
        self._validation_samples = 0
        self._feature_names: list[str] = []
        self._feature_importance: dict[str, float] = {}
        self._train_metrics: dict[str, float] = {}
        self._validation_metrics: dict[str, float] = {}

    @abstractmethod
    def fit(
        self,
        X_train: ArrayLike,
        y_train: ArrayLike,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
        feature_names: Sequence[str] | None = None,
    ) -> dict[str, float]:
        """Fit on rows in time order; the metrics on them.

        Args:
            X_train: features, shape (n, n_features), NaN where missing.
            y_train: R-multiples, shape (n,); above 0 is a win.
            X_val: rows to report on, shape (n_val, n_features); nothing is fitted on them.
            y_val: their R-multiples, shape (n_val,).
            feature_names: names of the columns.
        """

    @abstractmethod
    def predict(self, X: ArrayLike) -> AnyArray:
        """Predictions for features of shape (n, n_features): shape (n,)."""

    @abstractmethod
    def predict_proba(self, X: ArrayLike) -> FloatArray:
        """Probabilities: shape (n,) for two classes, (n, n_classes) for more."""

    @abstractmethod
    def save(self, path: str) -> bool:
        """Write the model to the file `path`. False: that failed, and the log says why."""

    @abstractmethod
    def load(self, path: str) -> bool:
        """Become the model in a file. False: that failed, and the log says why."""

    def get_metadata(self) -> ModelMetadata:
        """What the registry keeps about this model."""
        return ModelMetadata(
            model_id=self.model_id,
            model_type=self.model_type,
            version=self.version,
            created_at=self.created_at,
            train_start_date=self._train_start_date or "",
            train_end_date=self._train_end_date or "",
            train_samples=int(self._train_samples),
            validation_samples=int(self._validation_samples),
            train_metrics=dict(self._train_metrics),
            validation_metrics=dict(self._validation_metrics),
            feature_names=list(self._feature_names),
            feature_importance=dict(self._feature_importance),
        )

    def set_training_period(self, start_date: str, end_date: str) -> None:
        """The first and last signal time trained on."""
        self._train_start_date, self._train_end_date = start_date, end_date

    def get_top_features(self, n: int = 10) -> list[tuple[str, float]]:
        """The n features of largest importance, largest first."""
        return sorted(self._feature_importance.items(), key=lambda item: -item[1])[:n]
