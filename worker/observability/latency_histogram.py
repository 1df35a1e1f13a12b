"""A Prometheus histogram that takes a batch of observations at once; the client's own takes them one by one."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry


class LatencyHistogram(Collector):
    """Seconds since each of many moments.

    Args:
        name: of the metric.
        text: what it tells.
        bounds: upper bounds of the buckets in seconds, increasing; one without a bound is added.
        registry: where it is kept.
    """

    def __init__(self, name: str, text: str, bounds: Sequence[float], registry: CollectorRegistry) -> None:
        self._name = name
        self._text = text
        self._bounds = np.array(bounds, dtype=np.float64)
        self._counts = np.zeros(len(bounds) + 1, dtype=np.int64)
        self._sum_s = 0.0
        self._lock = threading.Lock()
        registry.register(self)

    def observe_since(self, then_ms: Sequence[int], now_ms: float) -> None:
        """Observe how long ago each moment was; one that our clock has yet to reach counts as now."""
        seconds = np.maximum(now_ms - np.array(then_ms, dtype=np.float64), 0.0) / 1000.0
        found = np.bincount(self._bounds.searchsorted(seconds), minlength=len(self._counts))
        with self._lock:
            self._counts += found
            self._sum_s += float(seconds.sum())

    def collect(self) -> Iterator[Metric]:
        """The histogram as it is now."""
        with self._lock:
            upto, sum_s = np.cumsum(self._counts).tolist(), self._sum_s
        labels = [*map(str, self._bounds.tolist()), "+Inf"]
        family = HistogramMetricFamily(self._name, self._text)
        family.add_metric([], list(zip(labels, upto, strict=True)), sum_s)
        yield family
