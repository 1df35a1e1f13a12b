"""The trainer process: an RQ worker that runs what it was given by name, and nothing else."""

from __future__ import annotations

import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from types import FrameType
from typing import Any

import redis
from loguru import logger
from rq import Queue, Worker
from rq.exceptions import NoSuchJobError, StopRequested
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.timeouts import JobTimeoutException, UnixSignalDeathPenalty

from worker.errors import RefineryError
from worker.retraining.queue import connect_queue
from worker.settings.schema import Settings
from worker.streams.errors import cause_of
from worker.supervision.backoff import Backoff
from worker.supervision.parent_death import die_with_parent
from worker.supervision.service_manager import ServiceManager
from worker.supervision.signals import stop_on_signals

JobFunction = Callable[..., Mapping[str, Any]]

_MAINTENANCE_S = 30
_HEARTBEAT_S = 5
_WORKER_TTL_S = 45
#: RQ's loop ends by itself when it is told to: this keeps one that ends at once from spinning.
_AGAIN_S = 0.5


class ForbiddenJob(RefineryError):
    """A job asks for a function that trainers do not run."""


class TrainingFailed(RefineryError):
    """A training failed, and its run says so: RQ has a failed job then, with the reason as its last line."""


class TrainingTimedOut(BaseException):
    """The training took longer than allowed. Not an `Exception`, so that no broad handler in between goes on."""


class _Deadline(UnixSignalDeathPenalty):
    def __init__(self, timeout: int, exception: type[BaseException] = JobTimeoutException, **kwargs: Any) -> None:
        strict = TrainingTimedOut if exception is JobTimeoutException else exception
        super().__init__(timeout, strict, **kwargs)  # type: ignore[no-untyped-call]


class TrainerJob(Job):
    """A job whose function is looked up in `functions`, and never imported.

    It has no callbacks and no webhooks, and RQ does not run it again: when the next training is due, the store says.
    What cannot be read as a job is none, so that RQ drops it from wherever it is named, and the trainer goes on.
    """

    functions: Mapping[str, JobFunction] = {}

    def restore(self, raw_data: Any) -> None:
        """What Redis holds of the job, without what would have RQ run it again.

        Raises:
            NoSuchJobError: it is no job.
        """
        try:
            super().restore(raw_data)
        except NoSuchJobError:
            raise
        except Exception as error:  # each of a job's fields fails to be read in a way of its own
            raise self._no_job(error) from error
        self.retries_left = self.repeats_left = None

    def refresh(self) -> None:
        """Read the job again.

        Raises:
            NoSuchJobError: there is none, or something else under its key.
            redis.RedisError: Redis cannot be asked now.
        """
        try:
            super().refresh()  # type: ignore[no-untyped-call]
        except redis.ResponseError as error:
            if not _is_garbage(error):
                raise
            raise self._no_job(error) from error

    def _no_job(self, error: Exception) -> NoSuchJobError:
        logger.warning("what Redis holds under the job {} is no job, and is passed over: {!r}", self.id[:200], error)
        return NoSuchJobError(f"{self.key!r} is no job")

    @property
    def func(self) -> JobFunction:
        """The function of this name.

        Raises:
            ForbiddenJob: there is none, or the job asks for a method of an object.
        """
        name = self.func_name
        if self.instance is not None or name not in self.functions:
            raise ForbiddenJob(f"a trainer does not run {str(name)[:200]!r}")
        return self.functions[str(name)]

    @property
    def success_callback(self) -> None:
        """None: what is named in the job is not imported."""

    @property
    def failure_callback(self) -> None:
        """None: what is named in the job is not imported."""

    @property
    def stopped_callback(self) -> None:
        """None: what is named in the job is not imported."""

    def send_webhooks(self, status: Any, *, exc_string: str | None = None) -> None:
        """Sends nothing: an address in Redis is not one of ours."""


class TrainerQueue(Queue):
    """A queue that may hold garbage. Its lock on cleaning up ends soon after the trainer that held it was killed."""

    @classmethod
    def dequeue_any(cls, queues: Iterable[Queue], *arguments: Any, **named: Any) -> Any:
        """RQ's own, which would end the trainer over an id that is no text."""
        while True:
            try:
                return super().dequeue_any(queues, *arguments, **named)
            except UnicodeDecodeError as error:
                logger.warning(
                    "what waits in the queue of trainings is no id of a job, and is passed over: {!r}", error
                )
                for queue in queues:
                    _drop_what_is_no_id(queue)

    def acquire_maintenance_lock(self) -> bool:
        """RQ's own is held for a quarter of an hour, and abandoned trainings wait for it."""
        return bool(self.connection.set(self.registry_cleaning_key, 1, nx=True, ex=2 * _MAINTENANCE_S))


