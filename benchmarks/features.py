"""How fast features are: ratios to the slow definitions of the tests, measured in the same run.

    python -m benchmarks.features

Every figure is the least processor time of many short repetitions, taken in turns: what a busy machine adds is left out
as far as can be, and falls on all of them alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from tests.support import slow_definitions
from trading_system.ml_refinement import FeatureConfig, FeatureSet
from trading_system.ml_refinement.features import FeaturePipeline, FeatureRequest
from trading_system.ml_refinement.features.checks import sample_bars
from trading_system.ml_refinement.features.pipeline import NewsItem, SignalMetadata

HOUR_US = 3_600_000_000
SIGNAL = {"technical_score": 7.5, "conviction": "HIGH", "entry_price": 100.0, "target_price": 110.0, "stop_price": 95.0}


def signals(count: int, n_bars: int, symbols: int) -> list[FeatureRequest]:
    """Signals of distinct histories over some symbols, with one benchmark for all and three pieces of news each."""
    benchmark = sample_bars(0, n_bars)
    now = int(benchmark.timestamp[-1])
    news = tuple(NewsItem(now - hours * HOUR_US, mood) for hours, mood in ((1, 0.5), (9, -0.2), (30, 0.1)))
    of_symbol = [sample_bars(1 + at, n_bars) for at in range(symbols)]
    metadata = SignalMetadata.from_mapping(SIGNAL)
    return [
        FeatureRequest(f"s{at}", now, metadata, replace(of_symbol[at % symbols]), benchmark, news)
        for at in range(count)
    ]


def slow(requests: list[FeatureRequest]) -> Callable[[], object]:
    """The slow definitions over the same signals, their frames made beforehand."""
    ready = []
    for one in requests:
        items = [(pd.Timestamp(i.published_us, unit="us", tz="UTC"), i.sentiment, i.relevance) for i in one.news]
        news = pd.DataFrame(items, columns=["published", "sentiment", "relevance"])
        frame, market = one.bars.to_frame(), one.benchmark.to_frame()
        ready.append((frame, market, SIGNAL, news, frame.index[-1]))
    return lambda: [slow_definitions.extended(*arguments) for arguments in ready]


def measured(jobs: dict[str, tuple[Callable[[], object], int]], rounds: int) -> dict[str, float]:
    """Microseconds a signal of each job, the least of `rounds`, the jobs in turns."""
    least = dict.fromkeys(jobs, np.inf)
    for _ in range(rounds):
        for name, (run, count) in jobs.items():
            began = time.thread_time()
            run()
            least[name] = min(least[name], (time.thread_time() - began) / count * 1e6)
    return least


def batches(pipeline: FeaturePipeline, requests: list[FeatureRequest], size: int) -> Callable[[], object]:
    return lambda: [pipeline.extract_batch(requests[at : at + size]) for at in range(0, len(requests), size)]


def main() -> None:
    extended = FeaturePipeline(FeatureConfig(feature_set=FeatureSet.EXTENDED))
    families = ["trend_features", "momentum_features", "volatility_features"]
    technical = FeaturePipeline(FeatureConfig(feature_set=FeatureSet.CUSTOM, custom_features=families))
    many = signals(256, 280, 256)
    jobs: dict[str, tuple[Callable[[], object], int]] = {"slow definitions, alone": (slow(many[:1]), 1)}
    for label, pipeline in (("EXTENDED", extended), ("trend, momentum, volatility", technical)):
        for size, count in ((1, 4), (16, 64), (64, 64), (256, 256)):
            where = "alone" if size == 1 else f"in batches of {size}"
            jobs[f"{label}, {where}"] = (batches(pipeline, many[:count], size), count)
    frame, market = many[0].bars.to_frame(), many[0].benchmark.to_frame()
    jobs["EXTENDED, alone, from frames"] = (lambda: extended.extract_features("s", frame, SIGNAL, market), 1)
    figures = measured(jobs, 200)
    base = figures["slow definitions, alone"]
    print("| 280 bars | µs a signal | times as fast as the slow definitions |\n|---|---|---|")
    for name, micros in figures.items():
        print(f"| {name} | {micros:,.1f} | {base / micros:,.0f} |")

    lengths = (280, 560, 1_120, 2_240, 4_480)
    by_length = measured({str(n): (batches(extended, signals(64, n, 64), 64), 64) for n in lengths}, 40)
    symbols = (1, 4, 16, 64)
    by_symbols = measured({str(n): (batches(extended, signals(64, 280, n), 64), 64) for n in symbols}, 60)
    for title, table in (("bars", by_length), ("symbols in the batch (280 bars)", by_symbols)):
        first = next(iter(table.values()))
        print(f"\n| {title} | {' | '.join(table)} |\n|---|{'---|' * len(table)}")
        shares = " | ".join(f"{micros / first:.2f}" for micros in table.values())
        print(f"| cost of EXTENDED in batches of 64, first = 1 | {shares} |")


if __name__ == "__main__":
    main()
