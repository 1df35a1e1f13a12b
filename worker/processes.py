"""The processes of an installation: worker, trainer, and `up`, which runs them all and ends them all."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from typing import Any

import redis
from loguru import logger

from trading_system.ml_refinement.storage import FeatureDatabase
from worker import app, metrics, retraining
from worker.errors import RefineryError, StopRequested, TransientError
from worker.handlers import Handled
from worker.lifeline import launch_command
from worker.patience import Patience
from worker.server import server_url, stream_of_kind
from worker.settings import Settings
from worker.slots import worker_slot
from worker.stream_care import check_server, remove_dead_consumers, trim_handled

#: How often a worker that gets no labels looks whether a retraining is due by age.
_LOOK_EVERY_S = 5.0
_CARE_EVERY_S = 60.0
_CONSUMER_GONE_MS = 3_600_000
_RESTART_PAUSES_S = (0.5, 30.0)


def run_worker(settings: Settings) -> None:
    """Handle events until SIGTERM or SIGINT; the batch in hand is finished first, within the grace.

    Raises:
        ServerBusy: another worker has the slot that was asked for.
        ConfigurationError: the server or the state directory is not as it must be.
        StoreUnusable: the store is damaged.
    """
    stop = _stop_on_signals()
    patience = Patience(stop)
    with ExitStack() as stack, suppress(StopRequested):
        settings = patience.until_possible(lambda: stack.enter_context(worker_slot(settings)))
        url = stack.enter_context(server_url(settings))
        client = stack.enter_context(app.connect(url))
        stack.enter_context(_drain_deadline(stop, settings.shutdown_grace_s))
        names = [*stream_of_kind(settings).values(), settings.streams.signals_scored]
        patience.until_possible(lambda: check_server(client, names))
        _consume(settings, url, client, stop)
    logger.info("worker stopped")


def _consume(settings: Settings, url: str, client: redis.Redis, stop: threading.Event) -> None:
    trigger = _RetrainingTrigger(settings, url)
    care = _Care(settings, client)
    port = settings.metrics_port and settings.metrics_port + settings.consumer_slot
    with metrics.served(settings, url, port=port, loop=True) as counters:

        def after_batch(store: FeatureDatabase, handled: Handled) -> None:
            counters.came_round()
            trigger(store, handled)
            care()

        with app.worker_consumer(
            settings,
            client,
            after_batch=after_batch,
            observed=lambda handler: metrics.ObservedHandler(handler, counters),
            patience=Patience(stop, still_here=counters.came_round),
        ) as consumer:
            logger.info("worker {} of group {} is ready", settings.consumer, settings.streams.group)
            consumer.run(stop)


def run_workers(settings: Settings, processes: int) -> None:
    """Run so many workers, each a process of its own in the slots from 0, until SIGTERM or SIGINT."""
    stop = _stop_on_signals()
    with server_url(settings) as url:
        children = _children(settings, url)
        try:
            for slot in range(processes):
                children.start("worker", "--slot", str(slot))
            while not stop.wait(0.5):
                children.tend()
        finally:
            children.stop()


@contextmanager
def _drain_deadline(stop: threading.Event, grace_s: float) -> Iterator[None]:
    """Set `stop` when told to end, and end the process hard when it has not ended `grace_s` later, or is told again.

    Nothing is lost by that, since nothing in hand is acknowledged. The signal is heard through a pipe: Python's own
    handlers wait for as long as the main thread is inside the store.
    """
    heard, told = os.pipe()
    os.set_blocking(told, False)
    before = signal.set_wakeup_fd(told, warn_on_full_buffer=False)

    def watch() -> None:
        if not os.read(heard, 1):
            return
        stop.set()
        again, _, _ = select.select([heard], [], [], grace_s)
        if again and not os.read(heard, 1):
            return
        logger.error("not finished {}; what is in hand is left to the next worker", "yet" if again else "in time")
        os._exit(1)

    watcher = threading.Thread(target=watch, name="drain-deadline", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(told)
        watcher.join(1)
        os.close(heard)


class _Care:
    """Now and then, drop what every group has acknowledged, and remove consumers that are gone."""

    def __init__(self, settings: Settings, client: redis.Redis) -> None:
        self._settings = settings
        self._client = client
        self._streams = list(stream_of_kind(settings).values())
        self._due = 0.0

    def __call__(self) -> None:
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + _CARE_EVERY_S
        remove_dead_consumers(
            self._client,
            self._streams,
            self._settings.streams.group,
            me=self._settings.consumer,
            idle_ms=max(_CONSUMER_GONE_MS, 10 * self._settings.claim_idle_ms),
        )
        if hours := self._settings.input_retention_hours:
            trim_handled(self._client, self._streams, older_than_s=hours * 3600)


def run_trainer(settings: Settings) -> None:
    """Run retraining jobs until SIGTERM or SIGINT."""
    with server_url(settings) as url, metrics.served(settings, url, port=settings.trainer_metrics_port, loop=False):
        retraining.run_trainer(settings, url)


class _RetrainingTrigger:
    """After a batch with labels, and now and then, ask whether a retraining is due, and enqueue it."""

    def __init__(self, settings: Settings, url: str) -> None:
        self._settings = settings
        self._client = retraining.connect(url)
        self._look_at = 0.0

    def __call__(self, store: FeatureDatabase, handled: Handled) -> None:
        now = time.monotonic()
        if handled.labelled == 0 and now < self._look_at:
            return
        self._look_at = now + _LOOK_EVERY_S
        retraining.enqueue_if_due(self._settings, store, self._client)


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


class Children:
    """Our own processes, started again with growing pauses when they end by themselves, and ended together.

    Args:
        environment: added to this process's own.
        grace_s: how long they may take to end once they are told to.
    """

    def __init__(self, environment: Mapping[str, str], *, grace_s: float) -> None:
        self._environment = {**os.environ, **environment}
        self._grace_s = grace_s
        self._running: dict[tuple[str, ...], subprocess.Popen[bytes]] = {}
        self._pauses_s: dict[tuple[str, ...], float] = {}
        self._start_at: dict[tuple[str, ...], float] = {}

    def start(self, *arguments: str) -> None:
        """Start `refinery ARGUMENTS` in a session of its own, so that Ctrl-C reaches us alone; it dies with us."""
        self._running[arguments] = subprocess.Popen(  # noqa: S603 - our own command line
            launch_command([sys.executable, "-m", "worker", *arguments]), env=self._environment, start_new_session=True
        )

    def tend(self) -> None:
        """Start again what has ended; call it now and then."""
        now = time.monotonic()
        for arguments, process in list(self._running.items()):
            if process.poll() is not None:
                pause_s = self._pauses_s.get(arguments, _RESTART_PAUSES_S[0])
                logger.error("{} ended with {}, starting it again in {:.1f} s", arguments, process.returncode, pause_s)
                del self._running[arguments]
                self._start_at[arguments] = now + pause_s
                self._pauses_s[arguments] = min(pause_s * 2, _RESTART_PAUSES_S[1])
        for arguments in [name for name, due in self._start_at.items() if now >= due]:
            del self._start_at[arguments]
            self.start(*arguments)

    def stop(self) -> None:
        """Tell all to end, wait for them, and kill what has not ended within the grace."""
        for process in self._running.values():
            process.terminate()
        deadline = time.monotonic() + self._grace_s
        for arguments, process in self._running.items():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                logger.error("{} did not end in {} s and is killed", arguments, self._grace_s)
                process.kill()
                process.wait()
        self._running.clear()


def _children(settings: Settings, url: str) -> Children:
    environment = {"REFINERY_REDIS_URL": url, "REFINERY_STATE_DIR": str(settings.state_dir)}
    return Children(environment, grace_s=settings.shutdown_grace_s)


@contextmanager
def running(children: Children, *roles: str) -> Iterator[Children]:
    """The processes of these roles while the block runs."""
    try:
        for role in roles:
            children.start(role)
        yield children
    finally:
        children.stop()


def up_roles(settings: Settings) -> tuple[str, ...]:
    """Worker and trainer, and the console where it is installed and not turned off."""
    console = settings.console_port and find_spec("flask") and find_spec("rq_dashboard")
    return ("worker", "trainer", "console") if console else ("worker", "trainer")


def run_up(settings: Settings) -> None:
    """Run everything until SIGTERM or SIGINT."""
    stop = _stop_on_signals()
    with server_url(settings) as url, running(_children(settings, url), *up_roles(settings)) as children:
        logger.info(
            "up, with the streams on {}; Ctrl-C stops all", settings.masked_redis_url if settings.redis_url else url
        )
        while not stop.wait(0.5):
            children.tend()


def retrain_now(settings: Settings, *, wait: bool) -> dict[str, Any]:
    """Enqueue a retraining, due or not; with `wait`, its run's status, verdict and reason when it has ended.

    Raises:
        RefineryError: no trainer took the job in time.
    """
    with server_url(settings) as url, app.open_store(settings) as store:
        client = retraining.connect(url)
        try:
            job_id = retraining.enqueue(settings, store, client)
            run = retraining.wait_for(settings, store, client, job_id) if wait else None
        except redis.RedisError as error:
            raise TransientError(f"Redis does not answer: {error}") from error
        if not wait:
            return {"job_id": job_id}
        if run is None:
            raise RefineryError(f"{job_id} was not run: is a trainer running? `refinery trainer`")
        return {
            "job_id": job_id,
            "run_id": run.run_id,
            "status": run.status,
            "verdict": run.verdict,
            "model_id": run.model_id,
            "reason": run.error_message,
        }