def _is_garbage(error: redis.RedisError) -> bool:
    """Whether a key is of another type than RQ's, which no waiting mends."""
    return isinstance(error, redis.ResponseError) and str(error).startswith("WRONGTYPE")


def _drop_what_is_no_id(queue: Queue) -> None:
    popped: Any = queue.connection.lrange(queue.intermediate_queue_key, 0, -1)
    for raw in popped:
        try:
            raw.decode()
        except UnicodeDecodeError:
            queue.connection.lrem(queue.intermediate_queue_key, 0, raw)


class TrainerWorker(Worker):
    """Runs one training at a time in a child process that dies with it.

    Args:
        client: from `connect`.
        queue_name: where the trainings wait.
        functions: what may run, by name.
        housekeeping: called now and then, and whenever a training was killed.
        shutdown_grace_s: how long a training may go on after SIGTERM.
        nice: how far a training gives way to other processes.
        stopping: set when the process was asked to stop.
        service: is told that the loop lives, also while a training runs in the child.
    """

    death_penalty_class = _Deadline

    def __init__(
        self,
        client: redis.Redis,
        *,
        queue_name: str,
        functions: Mapping[str, JobFunction],
        housekeeping: Callable[[], None],
        shutdown_grace_s: float,
        nice: int,
        stopping: threading.Event,
        service: ServiceManager,
    ) -> None:
        super().__init__(
            [queue_name],
            name=f"trainer-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}",
            connection=client,
            serializer=JSONSerializer,
            queue_class=TrainerQueue,
            job_class=type("BoundTrainerJob", (TrainerJob,), {"functions": dict(functions)}),
            maintenance_interval=_MAINTENANCE_S,
            job_monitoring_interval=_HEARTBEAT_S,
            worker_ttl=_WORKER_TTL_S,
            log_job_description=False,
            work_horse_killed_handler=lambda *_: housekeeping(),
        )
        self._housekeeping = housekeeping
        self._grace_s = shutdown_grace_s
        self._nice = nice
        self._stopping = stopping
        self._service = service
        self._deaf = threading.Event()

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """RQ's own, which its loop calls while it waits for a job and while a training runs."""
        self._service.alive()
        super().heartbeat(timeout, pipeline)
        self._service.ready()

    def main_work_horse(self, job: Any, queue: Any) -> None:
        """In the child: tie it to this process, have it give way to others, then do the work."""
        die_with_parent(self.pid or 0)
        os.nice(self._nice)
        super().main_work_horse(job, queue)

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """A failure that has a name is a line in the log, and only what has none a traceback."""
        error = exc_info[1]
        if not isinstance(error, RefineryError):
            super().handle_exception(job, *exc_info)
        elif not isinstance(error, TrainingFailed):  # that one the training has told of
            logger.error("job {} failed: {}", job.id, error)

    def _install_signal_handlers(self) -> None:
        super()._install_signal_handlers()  # type: ignore[no-untyped-call]
        # A signal that came before RQ listened is known to us alone: without this it would be lost.
        self._stop_requested = self._stopping.is_set()

    def run_maintenance_tasks(self) -> None:
        """RQ's own, then ours.

        Raises:
            StopRequested: told to stop; RQ ends its loop on it.
        """
        if self._stop_requested:
            raise StopRequested
        try:
            super().run_maintenance_tasks()  # type: ignore[no-untyped-call]
        except (StopRequested, redis.ConnectionError, redis.TimeoutError):
            raise
        except Exception as error:  # whatever RQ raises over entries that somebody else wrote
            if isinstance(error, redis.RedisError) and not _is_garbage(error):
                raise
            logger.warning(
                "RQ cannot clean up its registries, since what is in Redis is not as it writes it: {!r}", error
            )
            self.last_cleaned_at = datetime.now(UTC)  # type: ignore[assignment]  # None is what RQ begins with
        self._housekeeping()

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """The first SIGTERM or SIGINT: finish the training that runs, within the grace, and take no other."""
        self._stopping.set()
        # RQ only raises here when it is idle, and whatever the signal interrupts may swallow that.
        self._stop_requested = True
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def handle_warm_shutdown_request(self) -> None:
        """Sets the limit that RQ does not have."""
        if self.horse_pid:
            logger.info("stopping: the training that runs has {} s to end", self._grace_s)
            timer = threading.Timer(self._grace_s, self._end_horse)
            timer.daemon = True
            timer.start()

    def unsubscribe(self) -> None:
        """RQ's own, whose thread may notice only by an error that nobody listens any more."""
        self._deaf.set()
        super().unsubscribe()  # type: ignore[no-untyped-call]

    def hear_no_more(self) -> None:
        """After the loop was left: where Redis is away RQ leaves the thread behind that hears commands."""
        self._deaf.set()
        thread: Any = self.pubsub_thread
        if thread is not None:
            thread.stop()

    def _pubsub_exception_handler(self, exc: Exception, pubsub: Any, pubsub_thread: Any) -> None:  # noqa: ARG002 - RQ's
        """Hear commands again, whatever broke the connection: over most errors RQ would never hear one again."""
        if not self._deaf.is_set():
            logger.debug("the trainer hears no commands for a moment: {!r}", exc)
            self._deaf.wait(_AGAIN_S)

    def wait_for_child(self) -> None:
        """After the loop was left because of an error: no second training beside one that still runs."""
        pid = self.horse_pid
        while pid and not self._stopping.wait(0.2):
            self._service.alive()
            try:
                if os.waitpid(pid, os.WNOHANG)[0] == pid:
                    return
            except ChildProcessError:
                return
        if pid:
            self._end_horse()

    def _end_horse(self) -> None:
        if self.horse_pid:
            logger.warning("ending the training that runs: it has used up its time to stop")
            self.kill_horse()


