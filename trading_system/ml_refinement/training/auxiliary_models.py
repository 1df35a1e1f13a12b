"""The models that train beside the one of signal quality, and the rule by which each of them serves.

- Return: it is made of the quality model's probability, so it has that model's verdict.
- Risk: over the newest windows, each predicted by a fit on what was known before, a tenth of the trades must have ended
  below it, and its pinball loss must not be worse, by 1 % or more, than that of the training rows' own percentile.
- Regime: over the same windows it must not tell the market's later known state worse than by naming the commonest one.

Where the windows are too few to judge by, a risk or regime model serves provisionally unless a proven one does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from loguru import logger

from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.models import (
    ArtefactModel,
    ModelRegistry,
    RegimeClassifier,
    ReturnPredictor,
    RiskPredictor,
    SignalQualityModel,
)
from trading_system.ml_refinement.models.errors import LearningError
from trading_system.ml_refinement.models.regime_classifier import REGIMES
from trading_system.ml_refinement.models.risk_predictor import LEVEL, pinball
from trading_system.ml_refinement.storage.tables.models import Models
from trading_system.ml_refinement.storage.times import Clock
from trading_system.ml_refinement.training.backtest import LONGEST_STEP_DAYS, fit_plan
from trading_system.ml_refinement.training.champion_record import unless_pinned
from trading_system.ml_refinement.training.dataset import Dataset
from trading_system.ml_refinement.training.verdicts import Decision, Serve, Verdict, in_words
from trading_system.ml_refinement.typing import FloatArray, IndexArray, IntArray, TimeArray
from trading_system.ml_refinement.validation import metrics
from trading_system.ml_refinement.validation.evidence import MIN_BLOCKS, MIN_ROWS, block_us
from trading_system.ml_refinement.validation.walk_forward import PurgedWalkForward, time_blocks

TYPES = (ModelType.RETURN_PREDICTOR, ModelType.RISK_PREDICTOR, ModelType.REGIME_CLASSIFIER)

COVERAGE_LEVEL = 0.01
WORSE_LEVEL = 0.10
MIN_PROVISIONAL_ROWS = 20

#: A pinball loss that is higher by less than this share of the plain percentile's costs nobody anything.
_NEGLIGIBLE = 0.01


@dataclass(frozen=True, slots=True)
class AuxiliaryModel:
    """A fitted model, and what was found about it; None: it shares the quality model's verdict."""

    model: ArtefactModel
    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class AuxiliaryModels:
    """The auxiliary models of one run, and why a type has none, by type."""

    models: tuple[AuxiliaryModel, ...]
    missing: Mapping[str, str]


def train_auxiliary_models(
    data: Dataset,
    rows: IndexArray,
    walk: PurgedWalkForward,
    quality: SignalQualityModel,
    *,
    proven: Mapping[ModelType, bool],
    clock: Clock,
) -> AuxiliaryModels:
    """Fit all of them on the quality model's training rows and judge those that can be judged on their own.

    Args:
        data: all rows.
        rows: what the quality model was fitted on, in time order, shape (n_train,).
        walk: the walk-forward of the run.
        quality: the candidate, fitted, with its feature version and training period.
        proven: the types whose serving model is proven.
        clock: for `created_at`.
    """
    found, missing = [AuxiliaryModel(ReturnPredictor.beside(quality), None)], {}
    wide = replace(walk, test_days=LONGEST_STEP_DAYS, step_days=LONGEST_STEP_DAYS)
    recipes: tuple[tuple[Callable[[], ArtefactModel], Judge], ...] = (
        (lambda: RiskPredictor(clock=clock), judge_risk),
        (lambda: RegimeClassifier(clock=clock), judge_regime),
    )
    for make, judge in recipes:
        model = make()
        try:
            _fit(model, data, rows, walk.max_hold_us)
        except LearningError as error:
            missing[model.model_type.value] = f"{error.reason}: {error}"
            continue
        model.feature_version = quality.feature_version
        period = quality.get_metadata()
        model.set_training_period(period.train_start_date, period.train_end_date)
        verdict = judge(_forward(data, wide, make), proven=proven.get(model.model_type, False))
        model.set_validation(int(verdict.figures.get("rows", 0.0)), verdict.figures)
        found.append(AuxiliaryModel(model, verdict))
    for name, why in missing.items():
        logger.info("no {} was trained: {}", name, why)
    return AuxiliaryModels(tuple(found), missing)


