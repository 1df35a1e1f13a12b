"""Schedules in which trainings are killed: real RQ trainers, and a store with labels for a training of a second."""

from __future__ import annotations

import os
import signal as signals
import time
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import timedelta
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import psutil
import redis
from rq import Queue
from rq.intermediate_queue import IntermediateQueue
from rq.serializers import JSONSerializer

from tests.faults.crash_points import CONNECTIONS, Fuse
from tests.faults.fault_harness import ScheduleRun
from tests.faults.invariants import Verdict
from tests.faults.schedules import Life
from tests.faults.training_invariants import judge_champion, judge_trainings
from tests.support.desk import settings_for
from tests.support.events import START
from tests.support.processes import fork
from tests.support.rows import vector
from tests.support.waiting import HANGS_AFTER_S, comes_true
from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.features.pipeline import FeaturePipeline
from trading_system.ml_refinement.models import artefact
from trading_system.ml_refinement.models.model_registry import ModelRegistry
from trading_system.ml_refinement.storage import FeatureDatabase, OutcomeRow, SqliteConnection
from trading_system.ml_refinement.storage.connection import Connection
from trading_system.ml_refinement.storage.postgres import connection as postgres
from trading_system.ml_refinement.storage.tables.models import Models
from trading_system.ml_refinement.storage.tables.runs import Runs
from trading_system.ml_refinement.storage.times import utc_now, utc_text
from trading_system.ml_refinement.training import backtest, pipeline as training
from worker.installation import open_store
from worker.retraining import job, lease, queue, rq_worker as trainer
from worker.retraining.history import training_history
from worker.retraining.job import retrain, run_trainer
from worker.retraining.queue import QUEUE_NAME, RETRAIN, connect_queue
from worker.retraining.requests import enqueue
from worker.settings.schema import Settings
from worker.state_dir import take_lock
from worker.supervision.signals import stop_on_signals

TYPE = ModelType.SIGNAL_QUALITY.value
#: A training of it takes a second or two, and its candidate passes the gate.
QUICK_LEARNING = {
    "features": {"feature_set": "minimal"},
    "training": {"min_training_samples": 30, "min_validation_samples": 10, "hyperparameters": {"max_iter": 8}},
}
_PAST = 160
#: How long a round lasts in which nobody has to come to a crash point.
_ROUND_S = 6.0
_STOPPED_S = 3.0


