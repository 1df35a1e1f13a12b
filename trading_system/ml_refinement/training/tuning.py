"""Parameters of the recipe, looked for where the gate will not look: on what had closed before its evidence begins.

Every setting that was tried is stored, and the gate makes a new recipe pay for all of them: the more were tried, the
more the best of them must show on windows that none of them has seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trading_system.ml_refinement.config import MLConfig
from trading_system.ml_refinement.models.artefact import digest
from trading_system.ml_refinement.models.errors import TooFewSamples, UnknownParameter
from trading_system.ml_refinement.models.estimators import resolve_recipe
from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.storage.times import DAY_US, Clock, text_from_us, utc_text
from trading_system.ml_refinement.training import backtest
from trading_system.ml_refinement.training.dataset import Dataset, check_dataset
from trading_system.ml_refinement.typing import IndexArray
from trading_system.ml_refinement.validation import metrics
from trading_system.ml_refinement.validation.walk_forward import Fold, purged_blocks

if TYPE_CHECKING:
    import optuna

#: Called with (trials done, trials in all).
Progress = Callable[[int, int], None]

_FOLDS = 5
_SEED = 42
#: The names are those of `hyperparameters`; (low, high, on a logarithmic scale).
SPACES: Mapping[str, Mapping[str, tuple[float, float, bool]]] = {
    "ensemble": {
        "sparsity": (2.0, 60.0, True),
        "slab": (0.0005, 0.05, True),
        "learning_rate": (0.01, 0.1, True),
        "max_iter": (10, 240, False),
        "max_leaf_nodes": (3, 8, False),
        "min_samples_leaf": (10, 60, False),
        "l2_regularization": (4.0, 400.0, True),
        "max_features": (0.1, 0.8, False),
    },
    "gradient_boosting": {
        "n_estimators": (20, 200, False),
        "max_depth": (1, 5, False),
        "learning_rate": (0.01, 0.2, True),
        "min_samples_leaf": (10, 60, False),
        "subsample": (0.4, 1.0, False),
    },
}


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a search found. Gains are log loss below the base rate's on the inner folds, in nats a signal."""

    study: str
    recipe: str
    trials: int
    #: Of this call; the study may have been begun before.
    new_trials: int
    default_gain: float
    best_gain: float
    best: dict[str, Any]
    rows: int
    #: The rows end here; the gate's evidence begins here at the earliest.
    until: str
    window_digest: str

    @property
    def better(self) -> bool:
        """Did any setting beat the recipe's own?"""
        return self.best_gain > self.default_gain


def tuning_rows(data: Dataset, config: MLConfig) -> tuple[IndexArray, int]:
    """Rows that may be tuned on, in time order, shape (n_rows,), and where the gate's evidence begins, in microseconds.

    They are what a model fitted at the beginning of the gate's window would be trained on: entered in the training
    window before it, and closed before it.

    Raises:
        TooFewSamples: the store does not reach back that far yet.
    """
    walk = backtest.splitter(data, config)
    begins = int(data.known_us.max(initial=0)) - walk.max_hold_us - int(walk.pool_days * DAY_US)
    step = int(walk.step_days * DAY_US)
    begins = begins // step * step
    rows = walk.training_rows(data.entered_us, data.known_us, at_us=begins)
    needed = config.training.min_training_samples
    if len(rows) < needed:
        raise TooFewSamples(
            f"{len(rows)} rows of {needed} lie before the gate's window, from {text_from_us(begins)[:10]}"
        )
    return rows, begins


