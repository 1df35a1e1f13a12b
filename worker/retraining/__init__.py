"""When to retrain, the queue of trainings, the training, and the process that does it."""

from worker.retraining.job import (
    enqueue,
    enqueue_if_due,
    housekeeping,
    reason_if_due,
    retrain,
    run_trainer,
    wait_for,
)
from worker.retraining.queue import RetrainQueue, connect, forbid_pickle, pending_job
from worker.retraining.rule import RetrainReason, RetrainRule, due
from worker.training_history import TrainingHistory, training_history

__all__ = [
    "RetrainQueue",
    "RetrainReason",
    "RetrainRule",
    "TrainingHistory",
    "connect",
    "due",
    "enqueue",
    "enqueue_if_due",
    "forbid_pickle",
    "housekeeping",
    "pending_job",
    "reason_if_due",
    "retrain",
    "run_trainer",
    "training_history",
    "wait_for",
]
