"""Whether what serves is proven, since when, and why not: read from the ledger, in codes for programs and in words."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from trading_system.ml_refinement.storage.tables.models import NOT_PROVEN, Models, Promotion


class NotProven(StrEnum):
    """Why a score is not proven. A closed set: a consumer may branch on it."""

    NO_MODEL = "no_model"
    TOO_LITTLE_EVIDENCE = "too_little_evidence"
    NEVER_SHOWN = "never_shown"
    WORSE_THAN_BASE_RATE = "worse_than_base_rate"
    NOT_BETTER = "not_better"
    PROOF_EXPIRED = "proof_expired"
    HARM = "harm"
    SKILL_NOT_SHOWN = "skill_not_shown"
    NOT_RECORDED = "not_recorded"


IN_WORDS = {
    NotProven.NO_MODEL: "there is no model yet",
    NotProven.TOO_LITTLE_EVIDENCE: "too little evidence",
    NotProven.NEVER_SHOWN: "skill is not shown",
    NotProven.WORSE_THAN_BASE_RATE: "worse than the base rate",
    NotProven.NOT_BETTER: "no better than what serves",
    NotProven.PROOF_EXPIRED: "the proof has expired",
    NotProven.HARM: "what was served was worse than the base rate",
    NotProven.SKILL_NOT_SHOWN: "skill does not show any more",
    NotProven.NOT_RECORDED: "the ledger does not say why",
}


@dataclass(frozen=True, slots=True)
class Standing:
    """How the model of one type that serves stands.

    `since`: since when what serves has been proven, or when the last proof ended; None where there never was a proof.
    `not_proven` is None for a proven model. `why` are the ledger's words: what proved it, what ended the proof, or what
    the gate said of the model instead.
    """

    model_id: str
    proven: bool
    since: str | None
    not_proven: NotProven | None
    why: str


def read_standing(models: Models, model_type: str) -> Standing | None:
    """How what serves stands; None where nothing serves.

    A proof that ended explains every model after it, until another is proven: the models that follow it are judged by
    the gate afresh, and serve provisionally because of that end.
    """
    active = models.active(model_type)
    if active is None:
        return None
    last = models.last_proof(model_type)
    if active.proven:
        first = models.first_proof_since_the_last_end(model_type)
        return Standing(active.model_id, True, first.at if first else None, None, last.reason if last else "")
    if last is not None and last.action == "demote":
        return Standing(active.model_id, False, last.at, _code(last), last.reason)
    judged = models.last_about(active.model_id)
    return Standing(active.model_id, False, None, _code(judged), judged.reason if judged is not None else "")


def _code(entry: Promotion | None) -> NotProven:
    """The code that an entry keeps; entries of earlier releases, and by hand, have none."""
    told = entry.figures.get(NOT_PROVEN) if entry is not None else None
    return NotProven(told) if told in set(NotProven) else NotProven.NOT_RECORDED


__all__ = ["IN_WORDS", "NotProven", "Standing", "read_standing"]
