"""What every model of ours is: fitted on rows in time order, asked, and kept in a file that can be trusted."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from loguru import logger
from numpy.typing import ArrayLike
from sklearn.exceptions import NotFittedError

from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.models import artefact
from trading_system.ml_refinement.models.base_model import BaseModel
from trading_system.ml_refinement.models.errors import BadData, FeatureContractError, ModelFileRefused
from trading_system.ml_refinement.models.fitting import FitPlan
from trading_system.ml_refinement.storage.times import Clock, utc_now
from trading_system.ml_refinement.typing import AnyArray, FloatArray, StringArray

_FORMAT = 2
_GOLDEN_ROWS = 8
_GOLDEN_TOLERANCE = 1e-9
_LIBRARIES = ("numpy", "scikit-learn", "skops")


class ArtefactModel(BaseModel):
    """A model whose file is an artefact: plain values, verified by hash and by golden rows, that executes nothing.

    Features are an array of shape (n, n_features) in the order of `feature_names`, or a DataFrame, whose columns are
    then taken by name. NaN means missing; infinity is refused.
    """

    def __init__(self, model_type: ModelType, version: str = "1.0", *, clock: Clock = utc_now) -> None:
        super().__init__(model_type, version, clock=clock)
        self._golden: dict[str, Any] = {}

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The features it was fitted on, in the order of the columns."""
        return tuple(self._feature_names)

    @abstractmethod
    def fit(
        self,
        X_train: ArrayLike,
        y_train: ArrayLike,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
        feature_names: Sequence[str] | None = None,
        *,
        plan: FitPlan | None = None,
    ) -> dict[str, float]:
        """See `BaseModel.fit`: features of shape (n, n_features), R-multiples of shape (n,).

        Args:
            X_train: features, NaN where missing.
            y_train: R-multiples.
            X_val: rows to report on.
            y_val: their R-multiples.
            feature_names: names of the columns; `f0`, `f1`, ... where not given.
            plan: which rows are held out inside; without it, blocks of rows with nothing purged.

        Raises:
            BadData: shapes disagree, or a value is not finite.
        """

    @abstractmethod
    def predict(self, X: ArrayLike) -> AnyArray:
        """Predictions for features of shape (n, n_features): shape (n,).

        Raises:
            NotFittedError: not fitted.
            FeatureContractError: other features than those fitted on, by number or, of a DataFrame, by name.
            BadData: not a matrix, or a feature is infinite.
        """

    @abstractmethod
    def predict_proba(self, X: ArrayLike) -> FloatArray:
        """Probabilities: shape (n,) for two classes, (n, n_classes) for more. Raises what `predict` does."""

    def _answers(self, X: FloatArray, signal_types: StringArray | None) -> FloatArray:
        """What golden rows are replayed with: whatever depends on everything learned."""
        del signal_types
        return self.predict_proba(X)

    @abstractmethod
    def _learned(self) -> dict[str, Any]:
        """Everything fitted, as plain values and arrays."""

    @abstractmethod
    def _restore(self, learned: Mapping[str, Any]) -> None:
        """The inverse of `_learned`; `feature_names` are set already."""

    def save(self, path: str) -> bool:
        """Write the model file, whole or not at all. False: that failed, and the log says why."""
        try:
            artefact.write_file(Path(path), self.to_bytes())
        except (OSError, ValueError, TypeError) as error:  # an unfitted model is a ValueError
            logger.error("model {} was not saved to {}: {}", self.model_id, path, error)
            return False
        return True

    def load(self, path: str, *, sha256: str | None = None) -> bool:
        """Become the model in a file. False: it was refused, the log says why, and this model is as it was.

        Args:
            path: the file.
            sha256: what it must hash to; without it that is not checked.
        """
        try:
            self.from_bytes(artefact.read_file(Path(path)), sha256=sha256)
        except ModelFileRefused as error:
            logger.error("no model was loaded from {}: {}", path, error)
            return False
        return True

    def to_bytes(self) -> bytes:
        """The model file's content.

        Raises:
            NotFittedError: not fitted.
        """
        self._require_fitted()
        return artefact.encode(
            {
                "format": _FORMAT,
                "model_type": self.model_type.value,
                "identity": {
                    "model_id": self.model_id,
                    "version": self.version,
                    "created_at": self.created_at,
                    "period": [self._train_start_date or "", self._train_end_date or ""],
                },
                "libraries": {name: installed_version(name) for name in _LIBRARIES},
                "features": {"version": self.feature_version, "names": list(self.feature_names)},
                "learned": self._learned(),
                "report": {
                    "samples": {"train": self._train_samples, "validation": self._validation_samples},
                    "metrics": {"train": self._train_metrics, "validation": self._validation_metrics},
                    "importance": self._feature_importance,
                },
                "golden": self._golden,
            }
        )

    def from_bytes(self, data: bytes, *, sha256: str | None = None) -> None:
        """Become the model of a file's content. On failure this model is as it was.

        Raises:
            ModelFileRefused: altered (`sha256` is what it must hash to), malformed, of other library versions, or not
                answering its golden rows as it did when it was written.
        """
        state = artefact.decode(data, sha256=sha256)
        fresh = object.__new__(type(self))
        fresh.model_type = self.model_type
        try:
            fresh._become(state)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise ModelFileRefused(f"malformed: {type(error).__name__}: {error}") from error
        self.__dict__.update(fresh.__dict__)

    def _become(self, state: Mapping[str, Any]) -> None:
        if state["format"] != _FORMAT or state["model_type"] != self.model_type.value:
            raise ModelFileRefused(f"a {state['model_type']} file of format {state['format']}")
        for name, saved in state["libraries"].items():
            if _series(saved) != _series(installed_version(name)):
                raise ModelFileRefused(f"written with {name} {saved}; here is {installed_version(name)}")
        identity, report = state["identity"], state["report"]
        self.model_id, self.version = identity["model_id"], identity["version"]
        self.created_at, (self._train_start_date, self._train_end_date) = identity["created_at"], identity["period"]
        self.feature_version, self._feature_names = state["features"]["version"], list(state["features"]["names"])
        self._train_samples, self._train_metrics = report["samples"]["train"], report["metrics"]["train"]
        self._validation_samples = report["samples"]["validation"]
        self._validation_metrics = report["metrics"]["validation"]
        self._feature_importance, self._golden = report["importance"], state["golden"]
        self._restore(state["learned"])
        self.is_fitted = True
        types = self._golden["signal_types"]
        replayed = self._answers(self._golden["features"], None if types is None else np.array(types, dtype=np.str_))
        if not np.allclose(replayed, self._golden["answers"], rtol=0.0, atol=_GOLDEN_TOLERANCE):
            raise ModelFileRefused("it does not answer as it did when it was written")

    def digest(self) -> str:
        """SHA-256 over what was learned and on which features, without ids and times: equal training, equal digest."""
        self._require_fitted()
        return artefact.digest({"learned": self._learned(), "names": self.feature_names, "type": self.model_type.value})

    def set_validation(self, samples: int, metrics: Mapping[str, float]) -> None:
        """What a validation outside this model found, for the registry."""
        self._validation_samples, self._validation_metrics = samples, dict(metrics)

    def check_features(self, names: Sequence[str], feature_version: str) -> None:
        """Refuse features other than those fitted on.

        Raises:
            FeatureContractError: another version, or names that differ or stand in another order.
        """
        if feature_version != self.feature_version:
            raise FeatureContractError(
                f"{self.model_id} was fitted on features {self.feature_version!r}, offered are {feature_version!r}"
            )
        if tuple(names) != self.feature_names:
            differing = sorted(set(names) ^ set(self.feature_names)) or ["the order"]
            raise FeatureContractError(f"{self.model_id}: features differ in {', '.join(differing[:5])}")

    def _begin(self, X: ArrayLike, y: ArrayLike, names: Sequence[str] | None) -> tuple[FloatArray, FloatArray]:
        """Checked training arrays; takes over the names."""
        if names is None and isinstance(X, pd.DataFrame):
            names = [str(column) for column in X.columns]
        values, target = _finite_or_missing(X), np.asarray(y, dtype=np.float64)
        names = tuple(names) if names is not None else tuple(f"f{i}" for i in range(values.shape[1]))
        if target.shape != (len(values),) or len(names) != values.shape[1] or len(set(names)) != len(names):
            raise BadData(f"features {values.shape}, targets {target.shape}, {len(set(names))} different names")
        if not len(target) or not np.isfinite(target).all():
            raise BadData("there are no rows" if not len(target) else "a target is not finite")
        self._feature_names = list(names)
        return values, target

    def _finish(self, X: FloatArray, importance: FloatArray, signal_types: StringArray | None = None) -> None:
        """Golden rows and importance, once the model answers."""
        self.is_fitted = True
        self._feature_importance = dict(zip(self.feature_names, importance.tolist(), strict=True))
        rows = np.linspace(0, len(X) - 1, min(_GOLDEN_ROWS, len(X))).astype(int)
        types = None if signal_types is None else signal_types[rows]
        self._golden = {
            "features": X[rows],
            "signal_types": None if types is None else types.tolist(),
            "answers": self._answers(X[rows], types),
        }

    def _matrix(self, X: ArrayLike) -> FloatArray:
        """Checked features in the order fitted on."""
        self._require_fitted()
        if isinstance(X, pd.DataFrame):
            missing = [name for name in self.feature_names if name not in X.columns]
            if missing:
                raise FeatureContractError(f"{self.model_id} needs {', '.join(missing[:5])}")
            X = X[list(self.feature_names)]
        values = _finite_or_missing(X)
        if values.shape[1] != len(self.feature_names):
            raise FeatureContractError(
                f"{self.model_id} takes {len(self.feature_names)} features, not {values.shape[1]}"
            )
        return values

    def _require_fitted(self) -> None:
        if not self.is_fitted:
            raise NotFittedError(f"{self.model_id} is not fitted")


def _finite_or_missing(X: ArrayLike) -> FloatArray:
    values = np.ascontiguousarray(X, dtype=np.float64)
    if values.ndim != 2:
        raise BadData(f"features are a matrix of shape (n, n_features), not {values.shape}")
    if np.isinf(values).any():
        raise BadData("a feature is infinite")
    return values


def _series(version: str) -> tuple[str, ...]:
    return tuple(version.split(".")[:2])
