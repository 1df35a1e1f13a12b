"""The RQ queue of trainings: JSON only, and one job for each training however often it is asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import redis
from loguru import logger
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.retry import Retry
from rq import Queue
from rq.exceptions import DuplicateJobError, NoSuchJobError
from rq.job import Job, JobStatus
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from trading_system.ml_refinement.actors import SCHEDULE
from worker.redis_client import client_at
from worker.retraining import json_only  # noqa: F401 - RQ must not unpickle
from worker.retraining.policy import RetrainReason
from worker.settings.schema import QUEUE_NAME as QUEUE_NAME

#: The one function that a trainer runs.
RETRAIN = "worker.retraining.job.retrain"

_SOCKET_TIMEOUT_S = 10.0
_KEEP_S = 24 * 3600
_OVER = frozenset({JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED})
#: A job that was over before its training began is followed by another one after these pauses, then by none.
_RETRY_AFTER = tuple(timedelta(minutes=minutes) for minutes in (1, 5, 30, 120))


def connect_queue(url: str, *, retries: bool = False) -> redis.Redis:
    """A client of its own for RQ, which changes its pool's timeout and needs replies as bytes."""
    retry = Retry(ExponentialWithJitterBackoff(base=0.1, cap=2), 5) if retries else Retry(NoBackoff(), 0)
    return client_at(
        url,
        decode_responses=False,
        retry=retry,
        socket_timeout=_SOCKET_TIMEOUT_S,
        socket_connect_timeout=_SOCKET_TIMEOUT_S,
    )


def job_id_of(model_type: str, after: int) -> str:
    """Id of the training after the one with token `after`, in its store; its job's id ends like this."""
    return f"retrain-{model_type}-{after}"


def run_id_of(job_id: str) -> str | None:
    """Id of the run that the job or its successors begin; None when this is no id of ours."""
    found = re.fullmatch(r"(?:[A-Za-z0-9_-]+-)?(retrain-[a-z_]+-\d+)(-\d+s-later)?", job_id)
    return found.group(1) if found else None


@dataclass(frozen=True, slots=True)
class Asked:
    """The job that does a training that was asked for, and whether this very call made it."""

    job_id: str
    new: bool


def pending_job(client: redis.Redis, name: str = QUEUE_NAME) -> Literal["queued", "started"] | None:
    """Whether a training waits or runs in the queue `name`. Reads only: no registry is cleaned up in this process."""
    queue = Queue(name, connection=client)
    with client.pipeline(transaction=True) as pipeline:
        pipeline.llen(queue.key)
        pipeline.llen(queue.intermediate_queue_key)
        pipeline.zcount(StartedJobRegistry(queue=queue).key, datetime.now(UTC).timestamp(), "+inf")
        queued, popped, started = pipeline.execute()
    if started:
        return "started"
    return "queued" if queued or popped else None


def trainers_alive(client: redis.Redis, name: str = QUEUE_NAME) -> int:
    """How many trainers of the queue `name` were heard of lately. Reads only, as `pending_job`."""
    keys: Any = client.smembers(WORKERS_BY_QUEUE_KEY % name)
    return int(client.exists(*keys)) if keys else 0  # what RQ keeps of a worker that says nothing more expires


