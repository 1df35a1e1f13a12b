"""Everything a report says of a store: the whole of its past, walked forward, and what was served, judged alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trading_system.ml_refinement.config import MLConfig, ModelType
from trading_system.ml_refinement.evaluation.comparison import compare_challengers
from trading_system.ml_refinement.evaluation.equity import (
    Interval,
    Worth,
    block_bootstrap,
    highest_so_far,
    mean_interval,
    worth,
)
from trading_system.ml_refinement.evaluation.importance import Importance, fold_importance
from trading_system.ml_refinement.models.signal_quality import SignalQualityModel
from trading_system.ml_refinement.monitoring.liveness import Comparison
from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.storage.reporting import SignalKind, answered, signal_kinds
from trading_system.ml_refinement.storage.tables.models import Promotion, RegistryRow
from trading_system.ml_refinement.storage.tables.runs import TrainingRun
from trading_system.ml_refinement.storage.times import Clock, us_from_text, utc_text
from trading_system.ml_refinement.training import backtest
from trading_system.ml_refinement.training.dataset import Dataset, check_dataset, read_dataset
from trading_system.ml_refinement.training.promotion import Decision, Evidence, Verdict, block_us, judge
from trading_system.ml_refinement.typing import BoolArray, FloatArray, IndexArray, IntArray, StringArray, TimeArray
from trading_system.ml_refinement.validation import metrics
from trading_system.ml_refinement.validation.walk_forward import DAY_US, Fold, measured_hold_us

#: Called with (done, total).
Progress = Callable[[int, int], None]

_TYPE = ModelType.SIGNAL_QUALITY
_MIN_GROUP = 20
_LEDGER = 12
_MODELS = 500
#: Outcomes told with one of these exit reasons are of trades that nobody took.
NOT_TAKEN = frozenset({"not_taken", "paper", "virtual"})


@dataclass(frozen=True, slots=True)
class Record:
    """Probabilities that were made before their outcomes, in order of time; every array is (n,)."""

    name: str
    signal_ids: StringArray
    entered_us: TimeArray
    known_us: TimeArray
    p: FloatArray
    r: FloatArray
    base: FloatArray
    #: Number of the fit, or of the model, that each probability came from.
    window: IntArray
    block_us: int

    @property
    def won(self) -> BoolArray:
        """R above 0."""
        return self.r > 0

    @property
    def evidence(self) -> Evidence:
        """The same, as the gate takes it."""
        return Evidence(self.won, self.p, self.base, self.entered_us, self.window, self.block_us)

    def __len__(self) -> int:
        return len(self.p)


@dataclass(frozen=True, slots=True)
class FigureLine:
    """One figure: its interval, and what it would be without any skill."""

    name: str
    meaning: str
    found: Interval
    without_skill: float


@dataclass(frozen=True, slots=True)
class Window:
    """One step of the walk-forward, and how it went."""

    train_from_us: int
    train_to_us: int
    start_us: int
    end_us: int
    train_rows: int
    test_rows: int
    #: Log loss below the base rate's; above 0 is better.
    gain: float
    mean_r: float


@dataclass(frozen=True, slots=True)
class Group:
    """One kind of signal. NaN where a figure cannot be computed."""

    kind: str
    name: str
    rows: int
    win_rate: float
    mean_p: float
    mean_r: Interval
    auc: Interval


@dataclass(frozen=True, slots=True)
class Selection:
    """Who got an outcome: of served signals old enough to have one, by thirds of score, lowest first."""

    scored: int
    without_outcome: int
    rates: tuple[float, ...]
    #: AUC of the score for having an outcome at all; 0.5: the scores did not choose.
    auc: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What the report shows."""

    at: str
    config: MLConfig
    cost_r: float
    rows: int
    left_out: dict[str, int]
    walk: Record
    served: Record | None
    verdict: Verdict
    windows: tuple[Window, ...]
    figures: tuple[FigureLine, ...]
    served_figures: tuple[FigureLine, ...]
    groups: tuple[Group, ...]
    taken: tuple[Group, ...]
    selection: Selection | None
    importance: tuple[Importance, ...]
    worths: tuple[Worth, ...]
    served_worths: tuple[Worth, ...]
    shadow: tuple[Comparison, ...]
    champion: RegistryRow | None
    last_run: TrainingRun | None
    ledger: tuple[Promotion, ...]

    @property
    def words(self) -> str:
        """Is there evidence of skill? In one sentence."""
        if self.verdict.decision is Decision.PROMOTE:
            return f"There is evidence of skill: {self.verdict.reasons[0]}."
        if self.verdict.decision is Decision.HOLD:
            return f"There is too little evidence to say whether there is skill: {self.verdict.reasons[0]}."
        failed = "; ".join(self.verdict.reasons[:-1]) or self.verdict.reason
        return f"There is no evidence of skill: {failed}."


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
    data = read_dataset(db, names=names, feature_version=feature_version, now_us=us_from_text(at))
    check_dataset(data, min_samples=config.training.min_training_samples)
    walk, folds, importance = _walk(data, config, clock, progress)
    served = _served(db, config)
    kinds = signal_kinds(db.connection)
    return Evaluation(
        at=at,
        config=config,
        cost_r=cost_r,
        rows=len(data.r),
        left_out=data.left_out,
        walk=walk,
        served=served,
        verdict=judge(walk.evidence, recipe="", champion=None),
        windows=_windows(walk, data, folds),
        figures=figures(walk),
        served_figures=figures(served) if served is not None else (),
        groups=_groups(walk, kinds, ("signal_type", "asset_class")),
        taken=_taken(walk, kinds),
        selection=_selection(db, served),
        importance=importance,
        worths=_worths(walk, config, cost_r),
        served_worths=_worths(served, config, cost_r) if served is not None else (),
        shadow=tuple(compare_challengers(db)),
        champion=db.models.active(_TYPE.value),
        last_run=db.runs.last(_TYPE.value),
        ledger=tuple(db.models.promotions(_LEDGER, _TYPE.value)),
    )


