"""The gate: does a candidate serve, and as what? Pure functions of arrays; every answer carries its figures.

Trades open together share their luck, so every test here works on sums over blocks of time, never on single rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from trading_system.ml_refinement.typing import FloatArray
from trading_system.ml_refinement.validation import metrics
from trading_system.ml_refinement.validation.evidence import Evidence, evidence_figures, finite

SKILL_LEVEL = 0.025
REFRESH_LEVEL = 0.10
NEW_RECIPE_LEVEL = 0.05
PROVISIONAL_LEVEL = 0.10


class Decision(StrEnum):
    """What the gate says. HOLD: the evidence does not reach; REJECT: it reaches, and a test was failed."""

    PROMOTE = "promote"
    HOLD = "hold"
    REJECT = "reject"


class Serve(StrEnum):
    """How the candidate serves from now on. A provisional model's scores are published and move nothing."""

    PROVEN = "proven"
    PROVISIONAL = "provisional"
    NO = "no"


@dataclass(frozen=True, slots=True)
class ChampionRecord:
    """The model that serves. `served` are the probabilities it logged when it served, NaN where it did not, (n,)."""

    model_id: str
    recipe: str
    proven: bool
    served: FloatArray


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided, by which rule, why, and on what figures (finite numbers only)."""

    decision: Decision
    serve: Serve
    rule: str
    reasons: tuple[str, ...]
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """The reasons as one line."""
        return "; ".join(self.reasons)


def judge(
    evidence: Evidence,
    *,
    recipe: str,
    champion: ChampionRecord | None,
    recipes_tried: int = 1,
    min_rows: int = 20,
) -> Verdict:
    """The gate.

    Args:
        evidence: the candidate's pooled out-of-sample predictions.
        recipe: what the candidate was made by.
        champion: the model that serves, `served` aligned with the evidence's rows; None where none does.
        recipes_tried: how many recipes and parameter settings were tried; a new one pays for all of them.
        min_rows: with fewer out-of-sample rows than this the candidate is held, and does not even serve provisionally.
    """
    rule = "skill"
    if champion is not None and champion.proven:
        rule = "refresh" if champion.recipe == recipe else "new_recipe"
    figures = evidence_figures(evidence)
    shortfall = evidence.shortfall()
    if len(evidence.won) < min_rows:
        wanted = f"{len(evidence.won):,} of {min_rows:,} validation samples"
        shortfall = f"{wanted}, {shortfall}" if shortfall else wanted
    if shortfall:
        decision, reasons = Decision.HOLD, [f"too little evidence: {shortfall}"]
    else:
        decision, reasons = _skill(evidence)
        if decision is Decision.PROMOTE and champion is not None and rule != "skill":
            decision, reasons = _against_champion(evidence, champion, rule, recipes_tried, figures)
    serve = Serve.PROVEN if decision is Decision.PROMOTE else Serve.NO
    if serve is Serve.NO and rule == "skill":
        serve, why = _provisionally(evidence, min_rows)
        reasons = [*reasons, why]
    return Verdict(decision, serve, rule, tuple(reasons), figures)


def _skill(evidence: Evidence) -> tuple[Decision, list[str]]:
    auc = evidence.auc()
    gain = float(evidence.gain.mean())
    failed = []
    if not auc.above(0.5, SKILL_LEVEL):
        failed.append(f"AUC {auc.value:.3f} is not above 0.5 beyond chance (t {auc.t(0.5):.2f})")
    if not gain > 0.0:
        failed.append(f"log loss is {-gain:.4f} above the base rate's")
    if failed:
        return Decision.REJECT, failed
    return Decision.PROMOTE, [f"AUC {auc.value:.3f} (t {auc.t(0.5):.2f}), log loss {gain:.4f} below the base rate's"]


def _against_champion(
    evidence: Evidence, champion: ChampionRecord, rule: str, recipes_tried: int, figures: dict[str, float]
) -> tuple[Decision, list[str]]:
    both = ~np.isnan(champion.served)
    shared = evidence.rows(both)
    better = metrics.log_losses(shared.won, champion.served[both]) - metrics.log_losses(shared.won, shared.p)
    margin = metrics.clustered_mean(better, shared.cluster)
    figures |= finite({"champion_rows": len(better), "champion_margin": margin.value, "champion_t": margin.t()})
    words = f"log loss {margin.value:+.4f} better than served by {champion.model_id} on {len(better)} rows"
    words = f"{words} (t {margin.t():.2f})" if len(better) else f"{champion.model_id} has not served these rows"
    if rule == "refresh":
        worse = margin.below(0.0, REFRESH_LEVEL)
        return (Decision.REJECT if worse else Decision.PROMOTE), [words]
    shortfall = shared.shortfall()
    if shortfall:
        return Decision.HOLD, [f"too little served by {champion.model_id} to compare with: {shortfall}"]
    level = NEW_RECIPE_LEVEL / max(1, recipes_tried)
    return (Decision.PROMOTE if margin.above(0.0, level) else Decision.REJECT), [f"{words}, at level {level:.4f}"]


def _provisionally(evidence: Evidence, min_rows: int) -> tuple[Serve, str]:
    """Not worse than the base rate by more than noise; where blocks are too few to judge by, rows are the clusters."""
    if len(evidence.won) < max(min_rows, 1):
        return Serve.NO, f"{len(evidence.won)} out-of-sample rows are too few to serve on"
    excess = metrics.clustered_mean(-evidence.gain, evidence.cluster)
    if excess.freedom < 2:
        excess = metrics.clustered_mean(-evidence.gain, np.arange(len(evidence.won)))
    if excess.above(0.0, PROVISIONAL_LEVEL):
        return Serve.NO, f"worse than the base rate by {excess.value:.4f} (t {excess.t():.2f})"
    return Serve.PROVISIONAL, "not worse than the base rate: serves provisionally"
