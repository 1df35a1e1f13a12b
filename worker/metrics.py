"""Metrics for Prometheus and health for whoever restarts processes, served by a thread of their own.

The loop only adds to counters. Everything that has to be looked up is looked up when it is asked for, over a read-only
connection and a client that the loop does not share: a slow scrape never holds up an event.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson
import redis
from loguru import logger
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from trading_system.ml_refinement.storage import FeatureDatabase, StoreError
from worker import app, live
from worker.consumer import Handler
from worker.errors import RefineryError, TransientError
from worker.handlers import Handled
from worker.settings import Settings
from worker.status import Status, read_status
from worker.streams import Entry

_BATCH_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15)
_LATENCY_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 1800)
_BATCH_EVENTS = (1, 4, 16, 64, 128, 256, 512, 1024, 4096)
#: A loop that has not come round for this long, while its server answers, hangs.
HUNG_S = 60.0
_FIGURES_EVERY_S = 60.0


class LoopMetrics:
    """What the loop counts as it goes.

    Args:
        registry: where the metrics are kept; one for each process.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(name, text, buckets=buckets, registry=registry)

        self.received = counter("refinery_events_received_total", "Entries handed to the handlers.", "stream")
        self.events = counter("refinery_events_total", "Handled events by what became of them.", "outcome")
        self.labels = counter("refinery_labels_total", "Signals that got their label.")
        self.failures = counter("refinery_handler_failures_total", "Batches or events whose handling failed.", "kind")
        self.batch_s = histogram("refinery_batch_seconds", "Decoding to commit, for a batch.", _BATCH_SECONDS)
        self.batch_events = histogram("refinery_batch_events", "Entries in a batch.", _BATCH_EVENTS)
        self.latency_s = histogram(
            "refinery_event_latency_seconds", "From the entry's id to its commit; the clocks' difference included.",
            _LATENCY_SECONDS,
        )  # fmt: skip
        self.last_round = time.monotonic()

    def came_round(self) -> None:
        """The loop has settled a batch or read nothing."""
        self.last_round = time.monotonic()

    def count(self, entries: Sequence[Entry], handled: Handled, seconds: float) -> None:
        """A batch was applied."""
        for stream in {entry.stream for entry in entries}:
            self.received.labels(stream).inc(sum(entry.stream == stream for entry in entries))
        for outcome, number in (
            ("signal", handled.signals),
            ("outcome", handled.outcomes),
            ("duplicate", handled.duplicates),
            ("redelivered", handled.redelivered),
            ("dead_lettered", handled.buried),
        ):
            self.events.labels(outcome).inc(number)
        self.labels.inc(handled.labelled)
        self.batch_s.observe(seconds)
        self.batch_events.observe(len(entries))
        now_ms = time.time() * 1000
        for entry in entries:
            self.latency_s.observe(max(0.0, now_ms - int(entry.entry_id.partition("-")[0])) / 1000)


class ObservedHandler:
    """A handler whose batches are counted and timed; what it raises goes on unchanged."""

    def __init__(self, handler: Handler, metrics: LoopMetrics) -> None:
        self._handler = handler
        self._metrics = metrics

    def handle(self, entries: Sequence[Entry]) -> Handled:
        """See `Handler.handle`."""
        started = time.perf_counter()
        try:
            handled = self._handler.handle(entries)
        except TransientError:
            self._metrics.failures.labels("transient").inc()
            raise
        except Exception:
            self._metrics.failures.labels("event").inc()
            raise
        self._metrics.count(entries, handled, time.perf_counter() - started)
        return handled

    def bury(self, entry: Entry, error: Exception, attempts: int) -> Handled:
        """See `Handler.bury`."""
        handled = self._handler.bury(entry, error, attempts)
        self._metrics.events.labels("dead_lettered").inc(handled.buried)
        return handled

    def charge(self, entry: Entry) -> int:
        """See `Handler.charge`."""
        return self._handler.charge(entry)

    def take_back(self, entries: Sequence[Entry]) -> None:
        """See `Handler.take_back`."""
        self._handler.take_back(entries)

    def forget(self, entry: Entry) -> None:
        """See `Handler.forget`."""
        self._handler.forget(entry)


