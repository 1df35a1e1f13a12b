"""Walk forward over the past: fit on what was known, predict what came next, pool. This is the gate's evidence."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from trading_system.ml_refinement.config import MLConfig
from trading_system.ml_refinement.models.fitting import FitPlan, RowSplit
from trading_system.ml_refinement.models.selection import SelectionRule
from trading_system.ml_refinement.models.signal_quality import SignalQualityModel
from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.storage.times import DAY_US, Clock, text_from_us, us_from_text
from trading_system.ml_refinement.training.dataset import Dataset
from trading_system.ml_refinement.typing import AnyArray, FloatArray, IndexArray, IntArray, StringArray, TimeArray
from trading_system.ml_refinement.validation import metrics
from trading_system.ml_refinement.validation.evidence import Evidence, block_us
from trading_system.ml_refinement.validation.walk_forward import (
    HOLD_SHARE,
    PurgedWalkForward,
    measured_hold_us,
    purged_blocks,
    purged_tail,
)

#: Called with (done, total) as the folds go by.
Progress = Callable[[int, int], None]
#: Called as `fit_on` is.
Fit = Callable[..., SignalQualityModel]

#: No walk-forward here takes larger steps than this or the configured one.
LONGEST_STEP_DAYS = 63.0

#: No outcome for so much of the window is a pause that is told.
_PAUSE_SHARE = 0.5

_CALIBRATION_FOLDS = 4
_STOPPING_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Pooled:
    """Out-of-sample predictions of all folds; every array has shape (n,).

    `rows` are indices into the dataset, ascending in time; `base` is the base rate of the fit that predicted each;
    where virtual outcomes fill in, that of its reported rows.
    """

    rows: IndexArray
    p: FloatArray
    predicted_r: FloatArray
    base: FloatArray
    #: Number of the fold each row was predicted in.
    window: IntArray

    def reported(self, data: Dataset) -> Pooled:
        """Those of rows whose outcome was reported: what a model is judged on."""
        if data.virtual is None:
            return self
        rows = ~data.virtual[self.rows]
        return Pooled(self.rows[rows], self.p[rows], self.predicted_r[rows], self.base[rows], self.window[rows])

    def by_fold(self, data: Dataset) -> list[dict[str, Any]]:
        """What each fold's test rows showed, oldest first; None where it cannot be said, as an AUC of one class."""
        return [self._fold(data, np.flatnonzero(self.window == fold)) for fold in np.unique(self.window)]

    def _fold(self, data: Dataset, within: IndexArray) -> dict[str, Any]:
        rows, p = self.rows[within], self.p[within]
        won = data.won[rows]
        auc = metrics.auc(won, p)
        return {
            "from": text_from_us(int(data.entered_us[rows].min()))[:10],
            "rows": len(rows),
            "win_rate": float(won.mean()),
            "auc": None if math.isnan(auc) else auc,
            "log_loss": float(metrics.log_losses(won, p).mean()),
            "base_rate_log_loss": float(metrics.log_losses(won, self.base[within]).mean()),
            "mean_r": float(data.r[rows].mean()),
        }

    def evidence(self, data: Dataset, max_hold_us: int) -> Evidence:
        """The same, as the gate takes it."""
        return Evidence(
            data.won[self.rows],
            self.p,
            self.base,
            data.entered_us[self.rows],
            self.window,
            block_us(max_hold_us),
        )


