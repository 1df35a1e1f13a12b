"""The life of a line of models as the ledger keeps it: provisional, proven, the proof ends, provisional again."""

from __future__ import annotations

from dataclasses import replace

from tests.support.rows import metadata
from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.storage import FeatureDatabase
from trading_system.ml_refinement.storage.tables.models import NOT_PROVEN

QUALITY, RISK = ModelType.SIGNAL_QUALITY, ModelType.RISK_PREDICTOR
ENDED = "skill does not show in what was served of 252 days: AUC 0.503 (t 0.21)"
#: By training: what the gate said, how the candidate serves, why not, and the words for it.
LIFE = (
    ("reject", "provisional", "never_shown", "skill is not shown at level 0.0250: AUC 0.521 (t 1.10)"),
    ("promote", "proven", None, "AUC 0.581 (t 3.02), log loss -0.0061 of the base rate's"),
    ("reject", "no", "not_better", "log loss -0.0040 better than served by m1 on 300 rows"),
    ("reject", "provisional", "never_shown", "skill is not shown at level 0.0012: AUC 0.502 (t 0.10)"),
)


def live(store: FeatureDatabase) -> None:
    """Four trainings, each with a risk model that has a verdict of its own; before the last one the proof ends."""
    for number, (verdict, serves, code, reason) in enumerate(LIFE):
        run_id = f"retrain-{QUALITY}-{number}"
        figures = {"auc": 0.55, **({NOT_PROVEN: code} if code else {})}
        store.runs.start(run_id, QUALITY, {}, label_watermark=0)
        store.register_model(metadata(f"m{number}"))
        store.register_model(replace(metadata(f"risk{number}"), model_type=RISK))
        if number == len(LIFE) - 1:
            store.models.set_proven("m1", False, reason=ENDED, figures={NOT_PROVEN: "skill_not_shown"}, actor="gate")
        store.models.activate(f"risk{number}", reason="0.101 of 240 trades ended below it", proven=True, run_id=run_id)
        if serves == "no":
            store.models.note_verdict("reject", f"m{number}", reason=reason, figures=figures, run_id=run_id)
        else:
            proven = serves == "proven"
            store.models.activate(f"m{number}", reason=reason, figures=figures, proven=proven, run_id=run_id)
        store.runs.finish(
            run_id,
            "completed",
            model_id=f"m{number}",
            verdict=verdict,
            serves=serves,
            metrics={**figures, "reason": reason},
        )
