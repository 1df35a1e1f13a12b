"""The model of signal quality: will this signal's trade win, and what R is to be expected of it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from loguru import logger
from numpy.typing import ArrayLike
from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score

from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.models import artefact
from trading_system.ml_refinement.models.errors import BadData, OneClass
from trading_system.ml_refinement.models.fitting import (
    ColumnWeights,
    FitPlan,
    FitSettings,
    FittedClassifier,
    fit_classifier,
)
from trading_system.ml_refinement.models.model import ArtefactModel
from trading_system.ml_refinement.models.neutral.rows import TrainingRows
from trading_system.ml_refinement.models.novelty import Novelty, fit_novelty
from trading_system.ml_refinement.models.selection import SelectionRule
from trading_system.ml_refinement.storage.times import Clock, utc_now
from trading_system.ml_refinement.typing import AnyArray, BoolArray, FloatArray, StringArray


class Assessment(NamedTuple):
    """What the model says of n rows, shape (n,); each is what the method of that name gives, `p` is `predict_proba`."""

    p: FloatArray
    predicted_r: FloatArray
    confidence: FloatArray
    novelty: FloatArray


class SignalQualityModel(ArtefactModel):
    """The calibrated probability that a signal's trade wins, and the R-multiple expected of it.

    Recipe `ensemble` is two market-neutral linear members, which know signal types, beside a small histogram boosting;
    `gradient_boosting` is the specification's. Held-out rows decide how much of each member is served, which can only
    shrink. With fewer than `min_samples` rows the base rate is served, and then `base_rate_served` among the metrics of
    `fit` is 1.

    Signal types are part of what is asked: `signal_types` (n,) beside the features. A type that training saw too little
    of, and none at all, is answered by what holds for every type.
    """

    _TYPE: ClassVar[ModelType] = ModelType.SIGNAL_QUALITY

    def __init__(
        self,
        version: str = "1.0",
        *,
        recipe: str | None = None,
        scaling: str | None = "standard",
        selection: SelectionRule | None = None,
        min_samples: int = 100,
        stopping_rounds: int | None = None,
        clock: Clock = utc_now,
        **hyperparameters: Any,
    ) -> None:
        """Store the settings.

        Args:
            version: of the model, free text of letters, digits, `.`, `-` and `_`.
            recipe: `ensemble` or `gradient_boosting`; None: the first that knows all of `hyperparameters`.
            scaling: `standard`, `minmax`, `robust`, or None for none.
            selection: which features may be used.
            min_samples: below it, the base rate.
            stopping_rounds: for recipes that stop early.
            clock: for `created_at`.
            **hyperparameters: of the recipe.

        Raises:
            UnknownParameter: a recipe, scaling or hyperparameter that does not exist.
        """
        super().__init__(self._TYPE, version, clock=clock)
        #: None: `params` choose.
        self._named_recipe = recipe
        self.settings = FitSettings.resolve(
            recipe,
            hyperparameters,
            scaling=scaling,
            selection=selection or SelectionRule(),
            min_samples=min_samples,
            stopping_rounds=stopping_rounds,
        )

    @property
    def params(self) -> dict[str, Any]:
        """The recipe's parameters; what is changed here is what the next `fit` goes by."""
        return self.settings.parameters

    @params.setter
    def params(self, parameters: Mapping[str, Any]) -> None:
        self.settings = self.settings.with_parameters(parameters, recipe=self._named_recipe)

    @property
    def recipe(self) -> str:
        """Name of the recipe."""
        return self.settings.recipe

    @property
    def base_rate(self) -> float:
        """Win rate of the training rows."""
        return self._classifier.base_rate

    @property
    def calibration_slope(self) -> float:
        """How much of the raw opinion held out of fold: 1 all of it, 0 the base rate is served."""
        return self._classifier.calibration.slope

    @property
    def used_features(self) -> list[str]:
        """Those that it reads, of all that it was given; none where the base rate is served."""
        return [self.feature_names[at] for at in self._classifier.columns]

    @property
    def selection_note(self) -> str:
        """Of a fit just made: that the threshold of selection lay above every feature; else empty."""
        return self._classifier.selection_note

    @property
    def iterations(self) -> int:
        """Number of trees; 0 where the base rate is served."""
        estimator = self._classifier.estimator
        return len(estimator.forest.roots) if estimator is not None and estimator.forest is not None else 0

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

        What the plan says of the rows' types and times is learned from: without types there are no columns of types,
        without times nothing is taken out that open trades share. `X_val` is asked without types.

        Raises:
            OneClass: all rows won, or all lost.
            NoUsableFeatures: every feature is constant or missing.
        """
        X, r = self._begin(X_train, y_train, feature_names)
        self.settings = self.settings.with_parameters(self.params, recipe=self._named_recipe)
        won = r > 0
        if not 0 < won.sum() < len(won):
            raise OneClass(f"all {len(won)} trades {'won' if won.any() else 'lost'}")
        used = plan or FitPlan.by_rows(len(X))
        types = _types(used.signal_types, len(X))
        rows = TrainingRows(X, won, r, types, used.entered_us, used.known_us)
        self._classifier = fit_classifier(rows, self.settings, used)
        self._mean_r = tuple(_winsorised_mean(part) for part in (r[won], r[~won]))
        self._novelty = fit_novelty(X)
        self._finish(X, self._classifier.importance(X.shape[1]), types)
        self._train_samples = len(X)
        self._train_metrics = self._report(X, won, types) | self._learned_figures()
        missing = self._classifier.shortfall(self.settings)
        if missing and plan is None:  # a training brings a plan, and says what is missing in its verdict
            told = "model {} answers with the base rate {:.3f}, whatever it is asked: {}"
            logger.warning(told, self.model_id, self.base_rate, missing)
        if X_val is not None and y_val is not None:
            validation = self._matrix(X_val)
            self.set_validation(len(validation), self._report(validation, np.asarray(y_val) > 0, None))
        return dict(self._train_metrics)

    def predict(self, X: ArrayLike, signal_types: Sequence[str] | StringArray | None = None) -> AnyArray:
        """1 where a win is more likely than not, else 0; shape (n,)."""
        return (self.predict_proba(X, signal_types) > 0.5).astype(np.int64)

    def predict_proba(self, X: ArrayLike, signal_types: Sequence[str] | StringArray | None = None) -> FloatArray:
        """P(win), calibrated, shape (n,)."""
        values = self._matrix(X)
        return self._classifier.proba(values, _types(signal_types, len(values)))

    def predict_r(self, X: ArrayLike, signal_types: Sequence[str] | StringArray | None = None) -> FloatArray:
        """Expected R, shape (n,): P(win) times the mean R of winners plus P(loss) times that of losers, winsorised."""
        p = self.predict_proba(X, signal_types)
        return self._expected_r(p)

    def novelty(self, X: ArrayLike) -> FloatArray:
        """Distance from the training rows over its limit, shape (n,): above 1 is out of distribution."""
        values = self._matrix(X)
        return self._novelty.distance(values)

    def confidence(self, X: ArrayLike, signal_types: Sequence[str] | StringArray | None = None) -> FloatArray:
        """0 to 1, shape (n,): the calibration slope times the members' agreement; halved out of distribution.

        It orders scores by how far to trust them. It is not a probability, and 0 where the base rate is served.
        """
        return self.assess(X, signal_types).confidence

    def assess(self, X: ArrayLike, signal_types: Sequence[str] | StringArray | None = None) -> Assessment:
        """Everything it says of rows, shape (n, n_features), from one evaluation."""
        values = self._matrix(X)
        p, agreement = self._classifier.opinion(values, _types(signal_types, len(values)))
        novelty = self._novelty.distance(values)
        trust = self.calibration_slope * agreement
        return Assessment(p, self._expected_r(p), np.where(novelty > 1.0, 0.5 * trust, trust), novelty)

    def contributions(self, X: ArrayLike, signal_types: Sequence[str] | StringArray | None = None) -> FloatArray:
        """What each feature's columns add in log-odds (line, fold, line of the type), and last the type itself.

        Shape (n, n_features + 1). They add up, beside a constant and what the boosting adds.
        """
        values = self._matrix(X)
        return self._classifier.contributions(values, _types(signal_types, len(values)))

    def columns_served(self) -> ColumnWeights:
        """What its linear members learned, as far as it is served, in the order of `feature_names`."""
        self._require_fitted()
        return self._classifier.columns_served(len(self.feature_names))

    def opinion_digest(self) -> str:
        """SHA-256 over what P(win) is computed from: models where it is equal say the same P(win)."""
        self._require_fitted()
        return artefact.digest({"classifier": self._classifier.state(), "names": self.feature_names})

    def _learned_figures(self) -> dict[str, float]:
        """Whether anything is served beyond the base rate, and how many samples that would take."""
        return {
            "calibration_slope": self.calibration_slope,
            "base_rate_served": float(self.calibration_slope == 0.0),
            "min_samples": float(self.settings.min_samples),
        }

    def _expected_r(self, p: FloatArray) -> FloatArray:
        return p * self._mean_r[0] + (1.0 - p) * self._mean_r[1]

    def _report(self, X: FloatArray, won: BoolArray, signal_types: StringArray | None) -> dict[str, float]:
        p = self._classifier.proba(X, signal_types)
        both = 0 < won.sum() < len(won)
        report = {
            "accuracy": float(accuracy_score(won, p > 0.5)),
            "f1": float(f1_score(won, p > 0.5, zero_division=0.0)),
            "log_loss": float(log_loss(won, p, labels=[False, True])),
            "base_rate": float(won.mean()),
        }
        return report | {"auc": float(roc_auc_score(won, p))} if both else report

    def _learned(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "recipe": settings.recipe,
            "parameters": dict(settings.parameters),
            "scaling": settings.scaling,
            "selection": [settings.selection.enabled, settings.selection.max_features, settings.selection.threshold],
            "min_samples": settings.min_samples,
            "stopping_rounds": settings.stopping_rounds,
            "classifier": self._classifier.state(),
            "mean_r": list(self._mean_r),
            "novelty": self._novelty.state(),
        }

    def _restore(self, learned: Mapping[str, Any]) -> None:
        self._named_recipe = learned["recipe"]
        self.settings = FitSettings.resolve(
            learned["recipe"],
            learned["parameters"],
            scaling=learned["scaling"],
            selection=SelectionRule(*learned["selection"]),
            min_samples=learned["min_samples"],
            stopping_rounds=learned["stopping_rounds"],
        )
        n_features = len(self.feature_names)
        self._classifier = FittedClassifier.from_state(learned["classifier"], n_features=n_features)
        self._mean_r = tuple(learned["mean_r"])
        self._novelty = Novelty.from_state(learned["novelty"], n_features=n_features)


def _types(told: Sequence[str] | StringArray | None, n: int) -> StringArray | None:
    if told is None:
        return None
    types = np.asarray(told, dtype=np.str_)
    if types.shape != (n,):
        raise BadData(f"signal types {types.shape} beside {n} rows of features")
    return types


def _winsorised_mean(values: FloatArray) -> float:
    """Mean with everything beyond the 1st and 99th percentile drawn in to it."""
    low, high = np.quantile(values, [0.01, 0.99])
    return float(np.clip(values, low, high).mean())
