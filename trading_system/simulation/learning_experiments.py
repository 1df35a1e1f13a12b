"""What learning is measured by: each part is a list of cases, and a function that measures one case on a fresh world.

A case's seed is its own name, so that any case can be measured again alone. Everything is fitted, split, pooled and
judged by the product's own classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit

from trading_system.ml_refinement.config import MLConfig
from trading_system.ml_refinement.models.fitting import FitPlan, FitSettings, fit_classifier
from trading_system.ml_refinement.models.neutral.rows import TrainingRows
from trading_system.ml_refinement.models.signal_quality import SignalQualityModel
from trading_system.ml_refinement.monitoring import drift
from trading_system.ml_refinement.storage.times import DAY_US, utc_now
from trading_system.ml_refinement.training import backtest
from trading_system.ml_refinement.training.dataset import Dataset
from trading_system.ml_refinement.training.promotion import judge
from trading_system.ml_refinement.training.verdicts import Decision
from trading_system.ml_refinement.validation import metrics
from trading_system.ml_refinement.validation.evidence import Evidence
from trading_system.ml_refinement.validation.walk_forward import (
    PurgedWalkForward,
    measured_hold_us,
    purged_blocks,
    purged_tail,
)
from trading_system.simulation import bayes_limit, families, worlds
from trading_system.simulation.desks import PLANS, DeskWorld, drawn
from trading_system.simulation.remembered_fits import RememberedFits
from trading_system.simulation.seeds import Case

SIZES = (150, 400, 1000, 3000)
CELLS = tuple((kind, auc) for kind in ("linear", "mixed") for auc in (0.6, 0.7))
NOISES = ("independent", "clustered", "trend noise")
#: Three years of looks in a world, and the time before there are labels enough for the first.
NOISE_DAYS = 3 * 365 + 80

_TEST_ROWS = 20_000
_NAMES = tuple(f"x{i}" for i in range(worlds.N_FEATURES))
#: Two windows of 252 days, and the longest holding.
SINGLE_DAYS = 504 + 21

Figures = dict[str, float | list[float]]


@dataclass(frozen=True)
class Experiment:
    """Cases in the order they are measured, repetitions outermost, so that a part cut short is a smaller whole one."""

    name: str
    cases: Sequence[Case]
    measure: Callable[[Case, np.random.Generator], Figures]


# Ranking and calibration of one fit, on rows that share nothing


def of_one_fit(case: Case, rng: np.random.Generator) -> Figures:
    """Case (kind, Bayes AUC, n, repetition): one fit on n rows, asked about 20,000 others whose truth is known."""
    kind, auc, n = str(case[0]), float(case[1]), int(case[2])
    return _one_fit(*_drawn(kind, auc, n, rng), n, rng, ranks=kind != "null")


def of_the_limit(case: Case, rng: np.random.Generator) -> Figures:
    """Case (kind, Bayes AUC, n, repetition): shares of attainable AUC of the product, and of who knows the family."""
    kind, auc, n = str(case[0]), float(case[1]), int(case[2])
    X, truth = _drawn(kind, auc, n, rng)
    won = rng.random(len(truth)) < truth
    r, asked, true = worlds.outcomes(won, rng), X[n:], truth[n:]
    model = SignalQualityModel()
    model.fit(X[:n], r[:n])
    attainable = worlds.bayes_auc(true) - 0.5
    scores = {
        "served": model.predict_proba(asked),
        "limit": bayes_limit.limit_scores(kind, auc, X[:n], won[:n], asked, rng),
    }
    return {name: (worlds.expected_auc(true, score) - 0.5) / attainable for name, score in scores.items()}


def _drawn(kind: str, auc: float, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Features of n rows and of those asked about, and every row's true P(win)."""
    scale, offset = worlds.calibrated_scale(kind, auc)
    X = worlds.features(n + _TEST_ROWS, rng)
    return X, expit(scale * worlds.opinion(X, kind) + offset)


def of_one_anew(case: Case, rng: np.random.Generator) -> Figures:
    """Case (kind, Bayes AUC, n, repetition): the same on a family that is drawn anew for each case."""
    kind, auc, n = str(case[0]), float(case[1]), int(case[2])
    drawn = families.family(kind, auc, rng)
    X = drawn.features(n + _TEST_ROWS, rng)
    return _one_fit(X, drawn.truth(X), n, rng, ranks=True)


def _one_fit(X: np.ndarray, truth: np.ndarray, n: int, rng: np.random.Generator, *, ranks: bool) -> Figures:
    r = worlds.outcomes(rng.random(len(truth)) < truth, rng)
    model = SignalQualityModel()
    model.fit(X[:n], r[:n])
    asked, true = X[n:], truth[n:]
    p = model.predict_proba(asked)
    figures: Figures = {
        "calibration_error": metrics.calibration_error(true, p)[0],
        "log_loss_excess": float(_expected_log_loss(true, p) - _expected_log_loss(true, np.full(len(true), 0.45))),
        "slope": model.calibration_slope,
    }
    if ranks:
        figures |= _shares(X[:n], r[:n], asked, true, p)
    return figures


