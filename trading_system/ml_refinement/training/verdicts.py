"""What the gate says of a candidate, and whether it serves: two answers, and the words for both."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum


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

    `reasons` are the gate's; `serving` is why the candidate serves as it does where the gate's answer does not say it.
    """

    decision: Decision
    serve: Serve
    rule: str
    reasons: tuple[str, ...]
    figures: dict[str, float] = field(default_factory=dict)
    serving: str = ""

    @property
    def reason(self) -> str:
        """The reasons as one line."""
        return "; ".join((*self.reasons, self.serving) if self.serving else self.reasons)

    def beside_a_pin(self, model_id: str, pinned_by: str) -> Verdict:
        """The same verdict where the operator keeps another model: the candidate is watched and does not serve."""
        return replace(self, serve=Serve.NO, serving=f"{model_id} is pinned by {pinned_by}: scores in the shadow")


_GATE = {Decision.PROMOTE: "proven", Decision.HOLD: "not proven yet", Decision.REJECT: "not proven"}
_SERVING = {Serve.PROVISIONAL: "serves provisionally", Serve.NO: "does not serve"}


def in_words(decision: str | None, serves: str | None) -> str:
    """A verdict as people read it: `promoted` for what serves as proven, the gate's answer and the serving else.

    Args:
        decision: a value of `Decision`; None: the gate was not asked.
        serves: a value of `Serve`; None: there is no candidate, and the words are the gate's alone.

    Example:
        >>> in_words("reject", "provisional")
        'not proven: serves provisionally'
    """
    if decision is None:
        return ""
    if serves == Serve.PROVEN:
        return "promoted"
    gate = _GATE[Decision(decision)]
    return gate if serves is None else f"{gate}: {_SERVING[Serve(serves)]}"
