"""The recipes: how raw win probabilities are fitted. What comes out is plain arrays; scikit-learn only fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import log_loss
from threadpoolctl import ThreadpoolController

from trading_system.ml_refinement.models.errors import UnknownParameter
from trading_system.ml_refinement.models.neutral.design import column_medians
from trading_system.ml_refinement.models.neutral.linear import LinearMembers, fit_linear_members
from trading_system.ml_refinement.models.neutral.rows import TrainingRows
from trading_system.ml_refinement.models.neutral.shrinkage import SparsePrior
from trading_system.ml_refinement.models.trees import Forest, from_gradient_boosting, from_histogram_boosting
from trading_system.ml_refinement.recipe_parameters import defaults, wrong_parameters
from trading_system.ml_refinement.typing import BoolArray, FloatArray, IndexArray, StringArray


@cache
def threads() -> ThreadpoolController:
    """The numeric libraries' thread pools. Fits run on one thread: as fast at these sizes, and the same to the bit."""
    return ThreadpoolController()


@dataclass(frozen=True, slots=True)
class Estimator:
    """Its members: linear ones, a forest, or both. Scores are log-odds of a win beyond those of the base rate."""

    linear: LinearMembers | None
    forest: Forest | None
    #: Signal types whose indicators the forest reads after the features.
    forest_types: tuple[str, ...]
    #: Log-odds of the training rows' win rate.
    base: float
    #: Whether the forest's own baseline holds them already.
    forest_holds_base: bool

    @property
    def members(self) -> int:
        """How many there are."""
        return (0 if self.linear is None else len(self.linear.constant)) + (self.forest is not None)

    def scores(self, X: FloatArray, signal_types: StringArray | None) -> FloatArray:
        """Scores of features (n, f) and types (n,), one column a member, shape (n, members)."""
        parts = [] if self.linear is None else [self.linear.scores(X, signal_types)]
        if self.forest is not None:
            raw = self.forest.raw(with_types(X, signal_types, self.forest_types))
            parts.append((raw - self.base if self.forest_holds_base else raw)[:, None])
        return np.concatenate(parts, axis=1)

    def importance(self, n_features: int) -> FloatArray:
        """Shares summing to 1, shape (n_features,): weights and split gain, averaged over kinds of members."""
        parts = [] if self.linear is None else [self.linear.importance()]
        if self.forest is not None:
            parts.append(self.forest.gain_by_feature(n_features + len(self.forest_types))[:n_features])
        shares = [part / part.sum() if part.sum() > 0 else np.full(n_features, 1.0 / n_features) for part in parts]
        return np.asarray(np.mean(shares, axis=0), dtype=np.float64)

    def state(self) -> dict[str, Any]:
        """Plain values only; the inverse of `from_state`."""
        return {
            "linear": self.linear and self.linear.state(),
            "forest": self.forest and self.forest.state(),
            "forest_types": list(self.forest_types),
            "base": self.base,
            "forest_holds_base": self.forest_holds_base,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, n_features: int) -> Estimator:
        """Rebuild, checking shapes and indices.

        Raises:
            ModelFileRefused: malformed.
        """
        types = tuple(state["forest_types"])
        linear, forest = state["linear"], state["forest"]
        return cls(
            LinearMembers.from_state(linear, n_features=n_features) if linear is not None else None,
            Forest.from_state(forest, n_features=n_features + len(types)) if forest is not None else None,
            types,
            float(state["base"]),
            bool(state["forest_holds_base"]),
        )


def with_types(X: FloatArray, signal_types: StringArray | None, types: Sequence[str]) -> FloatArray:
    """Features (n, f) and behind them an indicator of each of `types`, shape (n, f + types)."""
    if not types:
        return X
    if signal_types is None:
        return np.column_stack([X, np.zeros((len(X), len(types)))])
    return np.column_stack([X, *((signal_types == name).astype(np.float64) for name in types)])


class Stopping(NamedTuple):
    """Rows to grow on, shape (n_head,), and later rows to stop on, shape (n_tail,), for recipes that stop early."""

    head: IndexArray
    tail: IndexArray
    rounds: int


def fit_ensemble(
    rows: TrainingRows,
    parameters: Mapping[str, Any],
    scaling: str | None,
    stopping: Stopping | None,
) -> Estimator:
    """Two market-neutral linear members, one sparse and one dense, beside a small boosting of what is left of a win.

    It never stops early.

    Args:
        rows: of both classes, no feature constant.
        parameters: all that the recipe knows.
        scaling: how the linear members' features are scaled; None leaves them as they are, unclipped.
        stopping: passed over.
    """
    del stopping
    against = float(parameters["sparsity"])
    prior = SparsePrior((against, 2.0 * against, 2.0 * against), parameters["slab"])
    linear, products = fit_linear_members(rows, scaling=scaling, clip=parameters["z_clip"], prior=prior)
    types = linear.design.types
    share = rows.won.mean()
    unexplained = products.residual / (share * (1.0 - share))
    read = with_types(rows.X, rows.signal_types, types)
    forest = _fit_histogram_boosting(read, unexplained, parameters)
    return Estimator(linear, forest, types, _log_odds(rows.won), forest_holds_base=False)


def fit_gradient_boosting(
    rows: TrainingRows,
    parameters: Mapping[str, Any],
    scaling: str | None,
    stopping: Stopping | None,
) -> Estimator:
    """The specification's gradient boosting; missing values are the medians of their columns.

    Args:
        rows: of both classes; types and times are passed over.
        parameters: all that the recipe knows.
        scaling: passed over; trees need none.
        stopping: where to look for the number of trees; None grows `n_estimators`.
    """
    del scaling
    X, won = rows.X, rows.won
    medians = column_medians(X)
    filled = np.where(np.isnan(X), medians, X)
    settings = dict(parameters)
    if stopping is not None:
        settings["n_estimators"] = best_iteration(filled, won, settings, stopping)
    grown = GradientBoostingClassifier(**settings).fit(filled, won)
    forest = from_gradient_boosting(grown, medians=medians)
    return Estimator(None, forest, (), _log_odds(won), forest_holds_base=True)


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


def _log_odds(won: BoolArray) -> float:
    return float(np.log(won.sum() / (~won).sum()))


_BOOSTING = (
    "learning_rate",
    "max_iter",
    "max_leaf_nodes",
    "min_samples_leaf",
    "l2_regularization",
    "max_features",
    "max_bins",
)


def _fit_histogram_boosting(X: FloatArray, target: FloatArray, parameters: Mapping[str, Any]) -> Forest:
    grown = HistGradientBoostingRegressor(
        **{name: parameters[name] for name in _BOOSTING},
        early_stopping=False,
        random_state=parameters["random_state"],
    )
    return from_histogram_boosting(grown.fit(X, target))


class Recipe(NamedTuple):
    """A way to fit, and the parameters it knows with their values unless told otherwise.

    `fit` takes the rows, the parameters, a scaling and where to stop, and gives an estimator of so many `members`.
    """

    fit: Callable[[TrainingRows, Mapping[str, Any], str | None, Stopping | None], Estimator]
    defaults: Mapping[str, Any]
    stops_early: bool
    members: int


RECIPES: Mapping[str, Recipe] = {
    "ensemble": Recipe(fit_ensemble, defaults("ensemble"), stops_early=False, members=3),
    "gradient_boosting": Recipe(fit_gradient_boosting, defaults("gradient_boosting"), stops_early=True, members=1),
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