def _shares(X: np.ndarray, r: np.ndarray, asked: np.ndarray, true: np.ndarray, served: np.ndarray) -> Figures:
    """(AUC - .5) / (Bayes - .5): as served, as ranked before calibration, and as the specification's recipe ranks."""
    attainable = worlds.bayes_auc(true) - 0.5
    ranked = {"served": served}
    for name, recipe in (("ranked", "ensemble"), ("specification", "gradient_boosting")):
        fitted = fit_classifier(TrainingRows(X, r > 0, r), FitSettings.resolve(recipe, {}), FitPlan([], []))
        assert fitted.estimator is not None  # noqa: S101  enough rows of both classes to fit on
        ranked[name] = fitted.estimator.scores(asked[:, fitted.columns], None).mean(axis=1)
    return {name: (worlds.expected_auc(true, score) - 0.5) / attainable for name, score in ranked.items()}


def _expected_log_loss(true: np.ndarray, p: np.ndarray) -> float:
    return float(-(true * np.log(p) + (1.0 - true) * np.log1p(-p)).mean())


# The gate over worlds in time


def dataset(world: worlds.World, *, known_by_us: int | None = None) -> Dataset:
    """A world's rows as training reads them at a moment: those whose outcome was known by then."""
    rows = np.flatnonzero(world.known_us <= (world.known_us.max() if known_by_us is None else known_by_us))
    ids = np.array([f"s{i}" for i in rows])
    return Dataset(world.X[rows], world.r[rows], _NAMES, ids, world.entered_us[rows], world.known_us[rows], {})


def evidence(data: Dataset, config: MLConfig, fit: backtest.Fit = backtest.fit_on) -> Evidence:
    """The pooled out-of-sample evidence a retraining on this dataset puts before the gate."""
    pooled = backtest.walk_forward(data, config, clock=utc_now, fit=fit)
    return pooled.evidence(data, backtest.splitter(data, config).max_hold_us)


def noise(kind: str, days: int, rng: np.random.Generator) -> DeskWorld:
    """A world where nothing can be learned, of one of `NOISES`."""
    if kind == "trend noise":
        return drawn(replace(PLANS[kind], days=days), rng)
    return as_desk(noise_or_edge(kind, days, rng))