def settle_auxiliary_models(
    registry: ModelRegistry,
    models: Models,
    trained: AuxiliaryModels,
    quality: Verdict,
    *,
    run_id: str,
    expected: Mapping[ModelType, str | None],
) -> dict[str, Any]:
    """Let them serve, or note why not; what the run keeps about them, by type. Call inside the run's transaction.

    Raises:
        StaleActivation: another model of the type serves than the one `expected`.
    """
    told: dict[str, Any] = {name: {"reason": why} for name, why in trained.missing.items()}
    for auxiliary in trained.models:
        model, verdict = auxiliary.model, auxiliary.verdict or _following(quality)
        verdict = unless_pinned(verdict, models, model.model_type.value)
        if verdict.serve is Serve.NO:
            action: Literal["hold", "reject"] = "hold" if verdict.decision is Decision.HOLD else "reject"
            models.note_verdict(action, model.model_id, reason=verdict.reason, figures=verdict.record, run_id=run_id)
        else:
            registry.promote(
                model.model_id,
                reason=verdict.reason,
                figures=verdict.record,
                proven=verdict.serve is Serve.PROVEN,
                run_id=run_id,
                expected_active=expected[model.model_type],
            )
        told[model.model_type.value] = {
            "decision": verdict.decision.value,
            "serve": verdict.serve.value,
            "reason": verdict.reason,
            "figures": verdict.figures,
            "model_digest": model.digest(),
        }
    return told


def _following(quality: Verdict) -> Verdict:
    words = in_words(quality.decision, quality.serve, quality.not_proven)
    return replace(quality, reasons=(f"as the quality model: {words}",), figures={}, serving="")


@dataclass(frozen=True, slots=True)
class Window:
    """One window predicted by a fit on what was known before: the model, its n_train rows, the window's n rows.

    `train_X` is (n_train, n_features), `train_us` and `train_r` (n_train,); `X` is (n, n_features), `r`, `entered_us`
    and `block` (the block of shared luck each row lies in) are (n,).
    """

    model: ArtefactModel
    train_X: FloatArray
    train_us: TimeArray
    train_r: FloatArray
    X: FloatArray
    r: FloatArray
    entered_us: TimeArray
    block: IntArray


#: Judges a model by the windows that models like it predicted; `proven`: whether what serves now is proven.
Judge = Callable[..., Verdict]


def judge_risk(windows: list[Window], *, proven: bool) -> Verdict:
    """Coverage of a tenth, and a pinball loss that is no worse than the plain percentile's."""
    if not windows:
        return _too_little("coverage", {}, proven)
    r, block = (np.concatenate([getattr(w, name) for w in windows]) for name in ("r", "block"))
    risk = np.concatenate([w.model.predict(w.X) for w in windows])
    base = np.concatenate([np.full(len(w.r), np.quantile(w.train_r, LEVEL)) for w in windows])
    below = metrics.clustered_mean((r < risk).astype(np.float64), block)
    excess = metrics.clustered_mean(pinball(r, risk) - pinball(r, base), block)
    low, high = below.interval()
    figures = {
        "rows": len(r),
        "blocks": len(np.unique(block)),
        "coverage": below.value,
        "coverage_low": low,
        "coverage_high": high,
        "pinball_loss": float(pinball(r, risk).mean()),
        "pinball_excess": excess.value,
        "pinball_excess_t": excess.t(),
    }
    failed = []
    if below.above(LEVEL, COVERAGE_LEVEL) or below.below(LEVEL, COVERAGE_LEVEL):
        failed.append(f"{below.value:.3f} of the trades ended below it, not {LEVEL}")
    if excess.above(_NEGLIGIBLE * float(pinball(r, base).mean()), WORSE_LEVEL):
        failed.append(f"pinball loss is {excess.value:.4f} above that of the plain percentile")
    passed = f"{below.value:.3f} of {len(r)} trades ended below it"
    return _verdict("coverage", figures, failed, passed, proven)


