"""Asking for trainings: whether one is due, the job that does it, and waiting for its end."""

from __future__ import annotations

import time
from typing import Any

import redis
from loguru import logger

from trading_system.ml_refinement.actors import SCHEDULE, acting_user
from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.storage import FeatureDatabase, TrainingRun
from trading_system.ml_refinement.storage.times import utc_now
from trading_system.ml_refinement.training.verdicts import run_in_words
from worker.errors import RefineryError, TransientError
from worker.installation import existing_store, refuse_other_owner
from worker.redis_server.connection import connect, server_url
from worker.retraining.history import training_history
from worker.retraining.policy import RetrainReason, due, retrain_rule
from worker.retraining.queue import RetrainQueue, connect_queue, pending_job, run_id_of, trainers_alive
from worker.settings.schema import Settings
from worker.state_dir import is_locked


def retrain_now(settings: Settings, *, wait: bool) -> dict[str, Any]:
    """Enqueue a retraining, due or not, and how many trainers there are; with `wait`, how its run ended and how its
    candidate serves.

    Raises:
        ConfigurationError: another installation handles the streams.
        RefineryError: there is no store, no trainer took the job in time, or it failed before its training began.
    """
    with (
        existing_store(settings) as store,
        server_url(settings) as url,
        connect_queue(settings.queue_address(url)) as client,
    ):
        with connect(url) as streams:
            refuse_other_owner(settings, streams)
        try:
            job_id = enqueue(settings, store, client)
            run = wait_for(settings, store, client, job_id) if wait else None
            failure = _queue(settings, client).failure(job_id)
            trainers = trainers_alive(client, settings.queue_name)
        except redis.RedisError as error:
            which = "Redis" if settings.queue_url is None else f"the Redis of the queue, {settings.masked_queue_url},"
            raise TransientError(f"{which} does not answer: {error}") from error
        if not wait:
            return {"job_id": job_id, "trainers": trainers}
        if run is None and failure is not None:
            raise RefineryError(f"{job_id} failed: {failure}")
        if run is None:
            raise RefineryError(f"{job_id} was not run: is a trainer running? `refinery trainer`")
        return {
            "job_id": job_id,
            "run_id": run.run_id,
            "status": run.status,
            "verdict": run.verdict,
            "serves": run.serves,
            "words": run_in_words(run),
            "model_id": run.model_id,
            "reason": run.reason,
        }


def reason_if_due(settings: Settings, store: FeatureDatabase) -> RetrainReason | None:
    """Why a training is due now, by the settings and what the store holds; None when it is not."""
    return due(retrain_rule(settings), training_history(store, ModelType.SIGNAL_QUALITY), now=utc_now())


def enqueue_if_due(settings: Settings, store: FeatureDatabase, client: redis.Redis) -> str | None:
    """Ask for a training when one is due, and return its job id. Cheap and idempotent: call it after every batch.

    While history is imported none is asked for: it would see a part of it, and every look is paid for at the gate.
    When Redis cannot be reached, that is logged, and the next call asks again.
    """
    reason = reason_if_due(settings, store)
    if reason is None or is_locked(settings.import_lock_path):
        return None
    try:
        return enqueue(settings, store, client, reason=reason)
    except redis.RedisError as error:
        logger.warning("a training is due ({}) and could not be asked for: {}", reason.value, error)
        return None


def enqueue(
    settings: Settings,
    store: FeatureDatabase,
    client: redis.Redis,
    *,
    reason: RetrainReason = RetrainReason.MANUAL,
    requested_by: str | None = None,
) -> str:
    """Ask for the training after the newest one, due or not, and return its job id.

    Unless it is said who asks, a manual one is asked for by the user of this process.

    However many ask before it begins, there is one job.

    Raises:
        redis.RedisError: the queue cannot be reached now; asking again is harmless.
    """
    after = training_history(store, ModelType.SIGNAL_QUALITY).newest
    queue = _queue(settings, client)
    by = requested_by or (acting_user() if reason is RetrainReason.MANUAL else SCHEDULE)
    asked = queue.enqueue(
        model_type=ModelType.SIGNAL_QUALITY.value,
        after=after,
        reason=reason,
        requested_by=by,
        installation=store.installation_id(),
    )
    if asked.new:
        logger.info("asked for training {} ({}, by {})", asked.job_id, reason.value, by)
    return asked.job_id


def wait_for(
    settings: Settings, store: FeatureDatabase, client: redis.Redis, job_id: str, *, untaken_s: float = 60
) -> TrainingRun | None:
    """The run of job `job_id` once it has ended; None when the job was over without one.

    Args:
        settings: of this process.
        store: where the run's row appears.
        client: from `connect`.
        job_id: from `enqueue`.
        untaken_s: how long the job may wait in the queue while no other training runs.

    Raises:
        StoreError, redis.RedisError: either cannot be reached.
    """
    queue = _queue(settings, client)
    run_id = run_id_of(job_id) or job_id
    give_up_at = time.monotonic() + untaken_s
    while True:
        # The job's state is read first: a job that is over has finished its row.
        state, pending = queue.state(job_id), pending_job(client, settings.queue_name)
        run = store.runs.get(run_id)
        if run is not None and run.status != "running":
            return run
        if pending == "started" or run is not None:
            give_up_at = time.monotonic() + untaken_s
        elif state not in ("queued", "started") or time.monotonic() > give_up_at:
            return None
        time.sleep(0.1)


def _queue(settings: Settings, client: redis.Redis) -> RetrainQueue:
    return RetrainQueue(client, timeout_s=settings.training_timeout_s, name=settings.queue_name)
