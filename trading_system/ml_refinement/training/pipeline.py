"""One training: data, folds, fit, calibrate, pool, evaluate, register, verdict. The only path there is."""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from loguru import logger

from trading_system.ml_refinement.actors import acting_user
from trading_system.ml_refinement.config import MLConfig, ModelType
from trading_system.ml_refinement.labelling.rules import LabellingRule, labelling_rule
from trading_system.ml_refinement.models.errors import LearningError
from trading_system.ml_refinement.models.model_registry import ModelRegistry
from trading_system.ml_refinement.models.signal_quality import SignalQualityModel
from trading_system.ml_refinement.storage.errors import StaleActivation, StoreError, StoreMoved
from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.storage.tables.models import RegistryRow
from trading_system.ml_refinement.storage.times import DAY_US, Clock, text_from_us, us_from_text, utc_text
from trading_system.ml_refinement.training import backtest
from trading_system.ml_refinement.training.auxiliary_models import (
    TYPES,
    AuxiliaryModels,
    settle_auxiliary_models,
    train_auxiliary_models,
)
from trading_system.ml_refinement.training.champion_record import (
    champion_record,
    end_proof_if_failing,
    ended_by_what_was_served,
    unless_pinned,
)
from trading_system.ml_refinement.training.dataset import Dataset, check_dataset, read_dataset, shortage
from trading_system.ml_refinement.training.promotion import KEEP_LEVEL, ChampionRecord, judge
from trading_system.ml_refinement.training.recipes import recipe_of
from trading_system.ml_refinement.training.verdicts import Decision, Serve, Verdict, in_words
from trading_system.ml_refinement.training.virtual_evidence import virtual_figures
from trading_system.ml_refinement.typing import StringArray
from trading_system.ml_refinement.validation import metrics
from trading_system.ml_refinement.validation.evidence import Evidence, evidence_figures, finite

#: Called with a stage's name and (done, total) within it.
Progress = Callable[[str, int, int], None]

#: Labels the signals from a time on, the store's text or empty, by a rule.
Label = Callable[[LabellingRule, str], None]

#: The figure of a run that says up to which day, counted from 1970, the outcomes were known that a proof was asked of.
LOOKED_UNTIL = "looked_until_day"

_TYPE = ModelType.SIGNAL_QUALITY
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """How a run ended. `reason` is the verdict's words, or the code and words of what made it fail.

    A run that found too few samples is completed with the verdict HOLD, and has no model.
    """

    run_id: str
    status: Literal["completed", "failed"]
    verdict: Verdict | None
    model_id: str | None
    figures: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


def train(
    db: FeatureDatabase,
    registry: ModelRegistry,
    config: MLConfig,
    *,
    pipeline_names: Sequence[str],
    feature_version: str,
    clock: Clock,
    run_id: str,
    label_watermark: int,
    progress: Progress | None = None,
    fit: backtest.Fit = backtest.fit_on,
    auxiliary: bool = True,
    requested_by: str | None = None,
    label: Label | None = None,
) -> TrainingResult:
    """Train a candidate on what is known, judge it, and let it serve if the gate says so.

    The run's row in `training_runs` ends completed or failed whatever happens here, short of a kill. A run that fails
    leaves what serves as it was. Unexpected errors are recorded and raised again. With fewer than
    `min_training_samples` rows nothing is trained: the run is held until there are more.

    Args:
        db: the store.
        registry: where the candidate is registered; on the same store.
        config: what is trained and how.
        pipeline_names: the features, in the pipeline's order.
        feature_version: only rows of this version are trained on.
        clock: outcomes later than its now are left out.
        run_id: new, unique.
        label_watermark: `db.counts().labels_total` when the run was decided on.
        progress: told where the training is.
        fit: what fits the quality models; whoever repeats many trainings of the same rows may remember what it gave.
        auxiliary: whether the models beside it are trained too; without them those that serve go on serving.
        requested_by: who asked for it, for its row; None for this process's user.
        label: where virtual outcomes fill in, called before the rows are read; None: those that are stored.
    """
    started = time.perf_counter()
    told = {**asdict(config), "feature_version": feature_version, "feature_names": list(pipeline_names)}
    asked = requested_by or acting_user()
    fence = db.runs.start(run_id, _TYPE.value, told, label_watermark=label_watermark, requested_by=asked)
    run = _Run(db, registry, config, clock, run_id, fence, started, progress or _silent, fit, auxiliary, label)
    try:
        return run.train(pipeline_names, feature_version)
    except LearningError as error:
        return run.fail(error.reason, error)
    except StaleActivation as error:
        return run.fail("stale_activation", error)
    except OSError as error:
        return run.fail("disk_full" if error.errno in _DISK_FULL else "model_file_unwritable", error)
    except BaseException as error:
        run.fail("unexpected", error)
        raise


