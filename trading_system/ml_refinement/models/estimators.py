"""The recipes: how raw win probabilities are fitted. What comes out is plain arrays; scikit-learn only fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler
from threadpoolctl import ThreadpoolController

from trading_system.ml_refinement.models.errors import ModelFileRefused, UnknownParameter
from trading_system.ml_refinement.models.trees import Forest, from_gradient_boosting, from_histogram_boosting
from trading_system.ml_refinement.recipe_parameters import defaults, wrong_parameters
from trading_system.ml_refinement.typing import BoolArray, FloatArray, IndexArray

SCALERS: Mapping[str, type[StandardScaler | MinMaxScaler | RobustScaler]] = {
    "standard": StandardScaler,
    "minmax": MinMaxScaler,
    "robust": RobustScaler,
}


@cache
def threads() -> ThreadpoolController:
    """The numeric libraries' thread pools. Fits run on one thread: as fast at these sizes, and the same to the bit."""
    return ThreadpoolController()


@dataclass(frozen=True, slots=True)
class Linear:
    """Median imputation, scaling, clipping and logistic regression, as arrays of shape (n_features,)."""

    median: FloatArray
    centre: FloatArray
    scale: FloatArray
    clip: float
    weight: FloatArray
    intercept: float

    def scaled(self, X: FloatArray) -> FloatArray:
        """Imputed, scaled and clipped features, shape of X."""
        filled = np.where(np.isnan(X), self.median, X)
        return np.clip((filled - self.centre) / self.scale, -self.clip, self.clip)

    def raw(self, X: FloatArray) -> FloatArray:
        """Log-odds of a win, shape (n,)."""
        return np.asarray(self.scaled(X) @ self.weight + self.intercept, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Estimator:
    """The mean probability of its members: a linear one, a forest, or both."""

    linear: Linear | None
    forest: Forest | None

    def member_probabilities(self, X: FloatArray) -> FloatArray:
        """One column per member, shape (n, members)."""
        members = [member for member in (self.linear, self.forest) if member is not None]
        return np.column_stack([expit(member.raw(X)) for member in members])

    def importance(self, n_features: int) -> FloatArray:
        """Shares summing to 1, shape (n_features,): absolute scaled weights and split gain, averaged over members."""
        parts = []
        if self.linear is not None:
            parts.append(np.abs(self.linear.weight))
        if self.forest is not None:
            parts.append(self.forest.gain_by_feature(n_features))
        shares = [part / part.sum() if part.sum() > 0 else np.full(n_features, 1.0 / n_features) for part in parts]
        return np.asarray(np.mean(shares, axis=0), dtype=np.float64)

    def state(self) -> dict[str, Any]:
        """Plain values only; the inverse of `from_state`."""
        linear = self.linear and {field.name: getattr(self.linear, field.name) for field in fields(Linear)}
        return {"linear": linear, "forest": self.forest and self.forest.state()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, n_features: int) -> Estimator:
        """Rebuild, checking shapes and indices.

        Raises:
            ModelFileRefused: malformed.
        """
        linear = Linear(**state["linear"]) if state["linear"] is not None else None
        if linear is not None:
            for name in ("median", "centre", "scale", "weight"):
                array = np.asarray(getattr(linear, name))
                if array.shape != (n_features,) or not np.isfinite(array).all():
                    raise ModelFileRefused(f"the linear member's {name} is malformed")
        forest = Forest.from_state(state["forest"], n_features=n_features) if state["forest"] is not None else None
        return cls(linear, forest)


class Stopping(NamedTuple):
    """Rows to grow on, shape (n_head,), and later rows to stop on, shape (n_tail,), for recipes that stop early."""

    head: IndexArray
    tail: IndexArray
    rounds: int


def fit_ensemble(
    X: FloatArray, won: BoolArray, parameters: Mapping[str, Any], scaling: str | None, stopping: Stopping | None
) -> Estimator:
    """Logistic regression on clipped z-scores beside a small histogram boosting. It never stops early.

    Args:
        X: features, shape (n, n_features), NaN where missing.
        won: outcomes, shape (n,), of both classes.
        parameters: all that the recipe knows.
        scaling: a key of `SCALERS`; None leaves the linear member's features as they are, unclipped.
        stopping: passed over.
    """
    del stopping
    return Estimator(_fit_linear(X, won, parameters, scaling), _fit_histogram_boosting(X, won, parameters))


def fit_gradient_boosting(
    X: FloatArray, won: BoolArray, parameters: Mapping[str, Any], scaling: str | None, stopping: Stopping | None
) -> Estimator:
    """The specification's gradient boosting; missing values are the medians of their columns.

    Args:
        X: features, shape (n, n_features), NaN where missing.
        won: outcomes, shape (n,), of both classes.
        parameters: all that the recipe knows.
        scaling: passed over; trees need none.
        stopping: where to look for the number of trees; None grows `n_estimators`.
    """
    del scaling
    medians = column_medians(X)
    filled = np.where(np.isnan(X), medians, X)
    settings = dict(parameters)
    if stopping is not None:
        settings["n_estimators"] = best_iteration(filled, won, settings, stopping)
    grown = GradientBoostingClassifier(**settings).fit(filled, won)
    return Estimator(None, from_gradient_boosting(grown, medians=medians))


def best_iteration(X: FloatArray, won: BoolArray, parameters: Mapping[str, Any], stopping: Stopping) -> int:
    """The number of trees after which the tail's log loss last improved, looking `rounds` trees ahead; at least 1.

    Where head or tail lacks a class there is nothing to compare, and it is `n_estimators`.

    Args:
        X: features, shape (n, n_features), none missing.
        won: outcomes, shape (n,).
        parameters: of the boosting.
        stopping: rows of `X`.
    """
    head, tail, rounds = stopping
    both = (won[head], won[tail])
    if min(len(part) and min(part.sum(), (~part).sum()) for part in both) < 1:
        return int(parameters["n_estimators"])
    grown = GradientBoostingClassifier(**parameters).fit(X[head], won[head])
    best, best_loss = 1, np.inf
    for number, p in enumerate(grown.staged_predict_proba(X[tail]), start=1):
        loss = log_loss(won[tail], p[:, 1], labels=[False, True])
        if loss < best_loss:
            best, best_loss = number, loss
        elif number - best >= rounds:
            break
    return best


def _fit_linear(X: FloatArray, won: BoolArray, parameters: Mapping[str, Any], scaling: str | None) -> Linear:
    n_features = X.shape[1]
    median = column_medians(X)
    filled = np.where(np.isnan(X), median, X)
    centre, scale = np.zeros(n_features), np.ones(n_features)
    if scaling is not None:
        scaler = SCALERS[scaling]().fit(filled)
        if scaling == "minmax":
            centre, scale = scaler.data_min_, scaler.data_range_
        else:
            centre, scale = scaler.mean_ if scaling == "standard" else scaler.center_, scaler.scale_
        scale = np.where(scale > 0, scale, 1.0)
    clip = float(parameters["z_clip"]) if scaling is not None else np.inf
    unweighted = Linear(median, centre, scale, clip, np.zeros(n_features), 0.0)
    logistic = LogisticRegression(C=parameters["C"], max_iter=500).fit(unweighted.scaled(X), won)
    return Linear(median, centre, scale, clip, logistic.coef_[0].copy(), float(logistic.intercept_[0]))


_BOOSTING = (
    "learning_rate",
    "max_iter",
    "max_leaf_nodes",
    "min_samples_leaf",
    "l2_regularization",
    "max_features",
    "max_bins",
)


def _fit_histogram_boosting(X: FloatArray, won: BoolArray, parameters: Mapping[str, Any]) -> Forest:
    grown = HistGradientBoostingClassifier(
        **{name: parameters[name] for name in _BOOSTING},
        early_stopping=False,
        random_state=parameters["random_state"],
    )
    return from_histogram_boosting(grown.fit(X, won))


def column_medians(X: FloatArray) -> FloatArray:
    """Median of the known values of each column of X (n, n_features), shape (n_features,); 0 where there are none."""
    known = ~np.isnan(X)
    medians = np.zeros(X.shape[1])
    some = known.any(axis=0)
    medians[some] = np.nanmedian(X[:, some], axis=0)
    return medians


class Recipe(NamedTuple):
    """A way to fit, and the parameters it knows with their values unless told otherwise.

    `fit` takes features of shape (n, n_features), outcomes of shape (n,), the parameters, a scaling and where to stop.
    """

    fit: Callable[[FloatArray, BoolArray, Mapping[str, Any], str | None, Stopping | None], Estimator]
    defaults: Mapping[str, Any]
    stops_early: bool


RECIPES: Mapping[str, Recipe] = {
    "ensemble": Recipe(fit_ensemble, defaults("ensemble"), stops_early=False),
    "gradient_boosting": Recipe(fit_gradient_boosting, defaults("gradient_boosting"), stops_early=True),
}


def resolve_recipe(name: str | None, hyperparameters: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The recipe and its full parameters. Without a name: the first recipe that knows all the parameters given.

    Raises:
        UnknownParameter: no such recipe, or it does not know a parameter or cannot use its value.
    """
    if name is not None and name not in RECIPES:
        raise UnknownParameter(f"there is no recipe {name!r}; there are {', '.join(RECIPES)}")
    for candidate in [name] if name is not None else list(RECIPES):
        if set(hyperparameters) <= set(RECIPES[candidate].defaults):
            _refuse(wrong_parameters(candidate, hyperparameters))
            return candidate, {**RECIPES[candidate].defaults, **hyperparameters}
    if name is not None:
        _refuse(wrong_parameters(name, hyperparameters))
    known = sorted(set().union(*(recipe.defaults for recipe in RECIPES.values())))
    unknown = sorted(set(hyperparameters) - set(known)) or sorted(hyperparameters)
    raise UnknownParameter(f"unknown parameters {', '.join(unknown)}; known: {', '.join(known)}")


def _refuse(wrong: str) -> None:
    if wrong:
        raise UnknownParameter(wrong)
