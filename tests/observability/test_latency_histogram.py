"""The histogram that takes a batch at once says what the client's own would have said."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.exposition import generate_latest

from worker.observability.latency_histogram import LatencyHistogram

BOUNDS = (0.005, 0.5, 15)


def lines(registry: CollectorRegistry) -> list[str]:
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


@pytest.mark.parametrize("batches", [[], [[]], [[1_000, 995, 994]], [[0], [500, 1_001, 1_000], [-20_000]]])
def test_a_scrape_is_that_of_observations_one_by_one(batches: list[list[int]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    histogram = LatencyHistogram("seconds", "Since.", BOUNDS, ours)
    reference = Histogram("seconds", "Since.", buckets=BOUNDS, registry=theirs)
    for batch in batches:
        histogram.observe_since(batch, 1_000.0)
        for then in batch:
            reference.observe(max(0.0, 1_000.0 - then) / 1000.0)
    assert lines(ours) == lines(theirs)
