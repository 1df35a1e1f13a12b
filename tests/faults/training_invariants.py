"""The invariants of trainings: what serves is whole and is what the ledger says, and every training came to one end."""

from __future__ import annotations

import hashlib
from collections import Counter

import orjson

from trading_system.ml_refinement.models import ModelRegistry
from trading_system.ml_refinement.models.errors import ModelFileRefused
from trading_system.ml_refinement.storage import FeatureDatabase
from worker.installation import open_store
from worker.retraining.queue import run_id_of
from worker.settings.schema import Settings

_VERDICTS = """
    SELECT r.run_id, r.status, r.verdict, r.metrics, r.model_id, (SELECT count(*) FROM promotions AS p
        WHERE p.run_id = r.run_id AND p.model_type = r.model_type AND p.action IN ('activate', 'hold', 'reject'))
    FROM training_runs AS r"""
_ACTIVATIONS = """
    SELECT p.model_type, p.model_id, p.previous_model_id, p.action, p.artefact_sha256, m.artefact_sha256, r.id, r.status
    FROM promotions AS p LEFT JOIN model_registry AS m ON m.model_id = p.model_id
    LEFT JOIN training_runs AS r ON r.run_id = p.run_id
    WHERE p.action IN ('activate', 'retire') ORDER BY p.id"""
_SERVED = """
    SELECT DISTINCT model_id FROM served_scores WHERE model_id IS NOT NULL
        AND model_id NOT IN (SELECT model_id FROM promotions WHERE action = 'activate')"""


def judge_champion(settings: Settings) -> list[str]:
    """What is wrong with the models that serve and with every file that the store knows; nothing, if all is well."""
    with open_store(settings) as store:
        registry = ModelRegistry(model_dir=str(settings.models_dir), db=store)
        found = []
        for row in store.models.history(limit=1000):
            path = settings.models_dir / row.model_path
            if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != row.artefact_sha256:
                found.append(f"the file of {row.model_id} is not the one that was entered")
            elif row.artefact_sha256 is None or not store.artefacts.sound(row.artefact_sha256):
                found.append(f"the store has not got the bytes of {row.model_id}")
            elif row.is_active:
                try:
                    registry.load(row.model_id)
                except ModelFileRefused as error:
                    found.append(f"{row.model_id} serves and cannot be loaded: {error}")
        return found + _ledger(store)


def judge_trainings(settings: Settings, *, fair: tuple[str, ...]) -> list[str]:
    """What is wrong with the trainings, once all of them are over.

    Args:
        settings: of the installation.
        fair: what the words of one that failed may begin with.
    """
    found = judge_champion(settings)
    with open_store(settings) as store:
        for run in store.runs.recent(1000):
            if run.status == "running" and run_id_of(run.run_id):  # a notebook's is not ours to give up
                found.append(f"{run.run_id} says that it runs")
            elif run.status == "failed" and not (run.error_message or "").startswith(fair):
                found.append(f"{run.run_id} failed: {run.error_message}")
        served = [row[0] for row in store._connection.query(_SERVED)]
    return found + [f"{model_id} scored and was never activated" for model_id in served]


def _ledger(store: FeatureDatabase) -> list[str]:
    """The ledger told from its beginning must lead to what serves; a run that had enough samples has a say once."""
    found = []
    for run_id, status, verdict, metrics, model_id, verdicts in store._connection.query(_VERDICTS):
        too_few = verdict == "hold" and orjson.loads(metrics or "{}").get("samples") is not None
        judged = status == "completed" and not too_few
        if verdicts != judged or (model_id is not None) != judged:
            found.append(f"{run_id} was {'' if judged else 'not '}judged: model {model_id}, {verdicts} in the ledger")
    serving: dict[str, str | None] = {}
    newest: Counter[str] = Counter()
    for kind, model_id, previous, action, noted, entered, token, status in store._connection.query(_ACTIVATIONS):
        if previous != serving.get(kind):
            found.append(f"the ledger has {model_id} replace {previous}, when {serving.get(kind)} served")
        if action == "activate" and (noted != entered or status != "completed" or token <= newest[kind]):
            found.append(f"{model_id} was activated by training {token} ({status}), after {newest[kind]}")
        serving[kind] = model_id
        newest[kind] = token or newest[kind]
    active = dict(store._connection.query("SELECT model_type, model_id FROM model_registry WHERE is_active = 1"))
    count = store._connection.query("SELECT count(*) FROM model_registry WHERE is_active = 1")[0][0]
    if active != {kind: model_id for kind, model_id in serving.items() if model_id} or count != len(active):
        found.append(f"{active} serve, and by the ledger {serving}")
    return found
