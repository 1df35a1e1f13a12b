"""The worker process: the consumer, what it does between batches, and its metrics."""

from __future__ import annotations

import math
import threading
import time
from contextlib import ExitStack, suppress

import redis
from loguru import logger

from trading_system.ml_refinement.storage import FeatureDatabase, StoreError
from worker import app
from worker.consumer.batch_result import BatchResult
from worker.consumer.loop import Handler
from worker.errors import StopRequested, TransientError
from worker.installation import check_features, check_recipe, idle_settings, make_archive_ahead, streams_of
from worker.market_data.hosts import telling
from worker.notifications.sender import sending
from worker.observability import metrics
from worker.redis_server.connection import connect, server_url
from worker.retraining.queue import connect_queue
from worker.retraining.requests import enqueue_if_due
from worker.run.process import keep_between_batches
from worker.settings.schema import Settings
from worker.streams.maintenance import remove_dead_consumers, trim_handled, trim_to
from worker.streams.preflight import check_server
from worker.supervision.backoff import StartRetry
from worker.supervision.service_manager import ServiceManager
from worker.supervision.signals import drain_deadline
from worker.supervision.slots import worker_slot

#: How often a worker that gets no labels looks whether a retraining is due by age.
_LOOK_EVERY_S = 5.0
#: A server of the queue that takes longer, as one that is cut off, is left alone for a while, whatever comes.
_SLOW_S, _SLOW_PAUSE_S = 1.0, 60.0
_CARE_EVERY_S = 60.0
_ARCHIVE_EVERY_S = 3600.0
_CONSUMER_GONE_MS = 3_600_000


def run_worker(settings: Settings, stop: threading.Event) -> None:
    """Handle events until `stop` is set; the batch in hand is finished first, within the grace.

    Raises:
        ServerBusy: another worker has the slot that was asked for.
        ConfigurationError: the server or the state directory is not as it must be, or no training could be made.
        StoreUnusable: the store is damaged.
    """
    check_recipe(settings)
    check_features(settings)
    for line in idle_settings(settings):
        logger.warning(line)
    service = ServiceManager()
    retry = StartRetry(stop, waits=service.waits)
    with ExitStack() as stack, suppress(StopRequested):
        settings = retry.until_possible(lambda: stack.enter_context(worker_slot(settings)))
        url = stack.enter_context(server_url(settings, retry=retry))
        client = stack.enter_context(connect(url, largest_event=settings.max_event_bytes))
        stack.enter_context(drain_deadline(stop, settings.shutdown_grace_s))
        streams = streams_of(settings)
        retry.until_possible(lambda: check_server(client, [*streams.inputs, *streams.scored]))
        _consume(settings, url, client, stop, service)
        service.stopping()
    logger.info("worker stopped")


def _consume(settings: Settings, url: str, client: redis.Redis, stop: threading.Event, service: ServiceManager) -> None:
    trigger = _RetrainingTrigger(settings, url)
    care = _Care(settings, client)
    archive_care = _ArchiveCare(settings)
    port = settings.metrics_port and settings.metrics_port + settings.consumer_slot
    with (
        metrics.served(settings, url, port=port, loop=True) as counters,
        sending(settings),
        connect(url) as apart,
        telling(settings, apart),
    ):

        def after_batch(store: FeatureDatabase, result: BatchResult) -> None:
            counters.came_round()
            service.ready()
            trigger(store, result)
            care()
            archive_care()

        def on_pause(cause: str) -> None:
            waits(cause)
            care.make_room()

        def waits(cause: str) -> None:
            counters.paused(cause)
            service.waits(cause)

        def observed(handler: Handler) -> Handler:
            return metrics.ObservedHandler(handler, counters, handled=service.alive)

        with app.worker_consumer(
            settings,
            client,
            after_batch=after_batch,
            observed=observed,
            on_pause=on_pause,
            retry=StartRetry(stop, waits=waits),
        ) as consumer:
            logger.info("worker {} of group {} is ready", settings.consumer, settings.streams.group)
            keep_between_batches()
            consumer.run(stop)


class _Care:
    """Now and then, drop what every group has acknowledged, and remove consumers that are gone."""

    def __init__(self, settings: Settings, client: redis.Redis) -> None:
        self._settings = settings
        self._client = client
        self._streams = streams_of(settings)
        self._due = 0.0

    def __call__(self) -> None:
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + _CARE_EVERY_S
        try:
            self._look_after()
        except TransientError as error:
            # Tidying up is nobody's event: it may wait for a right, and if more is wrong the next read says so.
            logger.warning("streams and consumers cannot be tidied up now: {}", error)

    def _look_after(self) -> None:
        remove_dead_consumers(
            self._client,
            self._streams.inputs,
            self._settings.streams.group,
            me=self._settings.consumer,
            idle_ms=max(_CONSUMER_GONE_MS, 10 * self._settings.claim_idle_ms),
        )
        self._trim()

    def make_room(self) -> None:
        """Drop what may be dropped before anything else is asked of the server: a full one takes nothing but that."""
        try:
            self._trim()
        except TransientError as error:
            logger.debug("no room could be made: {}", error)

    def _trim(self) -> None:
        if hours := self._settings.input_retention_hours:
            trim_handled(self._client, self._streams.inputs, older_than_s=hours * 3600)
        if length := self._settings.scored_maxlen:
            for scores in self._streams.scored:
                trim_to(self._client, scores, length)


class _ArchiveCare:
    """Now and then, make the partitions that the next months' events go to, where the archive has any."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._due = 0.0 if settings.archive.enabled and settings.store_url is not None else math.inf

    def __call__(self) -> None:
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + _ARCHIVE_EVERY_S
        try:
            if made := make_archive_ahead(self._settings):
                logger.info("partitions of the archive were made: {}", ", ".join(made))
        except StoreError as error:
            logger.warning(
                "partitions of the archive cannot be made, and nothing is lost, the default one takes its events "
                "(`refinery store upgrade` makes them): {}",
                error,
            )


class _RetrainingTrigger:
    """After a batch with labels, and now and then, ask whether a retraining is due, and enqueue it."""

    def __init__(self, settings: Settings, url: str) -> None:
        self._settings = settings
        self._client = connect_queue(settings.queue_address(url))
        self._look_at = 0.0
        self._slow = False

    def __call__(self, store: FeatureDatabase, result: BatchResult) -> None:
        now = time.monotonic()
        if now < self._look_at and (result.labelled == 0 or self._slow):
            return
        enqueue_if_due(self._settings, store, self._client)
        self._slow = time.monotonic() - now > _SLOW_S
        self._look_at = time.monotonic() + (_SLOW_PAUSE_S if self._slow else _LOOK_EVERY_S)
