"""What a replay came to, reckoned from what went in and what came out of the streams; pure functions.

Nothing here reads the worker's tables but the counts that the two sides are reconciled with: the scores are those that
were published, the outcomes those of the position tracker.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from trading_system.ml_refinement.typing import AnyArray, FloatArray
from trading_system.ml_refinement.validation.metrics import clustered_auc, log_losses
from trading_system.simulation.position_tracker import OutcomeEvent
from trading_system.simulation.signal_generator import SignalEvent
from worker.demo.edge import PlantedEdge
from worker.demo.played import Played, Scored

#: Fewer scored trades than this, or fewer of either result, say nothing about an edge.
_LEAST, _LEAST_OF_EACH = 100, 30


@dataclass(frozen=True, slots=True)
class Learned:
    """How the retrainings ended: promoted, which is proven; serving provisionally; not serving; or failed.

    Beside them `too_few_samples`: jobs that trained nothing, for want of samples.
    """

    retrainings: int
    promoted: int
    provisional: int
    not_serving: int
    failures: int
    too_few_samples: int


@dataclass(frozen=True, slots=True)
class Held:
    """What the store holds at the end. The ids are those among the published ones."""

    signals: int
    outcomes: int
    labelled: int
    dead_letters: int
    signal_ids: frozenset[str]
    outcome_ids: frozenset[str]


@dataclass(frozen=True, slots=True)
class Group:
    """Trades of one band: how many, and their mean R (None without any)."""

    n: int
    win_rate: float | None
    mean_r: float | None


@dataclass(frozen=True, slots=True)
class OutOfSample:
    """Scores of models that knew only the past, against what became of the trades.

    `auc_interval` is the 95 % interval, robust to trades of the same month moving together. `base_rate_log_loss` is
    that of always saying the share of wins among the trades that had ended by then. `bands` are the configured ones,
    `thirds` the lowest, middle and highest third of the scores. Undefined figures are None.
    """

    n: int
    auc: float | None
    auc_interval: tuple[float, float] | None
    log_loss: float | None
    base_rate_log_loss: float | None
    base_rate: float | None
    mean_r: float | None
    bands: Mapping[str, Group]
    thirds: Mapping[str, Group]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a replay came to.

    `promoted` are candidates that the gate has proven; `provisional` those that began to serve without, and moved no
    combined score; `not_serving` those that did not begin to serve. `too_few_samples` are jobs that found too few
    samples and trained nothing; they are no `retrainings`.
    `lost`: published signals without a score, or not in the store, and published outcomes not in the store.
    `duplicated`: signals with two different scores, and rows in the store beyond what was published.
    """

    signals: int
    scored: int
    cold_start: int
    outcomes: int
    labelled: int
    retrainings: int
    promoted: int
    provisional: int
    not_serving: int
    failures: int
    too_few_samples: int
    dead_letters: int
    lost: int
    duplicated: int
    out_of_sample: OutOfSample
    verdict: str
    seconds: float
    planted: PlantedEdge | None = None

    def to_json(self) -> Mapping[str, Any]:
        """Plain values; `planted` where something was."""
        fields = asdict(self)
        return fields if self.planted is not None else {name: fields[name] for name in fields if name != "planted"}


def summarise(played: Played, learned: Learned, held: Held, planted: PlantedEdge | None = None) -> Summary:
    """Put both sides beside each other."""
    payloads: dict[str, set[bytes]] = defaultdict(set)
    for message in played.scored:
        payloads[message.signal_id].add(message.payload)
    first = {message.signal_id: message for message in reversed(played.scored)}
    statuses = [first[signal["signal_id"]].status for signal in played.signals if signal["signal_id"] in first]
    out_of_sample = evaluate(played.signals, played.outcomes, first)
    return Summary(
        signals=len(played.signals),
        scored=sum(status != "cold_start" for status in statuses),
        cold_start=statuses.count("cold_start"),
        outcomes=len(played.outcomes),
        labelled=held.labelled,
        retrainings=learned.retrainings,
        promoted=learned.promoted,
        provisional=learned.provisional,
        not_serving=learned.not_serving,
        failures=learned.failures,
        too_few_samples=learned.too_few_samples,
        dead_letters=held.dead_letters,
        lost=_lost(played, payloads.keys(), held),
        duplicated=sum(len(different) - 1 for different in payloads.values())
        + max(0, held.signals - len(played.signals))
        + max(0, held.outcomes - len(played.outcomes)),
        out_of_sample=out_of_sample,
        verdict=verdict(out_of_sample) if planted is None else planted.words,
        seconds=round(played.seconds, 1),
        planted=planted,
    )


