"""What the pages show, read from the store and from Redis in bounded steps. Nothing here writes."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import orjson
import redis
from flask import current_app
from loguru import logger
from rq import Queue, Worker
from rq.serializers import JSONSerializer

from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.monitoring.drift import FeatureDrift
from trading_system.ml_refinement.monitoring.drift_windows import feature_drift
from trading_system.ml_refinement.monitoring.served import (
    ServedFigures,
    out_of_distribution_share,
    read_served,
    served_figures,
)
from trading_system.ml_refinement.storage import FeatureDatabase, RegistryRow, StoreError, StoreMoved, TrainingRun
from trading_system.ml_refinement.storage.tables.dead_letters import OpenReason
from trading_system.ml_refinement.validation.evidence import PredictionRecord
from worker.console.filters import age_s
from worker.console.overview import Overview, Process
from worker.errors import RefineryError
from worker.installation import feature_pipeline, open_archive_to_look, open_to_look, streams_of
from worker.observability.status import Monitoring, read_monitoring, read_status
from worker.redis_server.connection import connect
from worker.retraining.queue import connect_queue, pending_job
from worker.settings.schema import Settings
from worker.streams.shards import entry_stored_as

T = TypeVar("T")

PAGE_ROWS = 50
_SAMPLE_EVERY_S, _SAMPLES = 5.0, 61
_OVER_TIME_ROWS, _PARTS, _LEAST_ROWS = 2_000, 12, 20
_FRESH_S = 30.0
#: The version of the data it was made for, what was made, and when.
_Remembered = tuple[Hashable, Any, float]
#: So many dead letters are counted by reason whenever they are shown.
_COUNTED_AT_ONCE = 20_000


class ConsoleQueries:
    """All that the console reads: a read-only connection for each thread, its own client, and a little memory.

    Args:
        settings: of this process.
        url: address of the server.
    """

    def __init__(self, settings: Settings, url: str) -> None:
        self.settings = settings
        self.url = url
        self._config = settings.to_ml_config()
        self.client = connect(url)
        self.rq_client = connect_queue(settings.queue_address(url))
        self._local = threading.local()
        self._memory: dict[Hashable, _Remembered] = {}
        self._samples: deque[tuple[float, int]] = deque(maxlen=_SAMPLES)

    @property
    def store(self) -> FeatureDatabase:
        """This thread's read-only connection."""
        if hasattr(self._local, "store"):
            try:
                self._local.store.check_in_place()
            except StoreMoved:  # a restore, or somebody else, has put another one there
                self._local.store.close()
                del self._local.store
        if not hasattr(self._local, "store"):
            self._local.store = open_to_look(self.settings)
        store: FeatureDatabase = self._local.store
        return store

    def remembered(self, name: Hashable, version: Hashable, make: Callable[[], T]) -> T:
        """What `make` gave for this version of the data; made again when the data changed, twice a minute at most."""
        known = self._memory.get(name)
        if known is None or _is_old(known, version):
            if len(self._memory) > 200:
                self._memory.clear()
            known = self._memory[name] = (version, make(), time.monotonic())
        value: T = known[1]
        return value

    def is_remembered(self, name: Hashable, version: Hashable) -> bool:
        """Whether `remembered` gives what it has, and makes nothing."""
        known = self._memory.get(name)
        return known is not None and not _is_old(known, version)

    def version(self) -> Hashable:
        """Changes whenever figures of served scores may have changed."""
        counts = self.store.counts()
        return counts.labelled, counts.predictions, counts.newest_label, self.store.models.active_id(_QUALITY)

    def champion(self) -> RegistryRow | None:
        """The model of signal quality that serves."""
        return self.store.models.active(_QUALITY)

    def expires_days(self) -> float | None:
        """Days until the champion expires, below 0 where it has; None without one."""
        champion = self.champion()
        if champion is None:
            return None
        return self._config.training.expiry_days - age_s(champion.metadata.created_at) / 86_400

    def served(self, model_id: str | None = None) -> tuple[PredictionRecord, ServedFigures]:
        """What champions served, or one of them, against what came of it; and the figures of that."""

        def read() -> tuple[PredictionRecord, ServedFigures]:
            model_ids = None if model_id is None else [model_id]
            days = self._config.training.train_window_days
            record = read_served(self.store, train_window_days=days, model_ids=model_ids)
            return record, served_figures(record)

        return self.remembered(("served", model_id), self.version(), read)

    def served_over_time(self) -> list[tuple[PredictionRecord, ServedFigures]]:
        """The newest 2,000 signals that were served and have an outcome, in at most twelve parts, oldest first.

        Empty with less than eighty of them.
        """
        days = self._config.training.train_window_days
        record = read_served(self.store, train_window_days=days, days=None, newest=_OVER_TIME_ROWS)
        return in_parts(record)

    def drift(self) -> list[FeatureDrift]:
        """How far each feature has moved, the farthest beyond its limit first; empty with too few signals."""

        def read() -> list[FeatureDrift]:
            pipeline = feature_pipeline(self.settings)
            return feature_drift(
                self.store,
                train_window_days=self._config.training.train_window_days,
                names=pipeline.names,
                feature_version=pipeline.feature_version,
            )

        return self.remembered("drift", self.store.counts().signals, read)

    def out_of_distribution_share(self) -> float | None:
        """Share of the newest scores that are of signals unlike those trained on; None without scores."""
        return out_of_distribution_share(self.store)

    def monitoring(self) -> Monitoring | None:
        """What monitoring found when it last looked."""
        return read_monitoring(self.store)

    def start_sampling(self, warm: Callable[[], None]) -> None:
        """Now and then, note the number of handled events, for the events a second, and keep the figures warm."""

        def once() -> None:
            self.sample()
            try:
                warm()
            except Exception as error:  # noqa: BLE001 - the page itself will say it
                logger.debug("the figures could not be kept warm: {}", error)

        def for_ever() -> None:
            while True:
                time.sleep(_SAMPLE_EVERY_S)
                once()

        once()
        threading.Thread(target=for_ever, name="sampling", daemon=True).start()

    def sample(self) -> None:
        """Take one sample of the number of handled events."""
        try:
            counts = self.store.counts()
        except (StoreError, RefineryError):
            return
        handled = counts.signals + counts.outcomes + counts.duplicates + counts.dead_letters
        self._samples.append((time.monotonic(), handled))

    def overview(self) -> Overview:
        """Everything on the first page."""
        status = read_status(self.settings, self.store, self.client)
        letters = self.dead_reasons()
        samples = list(self._samples)
        answers = status.pending is not None
        queue_answers = answers and status.queue_answers
        return Overview(
            status=status,
            processes=self._processes(queue_answers=queue_answers) if answers else (),
            training=pending_job(self.rq_client, self.settings.queue_name) if queue_answers else None,
            oldest_pending_s=self._oldest_pending_s() if answers and status.pending else None,
            per_second=_rate(samples[-4:]),
            per_second_5min=_rate(samples),
            dead_since=min((letter.first_seen for letter in letters), default=None),
            dead_reasons=tuple((letter.reason, letter.letters) for letter in letters),
        )

    def dead_reasons(self) -> list[OpenReason]:
        """Open dead letters by reason; where they are many, counted twice a minute at most."""
        letters, number = self.store.dead_letters, self.store.counts().dead_letters_open
        if number <= _COUNTED_AT_ONCE:
            return letters.open_by_reason()
        return self.remembered("dead reasons", (number, letters.newest_id()), letters.open_by_reason)

    def _processes(self, *, queue_answers: bool) -> tuple[Process, ...]:
        found = []
        found += self._workers()
        queue = Queue(self.settings.queue_name, connection=self.rq_client)
        for worker in Worker.all(queue=queue, serializer=JSONSerializer) if queue_answers else ():
            heard = worker.last_heartbeat
            silent = age_s(heard.isoformat()) if heard else float("inf")
            found.append(Process(worker.name, "trainer", silent, str(worker.get_state())))
        return tuple(sorted(found, key=lambda process: (process.kind != "worker", process.silent_s)))

    def _workers(self) -> list[Process]:
        """Those that have read signals, each over all shards."""
        pending: dict[str, int] = {}
        idle_ms: dict[str, int] = {}
        for stream in streams_of(self.settings).created:
            rows: Any = []
            with suppress(redis.RedisError):  # the group is not there yet
                rows = self.client.xinfo_consumers(stream, self.settings.streams.group)
            for row in rows:
                name = row["name"].decode()
                pending[name] = pending.get(name, 0) + row["pending"]
                idle_ms[name] = min(idle_ms.get(name, row["idle"]), row["idle"])
        return [Process(name, "worker", idle_ms[name] / 1000, f"{pending[name]:,} pending") for name in pending]

    def _oldest_pending_s(self) -> float | None:
        ages = []
        for stream in streams_of(self.settings).inputs:
            try:
                rows: Any = self.client.xpending_range(stream, self.settings.streams.group, "-", "+", 1)
            except redis.RedisError:
                continue
            ages += [time.time() - int(row["message_id"].partition(b"-")[0]) / 1000 for row in rows]
        return max(ages, default=None)

    def runs(self, limit: int) -> list[TrainingRun]:
        """The newest trainings."""
        return self.store.runs.recent(limit)

    def archived(self, known_as: str | None, signal_id: str) -> bytes | None:
        """The event of a signal as it was received; None when it is not (any more) in the archive."""
        if known_as is None or not self.settings.archive_is_there:
            return None
        archive = open_archive_to_look(self.settings)
        try:
            kept = archive.get_all(*entry_stored_as(known_as, self.settings.streams.signals_created))
            return next((data for data in kept if _signal_of(data) == signal_id), kept[-1] if kept else None)
        except StoreError:
            return None
        finally:
            archive.close()


def in_parts(record: PredictionRecord) -> list[tuple[PredictionRecord, ServedFigures]]:
    """A record in at most twelve parts of time, oldest first, with figures; empty with less than eighty rows."""
    if len(record) < 4 * _LEAST_ROWS:
        return []
    edges = np.linspace(0, len(record), min(_PARTS, len(record) // _LEAST_ROWS) + 1).astype(int)
    parts = [record.part(start, stop) for start, stop in pairwise(edges.tolist())]
    return [(part, served_figures(part)) for part in parts]


def console_queries() -> ConsoleQueries:
    """Those of the application."""
    found: ConsoleQueries = current_app.extensions["refinery"]
    return found


def _is_old(known: _Remembered, version: Hashable) -> bool:
    return known[0] != version and time.monotonic() - known[2] > _FRESH_S


def _signal_of(data: bytes) -> object:
    try:
        event = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return event.get("signal_id") if isinstance(event, dict) else None


def _rate(samples: list[tuple[float, int]]) -> float | None:
    if len(samples) < 2 or samples[-1][0] <= samples[0][0]:
        return None
    return (samples[-1][1] - samples[0][1]) / (samples[-1][0] - samples[0][0])


_QUALITY = ModelType.SIGNAL_QUALITY.value