def judge_regime(windows: list[Window], *, proven: bool) -> Verdict:
    """Not worse at the market's state, as hindsight tells it, than always naming the training rows' commonest.

    Raises:
        TypeError: a window was predicted by something other than a `RegimeClassifier`.
    """
    right, plain, block = [np.empty(0)], [np.empty(0)], [np.empty(0, dtype=np.int64)]
    for w in windows:
        model = w.model
        if not isinstance(model, RegimeClassifier):
            raise TypeError(f"{model.model_id} tells no regimes")
        truth = np.array(REGIMES)[model.hindsight(w.X, w.entered_us)]
        common = np.bincount(model.hindsight(w.train_X, w.train_us), minlength=len(REGIMES)).argmax()
        right.append((model.predict(w.X) == truth).astype(np.float64))
        plain.append((truth == REGIMES[int(common)]).astype(np.float64))
        block.append(w.block)
    hits, base, cluster = np.concatenate(right), np.concatenate(plain), np.concatenate(block)
    if not len(hits):
        return _too_little("hindsight", {}, proven)
    better = metrics.clustered_mean(hits - base, cluster)
    figures = {
        "rows": len(hits),
        "blocks": len(np.unique(cluster)),
        "accuracy": float(hits.mean()),
        "commonest_accuracy": float(base.mean()),
        "better_t": better.t(),
    }
    failed = []
    if better.below(0.0, WORSE_LEVEL):
        failed.append(f"right {hits.mean():.3f} of the time, naming the commonest regime {base.mean():.3f}")
    return _verdict("hindsight", figures, failed, f"right {hits.mean():.3f} of {len(hits)} times", proven)


def _verdict(rule: str, figures: Mapping[str, float], failed: list[str], passed: str, proven: bool) -> Verdict:
    finite = {name: float(value) for name, value in figures.items() if np.isfinite(value)}
    if failed:
        return Verdict(Decision.REJECT, Serve.NO, rule, tuple(failed), finite)
    if figures["rows"] < MIN_ROWS or figures["blocks"] < MIN_BLOCKS:
        return _too_little(rule, finite, proven)
    return Verdict(Decision.PROMOTE, Serve.PROVEN, rule, (passed,), finite)


def _too_little(rule: str, figures: Mapping[str, float], proven: bool) -> Verdict:
    rows, blocks = int(figures.get("rows", 0)), int(figures.get("blocks", 0))
    reason = f"{rows} rows in {blocks} blocks are too few to judge by"
    serve = Serve.NO if proven or rows < MIN_PROVISIONAL_ROWS else Serve.PROVISIONAL
    return Verdict(Decision.HOLD, serve, rule, (reason,), dict(figures))


def _forward(data: Dataset, walk: PurgedWalkForward, make: Callable[[], ArtefactModel]) -> list[Window]:
    windows = []
    for fold in walk.split(data.entered_us, data.known_us):
        model = make()
        try:
            _fit(model, data, fold.train, walk.max_hold_us)
        except LearningError:
            continue  # too little came before this fold to learn from
        train, test = fold.train, fold.test[data.reported[fold.test]]
        if not len(test):
            continue
        block = time_blocks(data.entered_us[test], block_us=block_us(walk.max_hold_us))
        windows.append(
            Window(
                model,
                data.X[train],
                data.entered_us[train],
                data.r[train],
                data.X[test],
                data.r[test],
                data.entered_us[test],
                block,
            )
        )
    return windows


def _fit(model: ArtefactModel, data: Dataset, rows: IndexArray, max_hold_us: int) -> None:
    plan = fit_plan(data.entered_us[rows], data.known_us[rows], max_hold_us)
    model.fit(data.X[rows], data.r[rows], feature_names=data.names, plan=plan)
