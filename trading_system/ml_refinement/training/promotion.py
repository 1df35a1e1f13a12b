"""The gate: does a candidate serve, and as what? Pure functions of arrays; every answer carries its figures.

Trades open together share their luck, so every test here works on sums over blocks of time, never on single rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trading_system.ml_refinement.standing import NotProven
from trading_system.ml_refinement.storage.times import DAY_US
from trading_system.ml_refinement.training.verdicts import Decision, Serve, Verdict
from trading_system.ml_refinement.typing import FloatArray
from trading_system.ml_refinement.validation import metrics
from trading_system.ml_refinement.validation.evidence import MIN_BLOCKS, Evidence, evidence_figures, finite

#: One-sided level of a first proof: half of it for skill within windows, half for skill within weeks. It is the rate of
#: false proofs that a retraining every `LOOK_DAYS` may have.
SKILL_LEVEL = 0.02
#: One-sided level at which skill has to show in a recipe that is proven already.
KEEP_LEVEL = 0.20
#: A look that comes so many days after the one before has the whole level, an earlier one a part of it.
LOOK_DAYS = 21.0
REFRESH_LEVEL = 0.10
NEW_RECIPE_LEVEL = 0.05
#: Where the last proof was ended by what was served, the newest evidence has to show skill by itself, at this level.
RENEWAL_LEVEL = 0.10
RENEWAL_DAYS = 126.0
PROVISIONAL_LEVEL = 0.10


@dataclass(frozen=True, slots=True)
class ChampionRecord:
    """The model that serves. `served` are the probabilities it logged when it served, NaN where it did not, (n,)."""

    model_id: str
    recipe: str
    proven: bool
    served: FloatArray


def judge(
    evidence: Evidence,
    *,
    recipe: str,
    champion: ChampionRecord | None,
    tries: int = 1,
    days_since_look: float = math.inf,
    min_rows: int = 20,
    renewal: bool = False,
) -> Verdict:
    """The gate.

    Args:
        evidence: the candidate's pooled out-of-sample predictions.
        recipe: what the candidate was made by.
        champion: the model that serves, `served` aligned with the evidence's rows; None where none does.
        tries: how many recipes and parameter settings were tried, this one included; a proof pays for all of them.
        days_since_look: how many days of outcomes came since the gate last looked; infinite for a first look.
        min_rows: with fewer out-of-sample rows than this the candidate is held, and does not even serve provisionally.
        renewal: the last proof was ended by what was served. The evidence of a new one still holds the months that were
            good; so its newest part is asked besides.
    """
    rule = "skill"
    if champion is not None and champion.proven:
        rule = "refresh" if champion.recipe == recipe else "new_recipe"
    figures = evidence_figures(evidence)
    shortfall = evidence.shortfall()
    if len(evidence.won) < min_rows:
        wanted = f"{len(evidence.won):,} of {min_rows:,} validation samples"
        shortfall = f"{wanted}, {shortfall}" if shortfall else wanted
    failed: NotProven | None = None
    level = KEEP_LEVEL if rule == "refresh" else SKILL_LEVEL * look_share(days_since_look) / max(1, tries)
    if shortfall:
        decision, reasons = Decision.HOLD, [f"too little evidence: {shortfall}"]
    elif not level:
        decision, reasons = Decision.HOLD, ["no outcome has come since the gate last looked"]
    else:
        figures["skill_level"] = level
        decision, reasons, failed = _skill(evidence, level)
        if decision is Decision.PROMOTE and champion is not None and rule != "skill":
            decision, reasons = _against_champion(evidence, champion, rule, tries, figures)
            failed = NotProven.NOT_BETTER if decision is Decision.REJECT else None
        elif decision is Decision.PROMOTE and renewal:
            decision, reasons, failed = _renewed(evidence, reasons)
    serve, serving = (Serve.PROVEN if decision is Decision.PROMOTE else Serve.NO), ""
    if serve is Serve.NO and rule == "skill":
        serve, serving = _provisionally(evidence, min_rows)
    return Verdict(decision, serve, rule, tuple(reasons), figures, serving, failed)


def look_share(days_since_look: float) -> float:
    """The part of the level that a look has, 0 to 1: looks that follow each other closely see nearly the same rows.

    The square root is between paying by the day, which leaves a daily look next to nothing, and not paying; what each
    lets through is measured in docs/learning.md.
    """
    return min(1.0, math.sqrt(max(0.0, days_since_look) / LOOK_DAYS))


def skill(evidence: Evidence, level: float) -> tuple[bool, str]:
    """Do the predictions tell wins from losses, at one-sided `level`? With the words that say so or why not.

    Either of two tests at half the level each: within windows, with a log loss below the base rate's, which sees market
    timing too; or within weeks of entry, with a conditional gain above 0, which the luck that a week's trades share
    cannot blur.
    """
    windows, weeks = evidence.auc(), evidence.auc_within_weeks()
    gain, within = float(evidence.gain.mean()), evidence.gain_within_weeks()
    side = "below" if gain > 0.0 else "above"
    loss = f"log loss {abs(gain):.4f} {side} the base rate's"
    tests = (
        (windows, gain, f"AUC {windows.value:.3f} (t {windows.t(0.5):.2f}), {loss}"),
        (weeks, within, f"AUC within weeks {weeks.value:.3f} (t {weeks.t(0.5):.2f}), gain {within:+.4f}"),
    )
    shown = [words for auc, better, words in tests if auc.above(0.5, level / 2.0) and better > 0.0]
    return bool(shown), "; ".join(shown or [words for _, _, words in tests])


def _skill(evidence: Evidence, level: float) -> tuple[Decision, list[str], NotProven | None]:
    shown, words = skill(evidence, level)
    if not shown:
        return Decision.REJECT, [f"skill is not shown at level {level:.4f}: {words}"], NotProven.NEVER_SHOWN
    worse = _excess(evidence)
    if worse.above(0.0, PROVISIONAL_LEVEL):
        reason = f"{words}; but log loss is {worse.value:.4f} above the base rate's"
        return Decision.REJECT, [reason], NotProven.WORSE_THAN_BASE_RATE
    return Decision.PROMOTE, [words], None


def _renewed(evidence: Evidence, reasons: list[str]) -> tuple[Decision, list[str], NotProven | None]:
    """Does skill show in the newest evidence too? It is as long as `RENEWAL_DAYS`, and enough blocks of shared luck."""
    asked = max(RENEWAL_DAYS, (MIN_BLOCKS + 1) * evidence.block_us / DAY_US)
    newest, days = evidence.newest(asked), f"the newest {asked:.0f} days"
    if shortfall := newest.shortfall():
        return Decision.HOLD, [f"{reasons[0]}; but the last proof ended, and of {days} there are {shortfall}"], None
    shown, words = skill(newest, RENEWAL_LEVEL)
    if shown:
        return Decision.PROMOTE, [f"{reasons[0]}; in {days} {words}"], None
    reason = f"{reasons[0]}; but the last proof ended, and {days} do not show it at level {RENEWAL_LEVEL}: {words}"
    return Decision.REJECT, [reason], NotProven.SKILL_NOT_SHOWN


def _against_champion(
    evidence: Evidence, champion: ChampionRecord, rule: str, tries: int, figures: dict[str, float]
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
    level = NEW_RECIPE_LEVEL / max(1, tries)
    return (Decision.PROMOTE if margin.above(0.0, level) else Decision.REJECT), [f"{words}, at level {level:.4f}"]


def _provisionally(evidence: Evidence, min_rows: int) -> tuple[Serve, str]:
    """Not worse than the base rate by more than noise."""
    if len(evidence.won) < max(min_rows, 1):
        return Serve.NO, f"{len(evidence.won)} out-of-sample rows are too few to serve on"
    excess = _excess(evidence)
    if excess.above(0.0, PROVISIONAL_LEVEL):
        return Serve.NO, f"worse than the base rate by {excess.value:.4f} (t {excess.t():.2f})"
    return Serve.PROVISIONAL, "not worse than the base rate: serves provisionally"


def _excess(evidence: Evidence) -> metrics.Estimate:
    """Log loss above the base rate's; where blocks are too few to judge by, rows are the clusters."""
    excess = metrics.clustered_mean(-evidence.gain, evidence.cluster)
    if excess.freedom < 2:
        excess = metrics.clustered_mean(-evidence.gain, np.arange(len(evidence.won)))
    return excess