def splitter(data: Dataset, config: MLConfig) -> PurgedWalkForward:
    """The walk-forward of this configuration and these rows' holdings.

    A fold needs half of `min_training_samples`: evidence from less data than the model itself has is pessimistic,
    not wrong.
    """
    training = config.training
    hold = measured_hold_us(data.entered_us, data.known_us, train_days=training.train_window_days)
    return PurgedWalkForward(
        max_hold_us=hold,
        train_days=training.train_window_days,
        test_days=training.step_size_days,
        step_days=training.step_size_days,
        pool_days=training.train_window_days,
        min_train=max(2, training.min_training_samples // 2),
    )


def pause_in_words(data: Dataset, config: MLConfig) -> str:
    """Where no trade closed for half of the window or longer, what that leaves of it; empty where none is missed.

    One trade of today after a history that ended long ago moves the whole window to today.
    """
    if len(data.r) < 2:
        return ""
    walk, known = splitter(data, config), np.sort(data.known_us)
    first, end = walk.pool(known)
    paused = np.flatnonzero(np.diff(known) > walk.pool_days * DAY_US * _PAUSE_SHARE)
    if not len(paused) or known[paused[-1] + 1] <= first:
        return ""
    begun, over = (text_from_us(int(known[at]))[:10] for at in (paused[-1], paused[-1] + 1))
    judged = int(((data.entered_us >= first) & (data.entered_us <= end) & data.reported).sum())
    learned = len(walk.training_rows(data.entered_us, data.known_us, at_us=int(known[-1]) + 1))
    return (
        f"no trade closed between {begun} and {over}: the window of {walk.pool_days:.0f} days counts back from the "
        f"newest outcome, which leaves {judged:,} rows to judge by and {learned:,} to learn from"
    )


def first_needed(db: FeatureDatabase, config: MLConfig, *, feature_version: str, now_us: int) -> str | None:
    """The time of the oldest signal that a training at `now_us` can come to look at; None: all of them.

    The pool of windows, the training window of its first, and the longest holding twice; and where signals are rare,
    as many rows before as that first window reaches back for.
    """
    training, now = config.training, text_from_us(now_us)
    newest = db.vectors.trainable_at(feature_version, now=now)
    if newest is None:
        return None
    hold = training.train_window_days * HOLD_SHARE
    pool_days = training.train_window_days + max(training.step_size_days, LONGEST_STEP_DAYS) + 2.0 * hold
    first_window = us_from_text(newest) - int(pool_days * DAY_US)
    reached = db.vectors.trainable_at(
        feature_version, now=now, before=text_from_us(first_window), skip=2 * training.min_training_samples
    )
    return reached and min(reached, text_from_us(first_window - training.train_window_days * DAY_US))


def quality_model(config: MLConfig, *, min_samples: int, clock: Clock) -> SignalQualityModel:
    """An unfitted model as configured.

    Raises:
        UnknownParameter: a recipe, scaling method or hyperparameter that does not exist.
    """
    training, features = config.training, config.features
    return SignalQualityModel(
        recipe=training.model_type,
        scaling=features.scaling_method if features.scale_features else None,
        selection=SelectionRule(
            training.feature_selection, training.max_features, training.feature_importance_threshold
        ),
        min_samples=min_samples,
        stopping_rounds=training.early_stopping_rounds if training.early_stopping else None,
        clock=clock,
        **training.hyperparameters,
    )


def fit_plan(
    entered_us: TimeArray, known_us: TimeArray, max_hold_us: int, signal_types: StringArray | None = None
) -> FitPlan:
    """Held-out rows inside one training set, purged by time.

    Args:
        entered_us: when each row was entered, shape (n,).
        known_us: when its outcome was known, shape (n,).
        max_hold_us: the holding that is purged by.
        signal_types: of each row, shape (n,); None: not known.
    """

    def tail(rows: IndexArray) -> RowSplit:
        fold = purged_tail(entered_us[rows], known_us[rows], share=_STOPPING_SHARE, max_hold_us=max_hold_us)
        return RowSplit(fold.train, fold.test)

    blocks = purged_blocks(entered_us, known_us, n_folds=_CALIBRATION_FOLDS, max_hold_us=max_hold_us)
    folds = [RowSplit(block.train, block.test) for block in blocks]
    stopping = [tail(np.arange(len(entered_us))), *(tail(fold.fit) for fold in folds)]
    return FitPlan(folds, stopping, entered_us, known_us, signal_types)


def fit_on(
    data: Dataset, rows: IndexArray, config: MLConfig, *, max_hold_us: int, min_samples: int, clock: Clock
) -> SignalQualityModel:
    """A model fitted on some rows of the dataset: indices of shape (n_train,), in time order.

    Raises:
        LearningError: what `SignalQualityModel.fit` refuses.
    """
    model = quality_model(config, min_samples=min_samples, clock=clock)
    plan = fit_plan(data.entered_us[rows], data.known_us[rows], max_hold_us, data.types_of(rows))
    model.fit(data.X[rows], data.r[rows], feature_names=data.names, plan=plan)
    return model


def walk_forward(
    data: Dataset,
    config: MLConfig,
    *,
    clock: Clock,
    progress: Progress | None = None,
    fit: Fit = fit_on,
    walk: PurgedWalkForward | None = None,
) -> Pooled:
    """Fit and predict fold by fold. A fold whose training rows are all wins, or all losses, is left out.

    `walk` is the walk-forward, without it the configuration's own.
    `fit` is called as `fit_on` is; retrainings share most of their folds, so whoever repeats many may remember them.
    """
    walk = walk or splitter(data, config)
    folds = list(walk.split(data.entered_us, data.known_us))
    parts: list[tuple[AnyArray, ...]] = []
    for done, fold in enumerate(folds):
        if progress is not None:
            progress(done, len(folds))
        won = data.won[fold.train]
        if not 0 < won.sum() < len(won):
            continue
        model = fit(data, fold.train, config, max_hold_us=walk.max_hold_us, min_samples=walk.min_train, clock=clock)
        X, types = data.X[fold.test], data.types_of(fold.test)
        base, window = np.full(len(X), _base_rate(data, fold.train, model)), np.full(len(X), done)
        parts.append((fold.test, model.predict_proba(X, types), model.predict_r(X, types), base, window))
    if not parts:
        return Pooled(np.arange(0), np.empty(0), np.empty(0), np.empty(0), np.arange(0))
    return Pooled(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _base_rate(data: Dataset, rows: IndexArray, model: SignalQualityModel) -> float:
    """What would be said without a model: virtual trades may win more often or less, and nobody is told of them."""
    reported = rows[data.reported[rows]]
    if data.virtual is None or not len(reported):
        return model.base_rate
    return float(data.won[reported].mean())