class RetrainQueue:
    """Asks for trainings, and tells whether one is waiting or running.

    Args:
        client: from `connect`.
        timeout_s: a training that takes longer is ended.
        name: of the queue.
    """

    def __init__(self, client: redis.Redis, *, timeout_s: int, name: str = QUEUE_NAME) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._queue = Queue(name, connection=client, serializer=JSONSerializer)
        # All queues of a server share the keys of jobs. Jobs of the usual queue have the ids that they always had.
        self._prefix = "" if name == QUEUE_NAME else f"{name}-"

    def enqueue(
        self,
        *,
        model_type: str,
        after: int,
        reason: RetrainReason,
        requested_by: str = SCHEDULE,
        installation: str | None = None,
    ) -> Asked:
        """Ask for the training that follows the one with token `after`; who asks first is kept.

        With `installation`, the id of a store, no trainer of another store does it.

        However many workers ask, and however often a reply is lost, there is one job, because its id follows from the
        model type and the token. A job that was over before its training began (killed at once, stuck, refused) gets
        a successor, later each time; until then it is the answer.

        Raises:
            redis.RedisError: the queue cannot be reached now; asking again is harmless.
        """
        arguments = {"model_type": model_type, "after": after, "reason": reason.value, "requested_by": requested_by}
        arguments |= {} if installation is None else {"installation": installation}
        first = job_id = self._prefix + job_id_of(model_type, after)
        for pause in (*_RETRY_AFTER, None):
            if self._added(job_id, arguments) or (self._leads_nowhere(job_id) and self._added_anew(job_id, arguments)):
                return Asked(job_id, new=True)
            if pause is None or not self._may_follow(job_id, pause):
                break
            job_id = f"{first}-{pause.seconds}s-later"
        return Asked(job_id, new=False)

    def state(self, job_id: str) -> str | None:
        """RQ's word for the job's state, or None when it is forgotten."""
        status = self._client.hget(Job.key_for(job_id), "status")
        return status.decode() if isinstance(status, bytes) else None

    def result(self, job_id: str) -> Mapping[str, Any] | None:
        """What the job returned, or None when it has not, or its result is forgotten."""
        job = self._fetched(job_id)
        if job is None:
            return None
        value = job.return_value()
        return value if isinstance(value, dict) else None

    def failure(self, job_id: str) -> str | None:
        """What made the job fail, in a line; None when it did not, or is forgotten."""
        job = self._fetched(job_id)
        if job is None:
            return None
        last = job.latest_result()
        lines = ((last.exc_string if last else None) or "").strip().splitlines()
        return lines[-1] if lines else None

    def _added(self, job_id: str, arguments: Mapping[str, Any]) -> bool:
        try:
            self._queue.enqueue_call(
                RETRAIN,
                kwargs=dict(arguments),
                job_id=job_id,
                unique=True,
                timeout=self._timeout_s,
                result_ttl=_KEEP_S,
                failure_ttl=_KEEP_S,
                description=f"{RETRAIN} {json.dumps(arguments, sort_keys=True)}",
            )
        except DuplicateJobError:
            return False  # also what a retried command says whose first reply was lost
        return True

    def _fetched(self, job_id: str) -> Job | None:
        """The job, or None where there is none, or where what anyone wrote under its id is no job."""
        try:
            job = Job.fetch(job_id, connection=self._client, serializer=JSONSerializer)
            job.get_status(refresh=False)
        except (redis.ConnectionError, redis.TimeoutError):
            raise
        except NoSuchJobError:
            return None
        except Exception as error:  # noqa: BLE001 - each of a job's fields fails to be read in a way of its own
            logger.warning("what Redis holds under the job {} is no job: {!r}", job_id, error)
            return None
        return job

    def _leads_nowhere(self, job_id: str) -> bool:
        """Whether what is under the id blocks it and is no job, or one that says it waits and is in no queue."""
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.type(Job.key_for(job_id))
            pipeline.lpos(self._queue.key, job_id)
            pipeline.lpos(self._queue.intermediate_queue_key, job_id)
            pipeline.zscore(StartedJobRegistry(queue=self._queue).key, job_id)
            kind, queued, popped, started = pipeline.execute()
        if kind == b"none" or (queued, popped, started) != (None, None, None):
            return False
        job = self._fetched(job_id)
        return job is None or job.get_status(refresh=False) == JobStatus.QUEUED

    def _added_anew(self, job_id: str, arguments: Mapping[str, Any]) -> bool:
        logger.warning("the training {} could never have run, and is asked for again", job_id)
        self._client.delete(Job.key_for(job_id))
        return self._added(job_id, arguments)

    def _may_follow(self, job_id: str, pause: timedelta) -> bool:
        job = self._fetched(job_id)
        if job is None:
            return False  # forgotten between two commands: the next one who asks starts over
        if job.get_status(refresh=False) not in _OVER:
            return False
        ended = job.ended_at or job.started_at or job.enqueued_at or job.created_at
        return datetime.now(UTC) - ended >= pause
