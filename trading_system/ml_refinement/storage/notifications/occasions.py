"""Which changes of the store somebody is told of, by kind. A closed set: receivers may branch on it."""

from __future__ import annotations

from enum import StrEnum

#: What the scores that are published come from. Of the models beside it only what takes them out of service is told.
_SCORES = "signal_quality"


class Occasion(StrEnum):
    """What a notification is about."""

    PROOF_GAINED = "proof_gained"
    PROOF_ENDED = "proof_ended"
    DEMOTION = "demotion"
    ROLLBACK = "rollback"
    ALARM = "alarm"
    DEAD_LETTER_BURST = "dead_letter_burst"
    TRAINING_FAILED = "training_failed"


def of_ledger(
    action: str, model_type: str, *, was_proven: bool, is_proven: bool, rolled_back: bool = False
) -> Occasion | None:
    """What an entry of the ledger is, or None where nobody is told of it.

    A proof is gained when what serves was not proven before, so a refresh of a proven model is none. Where a proof is
    ended by what was served or by its age that is `PROOF_ENDED`; where a proven model gives way to one that is not, or
    a model stops serving with none in its place, it is a demotion.

    Args:
        action: the ledger's.
        model_type: of the model.
        was_proven: what served before.
        is_proven: what serves then.
        rolled_back: whether it is a rollback.
    """
    if rolled_back:
        return Occasion.ROLLBACK
    of_scores = model_type == _SCORES
    if action in ("prove", "activate") and is_proven and not was_proven:
        return Occasion.PROOF_GAINED if of_scores else None
    if action == "demote":
        return Occasion.PROOF_ENDED if of_scores else Occasion.DEMOTION
    if action == "retire" or (action == "activate" and was_proven and not is_proven):
        return Occasion.DEMOTION
    return None
