"""Kinds of signals: how each went, those taken beside those not taken, and which of them ever got an outcome."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trading_system.ml_refinement import robust
from trading_system.ml_refinement.evaluation.equity import Interval, mean_interval
from trading_system.ml_refinement.evaluation.figures import interval_of
from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.storage.tables.signals import SignalKind
from trading_system.ml_refinement.typing import BoolArray
from trading_system.ml_refinement.validation import metrics
from trading_system.ml_refinement.validation.evidence import PredictionRecord

_MIN_GROUP = 20
#: Outcomes told with one of these exit reasons are of trades that nobody took.
NOT_TAKEN = frozenset({"not_taken", "paper", "virtual"})


@dataclass(frozen=True, slots=True)
class SignalGroup:
    """One kind of signal. NaN where a figure cannot be computed."""

    kind: str
    name: str
    rows: int
    win_rate: float
    mean_p: float
    mean_r: Interval
    auc: Interval


@dataclass(frozen=True, slots=True)
class OutcomeCoverage:
    """Who got an outcome: of served signals old enough to have one, by thirds of score, lowest first."""

    scored: int
    without_outcome: int
    rates: tuple[float, ...]
    #: AUC of the score for having an outcome at all; 0.5: the scores did not choose.
    auc: float


def group_figures(
    record: PredictionRecord, kinds: dict[str, SignalKind], fields: Sequence[str]
) -> tuple[SignalGroup, ...]:
    """Each kind of signal by the given fields, the most frequent first; kinds of few signals are left out."""
    nothing = SignalKind("", "", "")
    found = []
    for field in fields:
        labels = np.array([getattr(kinds.get(i, nothing), field) for i in record.signal_ids.tolist()], dtype=np.str_)
        names = [str(name) for name in np.unique(labels)]
        counted = sorted(((int((labels == name).sum()), name) for name in names), reverse=True)
        found += [_group(record, labels == name, field, name) for rows, name in counted if rows >= _MIN_GROUP]
    return tuple(found)


def _group(record: PredictionRecord, rows: BoolArray, kind: str, name: str) -> SignalGroup:
    part = record.evidence.rows(rows)
    return SignalGroup(
        kind.replace("_", " "),
        name or "(none)",
        int(rows.sum()),
        float(part.won.mean()),
        float(part.p.mean()),
        mean_interval(record.r[rows], part.cluster),
        interval_of(part.auc()),
    )


def taken_figures(record: PredictionRecord, kinds: dict[str, SignalKind]) -> tuple[SignalGroup, ...]:
    """Signals taken and not taken, where both kinds have outcomes."""
    told = np.array([i in kinds and kinds[i].exit_reason in NOT_TAKEN for i in record.signal_ids.tolist()], dtype=bool)
    if not told.any() or told.all():
        return ()
    return (_group(record, ~told, "outcome", "taken"), _group(record, told, "outcome", "not taken"))


def outcome_coverage(db: FeatureDatabase, served: PredictionRecord | None) -> OutcomeCoverage | None:
    """Did the scores choose whose outcome is known? Only signals old enough to have one are asked."""
    if served is None:
        return None
    asked = db.scores.answered()
    hold = int(robust.largest(served.known_us - served.entered_us))
    old = asked.timestamp_us < int(served.known_us.max()) - hold
    score, labelled = asked.score[old], asked.labelled[old]
    if not len(score):
        return None
    thirds = np.array_split(np.argsort(score, kind="stable"), 3)
    rates = tuple(float(labelled[rows].mean()) if len(rows) else math.nan for rows in thirds)
    return OutcomeCoverage(len(score), int((~labelled).sum()), rates, metrics.auc(labelled, score))