class TrainingRun(ScheduleRun):
    """A run with trainers, and with or without a model that serves at the beginning."""

    _changes: ClassVar[dict[str, Any]] = {"ml": QUICK_LEARNING, "shutdown_grace_s": 5}
    #: How a training may fail here: the beginnings of what it says then. Anything else is a finding.
    _fair: ClassVar[tuple[str, ...]] = ("killed", "stale_activation")

    def _set_up(self) -> None:
        make_quick()
        self.stores.copy(self._prepared(), self._state)
        self._notes = self._state / "kills"
        self._notes.mkdir()

    def _prepared(self) -> Path:
        """A store full of labels, as it is before and after its first training; made once for each harness."""
        kept = self._harness.directory / ("learned" if self._made.champion else "labelled")
        if not kept.exists():
            growing = kept.with_suffix(".new")
            self.stores.copy(self._harness.template, growing)
            settings = settings_for(growing, self._url, **self._changes, **self.stores.settings(growing))
            # In a child, so that this process never trains: what it forks could not go on with its threads.
            _, status = os.waitpid(fork(lambda: fill(settings, train=self._made.champion)), 0)
            if status:
                raise RuntimeError("the store to train on could not be made")
            self.stores.rename(growing, kept)
        return kept

    def _round(self, lives: list[Life], events: list[tuple[str, bytes]]) -> None:
        started = time.monotonic()
        children = {fork(partial(self._live, place, life)): life for place, life in enumerate(lives)}
        try:
            self._ask(self._made.copies)
            for event in events:
                self._send(*event)
            self._disturb()
            self._watch_over(children, started)
        finally:
            for pid in children:
                _signal([pid, *_horses(pid)], signals.SIGCONT)
                with suppress(ProcessLookupError):  # the one whose end was the finding that ended this round
                    self._kill(pid)
        self._wait_for_horses()
        if self._made.kind.startswith("at ") and not any(self._notes.iterdir()):
            self.between.append("nobody came to the crash point")
        self._count_horses()
        self.between += judge_champion(self._settings(0, Life()))

    def _watch_over(self, children: dict[int, Life], started: float) -> None:
        """Until a little after each had what was in store for it; those that have ended are taken out."""
        certain = self._made.kind.startswith("at ")
        ends = dict.fromkeys(children, started + (HANGS_AFTER_S if certain else _ROUND_S))
        stopped: dict[int, float] = {}
        while children and time.monotonic() < max(ends[pid] for pid in children):
            self._do_what_is_due(started)
            for pid, life in list(children.items()):
                if self._ended(pid):
                    del children[pid]
                elif life.role == "trainer":
                    self._treat_trainer(pid, life, time.monotonic() - started, stopped)
                    if self._note_of(life).exists() or stopped.get(pid, 0) < 0:
                        ends[pid] = min(ends[pid], time.monotonic() + self._rng.uniform(0, 0.7))
            time.sleep(0.005)
        self._do_what_is_due(float("-inf"))

    def _treat_trainer(self, pid: int, life: Life, age_s: float, stopped: dict[int, float]) -> None:
        if life.kill_after_s is not None and age_s >= life.kill_after_s and not self._note_of(life).exists():
            victims = {"horse": _horses(pid), "trainer": [pid], "both": [pid, *_horses(pid)]}[life.victim]
            if victims:
                self._note_of(life).write_text(str(len(victims) - (pid in victims)))
                _signal(victims, signals.SIGKILL)
        elif life.stop_after_s is not None and pid not in stopped and age_s >= life.stop_after_s:
            if victims := _horses(pid) if life.victim == "horse" else [pid]:
                _signal(victims, signals.SIGSTOP)
                stopped[pid] = age_s
        elif stopped.get(pid, -1) >= 0 and age_s >= stopped[pid] + _STOPPED_S:
            _signal([pid, *_horses(pid)], signals.SIGCONT)
            stopped[pid] = -1

    def _wait_for_horses(self) -> None:
        """The kernel ends them with their trainer; a moment later."""
        lock = self._settings(0, Life()).training_lock_path
        comes_true(lambda: _free(lock))

    def _count_horses(self) -> None:
        self.killed += sum(int(note.read_text() or 1) for note in self._notes.iterdir())
        for note in self._notes.iterdir():
            note.unlink()

    def _ask(self, copies: int) -> None:
        """Ask for a training as an operator does; and let RQ have the same job several times, as after a lost reply."""
        settings = self._settings(0, Life())
        with open_store(settings) as store, connect_queue(self._url) as client:
            after = training_history(store, TYPE).newest
            enqueue(settings, store, client)
            jobs = Queue(QUEUE_NAME, connection=client, serializer=JSONSerializer)
            for _ in range(copies - 1):
                jobs.enqueue_call(RETRAIN, kwargs={"model_type": TYPE, "after": after, "reason": "manual"})

    def _note_of(self, life: Life) -> Path:
        place = next(n for n, one in enumerate(chain.from_iterable(self._made.rounds)) if one is life)
        return self._notes / str(place)

    def _live(self, slot: int, life: Life) -> None:
        settings = self._settings(slot, life)
        if life.role == "notebook":
            time.sleep(life.begin_after_s)
            train_in_a_notebook(settings)
            return
        if life.role != "trainer":
            super()._live(slot, life)
            return
        if life.crash_point is not None:
            arm_training(life.crash_point, life.nth, life.victim, self._note_of(life))
        run_trainer(settings, self._url, stop_on_signals())

    def _finish(self) -> bool:
        """An undisturbed trainer, beside the undisturbed worker, completes what is asked for now."""
        settings = self._settings(8, Life())
        with open_store(settings) as store:
            before = training_history(store, TYPE).newest
        self._ask(1)
        pid = fork(lambda: self._live(9, Life(role="trainer")))
        try:
            quiet = super()._finish()
            with open_store(settings) as store, connect_queue(self._url) as client:
                trained = self._trained(settings, store, client, after=before)
        finally:
            os.kill(pid, signals.SIGTERM)
            comes_true(lambda: self._ended(pid))
        return quiet and trained

    def _trained(self, settings: Settings, store: FeatureDatabase, client: redis.Redis, *, after: int) -> bool:
        deadline = time.monotonic() + HANGS_AFTER_S
        while time.monotonic() < deadline:
            newest = store.runs.last(TYPE)
            if newest is not None and newest.token > after and newest.status == "completed":
                return queue.pending_job(client) is None or comes_true(lambda: queue.pending_job(client) is None)
            if newest is None or newest.status != "running":
                enqueue(settings, store, client)
            time.sleep(0.05)
        return False

    def _judge(self) -> Verdict:
        verdict = super()._judge()
        verdict.other += judge_trainings(self._settings(0, Life()), fair=self._fair)
        return verdict