class StateCollector(Collector):
    """What store and server say when it is asked for.

    Args:
        settings: of this process.
        url: address of the server.
    """

    def __init__(self, settings: Settings, url: str) -> None:
        self._settings = settings
        self._store = FeatureDatabase(settings.store_path, read_only=True)
        self._client = app.connect(url)
        self._figures: list[Metric] = []
        self._figures_at = -math.inf
        self._turn = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        """One scrape. What does not answer is told as not being up, and its figures are left out."""
        with self._turn:
            yield _gauge("refinery_build_info", "1, with the release.", 1, version=app.release())
            redis_up = self.redis_answers()
            yield _gauge("refinery_redis_up", "1 when Redis answers.", redis_up)
            try:
                families = list(self._of_store(self._client if redis_up else None))
                up = True
            except (StoreError, RefineryError, redis.RedisError) as error:
                logger.debug("a scrape without the store: {}", error)
                families, up = [], False
            yield _gauge("refinery_store_up", "1 when the store can be read.", up)
            yield from families

    def redis_answers(self) -> bool:
        """Whether the server answers now."""
        try:
            return bool(self._client.ping())
        except redis.RedisError:
            return False

    def store_answers(self) -> bool:
        """Whether the store can be read now."""
        try:
            self._store.counts()
        except StoreError:
            return False
        return True

    def close(self) -> None:
        """Close the connection and the client."""
        self._store.close()
        self._client.close()

    def _of_store(self, client: redis.Redis | None) -> Iterator[Metric]:
        status = read_status(self._settings, self._store, client)
        yield from _streams(status)
        yield from _amounts(status)
        for path, name in ((self._settings.store_path, "store"), (f"{self._settings.store_path}-wal", "store_wal")):
            size = os.stat(path).st_size if os.path.exists(path) else 0
            yield _gauge(f"refinery_{name}_bytes", "Size of the file on disk.", size)
        yield from self._dead_letters()
        yield from self._trainings()
        yield from self._champion(status)
        yield from _alarms(status)
        if time.monotonic() - self._figures_at > _FIGURES_EVERY_S:
            self._figures = list(_live_figures(self._store))
            self._figures_at = time.monotonic()
        yield from self._figures

    def _dead_letters(self) -> Iterator[Metric]:
        rows = self._store.connection.query(OPEN_LETTERS)
        by_reason = GaugeMetricFamily("refinery_dead_letters_open", "Open dead letters.", labels=["reason"])
        for reason, number, _ in rows:
            by_reason.add_metric([reason], number)
        yield by_reason
        oldest = min((first for _, _, first in rows), default=None)
        yield _gauge("refinery_dead_letter_oldest_seconds", "Age of the oldest open dead letter.", _age_s(oldest) or 0)

    def _trainings(self) -> Iterator[Metric]:
        family = GaugeMetricFamily("refinery_trainings", "Trainings by how they ended.", labels=["verdict"])
        for verdict, number in self._store.connection.query(TRAININGS):
            family.add_metric([verdict], number)
        yield family

    def _champion(self, status: Status) -> Iterator[Metric]:
        champion = live.champion_of(self._store)
        yield _gauge("refinery_champion_proven", "1 when the model that serves is proven.", status.proven)
        age = _age_s(champion.metadata.created_at if champion else None)
        yield _gauge("refinery_champion_age_seconds", "Since the model that serves was trained.", age)


class MetricsServer:
    """`/metrics`, `/healthz` and `/readyz` on a thread of its own; a context manager. Port 0 serves nothing.

    A port that is taken is logged and not served: metrics never stop a worker.

    Args:
        settings: of this process.
        url: address of the server whose streams are looked at.
        port: where to listen, on `settings.metrics_host`.
        loop: the loop whose heartbeat tells health; None where the process has none.
    """

    def __init__(
        self, settings: Settings, url: str, *, port: int, registry: CollectorRegistry, loop: LoopMetrics | None
    ) -> None:
        self._state = StateCollector(settings, url)
        self._loop = loop
        self._address = (settings.metrics_host, port)
        self._registry = registry
        self._server: ThreadingHTTPServer | None = None
        registry.register(self._state)

    @property
    def port(self) -> int | None:
        """Where it listens; None when it does not."""
        return None if self._server is None else int(self._server.server_address[1])

    def start(self) -> None:
        """Listen, if there is a port to listen on."""
        if self._address[1] == 0:
            return
        answers: dict[str, Callable[[], tuple[int, str, bytes]]] = {
            "/metrics": lambda: (200, CONTENT_TYPE_LATEST, generate_latest(self._registry)),
            "/healthz": lambda: _verdict(self.health()),
            "/readyz": lambda: _verdict(self.readiness()),
        }
        try:
            self._server = _Server(self._address, type("Handler", (_Answers,), {"answers": answers}))
        except OSError as error:
            logger.warning("no metrics: {}:{} cannot be listened on: {}", *self._address, error.strerror or error)
            return
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()
        logger.debug("metrics on http://{}:{}/metrics", self._address[0], self.port)

    def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        self._state.close()

    def health(self) -> dict[str, bool]:
        """Whether a restart would help: only a loop that hangs while its server answers is unhealthy."""
        return {"loop": not self._hangs() or not self._state.redis_answers()}

    def readiness(self) -> dict[str, bool]:
        """Whether events are being handled now."""
        return {
            "loop": not self._hangs(),
            "redis": self._state.redis_answers(),
            "store": self._state.store_answers(),
        }

    def _hangs(self) -> bool:
        return self._loop is not None and time.monotonic() - self._loop.last_round > HUNG_S


