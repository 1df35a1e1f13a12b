"""Who is measured: each in a process of its own that drains what it is told to, and says what it took.

The peers are given every advantage that does not change what they are: FastStream has its logger off and events of the
five fields it reads, and is not asked to keep anything.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import orjson
import redis
from pydantic import BaseModel

from benchmarks.environment import Environment
from worker.installation import open_store
from worker.observability.logging import set_up_logging
from worker.redis_server.connection import connect

Drain = Callable[[int], None]


class FiveFields(BaseModel):
    """What the peer reads."""

    signal_id: str
    timestamp: str
    symbol: str
    technical_score: float
    entry_price: float


@dataclass(frozen=True)
class Took:
    """Seconds of one drain, on the clock and of its process's own processor time."""

    wall: float
    cpu: float


class Contender:
    """A process that drains events on demand."""

    def __init__(self, name: str, target: Callable[..., Any], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, target, arguments), daemon=True)
        self._process.start()
        theirs.close()  # so that a process that dies is an end of the pipe and not a wait
        try:
            self._pipe.recv()
        except EOFError:
            raise RuntimeError(f"{name} did not start") from None

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def start(self, count: int) -> None:
        """Begin to drain so many events."""
        self._pipe.send(count)

    def wait(self) -> Took:
        """What the drain that was begun took."""
        if not self._pipe.poll(60):
            raise RuntimeError(f"{self.name} does not come to an end")
        try:
            return Took(*self._pipe.recv())
        except EOFError:
            raise RuntimeError(f"{self.name} died at its work") from None

    def drain(self, count: int) -> Took:
        self.start(count)
        return self.wait()

    def close(self) -> None:
        self._pipe.send(0)
        self._process.join(20)
        if self._process.is_alive():
            self._process.kill()


@contextmanager
def contenders(*made: Contender) -> Iterator[None]:
    """Their processes end with the block."""
    try:
        yield
    finally:
        for one in made:
            one.close()


def _serve(pipe: Connection, target: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    with target(*arguments) as drain:
        pipe.send("ready")
        while count := pipe.recv():
            wall, cpu = time.perf_counter(), time.process_time()
            drain(count)
            pipe.send((time.perf_counter() - wall, time.process_time() - cpu))


@contextmanager
def refinery(
    environment: Environment, state: str, archive: bool = False, bars: bool = True, slot: int = 0
) -> Iterator[Drain]:
    """One worker process, as `refinery worker` builds it, counting for its metrics too."""
    from prometheus_client import CollectorRegistry

    from worker import app
    from worker.consumer.batch_handler import BatchResult
    from worker.observability import metrics
    from worker.run.process import keep_between_batches

    settings = environment.settings(state, archive=archive, bars=bars, slot=slot)
    set_up_logging(settings)
    seen = 0
    wanted = 0
    stop = threading.Event()
    counters = metrics.LoopMetrics(CollectorRegistry())

    def after_batch(_: object, handled: BatchResult) -> None:
        nonlocal seen
        counters.came_round()
        seen += handled.signals
        assert handled.dead_lettered == 0, "an event of the benchmark was refused"
        if seen >= wanted:
            stop.set()

    with (
        connect(environment.url) as client,
        app.worker_consumer(
            settings,
            client,
            after_batch=after_batch,
            observed=lambda handler: metrics.ObservedHandler(handler, counters),
        ) as consumer,
    ):
        keep_between_batches()

        def drain(count: int) -> None:
            nonlocal wanted
            wanted = seen + count
            stop.clear()
            consumer.run(stop)

        yield drain


@contextmanager
def faststream(environment: Environment, stream: str) -> Iterator[Drain]:
    """FastStream's Redis-stream subscriber: 64 records a read, a pydantic model of five fields, an empty handler."""
    from faststream.redis import RedisBroker, StreamSub

    loop = asyncio.new_event_loop()
    broker = RedisBroker(environment.url, logger=None)
    seen = 0
    wanted = 0
    reached = asyncio.Event()

    @broker.subscriber(stream=StreamSub(stream, group="bench", consumer="one", max_records=64, last_id="0"))
    async def handle(signal: FiveFields) -> None:  # noqa: ARG001 - the peer reads it from the signature
        nonlocal seen
        seen += 1
        if seen >= wanted:
            reached.set()

    async def drained(count: int) -> None:
        nonlocal wanted
        wanted = seen + count
        reached.clear()
        await broker.start()
        await reached.wait()
        await broker.stop()

    yield lambda count: loop.run_until_complete(drained(count))


@contextmanager
def floor(environment: Environment, stream: str) -> Iterator[Drain]:
    """Reading, parsing and acknowledging in batches of 256, and nothing else."""
    with redis.Redis.from_url(environment.url, protocol=2) as client:
        client.xgroup_create(stream, "bench", id="0", mkstream=True)

        def drain(count: int) -> None:
            seen = 0
            while seen < count:
                entries = client.xreadgroup("bench", "one", {stream: ">"}, count=256, block=1000)[0][1]
                for _, fields in entries:
                    orjson.loads(fields[b"data"])
                client.xack(stream, "bench", *[entry_id for entry_id, _ in entries])
                seen += len(entries)

        yield drain


@contextmanager
def plain(environment: Environment, state: str) -> Iterator[Drain]:
    """As one writes it at first: an event at a time, pandas, one transaction each for vector and prediction."""
    import pandas as pd

    from tests.support import slow_definitions as slow
    from trading_system.ml_refinement.config import FeatureVector, ModelType
    from trading_system.ml_refinement.models import ModelRegistry
    from trading_system.ml_refinement.storage.tables.scores import PredictionRow
    from trading_system.ml_refinement.storage.times import utc_now, utc_text

    settings = environment.settings(state)
    stream = settings.streams.signals_created
    frames = {
        path.stem: pd.read_csv(path, parse_dates=["timestamp"], index_col="timestamp")
        for path in environment.market.glob("*.csv")
    }
    with open_store(settings) as store, redis.Redis.from_url(environment.url, protocol=2) as client:
        model = ModelRegistry(model_dir=str(settings.models_dir), db=store).get_active(ModelType.SIGNAL_QUALITY)
        assert model is not None, "train first"
        client.xgroup_create(stream, "bench", id="0", mkstream=True)

        def handle(data: bytes) -> bytes:
            event = orjson.loads(data)
            bars = frames[event["symbol"]].loc[: event["timestamp"]]
            found = slow.trend(bars) | slow.momentum(bars) | slow.volatility(bars) | slow.metadata(event)
            row = {name: float(found[name]) for name in model.feature_names}
            vector = FeatureVector(event["signal_id"], event["timestamp"], row)
            labels = event["symbol"], event["asset_class"], event["signal_type"], event["conviction"]
            store.store_feature_vector(vector, *labels, feature_version=model.feature_version)
            quality = float(model.predict_proba(pd.DataFrame([row]))[0])
            now = utc_text(utc_now())
            store.scores.log_predictions([PredictionRow(event["signal_id"], model.model_id, now, quality)])
            return orjson.dumps({"signal_id": event["signal_id"], "quality_score": quality})

        def drain(count: int) -> None:
            for _ in range(count):
                ((entry_id, fields),) = client.xreadgroup("bench", "one", {stream: ">"}, count=1)[0][1]
                client.xadd(settings.streams.signals_scored, {"data": handle(fields[b"data"])})
                client.xack(stream, "bench", entry_id)

        yield drain
