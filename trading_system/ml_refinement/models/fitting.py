"""Select, fit, calibrate: one win probability from one set of training rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit

from trading_system.ml_refinement.models.calibration import (
    MIN_PER_CLASS,
    MIN_ROWS,
    Calibration,
    base_rate_only,
    fit_calibration,
    periods,
)
from trading_system.ml_refinement.models.errors import ModelFileRefused, UnknownParameter
from trading_system.ml_refinement.models.estimators import RECIPES, Estimator, Stopping, resolve_recipe, threads
from trading_system.ml_refinement.models.neutral.design import SCALERS, frequent_types
from trading_system.ml_refinement.models.neutral.rows import TrainingRows
from trading_system.ml_refinement.models.selection import Selected, SelectionRule, select_columns, usable_columns
from trading_system.ml_refinement.typing import BoolArray, FloatArray, IndexArray, IntArray, StringArray, TimeArray

_FOLDS_BY_ROWS = 4
_TAIL_SHARE = 5


class RowSplit(NamedTuple):
    """Indices of rows to fit on, shape (n_fit,), and of rows to predict or to stop on, shape (n_held_out,)."""

    fit: IndexArray
    held_out: IndexArray


@dataclass(frozen=True, slots=True)
class FitPlan:
    """Which rows of the training set are held out for what, and what is known of them beside their features.

    Whoever knows the rows' times makes it.

    `calibration` are the out-of-fold splits; `stopping` has one split of the whole set, then one of each fold's rows
    (indices into that fold's rows).
    """

    calibration: Sequence[RowSplit]
    stopping: Sequence[RowSplit]
    #: When each row was entered, when its outcome was known, and of which type it is, shape (n,); None: not known.
    entered_us: TimeArray | None = None
    known_us: TimeArray | None = None
    signal_types: StringArray | None = None

    @classmethod
    def by_rows(cls, n: int) -> FitPlan:
        """Contiguous blocks of rows in the order given, for rows whose times are not known: nothing is purged."""
        rows = np.arange(n)
        blocks = [block for block in np.array_split(rows, _FOLDS_BY_ROWS) if len(block)]
        folds = [RowSplit(np.setdiff1d(rows, block), block) for block in blocks]
        return cls(folds, [_tail_by_rows(n), *(_tail_by_rows(len(fold.fit)) for fold in folds)])


def _tail_by_rows(n: int) -> RowSplit:
    rows, cut = np.arange(n), n - n // _TAIL_SHARE
    return RowSplit(rows[:cut], rows[cut:])


@dataclass(frozen=True, slots=True)
class FitSettings:
    """How to fit. `parameters` is complete for the recipe; `scaling` None leaves features as they are."""

    recipe: str
    parameters: dict[str, Any]
    scaling: str | None = "standard"
    selection: SelectionRule = field(default_factory=SelectionRule)
    #: With fewer rows the base rate is served.
    min_samples: int = 100
    #: Rounds without improvement after which a recipe that stops early stops; None: never.
    stopping_rounds: int | None = None

    @classmethod
    def resolve(cls, recipe: str | None, hyperparameters: Mapping[str, Any], **rest: Any) -> FitSettings:
        """Settings with the recipe's own parameters where none are given.

        Raises:
            UnknownParameter: a recipe, parameter or scaling that does not exist.
        """
        name, parameters = resolve_recipe(recipe, hyperparameters)
        settings = cls(name, parameters, **rest)
        if settings.scaling is not None and settings.scaling not in SCALERS:
            raise UnknownParameter(f"there is no scaling {settings.scaling!r}; there are {', '.join(SCALERS)}")
        return settings

    def with_parameters(self, parameters: Mapping[str, Any], *, recipe: str | None) -> FitSettings:
        """These settings with other parameters; where they are another recipe's and `recipe` is None, with that one.

        Raises:
            UnknownParameter: no recipe knows them all, or not the one that was asked for.
        """
        own = RECIPES[self.recipe].defaults
        if set(parameters) <= set(own):
            return replace(self, parameters={**own, **parameters})
        changed = {name: value for name, value in parameters.items() if name not in own or value != own[name]}
        name, complete = resolve_recipe(recipe, changed)
        return replace(self, recipe=name, parameters=complete)


class Opinion(NamedTuple):
    """Of n rows: P(win), and 1 minus the widest gap between the members' probabilities (1 for a single member).

    Both of shape (n,).
    """

    p: FloatArray
    agreement: FloatArray


class ColumnWeights(NamedTuple):
    """Log-odds served for one standard deviation of each feature: of `z` (f,), of `|z|` (f,), and besides for signals
    of each of `types` (types, f); and for being of that type (types,).
    """

    types: tuple[str, ...]
    line: FloatArray
    fold: FloatArray
    of_type: FloatArray
    type_itself: FloatArray


@dataclass(frozen=True, slots=True)
class FittedClassifier:
    """A calibrated win probability. Without an estimator it is the base rate."""

    estimator: Estimator | None
    #: Indices of the features it reads, ascending, shape (n_selected,).
    columns: IndexArray
    calibration: Calibration
    base_rate: float
    rows: int
    #: What whoever chose the threshold of selection should know of this fit; not kept with it.
    selection_note: str = ""

    def opinion(self, X: FloatArray, signal_types: StringArray | None = None) -> Opinion:
        """What it says of rows (n, n_features) of these types (n,), from one evaluation of its members."""
        if self.estimator is None:
            return Opinion(self.calibration(np.zeros((len(X), 0))), np.ones(len(X)))
        scores = self.estimator.scores(X[:, self.columns], signal_types)
        members = expit(self.estimator.base + scores)
        gap = members.max(axis=1) - members.min(axis=1)
        return Opinion(self.calibration(scores), np.asarray(1.0 - gap, dtype=np.float64))

    def proba(self, X: FloatArray, signal_types: StringArray | None = None) -> FloatArray:
        """P(win), shape (n,)."""
        return self.opinion(X, signal_types).p

    def contributions(self, X: FloatArray, signal_types: StringArray | None) -> FloatArray:
        """Log-odds that the linear members' columns of each feature add to what is served, and last the type itself.

        Shape (n, n_features + 1): 0 for features that no linear member reads, and without linear members.
        """
        added = np.zeros((len(X), X.shape[1] + 1))
        if self.estimator is not None and self.estimator.linear is not None:
            each = self.estimator.linear.contributions(X[:, self.columns], signal_types)
            added[:, [*self.columns, -1]] = np.einsum("mnf,m->nf", each, self.calibration.weights[: len(each)])
        return added

    def columns_served(self, n_features: int) -> ColumnWeights:
        """What is served of the linear members' columns; all 0, and of no type, without linear members."""
        linear = None if self.estimator is None else self.estimator.linear
        if linear is None:
            return ColumnWeights((), np.zeros(n_features), np.zeros(n_features), np.zeros((0, n_features)), np.zeros(0))
        trust = self.calibration.weights[: len(linear.constant)]
        line, fold, of_type = (
            np.zeros(n_features),
            np.zeros(n_features),
            np.zeros((len(linear.design.types), n_features)),
        )
        line[self.columns], fold[self.columns] = trust @ linear.line, trust @ linear.fold
        of_type[:, self.columns] = np.einsum("m,mtf->tf", trust, linear.of_type)
        return ColumnWeights(linear.design.types, line, fold, of_type, trust @ linear.type_itself)

    def shortfall(self, settings: FitSettings) -> str:
        """Why only the base rate is served, in words; empty where something was learned and calibrated."""
        if self.estimator is None:
            return f"{self.rows} of {settings.min_samples} samples"
        if not self.calibration.rows:
            return f"too few held-out samples to calibrate on: {MIN_ROWS}, {MIN_PER_CLASS} of each outcome, are needed"
        return ""

    def importance(self, n_features: int) -> FloatArray:
        """Shares of all features, shape (n_features,): 0 for those not selected."""
        shares = np.zeros(n_features)
        if self.estimator is not None:
            shares[self.columns] = self.estimator.importance(len(self.columns))
        return shares

    def state(self) -> dict[str, Any]:
        """Plain values only; the inverse of `from_state`."""
        return {
            "estimator": self.estimator and self.estimator.state(),
            "columns": self.columns.astype(np.int64),
            "calibration": self.calibration.state(),
            "base_rate": self.base_rate,
            "rows": self.rows,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, n_features: int) -> FittedClassifier:
        """Rebuild, checking shapes and indices.

        Raises:
            ModelFileRefused: malformed.
        """
        columns = state["columns"]
        if columns.size and (columns.min() < 0 or columns.max() >= n_features):
            raise ModelFileRefused("columns out of range")
        estimator = None
        if state["estimator"] is not None:
            estimator = Estimator.from_state(state["estimator"], n_features=len(columns))
        members = 0 if estimator is None else estimator.members
        calibration = Calibration.from_state(state["calibration"], members=members)
        return cls(estimator, columns, calibration, state["base_rate"], state["rows"])


def fit_classifier(rows: TrainingRows, settings: FitSettings, plan: FitPlan) -> FittedClassifier:
    """Fit on all rows, calibrated on the plan's held-out rows. One thread: the same input gives the same bits.

    Args:
        rows: what to fit on, of both classes.
        settings: how to fit; with fewer than `min_samples` rows nothing is, and the base rate is served.
        plan: which rows are held out for what, as positions in `rows`.

    Raises:
        NoUsableFeatures: every feature is constant or missing.
    """
    wins, n = int(rows.won.sum()), len(rows)
    if n < settings.min_samples:
        return FittedClassifier(None, np.arange(0), base_rate_only(wins, n, members=0), wins / n, n)
    with threads().limit(limits=1):
        scores, won, period = _out_of_fold(rows, settings, plan)
        selected, estimator = _fit(rows, settings, plan.stopping[0] if plan.stopping else None)
        calibration = fit_calibration(scores, won, period, all_won=rows.won)
    note = _note(selected, settings.selection)
    return FittedClassifier(estimator, selected.columns, calibration, wins / n, n, note)


def _note(selected: Selected, rule: SelectionRule) -> str:
    if not selected.all_below:
        return ""
    return (
        f"every feature lies below feature_importance_threshold {rule.threshold:g}: the strongest alone is used, "
        f"with a share of {selected.strongest:.3g}"
    )


def _out_of_fold(rows: TrainingRows, settings: FitSettings, plan: FitPlan) -> tuple[FloatArray, BoolArray, IntArray]:
    """Scores (n, members), outcomes (n,) and periods of the plan's held-out rows; a period lies within a fold.

    Folds that cannot be fitted are left out.
    """
    members = RECIPES[settings.recipe].members
    scores, won = [np.empty((0, members))], [np.empty(0, dtype=bool)]
    fold, entered = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for number, (inside, outside) in enumerate(plan.calibration, start=1):
        within = rows.take(inside)
        if not len(outside) or not 0 < within.won.sum() < len(within) or not len(usable_columns(within.X)):
            continue
        stopping = plan.stopping[number] if number < len(plan.stopping) else None
        held_out = rows.take(outside)
        selected, estimator = _fit(within, settings, stopping)
        scores.append(estimator.scores(held_out.X[:, selected.columns], held_out.signal_types))
        won.append(held_out.won)
        fold.append(np.full(len(outside), number))
        entered.append(np.zeros(len(outside), dtype=np.int64) if rows.entered_us is None else rows.entered_us[outside])
    week = np.unique(periods(np.concatenate(entered)), return_inverse=True)[1]
    return np.concatenate(scores), np.concatenate(won), week * (len(fold) + 1) + np.concatenate(fold)


def _fit(rows: TrainingRows, settings: FitSettings, split: RowSplit | None) -> tuple[Selected, Estimator]:
    """The columns that are read, and an estimator of them."""
    recipe = RECIPES[settings.recipe]
    types = [np.asarray(rows.signal_types == name) for name in frequent_types(rows)]
    period = None if rows.entered_us is None else periods(rows.entered_us)
    selected = select_columns(rows.X, rows.won, settings.selection, types, period)
    stopping = None
    if recipe.stops_early and settings.stopping_rounds is not None and split is not None:
        stopping = Stopping(split.fit, split.held_out, settings.stopping_rounds)
    return selected, recipe.fit(rows.with_columns(selected.columns), settings.parameters, settings.scaling, stopping)