def tune(
    db: FeatureDatabase,
    data: Dataset,
    config: MLConfig,
    *,
    journal: Path,
    clock: Clock,
    trials: int = 40,
    seconds: float = 600.0,
    progress: Progress | None = None,
) -> Tuned:
    """Look for better parameters; a search that was ended goes on where it was. Needs the extra `tuning`.

    A study belongs to a recipe and to the very rows it looks at: with other rows another study is begun.

    Args:
        db: where trials are stored.
        data: all labelled rows; only `tuning_rows` of them are looked at.
        config: the recipe, and the windows.
        journal: the search's own memory, a file of lines that is appended to.
        clock: for models' times of creation.
        trials: in all, those of earlier calls included; the first one is the recipe as configured.
        seconds: no trial is begun after so long.
        progress: told after every trial.

    Raises:
        TooFewSamples, OneClass, NoUsableFeatures, LabelAmongFeatures: there is nothing to tune on.
        UnknownParameter: the recipe has no space to search.
        ModuleNotFoundError: optuna is not installed.
    """
    recipe = config.training.model_type
    if recipe not in SPACES:
        raise UnknownParameter(f"there is no search space for {recipe!r}; there are {', '.join(SPACES)}")
    rows, begins = tuning_rows(data, config)
    window = _part(data, rows)
    check_dataset(window, min_samples=config.training.min_training_samples)
    folds = inner_folds(window, config)
    window_digest = window.digest()
    name = f"{recipe}-{digest([window_digest, sorted(SPACES[recipe])])[:12]}"
    study = _study(name, journal)
    own = {key: value for key, value in _own(config).items() if key in SPACES[recipe]}
    if not study.trials:
        study.enqueue_trial(own)

    def objective(trial: optuna.Trial) -> float:
        parameters = suggested(trial, recipe)
        gain = inner_gain(window, folds, with_parameters(config, parameters), clock=clock)
        db.tuning.add(
            name,
            trial.number,
            at=utc_text(clock()),
            recipe=recipe,
            parameters=parameters,
            log_loss_gain=gain,
            window_digest=window_digest,
        )
        return gain

    done_before = len(db.tuning.of_study(name))
    give_up_at = time.monotonic() + seconds
    done = done_before
    while done < trials and time.monotonic() < give_up_at:
        study.optimize(objective, n_trials=1)
        done += 1
        if progress is not None:
            progress(done, trials)
    return _tuned(name, recipe, db, done - done_before, len(rows), begins, window_digest)


def _tuned(name: str, recipe: str, db: FeatureDatabase, new: int, rows: int, begins: int, window_digest: str) -> Tuned:
    found = db.tuning.of_study(name)
    if not found:
        raise TooFewSamples("the time was over before the first trial ended")
    first = min(found, key=lambda trial: trial.number)
    best = found[0]
    gains = first.log_loss_gain, best.log_loss_gain
    until = text_from_us(begins)
    return Tuned(name, recipe, len(found), new, *gains, best.parameters, rows, until, window_digest)


def inner_folds(window: Dataset, config: MLConfig) -> list[Fold]:
    """Contiguous blocks of the window, each held out once, purged on both sides.

    Raises:
        TooFewSamples: none has both wins and losses to fit on.
    """
    hold = backtest.splitter(window, config).max_hold_us
    folds = purged_blocks(window.entered_us, window.known_us, n_folds=_FOLDS, max_hold_us=hold)
    usable = [fold for fold in folds if len(fold.test) and 0 < window.won[fold.train].sum() < len(fold.train)]
    if not usable:
        raise TooFewSamples("no inner fold has both wins and losses to fit on")
    return usable


def inner_gain(window: Dataset, folds: list[Fold], config: MLConfig, *, clock: Clock) -> float:
    """Mean log loss below the base rate's on the held-out blocks."""
    hold = backtest.splitter(window, config).max_hold_us
    gains = []
    for fold in folds:
        model = backtest.fit_on(window, fold.train, config, max_hold_us=hold, min_samples=2, clock=clock)
        won, p = window.won[fold.test], model.predict_proba(window.X[fold.test], window.types_of(fold.test))
        gains.append(metrics.log_losses(won, np.full(len(won), model.base_rate)) - metrics.log_losses(won, p))
    return float(np.concatenate(gains).mean())


def with_parameters(config: MLConfig, parameters: Mapping[str, Any]) -> MLConfig:
    """The configuration with these parameters in the place of its own of the same names."""
    merged = {**config.training.hyperparameters, **parameters}
    return replace(config, training=replace(config.training, hyperparameters=merged))


def suggested(trial: optuna.Trial, recipe: str) -> dict[str, Any]:
    """One setting of the recipe's space; counts are whole numbers."""
    found: dict[str, Any] = {}
    for name, (low, high, logarithmic) in SPACES[recipe].items():
        if isinstance(low, int) and isinstance(high, int):
            found[name] = trial.suggest_int(name, low, high)
        else:
            found[name] = trial.suggest_float(name, low, high, log=logarithmic)
    return found


def _own(config: MLConfig) -> dict[str, Any]:
    """The parameters that this configuration has now."""
    return resolve_recipe(config.training.model_type, config.training.hyperparameters)[1]


def _part(data: Dataset, rows: IndexArray) -> Dataset:
    return Dataset(
        data.X[rows],
        data.r[rows],
        data.names,
        data.signal_ids[rows],
        data.entered_us[rows],
        data.known_us[rows],
        {},
        data.types_of(rows),
    )


def _study(name: str, journal: Path) -> optuna.Study:
    import optuna  # an extra
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return optuna.create_study(
        study_name=name,
        storage=JournalStorage(JournalFileBackend(str(journal))),
        sampler=optuna.samplers.TPESampler(seed=_SEED),
        direction="maximize",
        load_if_exists=True,
    )