def fill(settings: Settings, *, train: bool) -> None:
    """Labelled signals of the months before the schedule, from which there is something to learn; and one training."""
    pipeline = FeaturePipeline(settings.to_ml_config().features)
    rng = np.random.default_rng(1)
    X = rng.normal(size=(_PAST, len(pipeline.names)))
    rows, outcomes = [], []
    for number in range(_PAST):
        at = START - timedelta(hours=18 * (_PAST - number) + 48)
        name = f"past-{number}"
        rows.append(
            vector(
                name,
                timestamp=utc_text(at),
                feature_version=pipeline.feature_version,
                event_hash=number.to_bytes(16, "big"),
                entry_id=None,  # no stream brought it
            )
        )
        won = rng.random() < 1 / (1 + np.exp(-1.2 * X[number, :4].sum()))
        outcomes.append(OutcomeRow(name, 0, utc_text(at + timedelta(days=1)), 1.5 if won else -1.0))
    with closing(open_store(settings)) as store:
        with store.atomic():
            store.vectors.insert_new(rows, pipeline.names, X)
            store.outcomes.record(outcomes)
        if train:
            retrain(settings, model_type=TYPE, after=0, reason="manual")
            if store.models.active_id(TYPE) is None:
                raise RuntimeError("the first training gave no model that serves")


def train_in_a_notebook(settings: Settings) -> None:
    """A training by the library's own interface: no queue, no lock, nobody asked."""
    ml = settings.to_ml_config()
    pipeline = FeaturePipeline(ml.features)
    with closing(open_store(settings)) as store:
        training.train(
            store,
            ModelRegistry.from_config(ml, store),
            ml,
            pipeline_names=pipeline.names,
            feature_version=pipeline.feature_version,
            clock=utc_now,
            run_id=f"notebook-{time.time_ns()}",
            label_watermark=store.counts().labels_total,
        )


def make_quick() -> None:
    """Let this process and its children wait seconds where RQ and we wait minutes before a dead trainer is given up.

    And wait minutes for the store, which somebody who was stopped may hold: how long is the schedule's affair.
    """
    (SqliteConnection.__init__.__kwdefaults__ or {})["busy_timeout_ms"] = int(1000 * HANGS_AFTER_S)
    postgres._LOCK_WAIT_MS = int(1000 * HANGS_AFTER_S)
    # A trainer that stands still for as long as a schedule has it stand loses the right to train.
    lease.LEASE_S, lease._RENEWED_EVERY_S, lease._POLL_S = 2, 0.3, 0.1  # type: ignore[misc]
    trainer._MAINTENANCE_S = trainer._HEARTBEAT_S = 1
    trainer._WORKER_TTL_S = 16  # RQ looks up from its queue fifteen seconds earlier
    trainer.TrainerWorker.get_heartbeat_ttl = lambda *_, **__: 2  # type: ignore[method-assign]
    queue._RETRY_AFTER = tuple(timedelta(seconds=number, milliseconds=50) for number in range(4))
    IntermediateQueue.should_be_cleaned_up = lambda *_: True  # type: ignore[method-assign]


def arm_training(crash_point: str, nth: int, victim: str, note: Path) -> None:
    """Make a training that this trainer runs kill somebody, once, when it comes to the crash point for the nth time."""
    parent = os.getpid()

    def die() -> None:
        if os.getpid() == parent or note.exists():
            return
        note.write_text("0" if victim == "trainer" else "1")
        if victim != "horse":
            os.kill(parent, signals.SIGKILL)
        os.kill(os.getpid(), signals.SIGKILL)

    around = Fuse(nth, die).around
    settling = False

    def settle(original: Callable[..., None] = training._Run._still_ours) -> Callable[..., None]:
        def noticed(run: training._Run) -> None:
            nonlocal settling
            original(run)
            settling = True

        return noticed

    def is_activation(_: Connection) -> bool:
        return settling

    def is_model(path: Path, *_: object, **__: object) -> bool:
        return path.name.endswith(".tmp")

    match crash_point:
        case "job taken":
            around(trainer, "die_with_parent")
        case "lock held":
            around(job, "sweep", before=True)
        case "run entered":
            around(Runs, "start")
        case "data read":
            around(training, "read_dataset")
        case "folds done":
            around(backtest, "walk_forward")
        case "fitted":
            around(training._Run, "_candidates")
        case "before file":
            around(artefact, "write_file", before=True)
        case "file written":
            around(Path, "replace", before=True, only=is_model)
        case "file renamed":
            around(Path, "replace", only=is_model)
        case "model entered":
            around(Models, "register")
        case "settling":
            around(training._Run, "_still_ours")
        case "activated":
            around(Models, "activate")
        case "before activation commits" | "after activation committed":
            training._Run._still_ours = settle()  # type: ignore[method-assign]
            for engine in CONNECTIONS:
                around(engine, "_commit", before=crash_point.startswith("before"), only=is_activation)
        case "watched":
            around(job, "_monitor_after_training")
        case "returned":
            around(job, "retrain")


def _horses(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.NoSuchProcess:
        return []


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _free(path: Path) -> bool:
    lock = take_lock(path)
    if lock is not None:
        os.close(lock)
    return lock is not None