def _silent(stage: str, done: int, total: int) -> None:
    del stage, done, total


@dataclass(frozen=True, slots=True)
class _Run:
    """What the steps of one run share."""

    db: FeatureDatabase
    registry: ModelRegistry
    config: MLConfig
    clock: Clock
    run_id: str
    fence: int
    started: float
    progress: Progress
    fit: backtest.Fit
    auxiliary: bool
    label: Label | None

    def train(self, names: Sequence[str], feature_version: str) -> TrainingResult:
        self.progress("data", 0, 1)
        now_us = us_from_text(utc_text(self.clock()))
        start = backtest.first_needed(self.db, self.config, feature_version=feature_version, now_us=now_us)
        rule = self._labelled(start)
        data = read_dataset(
            self.db, names=names, feature_version=feature_version, now_us=now_us, start=start, virtual=rule
        )
        min_samples = self.config.training.min_training_samples
        if missing := shortage(data, min_samples=min_samples):
            return self._hold(data, missing)
        check_dataset(data, min_samples=min_samples)
        pooled = backtest.walk_forward(
            data,
            self.config,
            clock=self.clock,
            progress=lambda done, total: self.progress("folds", done, total),
            fit=self.fit,
        )
        self.progress("fit", 0, 1)
        serving = {kind: self.db.models.active(kind.value) for kind in TYPES}
        model, max_hold_us, auxiliary = self._candidates(data, feature_version, serving)
        if model.selection_note:
            logger.warning("run {}: {}", self.run_id, model.selection_note)
        judged = pooled.reported(data)
        evidence = judged.evidence(data, max_hold_us)
        figures = self._figures(data, judged, evidence, model) | virtual_figures(data, pooled, max_hold_us)
        model.set_validation(len(judged.rows), {k: v for k, v in figures.items() if isinstance(v, float)})
        recipe = recipe_of(model, self.config)
        champion = self._champion(evidence, data.signal_ids[judged.rows], feature_version, now_us)
        known_until_day = float(data.known_us[data.reported].max(initial=0)) / DAY_US
        verdict = self._verdict(evidence, recipe, champion, feature_version, known_until_day)
        if paused := backtest.pause_in_words(data, self.config):
            verdict = replace(verdict, reasons=(*verdict.reasons, paused))
        if verdict.figures.get("skill_level", KEEP_LEVEL) != KEEP_LEVEL:
            figures[LOOKED_UNTIL] = known_until_day
        self.progress("register", 0, 1)
        self.registry.enter(model, recipe=recipe, run_id=self.run_id)
        for each in auxiliary.models:
            self.registry.enter(each.model, run_id=self.run_id)
        expected = {kind: row.model_id if row is not None else None for kind, row in serving.items()}
        expected[_TYPE] = champion.model_id if champion else None
        return self._settle(model, auxiliary, data, verdict, figures | verdict.record, expected)

    def _champion(
        self, evidence: Evidence, signal_ids: StringArray, feature_version: str, now_us: int
    ) -> ChampionRecord | None:
        """What serves, its proof ended where it fails, with what its line served for these signals, shape (n,)."""
        active = self.db.models.active(_TYPE.value)
        if active is None:
            return None
        active = end_proof_if_failing(self.db, active, training=self.config.training, now_us=now_us)
        since_us = int(evidence.entered_us.min(initial=now_us))
        champion = champion_record(self.db, active, signal_ids, since_us=since_us)
        if active.feature_version != feature_version:  # it scores nothing any more, and so it blocks nothing
            champion = replace(champion, proven=False)
        return champion

    def _verdict(
        self,
        evidence: Evidence,
        recipe: str,
        champion: ChampionRecord | None,
        feature_version: str,
        known_until_day: float,
    ) -> Verdict:
        """The gate's answer, with tries and looks paid for."""
        looked = self.db.runs.last_figure(_TYPE.value, LOOKED_UNTIL)
        return judge(
            evidence,
            recipe=recipe,
            champion=champion,
            tries=self._tries(recipe, feature_version),
            days_since_look=math.inf if looked is None else known_until_day - looked,
            min_rows=self.config.training.min_validation_samples,
            renewal=ended_by_what_was_served(self.db.models, _TYPE.value),
        )

    def _labelled(self, start: str | None) -> LabellingRule | None:
        """The rule of virtual outcomes, once the signals from `start` on are labelled by it; None: they are off."""
        if self.config.virtual_outcomes == "off":
            return None
        rule = labelling_rule(self.db, self.config)
        if self.label is not None:
            self.progress("labels", 0, 1)
            self.label(rule, start or "")
        return rule

    def _hold(self, data: Dataset, missing: str) -> TrainingResult:
        """Nothing to train on yet. The ledger is about models, and has no entry of it."""
        figures = {"samples": len(data.r), "samples_needed": self.config.training.min_training_samples}
        verdict = Verdict(Decision.HOLD, Serve.NO, "samples", (missing,))
        with self.db.atomic():
            self._still_ours()
            self.db.runs.finish(
                self.run_id,
                "completed",
                metrics={**figures, **verdict.record, "left_out": data.left_out, "reason": missing},
                verdict=verdict.decision.value,
                seconds=time.perf_counter() - self.started,
            )
        logger.info("run {}: {}, nothing was trained; {}", self.run_id, verdict.decision, missing)
        return TrainingResult(self.run_id, "completed", verdict, None, {**figures, "left_out": data.left_out}, missing)

    def _candidates(
        self, data: Dataset, feature_version: str, serving: Mapping[ModelType, RegistryRow | None]
    ) -> tuple[SignalQualityModel, int, AuxiliaryModels]:
        """The model of signal quality, the longest holding, and the models beside it."""
        walk = backtest.splitter(data, self.config)
        rows = walk.training_rows(data.entered_us, data.known_us, at_us=int(data.known_us.max()) + 1)
        model = self.fit(
            data,
            rows,
            self.config,
            max_hold_us=walk.max_hold_us,
            min_samples=self.config.training.min_training_samples,
            clock=self.clock,
        )
        model.feature_version = feature_version
        entered = data.entered_us[rows]
        model.set_training_period(text_from_us(int(entered.min())), text_from_us(int(entered.max())))
        proven = {kind: row is not None and row.proven for kind, row in serving.items()}
        beside = AuxiliaryModels((), {})
        if self.auxiliary:
            beside = train_auxiliary_models(data, rows, walk, model, proven=proven, clock=self.clock)
        return model, walk.max_hold_us, beside

    def _figures(
        self, data: Dataset, pooled: backtest.Pooled, evidence: Evidence, model: SignalQualityModel
    ) -> dict[str, Any]:
        r = data.r[pooled.rows]
        window = self.config.training.validation_window_days * DAY_US
        recent = evidence.entered_us > evidence.entered_us.max(initial=0) - window
        newest = evidence_figures(evidence.rows(recent))
        return {
            **evidence_figures(evidence),
            **finite(
                {
                    "mean_r": float(r.mean()) if len(r) else math.nan,
                    "mean_r_top_tenth": metrics.top_mean(r, pooled.p, share=0.1),
                    "precision_top_tenth": metrics.top_mean(data.won[pooled.rows].astype(float), pooled.p, share=0.1),
                    "information_coefficient": metrics.information_coefficient(r, pooled.predicted_r),
                }
            ),
            **{f"newest_window_{name}": newest[name] for name in ("rows", "auc", "log_loss") if name in newest},
            "folds": len(set(pooled.window.tolist())),
            "fold_figures": pooled.by_fold(data),
            "calibration_slope": model.calibration_slope,
            "used_features": len(model.used_features),
            **({"selection_note": model.selection_note} if model.selection_note else {}),
            "left_out": data.left_out,
            "model_digest": model.digest(),
        }

    def _tries(self, recipe: str, feature_version: str) -> int:
        """Recipes on feature versions that were ever trained, and every setting that tuning looked at to choose one."""
        tried = self.db.models.recipes(_TYPE.value) | {(recipe, feature_version)}
        return len(tried) + self.db.tuning.count()

    def _settle(
        self,
        model: SignalQualityModel,
        auxiliary: AuxiliaryModels,
        data: Dataset,
        verdict: Verdict,
        figures: dict[str, Any],
        expected: Mapping[ModelType, str | None],
    ) -> TrainingResult:
        """Activations, ledger and the run's end in one transaction."""
        with self.db.atomic():
            self._still_ours()
            verdict = unless_pinned(verdict, self.db.models, _TYPE.value)
            beside = settle_auxiliary_models(
                self.registry, self.db.models, auxiliary, verdict, run_id=self.run_id, expected=expected
            )
            figures = {**figures, "companions": beside}  # what the runs that are stored already call it
            if verdict.serve is Serve.NO:
                action: Literal["hold", "reject"] = "hold" if verdict.decision is Decision.HOLD else "reject"
                self.db.models.note_verdict(
                    action, model.model_id, reason=verdict.reason, figures=figures, run_id=self.run_id
                )
            else:
                self.registry.promote(
                    model.model_id,
                    reason=verdict.reason,
                    figures=figures,
                    proven=verdict.serve is Serve.PROVEN,
                    run_id=self.run_id,
                    expected_active=expected[_TYPE],
                    fence=self.fence,
                )
            metadata = model.get_metadata()
            self.db.runs.finish(
                self.run_id,
                "completed",
                train_samples=metadata.train_samples,
                validation_samples=metadata.validation_samples,
                best_iteration=model.iterations,
                metrics={**figures, "reason": verdict.reason},
                model_id=model.model_id,
                verdict=verdict.decision.value,
                serves=verdict.serve.value,
                data_digest=data.digest(),
                seconds=time.perf_counter() - self.started,
            )
        words = in_words(verdict.decision, verdict.serve, verdict.not_proven)
        logger.info("run {}: {}; {}", self.run_id, words, verdict.reason)
        return TrainingResult(self.run_id, "completed", verdict, model.model_id, figures, verdict.reason)

    def _still_ours(self) -> None:
        """What serves is changed by the newest run alone, and only while it runs.

        Raises:
            StaleActivation: a newer run has begun, or this one was given up.
        """
        newest = self.db.runs.last(_TYPE.value)
        if newest is None or newest.token != self.fence or newest.status != "running":
            raise StaleActivation(f"training run {self.fence} is not the newest that runs any more")

    def fail(self, code: str, error: BaseException) -> TrainingResult:
        reason = f"{code}: {error or type(error).__name__}"
        logger.error("run {} failed: {}", self.run_id, reason)
        try:
            self.db.runs.finish(self.run_id, "failed", error_message=reason, seconds=time.perf_counter() - self.started)
        except StoreMoved as lost:
            logger.warning("run {} could not be marked failed, and will be swept: {}", self.run_id, lost)
        except StoreError:  # the store itself may be what failed; the first error is the one to tell of
            logger.exception("run {} could not be marked failed; it will be swept", self.run_id)
        return TrainingResult(self.run_id, "failed", None, None, reason=reason)
