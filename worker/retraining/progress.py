"""How far a training is, told in its job's meta for whoever looks at the queue."""

from __future__ import annotations

import time

import redis
from loguru import logger
from rq import get_current_job

from worker.retraining import json_only  # noqa: F401 - RQ must not unpickle

_EVERY_S = 0.5


class JobProgress:
    """Called by a training with its stage and how much of it is done; outside of a job it does nothing.

    A Redis that cannot be reached costs the training one attempt, and nothing else.
    """

    def __init__(self) -> None:
        self._stage = ""
        self._told_at = 0.0
        self._given_up = False

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Note it: each stage, and within a stage twice a second at most."""
        now = time.monotonic()
        if self._given_up or (stage == self._stage and now - self._told_at < _EVERY_S):
            return
        self._stage, self._told_at = stage, now
        job = get_current_job()
        if job is None:
            return
        job.meta["progress"] = {"stage": stage, "done": done, "total": total}
        try:
            job.save_meta()  # type: ignore[no-untyped-call]
        except redis.RedisError as error:
            self._given_up = True
            logger.warning("how far the training is cannot be told any more: {}", error)
