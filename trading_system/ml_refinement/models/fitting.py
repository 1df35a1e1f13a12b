"""Select, fit, calibrate: one win probability from one set of training rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import numpy as np

from trading_system.ml_refinement.models.calibration import (
    MIN_PER_CLASS,
    MIN_ROWS,
    Calibration,
    base_rate_only,
    fit_calibration,
)
from trading_system.ml_refinement.models.errors import ModelFileRefused, UnknownParameter
from trading_system.ml_refinement.models.estimators import (
    RECIPES,
    SCALERS,
    Estimator,
    Stopping,
    resolve_recipe,
    threads,
)
from trading_system.ml_refinement.models.selection import Selected, SelectionRule, select_columns, usable_columns
from trading_system.ml_refinement.typing import BoolArray, FloatArray, IndexArray, TimeArray

_FOLDS_BY_ROWS = 4
_TAIL_SHARE = 5


class RowSplit(NamedTuple):
    """Indices of rows to fit on, shape (n_fit,), and of rows to predict or to stop on, shape (n_held_out,)."""

    fit: IndexArray
    held_out: IndexArray


@dataclass(frozen=True, slots=True)
class FitPlan:
    """Which rows of the training set are held out for what. Whoever knows the rows' times makes it.

    `calibration` are the out-of-fold splits; `stopping` has one split of the whole set, then one of each fold's rows
    (indices into that fold's rows).
    """

    calibration: Sequence[RowSplit]
    stopping: Sequence[RowSplit]
    #: When each row was entered, shape (n,); None: not known.
    entered_us: TimeArray | None = None

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

    def opinion(self, X: FloatArray) -> Opinion:
        """What it says of rows, shape (n, n_features), from one evaluation of its members."""
        if self.estimator is None:
            return Opinion(self.calibration(np.full(len(X), 0.5)), np.ones(len(X)))
        members = self.estimator.member_probabilities(X[:, self.columns])
        gap = members.max(axis=1) - members.min(axis=1)
        return Opinion(self.calibration(members.mean(axis=1)), np.asarray(1.0 - gap, dtype=np.float64))

    def proba(self, X: FloatArray) -> FloatArray:
        """P(win), shape (n,)."""
        return self.opinion(X).p

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
            "calibration": {item.name: getattr(self.calibration, item.name) for item in fields(Calibration)},
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
        estimator = state["estimator"]
        return cls(
            Estimator.from_state(estimator, n_features=len(columns)) if estimator is not None else None,
            columns,
            Calibration(**state["calibration"]),
            state["base_rate"],
            state["rows"],
        )


def fit_classifier(X: FloatArray, won: BoolArray, settings: FitSettings, plan: FitPlan) -> FittedClassifier:
    """Fit on all rows, calibrated on the plan's held-out rows. One thread: the same input gives the same bits.

    Args:
        X: features, shape (n, n_features), NaN where missing.
        won: outcomes, shape (n,).
        settings: how to fit; with fewer than `min_samples` rows nothing is, and the base rate is served.
        plan: which rows are held out for what, as positions in `X`.

    Raises:
        NoUsableFeatures: every feature is constant or missing.
    """
    wins, rows = int(won.sum()), len(won)
    base = base_rate_only(wins, rows)
    if rows < settings.min_samples:
        return FittedClassifier(None, np.arange(0), base, wins / rows, rows)
    with threads().limit(limits=1):
        raw, target = _out_of_fold(X, won, settings, plan)
        selected = select_columns(X, won, settings.selection)
        columns = selected.columns
        estimator = _fit(X[:, columns], won, settings, plan.stopping[0] if plan.stopping else None)
    calibration = fit_calibration(raw, target, all_won=won)
    return FittedClassifier(estimator, columns, calibration, wins / rows, rows, _note(selected, settings.selection))


def _note(selected: Selected, rule: SelectionRule) -> str:
    if not selected.all_below:
        return ""
    return (
        f"every feature lies below feature_importance_threshold {rule.threshold:g}: the strongest alone is used, "
        f"with a share of {selected.strongest:.3g}"
    )


def _out_of_fold(X: FloatArray, won: BoolArray, settings: FitSettings, plan: FitPlan) -> tuple[FloatArray, BoolArray]:
    """Raw probabilities and outcomes of the plan's held-out rows; folds that cannot be fitted are left out."""
    raw, target = [np.empty(0)], [np.empty(0, dtype=bool)]
    for number, (inside, outside) in enumerate(plan.calibration, start=1):
        fold_X, fold_won = X[inside], won[inside]
        if not len(outside) or not 0 < fold_won.sum() < len(fold_won) or not len(usable_columns(fold_X)):
            continue
        columns = select_columns(fold_X, fold_won, settings.selection).columns
        stopping = plan.stopping[number] if number < len(plan.stopping) else None
        estimator = _fit(fold_X[:, columns], fold_won, settings, stopping)
        raw.append(estimator.member_probabilities(X[np.ix_(outside, columns)]).mean(axis=1))
        target.append(won[outside])
    return np.concatenate(raw), np.concatenate(target)


def _fit(X: FloatArray, won: BoolArray, settings: FitSettings, split: RowSplit | None) -> Estimator:
    recipe = RECIPES[settings.recipe]
    stopping = None
    if recipe.stops_early and settings.stopping_rounds is not None and split is not None:
        stopping = Stopping(split.fit, split.held_out, settings.stopping_rounds)
    return recipe.fit(X, won, settings.parameters, settings.scaling, stopping)