def as_desk(world: worlds.World) -> DeskWorld:
    """A world of one symbol and one kind of signal as a desk: its rows in order of entry."""
    order = np.argsort(world.entered_us, kind="stable")
    n, k = world.X.shape
    entered, known = world.entered_us[order], world.known_us[order]
    return DeskWorld(
        X=world.X[order],
        r=world.r[order],
        truth=world.truth[order],
        entered_us=entered,
        known_us=known,
        names=tuple(f"x{column:02d}" for column in range(k)),
        signal_type=np.full(n, "breakout"),
        symbol=np.full(n, "SYM"),
        alive=np.full(n, float(np.ptp(world.truth)) > 0.0),
        day=(entered - worlds.START_US) // DAY_US,
        open_days=-((entered - known) // DAY_US),
        scopes=("own",) * k,
        informative=(),
    )


def as_read(world: DeskWorld, *, now_us: int) -> Dataset:
    """A desk's rows as a training at a moment reads them: those whose outcome was known by then."""
    rows = np.flatnonzero(world.known_us <= now_us)
    return Dataset(
        world.X[rows],
        world.r[rows],
        world.names,
        np.array([f"s{row:06d}" for row in rows]),
        world.entered_us[rows],
        world.known_us[rows],
        {},
        world.signal_type[rows],
    )


def noise_or_edge(kind: str, days: int, rng: np.random.Generator) -> worlds.World:
    """The worlds the gate is tried on: four signals a day, one a day where the name says so."""
    if kind == "clustered":
        return worlds.clustered(days, rng)
    if kind == "clustered .65":
        return worlds.clustered(days, rng, edge=0.285)
    if kind in ("independent", "independent 252"):
        per_day = 1 if kind.endswith("252") else 4
        return worlds.independent(days * per_day, rng, per_day=per_day)
    return worlds.independent(days * 4, rng, kind="linear", auc=float(kind.split()[-1]))


def of_looks_at_noise(case: Case, rng: np.random.Generator) -> Figures:
    """Case (kind, repetition): three years in which nothing can be learned, looked at every week."""
    return of_looks_at(noise(str(case[0]), NOISE_DAYS, rng), NOISE_DAYS)


def of_looks_at(world: DeskWorld, days: int) -> Figures:
    """What looks proved: weekly ones, and of every third besides as one of a desk that looks every 21 days.

    Each puts the evidence of its day before the gate as for a first model. A verdict after a proof would have to pass
    the same test of skill and more: what is counted here is at least what would happen. A year begins with the first
    look; `years_7` and `years_21` say of each whole one whether anything was proven in it.
    """
    fit, config = RememberedFits(), MLConfig()
    looked = {7: -np.inf, 21: -np.inf}
    proven: dict[int, list[float]] = {7: [], 21: []}
    t = []
    for day in range(21, days, 7):
        data = as_read(world, now_us=worlds.START_US + day * DAY_US)
        if len(data.r) < config.training.min_training_samples:
            continue
        seen, known_day = evidence(data, config, fit), float(data.known_us.max()) / DAY_US
        for step in (7, 21) if day % 21 == 0 else (7,):
            verdict = judge(seen, recipe="ensemble", champion=None, days_since_look=known_day - looked[step])
            looked[step] = known_day
            proven[step].append(float(verdict.decision is Decision.PROMOTE))
        t.append(verdict.figures.get("auc_within_weeks_t", 0.0))
    figures: Figures = {"within_weeks_t": t, "fits": float(fit.fitted), "folds": float(fit.asked)}
    for step, each in proven.items():
        a_year = 365 // step
        figures[f"proven_{step}"] = each
        figures[f"years_{step}"] = [max(each[at : at + a_year]) for at in range(0, len(each) - a_year + 1, a_year)]
    return figures


def of_one_retraining(case: Case, rng: np.random.Generator) -> Figures:
    """Case (kind, repetition): one retraining with a year of evidence, judged as a first model is."""
    world = noise_or_edge(str(case[0]), SINGLE_DAYS, rng)
    data = dataset(world)
    verdict = judge(evidence(data, MLConfig()), recipe="ensemble", champion=None)
    return {"promoted": float(verdict.decision is Decision.PROMOTE), "auc": verdict.figures["auc"]}


# Leaks


def of_the_canary(case: Case, rng: np.random.Generator) -> Figures:
    """Case (repetition,): null in which outcomes not yet known tell; purged, and with outcomes known at once."""
    del case
    world = worlds.canary(SINGLE_DAYS, rng)
    figures: Figures = {}
    for name, known in (("purged", world.known_us), ("unpurged", world.entered_us)):
        seen = evidence(dataset(replace(world, known_us=known)), MLConfig())
        auc = replace(seen, block_us=worlds.EVENT_DAYS * DAY_US).auc()
        low, high = auc.interval()
        figures |= {name: auc.value, f"{name}_holds": float(low <= 0.5 <= high)}
    return figures


def of_schedules(case: Case, rng: np.random.Generator, *, schedules: int = 500) -> Figures:
    """Case (repetition,): random schedules of entries and exits, and every row trained on before its outcome counts."""
    del case
    violations = folds = 0
    for _ in range(schedules):
        n = int(rng.integers(5, 80))
        entered = np.sort(rng.integers(0, int(rng.integers(20, 900)) * DAY_US, n))
        known = entered + (rng.exponential(rng.uniform(0.5, 30.0), n) * DAY_US).astype(np.int64)
        hold = measured_hold_us(entered, known, train_days=4.0 * float(rng.integers(1, 60)))
        step = float(rng.integers(1, 40))
        walk = PurgedWalkForward(
            max_hold_us=hold,
            train_days=float(rng.integers(20, 300)),
            test_days=step,
            step_days=step,
            pool_days=float(rng.integers(20, 300)),
            min_train=2,
        )
        forward = [*walk.split(entered, known), purged_tail(entered, known, share=0.2, max_hold_us=hold)]
        for fold in forward:
            if len(fold.train) and len(fold.test):
                folds += 1
                violations += bool((known[fold.train] >= entered[fold.test].min()).any())
        for fold in purged_blocks(entered, known, n_folds=4, max_hold_us=hold):
            folds += 1
            ends, begins = known[fold.test].max(), entered[fold.test].min()
            violations += bool(((known[fold.train] >= begins) & (entered[fold.train] <= ends)).any())
    return {"schedules": schedules, "folds": folds, "violations": violations}


# Drift


def of_drift(case: Case, rng: np.random.Generator) -> Figures:
    """Case (repetition,): 20 persistent market features over 252 days and the 63 after them; nothing drifts.

    Beside the product's limits, what a fixed index of 0.25 would flag; and the share flagged of the 40 features that
    do not persist, once each is moved by half a standard deviation.
    """
    del case
    world = worlds.clustered(252 + drift.WINDOW_DAYS, rng)
    before = world.entered_us < world.entered_us[0] + 252 * DAY_US

    def look(columns: slice, moved: float) -> list[drift.FeatureDrift]:
        X = world.X[:, columns]
        return drift.column_drift(_NAMES[columns], X[before], world.entered_us[before], X[~before] + moved)

    still, own = look(slice(40, 60), 0.0), look(slice(0, 40), 0.5)
    return {
        "flagged": float(np.mean([found.drifted for found in still])),
        "fixed": float(np.mean([found.psi > 0.25 for found in still])),
        "moved": float(np.mean([found.drifted for found in own])),
    }
