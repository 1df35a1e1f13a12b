"""What a signal may cost: a low percentile of its R-multiple."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from loguru import logger
from numpy.typing import ArrayLike
from sklearn.ensemble import HistGradientBoostingRegressor

from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.models.errors import ModelFileRefused, NoUsableFeatures, UnknownParameter
from trading_system.ml_refinement.models.estimators import threads
from trading_system.ml_refinement.models.fitting import FitPlan
from trading_system.ml_refinement.models.model import ArtefactModel
from trading_system.ml_refinement.models.selection import usable_columns
from trading_system.ml_refinement.models.trees import Forest, from_histogram_boosting
from trading_system.ml_refinement.storage.times import Clock, utc_now
from trading_system.ml_refinement.typing import FloatArray, StringArray

LEVEL = 0.1

_MIN_OUT_OF_FOLD = 100
_WEIGHTS = np.linspace(0.1, 1.0, 10)
#: Standard errors by which the boosting must do better on held-out rows than the plain percentile.
_EVIDENCE = 1.64


class RiskPredictor(ArtefactModel):
    """The 10th percentile of R: one such signal in ten ends lower.

    A small histogram boosting on the pinball loss. How much of what it says beyond the training rows' own percentile
    is served, and by how much all is shifted so that a tenth lies below, is decided on held-out rows (a conformalised
    quantile, Romano et al. 2019). With fewer than 100 of those, or where nothing does better on them by more than
    noise, the training rows' percentile is served.
    """

    DEFAULTS: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 0.05,
        "max_iter": 60,
        "max_leaf_nodes": 4,
        "min_samples_leaf": 30,
        "l2_regularization": 5.0,
        "max_features": 0.3,
        "max_bins": 64,
        "random_state": 42,
    }

    def __init__(self, version: str = "1.0", *, clock: Clock = utc_now, **hyperparameters: Any) -> None:
        """Store the settings.

        Args:
            version: of the model.
            clock: for `created_at`.
            **hyperparameters: of the boosting; see `DEFAULTS`.

        Raises:
            UnknownParameter: one that does not exist.
        """
        super().__init__(ModelType.RISK_PREDICTOR, version, clock=clock)
        unknown = sorted(set(hyperparameters) - set(self.DEFAULTS))
        if unknown:
            raise UnknownParameter(f"unknown parameters {', '.join(unknown)}; known: {', '.join(self.DEFAULTS)}")
        self.params = {**self.DEFAULTS, **hyperparameters}

    @property
    def weight(self) -> float:
        """How much of the boosting's opinion is served, 0 to 1; at 0 every signal has the same percentile."""
        return self._weight

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
        """See `ArtefactModel.fit`: features of shape (n, n_features), R-multiples of shape (n,).

        Raises:
            NoUsableFeatures: every feature is constant or missing.
        """
        X, r = self._begin(X_train, y_train, feature_names)
        columns = usable_columns(X)
        if not len(columns):
            raise NoUsableFeatures(f"all {X.shape[1]} features are constant or missing in {len(X)} rows")
        self._columns, self._base = columns, float(np.quantile(r, LEVEL))
        with threads().limit(limits=1):
            self._weight, self._shift, self._rows = self._calibrate(X, r, plan or FitPlan.by_rows(len(X)))
            self._forest = self._grow(X[:, columns], r) if self._weight > 0 else None
        gains = np.zeros(X.shape[1])
        if self._forest is not None:
            gains[columns] = self._forest.gain_by_feature(len(columns))
        self._finish(X, gains / gains.sum() if gains.sum() > 0 else gains)
        self._train_samples = len(X)
        figures = {
            "weight": self._weight,
            "held_out_rows": float(self._rows),
            "base_percentile_served": float(self._weight == 0.0),
        }
        self._train_metrics = self._report(X, r) | figures
        if self._rows < _MIN_OUT_OF_FOLD and plan is None:  # a training brings a plan, and says so in its verdict
            told = "model {} answers with the percentile {:.3f} of all rows, whatever it is asked: {} of {} held out"
            logger.warning(told, self.model_id, self._base, self._rows, _MIN_OUT_OF_FOLD)
        if X_val is not None and y_val is not None:
            validation = self._matrix(X_val)
            self.set_validation(len(validation), self._report(validation, np.asarray(y_val, dtype=np.float64)))
        return dict(self._train_metrics)

    def predict(self, X: ArrayLike) -> FloatArray:
        """The 10th percentile of R, shape (n,)."""
        values = self._matrix(X)
        served = np.full(len(values), self._base + self._shift)
        if self._forest is None:
            return served
        return served + self._weight * (self._forest.raw(values[:, self._columns]) - self._base)

    def predict_proba(self, X: ArrayLike) -> FloatArray:
        """P(R below `predict`), shape (n,): the level, the same for every signal."""
        return np.full(len(self._matrix(X)), LEVEL)

    def _grow(self, X: FloatArray, r: FloatArray) -> Forest:
        grown = HistGradientBoostingRegressor(loss="quantile", quantile=LEVEL, early_stopping=False, **self.params)
        return from_histogram_boosting(grown.fit(X, r))

    def _calibrate(self, X: FloatArray, r: FloatArray, plan: FitPlan) -> tuple[float, float, int]:
        """Weight, shift, and on how many held-out rows they were decided."""
        base, beyond, target = [np.empty(0)], [np.empty(0)], [np.empty(0)]
        for inside, outside in plan.calibration:
            columns = usable_columns(X[inside]) if len(inside) else np.arange(0)
            if not len(outside) or not len(columns):
                continue
            base.append(np.full(len(outside), np.quantile(r[inside], LEVEL)))
            grown = self._grow(X[np.ix_(inside, columns)], r[inside])
            beyond.append(grown.raw(X[np.ix_(outside, columns)]) - base[-1])
            target.append(r[outside])
        b, d, y = (np.concatenate(parts) for parts in (base, beyond, target))
        if len(y) < _MIN_OUT_OF_FOLD:
            return 0.0, 0.0, len(y)
        plain, best, chosen = pinball(y, b), np.inf, (0.0, 0.0)
        for weight in _WEIGHTS.tolist():
            shift = float(np.quantile(y - b - weight * d, LEVEL))
            loss = pinball(y, b + weight * d + shift)
            if loss.mean() < best and _better(plain - loss):
                best, chosen = loss.mean(), (weight, shift)
        return *chosen, len(y)

    def _report(self, X: FloatArray, r: FloatArray) -> dict[str, float]:
        served = self.predict(X)
        return {
            "coverage": float((r < served).mean()),
            "pinball_loss": float(pinball(r, served).mean()),
            "base_pinball_loss": float(pinball(r, np.full(len(r), self._base)).mean()),
        }

    def _answers(self, X: FloatArray, signal_types: StringArray | None) -> FloatArray:
        del signal_types
        return self.predict(X)

    def _learned(self) -> dict[str, Any]:
        return {
            "parameters": dict(self.params),
            "columns": self._columns.astype(np.int64),
            "forest": self._forest and self._forest.state(),
            "base": self._base,
            "weight": self._weight,
            "shift": self._shift,
            "rows": self._rows,
        }

    def _restore(self, learned: Mapping[str, Any]) -> None:
        self.params = dict(learned["parameters"])
        columns = learned["columns"]
        if columns.size and (columns.min() < 0 or columns.max() >= len(self.feature_names)):
            raise ModelFileRefused("columns out of range")
        self._columns, self._base, self._shift = columns, float(learned["base"]), float(learned["shift"])
        self._weight, self._rows = float(learned["weight"]), int(learned["rows"])
        forest = learned["forest"]
        self._forest = Forest.from_state(forest, n_features=len(columns)) if forest is not None else None


def pinball(r: FloatArray, risk: FloatArray) -> FloatArray:
    """Pinball loss of each row at `LEVEL`, shape (n,): what the percentile of R minimises in the mean."""
    short = r - risk
    return np.asarray(np.maximum(LEVEL * short, (LEVEL - 1.0) * short), dtype=np.float64)


def _better(gain: FloatArray) -> bool:
    return bool(gain.mean() > _EVIDENCE * gain.std() / np.sqrt(len(gain)))
