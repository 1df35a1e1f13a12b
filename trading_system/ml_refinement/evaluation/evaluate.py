"""Everything a report says of a store: the whole of its past, walked forward, and what was served, judged alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trading_system.ml_refinement.config import MLConfig, ModelType
from trading_system.ml_refinement.evaluation.comparison import Comparison, compare_challengers
from trading_system.ml_refinement.evaluation.equity import Equity, equities
from trading_system.ml_refinement.evaluation.figures import FigureLine, WindowFigures, figures, window_figures
from trading_system.ml_refinement.evaluation.groups import (
    OutcomeCoverage,
    SignalGroup,
    group_figures,
    outcome_coverage,
    taken_figures,
)
from trading_system.ml_refinement.evaluation.importance import Importance, fold_importance
from trading_system.ml_refinement.evaluation.virtual_comparison import VirtualComparison, compare_virtual
from trading_system.ml_refinement.labelling.rules import labelling_rule
from trading_system.ml_refinement.models.signal_quality import SignalQualityModel
from trading_system.ml_refinement.monitoring.served import read_served
from trading_system.ml_refinement.standing import Standing, read_standing
from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.storage.tables.models import Promotion, RegistryRow
from trading_system.ml_refinement.storage.tables.runs import TrainingRun
from trading_system.ml_refinement.storage.times import DAY_US, Clock, us_from_text, utc_text
from trading_system.ml_refinement.training import backtest
from trading_system.ml_refinement.training.dataset import Dataset, check_dataset, read_dataset
from trading_system.ml_refinement.training.promotion import judge
from trading_system.ml_refinement.training.verdicts import Decision, Verdict, virtual_in_words
from trading_system.ml_refinement.training.virtual_evidence import virtual_figures
from trading_system.ml_refinement.typing import IndexArray
from trading_system.ml_refinement.validation.evidence import PredictionRecord, block_us, evidence_figures
from trading_system.ml_refinement.validation.walk_forward import Fold

#: Called with (done, total).
Progress = Callable[[int, int], None]

_TYPE = ModelType.SIGNAL_QUALITY
_LEDGER = 12


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What the report shows."""

    at: str
    config: MLConfig
    cost_r: float
    rows: int
    left_out: dict[str, int]
    walk: PredictionRecord
    served: PredictionRecord | None
    verdict: Verdict
    windows: tuple[WindowFigures, ...]
    figures: tuple[FigureLine, ...]
    served_figures: tuple[FigureLine, ...]
    groups: tuple[SignalGroup, ...]
    taken: tuple[SignalGroup, ...]
    coverage: OutcomeCoverage | None
    importance: tuple[Importance, ...]
    equities: tuple[Equity, ...]
    served_equities: tuple[Equity, ...]
    shadow: tuple[Comparison, ...]
    champion: RegistryRow | None
    standing: Standing | None
    last_run: TrainingRun | None
    ledger: tuple[Promotion, ...]
    #: Virtual against reported outcomes of the same signals.
    virtual: VirtualComparison
    #: Where virtual outcomes fill in, what was learned from, and the evidence with them and without.
    virtual_words: str
    #: What a training of now would have left of its window after a long pause without outcomes; empty without one.
    pause_words: str

    @property
    def words(self) -> str:
        """Is there evidence of skill? In one sentence."""
        if self.verdict.decision is Decision.PROMOTE:
            return f"There is evidence of skill: {self.verdict.reasons[0]}."
        if self.verdict.decision is Decision.HOLD:
            return f"There is too little evidence to say whether there is skill: {self.verdict.reasons[0]}."
        return f"There is no evidence of skill: {'; '.join(self.verdict.reasons)}."


def evaluate(
    db: FeatureDatabase,
    config: MLConfig,
    *,
    names: Sequence[str],
    feature_version: str,
    clock: Clock,
    cost_r: float = 0.05,
    progress: Progress | None = None,
) -> Evaluation:
    """Walk forward over all the store holds, and put what was served beside it. Nothing is changed or registered.

    Args:
        db: the store.
        config: what is trained, and how: the configuration that retrainings use.
        names: the features, in the pipeline's order.
        feature_version: only vectors of this version are evaluated.
        clock: outcomes later than its now are left out.
        cost_r: cost of a trade in R, taken off every result that is called worth.
        progress: told as the windows go by.

    Raises:
        LearningError: there is nothing to evaluate, by name; see `check_dataset`.
    """
    at = utc_text(clock())
    rule = labelling_rule(db, config)
    filled = rule if config.virtual_outcomes == "fill" else None
    data = read_dataset(db, names=names, feature_version=feature_version, now_us=us_from_text(at), virtual=filled)
    check_dataset(data, min_samples=config.training.min_training_samples)
    walk, folds, importance, virtual_words = _walk(data, config, clock, progress)
    train_window_days = config.training.train_window_days
    all_served = read_served(db, train_window_days=train_window_days, days=None, newest=None)
    served = all_served if len(all_served) else None
    kinds = db.signals.kinds()
    return Evaluation(
        at=at,
        config=config,
        cost_r=cost_r,
        rows=int(data.reported.sum()),
        left_out=data.left_out,
        walk=walk,
        served=served,
        verdict=judge(walk.evidence, recipe="", champion=None),
        windows=window_figures(walk, data, folds),
        figures=figures(walk),
        served_figures=figures(served) if served is not None else (),
        groups=group_figures(walk, kinds, ("signal_type", "asset_class")),
        taken=taken_figures(walk, kinds),
        coverage=outcome_coverage(db, served),
        importance=importance,
        equities=equities(walk, config, cost_r),
        served_equities=equities(served, config, cost_r) if served is not None else (),
        shadow=tuple(compare_challengers(db, train_window_days=train_window_days)),
        champion=db.models.active(_TYPE.value),
        standing=read_standing(db.models, _TYPE.value),
        last_run=db.runs.last(_TYPE.value),
        ledger=tuple(db.models.promotions(_LEDGER, _TYPE.value)),
        virtual=compare_virtual(db, rule, train_window_days=train_window_days),
        virtual_words=virtual_words,
        pause_words=backtest.pause_in_words(data, config),
    )


def _walk(
    data: Dataset, config: MLConfig, clock: Clock, progress: Progress | None
) -> tuple[PredictionRecord, list[Fold], tuple[Importance, ...], str]:
    """The record of reported outcomes, its folds, importance, and what is said of virtual outcomes among them."""
    span_days = float(np.ptp(data.known_us)) / DAY_US + 1.0
    walk = replace(backtest.splitter(data, config), pool_days=span_days)
    models: dict[bytes, SignalQualityModel] = {}

    def fit(data: Dataset, rows: IndexArray, config: MLConfig, **rest: Any) -> SignalQualityModel:
        models[rows.tobytes()] = model = backtest.fit_on(data, rows, config, **rest)
        return model

    predicted = backtest.walk_forward(data, config, clock=clock, progress=progress, walk=walk, fit=fit)
    pooled = predicted.reported(data)
    folds = list(walk.split(data.entered_us, data.known_us))
    fitted = [(fold, models[fold.train.tobytes()]) for fold in folds if fold.train.tobytes() in models]
    rows = pooled.rows
    block = block_us(walk.max_hold_us)
    record = PredictionRecord(
        "walk-forward",
        data.signal_ids[rows],
        data.entered_us[rows],
        data.known_us[rows],
        pooled.p,
        data.r[rows],
        pooled.base,
        pooled.window,
        block,
    )
    told = evidence_figures(record.evidence) | virtual_figures(data, predicted, walk.max_hold_us)
    return record, folds, fold_importance(data, fitted, block_us=block), virtual_in_words(told)