def evaluate(
    signals: Iterable[SignalEvent], outcomes: Sequence[OutcomeEvent], scored: Mapping[str, Scored]
) -> OutOfSample:
    """Judge the scores of all trades that have ended and whose signal was scored by a model."""
    ended = {outcome["signal_id"]: outcome["r_multiple"] for outcome in outcomes}
    rows = [
        (signal, scored[signal["signal_id"]], ended[signal["signal_id"]])
        for signal in signals
        if signal["signal_id"] in ended and signal["signal_id"] in scored
    ]
    rows = [row for row in rows if row[1].quality_score is not None]
    r = np.array([row[2] for row in rows])
    won = r > 0
    p = np.array([row[1].quality_score for row in rows], dtype=np.float64)
    months = np.array([int(row[0]["timestamp"][:7].replace("-", "")) for row in rows], dtype=np.int64)
    known = base_rates([row[0]["timestamp"] for row in rows], outcomes)
    area = clustered_auc(won, p, months)
    interval = area.interval()
    order = np.argsort(np.argsort(p, kind="stable"), kind="stable") * 3 // max(len(rows), 1)
    return OutOfSample(
        n=len(rows),
        auc=_figure(area.value),
        auc_interval=(_rounded(interval[0]), _rounded(interval[1])) if area.freedom else None,
        log_loss=_mean(log_losses(won, p)),
        base_rate_log_loss=_mean(log_losses(won, known)),
        base_rate=_mean(won),
        mean_r=_mean(r),
        bands=_groups(np.array([row[1].quality_band for row in rows]), ("high", "medium", "low"), r),
        thirds=_groups(np.array(("lowest", "middle", "highest"))[order], ("highest", "middle", "lowest"), r),
    )


def base_rates(timestamps: Sequence[str], outcomes: Sequence[OutcomeEvent]) -> FloatArray:
    """For each instant, the share of wins among trades that had ended by it, shape (timestamps,).

    With one win and one loss added: 1/2 without any.
    """
    by_time = sorted(outcomes, key=lambda outcome: outcome["closed_at"])
    ends = np.array([outcome["closed_at"] for outcome in by_time], dtype="U20")
    wins = np.concatenate([[0], np.cumsum([outcome["r_multiple"] > 0 for outcome in by_time], dtype=np.int64)])
    ended = np.searchsorted(ends, np.array(timestamps, dtype="U20"), side="right")
    rates: FloatArray = (wins[ended] + 1) / (ended + 2)
    return rates


def verdict(found: OutOfSample) -> str:
    """One sentence on whether the scores tell wins from losses."""
    wins = round((found.base_rate or 0) * found.n)
    if found.auc is None or found.auc_interval is None or found.log_loss is None or found.base_rate_log_loss is None:
        return "No trade that a model had scored has ended yet: nothing can be said."
    low, high = found.auc_interval
    figures = f"AUC {found.auc:.3f} [{low:.3f}, {high:.3f}] over {found.n} trades"
    if found.n < _LEAST or min(wins, found.n - wins) < _LEAST_OF_EACH:
        return f"Too few trades to tell: {figures}."
    better = found.log_loss < found.base_rate_log_loss
    losses = f"log loss {found.log_loss:.4f} against the base rate's {found.base_rate_log_loss:.4f}"
    if low > 0.5 and better:
        return f"The scores tell wins from losses: {figures}, {losses}."
    if low > 0.5:
        return f"The scores rank trades better than chance, and are no better as probabilities: {figures}, {losses}."
    if high < 0.5:
        return f"The scores rank trades worse than chance: {figures}, {losses}."
    return f"This market shows no edge that these scores could prove: {figures} holds 0.5, {losses}."


def _lost(played: Played, scored_ids: Iterable[str], held: Held) -> int:
    scored_and_stored = held.signal_ids & set(scored_ids)
    lost_signals = sum(signal["signal_id"] not in scored_and_stored for signal in played.signals)
    lost_outcomes = sum(outcome["signal_id"] not in held.outcome_ids for outcome in played.outcomes)
    return lost_signals + lost_outcomes


def _groups(labels: AnyArray, names: Sequence[str], r: FloatArray) -> dict[str, Group]:
    chosen = {name: r[labels == name] for name in names}
    return {name: Group(len(some), _mean(some > 0), _mean(some)) for name, some in chosen.items()}


def _mean(values: AnyArray) -> float | None:
    return _rounded(values.mean()) if len(values) else None


def _figure(value: float) -> float | None:
    return None if math.isnan(value) else _rounded(value)


def _rounded(value: float) -> float:
    return round(float(value), 4)
