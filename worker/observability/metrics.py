"""Metrics for Prometheus and health for whoever restarts processes, served by a thread of their own.

The loop only adds to counters. Everything that has to be looked up is looked up when it is asked for, over a read-only
connection and a client that the loop does not share: a slow scrape never holds up an event.
"""

from __future__ import annotations

import threading
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson
from loguru import logger
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from worker.consumer.batch_result import BatchResult
from worker.consumer.loop import Handler
from worker.errors import TransientError
from worker.installation import streams_of
from worker.observability.latency_histogram import LatencyHistogram
from worker.observability.state_collector import StateCollector
from worker.settings.schema import Settings
from worker.streams.entries import Entry

_BATCH_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15)
_LATENCY_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 1800)
_BATCH_EVENTS = (1, 4, 16, 64, 128, 256, 512, 1024, 4096)
_OUTCOMES = ("signal", "outcome", "duplicate", "redelivered", "dead_lettered")
_FAULTS = ("transient", "event")
#: A loop that has not come round for this long, while its server answers, hangs.
HUNG_S = 60.0


class LoopMetrics:
    """What the loop counts as it goes.

    Every series is there from the start: of one that begins with its first event, a rate never sees that event.

    Args:
        registry: where the metrics are kept; one for each process.
        streams: names of the input streams.
    """

    def __init__(self, registry: CollectorRegistry, streams: Sequence[str] = ()) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(name, text, buckets=buckets, registry=registry)

        self.received = counter("refinery_events_received_total", "Entries handed to the handlers.", "stream")
        self.events = counter("refinery_events_total", "BatchResult events by what became of them.", "outcome")
        self.labels = counter("refinery_labels_total", "Signals that got their label.")
        self.unknown_fields = counter("refinery_unknown_fields_total", "Fields of events that are none of ours.")
        self.missing_features = counter(
            "refinery_missing_features_total",
            "Provided values that signals did not bring; neutral ones stand for them.",
        )
        self.restored = counter(
            "refinery_entries_restored_total",
            "Entries that the server had no more, or not as pending, handled with their bytes from the archive.",
        )
        self.failures = counter("refinery_handler_failures_total", "Batches or events whose handling failed.", "kind")
        self.batch_s = histogram("refinery_batch_seconds", "Decoding to commit, for a batch.", _BATCH_SECONDS)
        self.batch_events = histogram("refinery_batch_events", "Entries in a batch.", _BATCH_EVENTS)
        self.latency_s = LatencyHistogram(
            "refinery_event_latency_seconds",
            "From the entry's id to its commit; the clocks' difference included.",
            _LATENCY_SECONDS,
            registry,
        )
        for counted, values in ((self.received, streams), (self.events, _OUTCOMES), (self.failures, _FAULTS)):
            for value in values:
                counted.labels(value)
        self.paused_for: str | None = None
        self.last_round = time.monotonic()
        Gauge("refinery_paused", "1 while the loop waits for a fault of our own side.", registry=registry).set_function(
            lambda: float(self.paused_for is not None)
        )

    def paused(self, cause: str) -> None:
        """Our own side is at fault, and the loop waits; one that says so does not hang."""
        self.paused_for = cause
        self.last_round = time.monotonic()

    def came_round(self) -> None:
        """The loop has settled a batch or read nothing."""
        self.paused_for = None
        self.last_round = time.monotonic()

    def count(self, entries: Sequence[Entry], result: BatchResult, seconds: float) -> None:
        """A batch was applied."""
        for stream, number in Tally(entry.stream for entry in entries).items():
            self.received.labels(stream).inc(number)
        numbers = (result.signals, result.outcomes, result.duplicates, result.redelivered, result.dead_lettered)
        for outcome, number in zip(_OUTCOMES, numbers, strict=True):
            self.events.labels(outcome).inc(number)
        self.labels.inc(result.labelled)
        self.unknown_fields.inc(result.unknown_fields)
        self.missing_features.inc(result.missing_features)
        self.restored.inc(result.restored)
        self.batch_s.observe(seconds)
        self.batch_events.observe(len(entries))
        self.latency_s.observe_since([entry.added_ms for entry in entries], time.time() * 1000)


class ObservedHandler:
    """A handler whose batches are counted and timed; what it raises goes on unchanged.

    Args:
        handler: applies batches.
        metrics: counts them.
        handled: called after each batch, and each event that is tried alone.
    """

    def __init__(self, handler: Handler, metrics: LoopMetrics, *, handled: Callable[[], None] = lambda: None) -> None:
        self._handler = handler
        self._metrics = metrics
        self._handled = handled

    def handle(self, entries: Sequence[Entry]) -> BatchResult:
        """See `Handler.handle`."""
        started = time.perf_counter()
        try:
            result = self._handler.handle(entries)
        except TransientError:
            self._metrics.failures.labels("transient").inc()
            raise
        except Exception:
            self._metrics.failures.labels("event").inc()
            raise
        self._metrics.count(entries, result, time.perf_counter() - started)
        self._handled()
        return result

    def dead_letter(self, entry: Entry, error: Exception, attempts: int) -> BatchResult:
        """See `Handler.dead_letter`."""
        result = self._handler.dead_letter(entry, error, attempts)
        self._metrics.events.labels("dead_lettered").inc(result.dead_lettered)
        self._handled()
        return result


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

    def readiness(self) -> dict[str, bool | str]:
        """Whether events are being handled now, and what the loop waits for where they are not."""
        waits_for = self._loop and self._loop.paused_for
        checks: dict[str, bool | str] = {
            "loop": not self._hangs() and not waits_for,
            "redis": self._state.redis_answers(),
            "store": self._state.store_answers(),
        }
        return checks | ({"waits_for": waits_for} if waits_for else {})

    def _hangs(self) -> bool:
        return self._loop is not None and time.monotonic() - self._loop.last_round > HUNG_S


@contextmanager
def served(settings: Settings, url: str, *, port: int, loop: bool) -> Iterator[LoopMetrics]:
    """Metrics of this process while the block runs; the counters of its loop."""
    registry = CollectorRegistry()
    counters = LoopMetrics(registry if loop else CollectorRegistry(), streams_of(settings).inputs)
    ProcessCollector(registry=registry)
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


def _verdict(checks: Mapping[str, bool | str]) -> tuple[int, str, bytes]:
    return (200 if all(checks.values()) else 503), "application/json", orjson.dumps(checks) + b"\n"