@contextmanager
def served(settings: Settings, url: str, *, port: int, loop: bool) -> Iterator[LoopMetrics]:
    """Metrics of this process while the block runs; the counters of its loop."""
    registry = CollectorRegistry()
    counters = LoopMetrics(registry if loop else CollectorRegistry())
    server = MetricsServer(settings, url, port=port, registry=registry, loop=counters if loop else None)
    server.start()
    try:
        yield counters
    finally:
        server.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    #: The trainer forks; its children have no business with this socket, and none of them serves it.
    allow_reuse_address = True


class _Answers(BaseHTTPRequestHandler):
    answers: dict[str, Callable[[], tuple[int, str, bytes]]]
    timeout = 10
    server_version = "refinery"
    sys_version = ""

    def do_GET(self) -> None:
        """One of the three addresses; anything else is not found."""
        answer = self.answers.get(self.path.partition("?")[0])
        status, kind, body = answer() if answer else (404, "text/plain", b"not found\n")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """Scrapes are not worth a line each."""


def _verdict(checks: dict[str, bool]) -> tuple[int, str, bytes]:
    return (200 if all(checks.values()) else 503), "application/json", orjson.dumps(checks) + b"\n"


def _gauge(name: str, text: str, value: float | None, **labels: str) -> Metric:
    family = GaugeMetricFamily(name, text, labels=list(labels))
    if value is not None:
        family.add_metric(list(labels.values()), float(value))
    return family


def _streams(status: Status) -> Iterator[Metric]:
    families = {
        name: GaugeMetricFamily(f"refinery_stream_{name}", text, labels=["stream"])
        for name, text in (
            ("length", "Entries in the stream."),
            ("pending", "Entries delivered and not acknowledged."),
            ("lag", "Entries not yet delivered; NaN when the server cannot tell."),
            ("lag_known", "1 when the server can tell the lag."),
        )
    }
    for stream in status.streams:
        families["length"].add_metric([stream.name], stream.length)
        families["pending"].add_metric([stream.name], stream.pending)
        families["lag"].add_metric([stream.name], math.nan if stream.lag is None else stream.lag)
        families["lag_known"].add_metric([stream.name], stream.lag is not None)
    yield from families.values()


def _amounts(status: Status) -> Iterator[Metric]:
    yield _gauge("refinery_signals_stored", "Signals in the store.", status.signals)
    yield _gauge("refinery_signals_labelled", "Signals with an outcome.", status.labelled)
    yield _gauge("refinery_signals_incomplete", "Signals some of whose features failed.", status.incomplete)
    yield _gauge("refinery_outcomes_waiting", "Outcomes whose signal has not come.", status.waiting_outcomes)
    yield _gauge("refinery_duplicates_stored", "Entries that said again what was known.", status.duplicates)
    yield _gauge("refinery_labels_since_training", "New labels since the last training.", status.new_labels)
    wanted = status.labels_for_retraining
    yield _gauge("refinery_labels_for_training", "New labels that make a training due.", wanted)
    age = _age_s(status.newest_label_at)
    yield _gauge("refinery_newest_label_age_seconds", "Since the trade that was labelled last closed.", age)


def _alarms(status: Status) -> Iterator[Metric]:
    family = GaugeMetricFamily("refinery_alarm", "1 for each alarm of the last monitoring.", labels=["alarm"])
    for alarm in status.monitoring.alarms if status.monitoring else ():
        family.add_metric([alarm["name"]], 1)
    yield family
    yield _gauge("refinery_champion_fits", "0 when it was fitted on other features.", status.champion_fits)


def _live_figures(store: FeatureDatabase) -> Iterator[Metric]:
    champion = live.champion_of(store)
    figures = live.quality(live.served_rows(store), base_rate=live.base_rate_of(champion))
    for name, text in (
        ("rows", "Labelled signals that the live figures are about."),
        ("log_loss", "Log loss of what was served."),
        ("base_rate_log_loss", "Log loss of always saying the base rate, on the same signals."),
        ("auc", "Area under the ROC curve of what was served."),
        ("calibration_error", "Expected calibration error of what was served."),
        ("calibration_error_by_chance", "What perfectly calibrated scores would show by chance."),
        ("lift", "Mean R of the fifth scored highest minus the fifth scored lowest."),
    ):
        value = getattr(figures, name)
        yield _gauge(f"refinery_live_{name}", text, None if math.isnan(value) else value)
    drift = live.feature_drift(store, champion)
    yield _gauge("refinery_drift_features", "Features compared with the champion's training rows.", len(drift))
    yield _gauge("refinery_drift_features_drifted", "Those beyond their limit.", sum(d.drifted for d in drift))
    share = live.out_of_distribution_share(store)
    yield _gauge("refinery_out_of_distribution_ratio", "Share of the newest signals unlike the training rows.", share)


def _age_s(text: str | None) -> float | None:
    return None if text is None else (datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds()


# The literals are ours alone.
OPEN_LETTERS = """
    SELECT reason, count(*), min(first_seen) FROM dead_letters WHERE status = 'open' GROUP BY reason"""
TRAININGS = """
    SELECT coalesce(verdict, status), count(*) FROM training_runs GROUP BY coalesce(verdict, status)"""
