"""Where a worker's microseconds go, step by step in batches of 512: processor time, and the clock.

    python -m benchmarks.budget            small events, champion and challenger
    python -m benchmarks.budget --inline   events that bring 280 bars

A profiler charges for every call it sees, and most of all for short ones; here a dozen steps of each batch are timed,
which costs nothing worth telling. "Least" is the processor time of the batch where the step cost least: what it costs
where nobody else has the processor. "Mean" is of all batches, with checkpoints and cold caches; "clock" is their mean
with waiting.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import redis
from loguru import logger

from benchmarks.contenders import refinery
from benchmarks.environment import environment, inline, publish, small, train
from trading_system.ml_refinement import scoring
from trading_system.ml_refinement.features.pipeline import FeaturePipeline
from trading_system.ml_refinement.storage.sqlite.connection import SqliteConnection
from trading_system.ml_refinement.storage.tables.outcomes import Outcomes
from trading_system.ml_refinement.storage.tables.scores import PredictionLog
from trading_system.ml_refinement.storage.tables.vectors import Vectors
from trading_system.ml_refinement.typing import FloatArray
from worker.consumer import batch_handler as handlers
from worker.consumer.deduplication import Deduplication
from worker.consumer.loop import Consumer
from worker.market_data.directory import DirectorySource
from worker.observability import metrics
from worker.streams.reader import GroupReader

BATCH = 512
STEPS: dict[str, tuple[tuple[Any, str], ...]] = {
    "read": ((GroupReader, "read_new"),),
    "decode": ((handlers.BatchHandler, "_decoded"),),
    "bars": ((handlers.BatchHandler, "_with_bars"), (DirectorySource, "lookup")),
    "features": ((FeaturePipeline, "extract_batch"),),
    "models": ((scoring.Scorer, "refresh"), (scoring.Scorer, "score")),
    "rows and answers": ((handlers.BatchHandler, "_compute"),),
    "look up: already settled, known, served": (
        (Deduplication, "already_settled"),
        (Vectors, "known"),
        (PredictionLog, "served"),
    ),
    "store vectors": ((Vectors, "insert_encoded"),),
    "store predictions": ((PredictionLog, "log_predictions"),),
    "store answers": ((PredictionLog, "put_served"),),
    "outcomes, repeats, dead letters": (
        (handlers.BatchHandler, "_apply"),
        (Outcomes, "take_before_signal"),
        (Outcomes, "apply_waiting"),
    ),
    "commit": ((SqliteConnection, "run"), (handlers.BatchHandler, "handle")),
    "count for the metrics": ((metrics.LoopMetrics, "count"),),
    "publish and acknowledge": ((GroupReader, "settle"),),
    "the loop": ((Consumer, "_step"),),
}


class StepTimes:
    """Own processor time of each step, batch by batch."""

    def __init__(self) -> None:
        self.batches: list[dict[str, FloatArray]] = []
        self._now: dict[str, FloatArray] = defaultdict(lambda: np.zeros(2))
        self._inner: list[FloatArray] = [np.zeros(2)]

    def timed(self, step: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            began = _clocks()
            self._inner.append(np.zeros(2))
            try:
                return call(*arguments, **named)
            finally:
                spent = _clocks() - began
                self._now[step] = self._now[step] + spent - self._inner.pop()
                self._inner[-1] = self._inner[-1] + spent
                if step == "the loop":
                    self.batches.append(dict(self._now))
                    self._now.clear()

        return run

    def of_events(self, how: Callable[..., Any]) -> dict[str, FloatArray]:
        """Microseconds an event of each step, processor and clock; `how` makes one figure of those of all batches."""
        nothing = np.zeros(2)
        return {step: how([batch.get(step, nothing) for batch in self.batches], axis=0) / BATCH * 1e6 for step in STEPS}


@contextmanager
def timed_steps(times: StepTimes) -> Iterator[None]:
    """Every step is timed while the block runs."""
    before = [(owner, name, vars(owner)[name]) for places in STEPS.values() for owner, name in places]
    try:
        for step, places in STEPS.items():
            for owner, name in places:
                setattr(owner, name, times.timed(step, vars(owner)[name]))
        yield
    finally:
        for owner, name, call in before:
            setattr(owner, name, call)


def measure(*, with_bars: bool, batches: int = 40) -> StepTimes:
    """What the batches of a worker took, step by step."""
    make = inline if with_bars else small
    times = StepTimes()
    with environment() as place, redis.Redis.from_url(place.url) as client:
        settings = place.settings("budget", bars=not with_bars)
        train(settings)
        with refinery(place, "budget", False, not with_bars) as drain:
            for start in range(0, batches * BATCH, 4 * BATCH):
                events = [make(number) for number in range(start, start + 4 * BATCH)]
                publish(client, settings.streams.signals_created, events, chunk=200)
                with timed_steps(times):
                    drain(4 * BATCH)
                client.xtrim(settings.streams.signals_created, maxlen=0, approximate=False)
    full = [batch for batch in times.batches if "decode" in batch]
    times.batches = full[4:]
    return times


def main() -> None:
    logger.remove()
    with_bars = "--inline" in sys.argv
    times = measure(with_bars=with_bars, batches=20 if with_bars else 120)
    least, mean = times.of_events(np.min), times.of_events(np.mean)
    rows = {step: (least[step][0], mean[step][0], mean[step][1]) for step in STEPS}
    rows["all"] = tuple(map(sum, zip(*rows.values(), strict=True)))
    print(f"| step, {'280 bars in the event' if with_bars else 'small events'}; µs an event | least | mean | clock |")
    print("|---|---|---|---|")
    for step, figures in rows.items():
        print(f"| {step} | {' | '.join(f'{micros:.1f}' for micros in figures)} |")


def _clocks() -> FloatArray:
    """Seconds: this thread's processor time, and the clock."""
    return np.array([time.thread_time(), time.perf_counter()])


if __name__ == "__main__":
    main()
