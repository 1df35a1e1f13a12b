"""The training itself, as the trainer runs it, and what is noticed between trainings."""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis
from loguru import logger

from trading_system.ml_refinement.actors import UNKNOWN
from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.storage import FeatureDatabase, StoreError, StoreMoved
from trading_system.ml_refinement.storage.times import utc_now
from worker.errors import ConfigurationError, RefineryError, TransientError
from worker.installation import open_store, refuse_other_owner
from worker.redis_server.connection import connect
from worker.retraining.history import KILLED
from worker.retraining.lease import TRAINING, take_lease, training_lease
from worker.retraining.progress import JobProgress
from worker.retraining.queue import RETRAIN, connect_queue, job_id_of, run_id_of
from worker.retraining.requests import enqueue_if_due
from worker.retraining.rq_worker import ForbiddenJob, TrainingFailed, work_until_stopped
from worker.settings.schema import Settings
from worker.state_dir import refuse_half_restored, take_lock
from worker.supervision.leases import give_back

if TYPE_CHECKING:
    from trading_system.ml_refinement.labelling.rules import LabellingRule
    from trading_system.ml_refinement.training.pipeline import TrainingResult

_LEARNING = "trading_system.ml_refinement.training.pipeline"
_RECENT = 50


def run_trainer(settings: Settings, url: str, stop: threading.Event) -> None:
    """The trainer process: runs trainings one at a time until `stop` is set. Call it in the main thread.

    Args:
        settings: of this process.
        url: address of the server, embedded or not.
        stop: set by SIGTERM and SIGINT.
    """
    importlib.import_module(_LEARNING)  # once, before the children are forked
    with connect(url) as streams, connect_queue(settings.queue_address(url)) as client:
        work_until_stopped(
            settings,
            settings.queue_address(url),
            functions={RETRAIN: partial(retrain, settings)},
            housekeeping=partial(housekeeping, settings, client, streams=streams),
            stop=stop,
        )


def retrain(
    settings: Settings,
    *,
    model_type: str,
    after: int,
    reason: str,
    requested_by: str = UNKNOWN,
    installation: str | None = None,
) -> Mapping[str, Any]:
    """Train once, and let the gate decide. The job function: arguments and result are plain JSON values.

    The result has the gate's `verdict`, and how the candidate `serves`: two answers. With too few samples nothing is
    trained: the result is `completed`, its verdict `hold`, `serves` None, and its reason says how few.

    Has the right to train from beginning to end, so that there is one training at a time however many trainers there
    are, on whichever hosts. Who takes it marks what still says `running` as killed, in the same transaction: a trainer
    that lost the right, because its host stood still, finds its run given up and activates nothing.

    Args:
        settings: of the trainer.
        model_type: what is trained.
        after: token of the newest training when this one was asked for. When another has begun since, this job is a
            leftover (RQ ran it twice, or it waited) and nothing is done.
        reason: why it was asked for.
        requested_by: who asked for it.
        installation: id of the store that it was asked for; None: whoever asked did not say.

    Raises:
        TrainingFailed: the training failed in a way that is known by name; what is not, is raised as it is.
        ForbiddenJob: this release trains no such model.
        ConfigurationError: a restore was interrupted, there is no store, or it is not the one that was asked for.
        RefineryError: the store was removed, moved or replaced while it was trained on; nothing came of it.
    """
    if model_type != ModelType.SIGNAL_QUALITY:
        raise ForbiddenJob(f"there is no training of {model_type[:200]!r}")
    refuse_half_restored(settings)
    if not settings.store_is_there:  # an empty one in its place would say that there is nothing to learn
        raise ConfigurationError(f"there is no store in {settings.state_dir}, so this trainer cannot do a training")
    with (
        _lost_store_named(),
        _no_restore(settings.training_lock_path),
        closing(_asked_for_here(settings, installation)) as store,
        training_lease(settings, store, first=sweep),
    ):
        newest = store.runs.last(model_type)
        if (newest.token if newest else 0) != after:
            return {"status": "skipped", "reason": f"a training has begun since training {after}"}
        run_id = job_id_of(model_type, after)
        logger.info("training {} begins ({}, asked for by {})", run_id, reason, requested_by)
        result = _train(settings, store, run_id, requested_by)
        if result.status == "failed" or result.model_id is not None:
            _monitor_after_training(settings, store)
    if result.status == "failed":
        raise TrainingFailed(result.reason)
    return {
        "run_id": run_id,
        "status": result.status,
        "verdict": None if result.verdict is None else result.verdict.decision.value,
        "serves": None if result.verdict is None or result.model_id is None else result.verdict.serve.value,
        "model_id": result.model_id,
        "reason": result.reason,
    }


def _asked_for_here(settings: Settings, installation: str | None) -> FeatureDatabase:
    """The store of this trainer, if it is the one that the training was asked for."""
    store = open_store(settings)
    if installation is not None and store.installation_id() != installation:
        store.close()
        raise ConfigurationError(
            f"the training was asked for by another installation than that of {settings.state_dir}: "
            "compare REFINERY_STATE_DIR and REFINERY_REDIS_URL of this trainer and of the workers"
        )
    return store