def work_until_stopped(
    settings: Settings,
    url: str,
    *,
    functions: Mapping[str, JobFunction],
    housekeeping: Callable[[], None],
    stop: threading.Event,
) -> None:
    """Works until `stop` is set, whatever happens to Redis meanwhile. Call it in the main thread.

    Args:
        settings: of this process.
        url: address of the queue's server, embedded or not.
        functions: what may run, by name.
        housekeeping: called at the start, about twice a minute, and whenever a training was killed; must not raise.
        stop: set by SIGTERM and SIGINT, whose handlers are RQ's while it works.
    """
    rq_log = _rq_logs_to_ours()
    backoff = Backoff(0.5, 10.0)
    service = ServiceManager()
    while not stop.is_set():
        stop_on_signals(stop)
        rq_log.fault = None
        try:
            _work(settings, url, functions, housekeeping, stop, service)
        except redis.RedisError as error:
            rq_log.fault = error
        if stop.is_set():
            break  # a command that RQ's handler interrupted fails, and says nothing about Redis
        # RQ ends its loop without a word of its own where Redis refuses something, as it does when it is told to stop.
        if rq_log.fault is None:
            backoff.reset()
            stop.wait(_AGAIN_S)
        else:
            pause_s = backoff.next_s()
            cause = cause_of(rq_log.fault)
            logger.warning("the trainer lost Redis, trying again in {:.1f} s: {}", pause_s, cause)
            service.waits(cause)
            stop.wait(pause_s)
    service.stopping()


def _work(
    settings: Settings,
    url: str,
    functions: Mapping[str, JobFunction],
    housekeeping: Callable[[], None],
    stopping: threading.Event,
    service: ServiceManager,
) -> None:
    with connect_queue(url, retries=True) as client:
        worker = TrainerWorker(
            client,
            queue_name=settings.queue_name,
            functions=functions,
            housekeeping=housekeeping,
            shutdown_grace_s=settings.shutdown_grace_s,
            nice=settings.training_nice,
            stopping=stopping,
            service=service,
        )
        try:
            worker.work(logging_level=None)
        finally:
            worker.hear_no_more()
            worker.wait_for_child()


class _ToLoguru(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        #: What Redis said that ended RQ's loop.
        self.fault: redis.RedisError | None = None

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, redis.RedisError):
            self.fault = error
            return
        # RQ tells about its routine at INFO.
        level = "DEBUG" if record.levelno <= logging.INFO else record.levelname
        logger.opt(depth=6).log(level, "{}", record.getMessage())


def _rq_logs_to_ours() -> _ToLoguru:
    rq_logger = logging.getLogger("rq")
    handler = _ToLoguru()
    rq_logger.handlers = [handler]
    rq_logger.propagate = False
    return handler