def _walk(
    data: Dataset, config: MLConfig, clock: Clock, progress: Progress | None
) -> tuple[Record, list[Fold], tuple[Importance, ...]]:
    span_days = float(np.ptp(data.known_us)) / DAY_US + 1.0
    walk = replace(backtest.splitter(data, config), pool_days=span_days)
    models: dict[bytes, SignalQualityModel] = {}

    def fit(data: Dataset, rows: IndexArray, config: MLConfig, **rest: Any) -> SignalQualityModel:
        models[rows.tobytes()] = model = backtest.fit_on(data, rows, config, **rest)
        return model

    pooled = backtest.walk_forward(data, config, clock=clock, progress=progress, walk=walk, fit=fit)
    folds = list(walk.split(data.entered_us, data.known_us))
    fitted = [(fold, models[fold.train.tobytes()]) for fold in folds if fold.train.tobytes() in models]
    rows = pooled.rows
    block = block_us(walk.max_hold_us)
    record = Record(
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
    return record, folds, fold_importance(data, fitted, block_us=block)


def _served(db: FeatureDatabase, config: MLConfig) -> Record | None:
    """What champions served when it counted, for signals that have an outcome by now."""
    history = db.scores.served_history()
    if not len(history.r):
        return None
    rows = db.models.history(_TYPE.value, _MODELS)
    rates = {row.model_id: row.metadata.train_metrics.get("base_rate", 0.5) for row in rows}
    hold = measured_hold_us(
        history.timestamp_us, history.label_us, at_most_days=config.training.train_window_days / 4.0
    )
    _, model = np.unique(history.model_id, return_inverse=True)
    return Record(
        "served",
        history.signal_id,
        history.timestamp_us,
        history.label_us,
        history.quality_score,
        history.r,
        np.array([rates.get(model_id, 0.5) for model_id in history.model_id.tolist()], dtype=np.float64),
        model.astype(np.int64),
        block_us(hold),
    )


def figures(record: Record) -> tuple[FigureLine, ...]:
    """The figures of a record, each with its 95 % interval over blocks of shared luck."""
    evidence = record.evidence
    won, p, r, cluster = record.won, record.p, record.r, evidence.cluster
    auc = evidence.auc()
    gain = metrics.clustered_mean(evidence.gain, cluster)
    brier = metrics.clustered_mean((won - record.base) ** 2 - (won - p) ** 2, cluster)
    error, chance = metrics.calibration_error(won, p)
    calibration = block_bootstrap(cluster, lambda rows: metrics.calibration_error(won[rows], p[rows])[0], resamples=300)

    def top(rows: IndexArray) -> float:
        return metrics.top_mean(r[rows], p[rows], share=0.2)

    def lift(rows: IndexArray) -> float:
        return top(rows) - metrics.top_mean(r[rows], -p[rows], share=0.2)

    def coefficient(rows: IndexArray) -> float:
        return metrics.information_coefficient(r[rows], p[rows])

    mean_r = float(r.mean()) if len(r) else math.nan
    calibrated = Interval(error, calibration.low, calibration.high)
    ranked = block_bootstrap(cluster, coefficient, resamples=300)
    told = (
        ("AUC", "wins ranked above losses of the same window", _interval(auc), 0.5),
        ("log loss gained", "below that of always saying the base rate, nats a signal", _interval(gain), 0.0),
        ("Brier score gained", "below that of the base rate", _interval(brier), 0.0),
        ("calibration error", "mean gap of P(win) and win rate; beside it: by chance alone", calibrated, chance),
        ("rank correlation with R", "of P(win) and the result", ranked, 0.0),
        ("mean R of the top fifth", "by P(win); beside it: of all", block_bootstrap(cluster, top), mean_r),
        ("lift, R", "top fifth less bottom fifth", block_bootstrap(cluster, lift), 0.0),
    )
    return tuple(FigureLine(*each) for each in told)


def _interval(estimate: metrics.Estimate) -> Interval:
    return Interval(estimate.value, *estimate.interval())


def _windows(record: Record, data: Dataset, folds: Sequence[Fold]) -> tuple[Window, ...]:
    gains = record.evidence.gain
    found = []
    for number, fold in enumerate(folds):
        rows = record.window == number
        if not rows.any():
            continue
        entered = data.entered_us[fold.train]
        span = int(entered.min()), int(entered.max())
        sizes = len(fold.train), int(rows.sum())
        found.append(
            Window(*span, fold.start_us, fold.end_us, *sizes, float(gains[rows].mean()), float(record.r[rows].mean()))
        )
    return tuple(found)


def _groups(record: Record, kinds: dict[str, SignalKind], fields: Sequence[str]) -> tuple[Group, ...]:
    nothing = SignalKind("", "", "")
    found = []
    for field in fields:
        labels = np.array([getattr(kinds.get(i, nothing), field) for i in record.signal_ids.tolist()], dtype=np.str_)
        names = [str(name) for name in np.unique(labels)]
        counted = sorted(((int((labels == name).sum()), name) for name in names), reverse=True)
        found += [_group(record, labels == name, field, name) for rows, name in counted if rows >= _MIN_GROUP]
    return tuple(found)


def _group(record: Record, rows: BoolArray, kind: str, name: str) -> Group:
    part = record.evidence.rows(rows)
    return Group(
        kind.replace("_", " "),
        name or "(none)",
        int(rows.sum()),
        float(part.won.mean()),
        float(part.p.mean()),
        mean_interval(record.r[rows], part.cluster),
        _interval(part.auc()),
    )


def _taken(record: Record, kinds: dict[str, SignalKind]) -> tuple[Group, ...]:
    """Signals taken and not taken, where both kinds have outcomes."""
    told = np.array([i in kinds and kinds[i].exit_reason in NOT_TAKEN for i in record.signal_ids.tolist()], dtype=bool)
    if not told.any() or told.all():
        return ()
    return (_group(record, ~told, "outcome", "taken"), _group(record, told, "outcome", "not taken"))


def _selection(db: FeatureDatabase, served: Record | None) -> Selection | None:
    """Did the scores choose whose outcome is known? Only signals old enough to have one are asked."""
    if served is None:
        return None
    asked = answered(db.connection)
    hold = int((served.known_us - served.entered_us).max())
    old = asked.timestamp_us < int(served.known_us.max()) - hold
    score, labelled = asked.score[old], asked.labelled[old]
    if not len(score):
        return None
    thirds = np.array_split(np.argsort(score, kind="stable"), 3)
    rates = tuple(float(labelled[rows].mean()) if len(rows) else math.nan for rows in thirds)
    return Selection(len(score), int((~labelled).sum()), rates, metrics.auc(labelled, score))


def _worths(record: Record, config: MLConfig, cost_r: float) -> tuple[Worth, ...]:
    """All signals, those above each band's threshold, the best third by what was known, and sized by score."""
    low, high = config.quality_threshold_low, config.quality_threshold_high
    third = highest_so_far(record.p, _months(record), share=1.0 / 3.0)
    ways = (
        ("all signals", np.ones(len(record))),
        (f"not low (P(win) > {low:g})", (record.p > low).astype(float)),
        (f"high (P(win) ≥ {high:g})", (record.p >= high).astype(float)),
        ("highest third so far", third.astype(float)),
        ("sized by score", record.p / np.maximum(record.base, 0.05)),
    )
    cluster = record.evidence.cluster
    return tuple(worth(name, record.r, w, record.known_us, cluster, cost_r=cost_r) for name, w in ways)


def _months(record: Record) -> IntArray:
    """Steps of 21 days: what is ranked against is what came before one's own step."""
    return record.entered_us // (21 * DAY_US)
