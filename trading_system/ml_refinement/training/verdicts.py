"""What the gate says of a candidate, and whether it serves: two answers, and the words for both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from trading_system.ml_refinement.standing import IN_WORDS, NotProven, Standing
from trading_system.ml_refinement.storage.tables.models import NOT_PROVEN, ROLLED_BACK, Promotion, RegistryRow
from trading_system.ml_refinement.storage.tables.runs import TrainingRun


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
class Verdict:
    """What was decided, by which rule, why, and on what figures (finite numbers only).

    `reasons` are the gate's; `serving` is why the candidate serves as it does where the gate's answer does not say it;
    `failed` is which test was failed, where the decision does not say it.
    """

    decision: Decision
    serve: Serve
    rule: str
    reasons: tuple[str, ...]
    figures: dict[str, float] = field(default_factory=dict)
    serving: str = ""
    failed: NotProven | None = None

    @property
    def reason(self) -> str:
        """The reasons as one line."""
        return "; ".join((*self.reasons, self.serving) if self.serving else self.reasons)

    @property
    def not_proven(self) -> NotProven | None:
        """Why the candidate is not proven; None for one that is."""
        return self.failed or _FAILED.get(self.decision)

    @property
    def record(self) -> dict[str, float | str]:
        """The figures as the ledger and the run keep them: with the code of why it is not proven."""
        return {**self.figures, **({NOT_PROVEN: self.not_proven.value} if self.not_proven is not None else {})}

    def beside_a_pin(self, model_id: str, pinned_by: str) -> Verdict:
        """The same verdict where the operator keeps another model: the candidate is watched and does not serve."""
        return replace(self, serve=Serve.NO, serving=f"{model_id} is pinned by {pinned_by}: scores in the shadow")


_FAILED = {Decision.HOLD: NotProven.TOO_LITTLE_EVIDENCE, Decision.REJECT: NotProven.NEVER_SHOWN}
_SERVING = {Serve.PROVEN: "promoted", Serve.PROVISIONAL: "serves provisionally", Serve.NO: "does not serve"}
_ACTIONS = {
    "activate": "serves provisionally",
    "retire": "retired",
    "prove": "proven",
    "demote": "proof ended",
    "hold": "not proven yet",
    "reject": "not proven",
    "pin": "pinned",
    "unpin": "unpinned",
}


def in_words(decision: str | None, serves: str | None, not_proven: str | None = None) -> str:
    """A verdict as people read it: `promoted` for what serves as proven, the gate's answer and the serving else.

    Args:
        decision: a value of `Decision`; None: the gate was not asked.
        serves: a value of `Serve`; None: there is no candidate, and the words are the gate's alone.
        not_proven: a value of `NotProven`; None: what the decision alone says.

    Example:
        >>> in_words("reject", "provisional")
        'not proven (skill is not shown): serves provisionally'
    """
    if decision is None:
        return ""
    if serves == Serve.PROVEN:
        return _SERVING[Serve.PROVEN]
    why = NotProven(not_proven) if not_proven is not None else _FAILED.get(Decision(decision))
    yet = " yet" if decision == Decision.HOLD else ""
    gate = "proven" if why is None else f"not proven{yet} ({IN_WORDS[why]})"
    return gate if serves is None else f"{gate}: {_SERVING[Serve(serves)]}"


def run_in_words(run: TrainingRun) -> str:
    """How a training ended, as people read it."""
    if run.status != "completed" or run.verdict is None:
        return run.status
    if run.samples_found is not None:
        return "too few samples: nothing was trained"
    return in_words(run.verdict, run.serves, run.metrics.get(NOT_PROVEN))


def standing_in_words(standing: Standing | None) -> str:
    """Whether what serves is proven, since when, and why not or why no longer; "none yet" where nothing serves."""
    if standing is None:
        return "none yet"
    since, why = (standing.since or "")[:10], f": {standing.why}" if standing.why else ""
    if standing.not_proven is None:
        return f"proven{f' since {since}' if since else ''}{why}"
    code = IN_WORDS[standing.not_proven]
    return f"ended on {since} ({code}){why}" if since else f"not proven yet ({code}){why}"


def model_in_words(row: RegistryRow) -> str:
    """Whether a registered model serves, and as what."""
    if row.is_active:
        return "serves, proven" if row.proven else "serves provisionally"
    return "retired" if row.retired_at else "never served"


def entry_in_words(entry: Promotion) -> str:
    """What an entry of the ledger says was done, as people read it: `promoted` is for what the gate has proven."""
    if entry.action == "activate" and entry.run_id is None:
        done = "rolled back to" if ROLLED_BACK in entry.figures else "activated by hand"
        return f"{done}, {'proven' if entry.proven else 'provisional'}"
    return "promoted" if entry.action == "activate" and entry.proven else _ACTIONS[entry.action]


def virtual_in_words(figures: Mapping[str, Any]) -> str:
    """What a run learned from, and its evidence with virtual outcomes beside the gate's; empty where it used none."""
    if "virtual_samples" not in figures:
        return ""
    learned = f"learned from {figures['reported_samples']} reported and {figures['virtual_samples']} virtual outcomes"
    judged, beside = _auc_in_words(figures, ""), _auc_in_words(figures, "with_virtual_")
    return f"{learned}; judged by reported ones alone: {judged}; with virtual ones: {beside}"


def _auc_in_words(figures: Mapping[str, Any], prefix: str) -> str:
    auc, low, high = (figures.get(f"{prefix}{name}") for name in ("auc", "auc_low", "auc_high"))
    rows = f"{figures.get(f'{prefix}rows', 0):.0f} out of sample"
    return rows if low is None else f"AUC {auc:.3f} [{low:.3f}, {high:.3f}] on {rows}"
