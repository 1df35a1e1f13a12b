"""Which kind of market a signal falls into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.models.errors import ModelFileRefused, NoUsableFeatures, OneClass
from trading_system.ml_refinement.models.estimators import threads
from trading_system.ml_refinement.models.fitting import FitPlan
from trading_system.ml_refinement.models.model import ArtefactModel
from trading_system.ml_refinement.models.neutral.design import column_medians
from trading_system.ml_refinement.storage.times import DAY_US, Clock, utc_now
from trading_system.ml_refinement.typing import FloatArray, IntArray, StringArray, TimeArray

#: By number: 0-3 are falling and quiet, falling and volatile, rising and quiet, rising and volatile.
REGIMES = ("bear_quiet", "bear_volatile", "bull_quiet", "bull_volatile")


class Source(NamedTuple):
    """Features that tell of the market: two of its direction, one of its volatility, and what else may help."""

    direction: tuple[str, str]
    volatility: str
    beside: tuple[str, ...]


#: The first whose direction and volatility are among the features: the market's own, or, in sets without those, the
#: symbols', which days of many signals average out.
SOURCES = (
    Source(("market_trend", "rally_strength"), "volatility_regime", ("market_breadth", "drawdown_depth")),
    Source(("price_vs_ma50", "roc_20"), "volatility_percentile", ("ma50_slope", "price_vs_ma200", "volatility_trend")),
)

_SMOOTHING_DAYS = 5.0
_CLIP = 5.0
#: Direction and volatility come first among the columns read.
_NEEDED = 3
#: Averages of equal values differ by less.
_TIE = 1e-9


class RegimeClassifier(ArtefactModel):
    """Bull or bear, quiet or volatile: probabilities that the smoothed market is in each state.

    In hindsight the market's state is plain: its direction and its volatility, averaged over the days around. That is
    what the training rows are labelled with; what is learned is to tell it from the market features known at the
    time. So a regime does not flicker, and a signal's regime depends on that signal's features alone.
    """

    def __init__(self, version: str = "1.0", *, clock: Clock = utc_now) -> None:
        super().__init__(ModelType.REGIME_CLASSIFIER, version, clock=clock)

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
        """See `ArtefactModel.fit`. R-multiples, shape (n,), are not read.

        Without `plan.entered_us` there is one row a day.

        Raises:
            NoUsableFeatures: no source is among the features, or one of its features is always missing.
            OneClass: the market was in one state all the time.
        """
        del y_val
        X, _ = self._begin(X_train, y_train, feature_names)
        self._columns = _columns(self.feature_names)
        if np.isnan(X[:, self._columns[:_NEEDED]]).all(axis=0).any():
            raise NoUsableFeatures("a feature that regimes are told from is missing in every row")
        days = _days(plan.entered_us if plan is not None else None, len(X))
        self._median = column_medians(X[:, self._columns])
        self._calm = float(np.median(self._smoothed(X, days)[:, 1]))
        label = self.hindsight(X, plan.entered_us if plan is not None else None)
        present = np.unique(label)
        if len(present) < 2:
            raise OneClass(f"the market was {REGIMES[int(present[0])]} in all {len(X)} rows")
        self._learn(X, label)
        importance = np.zeros(X.shape[1])
        importance[self._columns] = np.abs(self._weight).sum(axis=0) / max(np.abs(self._weight).sum(), 1e-12)
        self._finish(X, importance)
        self._train_samples = len(X)
        self._train_metrics = self._report(X, label)
        if X_val is not None:
            validation = self._matrix(X_val)
            self.set_validation(len(validation), self._report(validation, self.hindsight(validation)))
        return dict(self._train_metrics)

    def hindsight(self, X: ArrayLike, entered_us: TimeArray | None = None) -> IntArray:
        """Numbers of the regimes (places in `REGIMES`) that rows turned out to lie in, given the rows around them.

        Args:
            X: features, shape (n, n_features), in the order fitted on.
            entered_us: when each row was entered, shape (n,); None: one row a day.

        Returns:
            Shape (n,).
        """
        values = np.asarray(X, dtype=np.float64)
        direction, volatility = self._smoothed(values, _days(entered_us, len(values))).T
        return np.asarray(2 * (direction > _TIE) + (volatility > self._calm + _TIE), dtype=np.int64)

    def predict(self, X: ArrayLike) -> StringArray:
        """Name of the likeliest regime, shape (n,)."""
        likeliest = self.predict_proba(X).argmax(axis=1)
        return np.array([REGIMES[number] for number in likeliest.tolist()], dtype=np.str_)

    def predict_proba(self, X: ArrayLike) -> FloatArray:
        """Probabilities of `REGIMES`, shape (n, 4); 0 for one that never was."""
        values = self._matrix(X)
        logits = np.full((len(values), len(REGIMES)), -np.inf)
        # Not `@`: row by row the same sum, however many rows there are.
        logits[:, self._present] = np.einsum("nf,kf->nk", self._scaled(values), self._weight) + self._intercept
        return np.asarray(softmax(logits, axis=1), dtype=np.float64)

    def _learn(self, X: FloatArray, label: IntArray) -> None:
        filled = self._filled(X)
        spread = filled.std(axis=0)
        self._centre, self._scale = filled.mean(axis=0), np.where(spread > 0, spread, 1.0)
        with threads().limit(limits=1):
            logistic = LogisticRegression(C=1.0, max_iter=500).fit(self._scaled(X), label)
        weight, intercept = logistic.coef_, logistic.intercept_
        if len(logistic.classes_) == 2:  # scikit-learn then gives the second one's alone
            weight, intercept = np.vstack([-weight, weight]) / 2.0, np.r_[-intercept, intercept] / 2.0
        self._present = logistic.classes_.astype(np.int64)
        self._weight, self._intercept = weight.copy(), intercept.copy()

    def _filled(self, X: FloatArray) -> FloatArray:
        read = X[:, self._columns]
        return np.where(np.isnan(read), self._median, read)

    def _scaled(self, X: FloatArray) -> FloatArray:
        z = (self._filled(X) - self._centre) / self._scale
        return np.asarray(np.clip(z, -_CLIP, _CLIP), dtype=np.float64)

    def _smoothed(self, X: FloatArray, days: IntArray) -> FloatArray:
        """Direction and volatility averaged over the days around each row, nearer ones weighing more, shape (n, 2)."""
        read = self._filled(X)
        state = np.column_stack([read[:, : _NEEDED - 1].mean(axis=1), read[:, _NEEDED - 1]])
        distinct, place, count = np.unique(days, return_inverse=True, return_counts=True)
        daily = np.column_stack([np.bincount(place, weights=column) / count for column in state.T])
        near = np.exp(-np.abs(distinct[:, None] - distinct[None, :]) / _SMOOTHING_DAYS)
        smooth = (near @ daily) / near.sum(axis=1, keepdims=True)
        return np.asarray(smooth[place], dtype=np.float64)

    def _report(self, X: FloatArray, label: IntArray) -> dict[str, float]:
        said = self.predict_proba(X).argmax(axis=1)
        commonest = np.bincount(label, minlength=len(REGIMES)).max() / len(label) if len(label) else 0.0
        return {"accuracy": float((said == label).mean()), "commonest_share": float(commonest)}

    def _learned(self) -> dict[str, Any]:
        return {name: getattr(self, f"_{name}") for name in _ARRAYS} | {"calm": self._calm}

    def _restore(self, learned: Mapping[str, Any]) -> None:
        for name in _ARRAYS:
            setattr(self, f"_{name}", learned[name])
        self._calm = float(learned["calm"])
        columns, present, n = self._columns, self._present, len(self.feature_names)
        if columns.min() < 0 or columns.max() >= n or present.min() < 0 or present.max() >= len(REGIMES):
            raise ModelFileRefused("columns or regimes out of range")
        shapes = {"median": columns.shape, "centre": columns.shape, "scale": columns.shape}
        shapes |= {"weight": (len(present), len(columns)), "intercept": present.shape}
        for name, shape in shapes.items():
            if learned[name].shape != shape or not np.isfinite(learned[name]).all():
                raise ModelFileRefused(f"the regime's {name} is malformed")


_ARRAYS = ("columns", "median", "centre", "scale", "present", "weight", "intercept")


def _columns(names: Sequence[str]) -> IntArray:
    for source in SOURCES:
        needed = (*source.direction, source.volatility)
        if set(needed) <= set(names):
            read = [*needed, *(name for name in source.beside if name in names)]
            return np.array([list(names).index(name) for name in read], dtype=np.int64)
    told = " or ".join(", ".join((*source.direction, source.volatility)) for source in SOURCES)
    raise NoUsableFeatures(f"a regime is told from {told}")


def _days(entered_us: TimeArray | None, n: int) -> IntArray:
    return np.arange(n) if entered_us is None else entered_us // DAY_US
