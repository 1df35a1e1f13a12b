"""Back to the model that served before, by the ledger; rolling back twice goes back two steps."""

from __future__ import annotations

from collections.abc import Iterable

from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.models.model_registry import ModelRegistry
from trading_system.ml_refinement.storage.errors import UnknownModel
from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.storage.tables.models import ROLLED_BACK, Promotion

_LEDGER = 10_000


def predecessors(ledger: Iterable[Promotion]) -> list[str]:
    """Models that served before the one that serves, the latest first.

    Args:
        ledger: entries of one model type, oldest first.
    """
    served: list[str] = []
    for entry in ledger:
        if entry.action != "activate" or entry.model_id is None:
            continue
        if ROLLED_BACK in entry.figures and entry.model_id in served:
            while served[-1] != entry.model_id:
                served.pop()
        elif not served or served[-1] != entry.model_id:
            served.append(entry.model_id)
    return served[-2::-1]


def roll_back(db: FeatureDatabase, registry: ModelRegistry, model_type: ModelType, *, reason: str) -> tuple[str, str]:
    """Let the model that served before serve again, as proven as it was: (the one that served, the one that does now).

    Raises:
        UnknownModel: no model serves, or none served before it.
        ModelFileRefused: the earlier one's file cannot be trusted; what served goes on serving.
        StaleActivation: another model was activated in between.
    """
    active = db.models.active_id(model_type.value)
    if active is None:
        raise UnknownModel("no model serves: there is nothing to roll back")
    earlier = predecessors(reversed(db.models.promotions(_LEDGER, model_type.value)))
    if not earlier:
        raise UnknownModel(f"no model served before {active}")
    registry.activate(earlier[0], reason=reason, figures={ROLLED_BACK: active}, expected_active=active)
    return active, earlier[0]