@contextmanager
def _lost_store_named() -> Iterator[None]:
    """A store that is lost under a training is a line for the operator, and the job failed: it is asked for again."""
    try:
        yield
    except StoreMoved as error:
        raise RefineryError(f"the training came to nothing: {error}") from error


def housekeeping(settings: Settings, client: redis.Redis, *, streams: redis.Redis | None = None) -> None:
    """Gives up trainings whose process is gone, asks for what is due, and looks for drift. What fails, it logs.

    Args:
        settings: of the trainer.
        client: of the queue's server.
        streams: of the streams' server; None: it is the same.
    """
    try:
        refuse_other_owner(settings, streams or client)
        with closing(open_store(settings)) as store:
            _tidy_up(settings, store)
            enqueue_if_due(settings, store, client)
            _monitor_on_schedule(settings, store, client)
    except (StoreError, ConfigurationError, TransientError, OSError) as error:
        logger.warning("the store could not be looked after: {}", error)


def _tidy_up(settings: Settings, store: FeatureDatabase) -> None:
    """After trainings that were killed; while nobody trains, and nobody restores a backup."""
    lock = take_lock(settings.training_lock_path, shared=True)
    if lock is None:
        return
    try:
        token = take_lease(store, first=sweep)
        if token is not None:
            try:
                _look_after_models(settings, store)
            finally:
                give_back(store, TRAINING, token)
    finally:
        os.close(lock)


def sweep(store: FeatureDatabase) -> list[str]:
    """Mark our trainings that still say `running` as killed; the caller has the right to train, so none of them is."""
    swept = []
    for run in store.runs.recent(_RECENT):
        if run.status == "running" and run_id_of(run.run_id) == run.run_id:
            message = f"{KILLED}: the process that trained it ended without a word"
            if store.runs.finish(run.run_id, "failed", error_message=message):
                logger.warning("training {} was killed; the champion stays as it was", run.run_id)
                swept.append(run.run_id)
    return swept


def _look_after_models(settings: Settings, store: FeatureDatabase) -> None:
    # Both need the learning stack, and this module is imported for its name alone.
    from trading_system.ml_refinement.models.artefact import remove_leftovers
    from trading_system.ml_refinement.models.model_registry import ModelRegistry

    if removed := remove_leftovers(settings.models_dir):
        logger.info("removed {} half-written files of trainings that were killed", removed)
    if taken := ModelRegistry.from_config(settings.to_ml_config(), store).take_over():
        logger.info("{} models that were in files alone are in the store from now on", taken)


@contextmanager
def _no_restore(path: Path, *, poll_s: float = 0.2) -> Iterator[None]:
    """Waits for a restore to end, and keeps others from beginning; the kernel lets go of it when the process dies."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = take_lock(path, shared=True)
    while lock is None:
        time.sleep(poll_s)
        lock = take_lock(path, shared=True)
    try:
        yield
    finally:
        os.close(lock)


def _train(settings: Settings, store: FeatureDatabase, run_id: str, requested_by: str) -> TrainingResult:
    # Here, because it takes seconds to load, and of all who ask for trainings only the trainer needs it.
    from trading_system.ml_refinement.features.pipeline import FeaturePipeline
    from trading_system.ml_refinement.models.model_registry import ModelRegistry
    from trading_system.ml_refinement.training.pipeline import train

    ml = settings.to_ml_config()
    pipeline = FeaturePipeline(ml.features)
    return train(
        store,
        ModelRegistry.from_config(ml, store),
        ml,
        pipeline_names=pipeline.names,
        feature_version=pipeline.feature_version,
        clock=utc_now,
        run_id=run_id,
        label_watermark=store.counts().labels_total,
        progress=JobProgress(),
        requested_by=requested_by,
        label=partial(_label, settings, store),
    )


def _label(settings: Settings, store: FeatureDatabase, rule: LabellingRule, since: str) -> None:
    """Bring the virtual outcomes up to date; where that cannot be done now, train with those there are."""
    from worker.maintenance.labelling import labelling  # with numpy, as the training

    try:
        with labelling(settings, store, rule) as job:
            done = job.run(since=since)
    except (StoreError, TransientError) as error:
        logger.warning("no virtual outcomes were added: {}", error)
        return
    logger.info("virtual outcomes: {} with an R added, {} trades are open", done.with_r, done.open)


def _monitor_after_training(settings: Settings, store: FeatureDatabase) -> None:
    """The training is done and kept: whatever goes wrong here is told, and changes nothing about it."""
    from worker.retraining.monitoring import monitor  # needs the learning stack, as the training does

    try:
        monitor(settings, store, cause="training")
    except Exception:  # noqa: BLE001 - as said above
        logger.exception("monitoring failed")


def _monitor_on_schedule(settings: Settings, store: FeatureDatabase, client: redis.Redis) -> None:
    # Needs the learning stack, and this module is imported for its name alone.
    from worker.retraining.monitoring import monitor_if_due

    try:
        monitor_if_due(settings, store, client)
    except Exception:  # noqa: BLE001 - the trainer goes on training
        logger.exception("monitoring failed")
