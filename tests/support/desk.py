"""A worker on a real server and store, driven step by step."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import redis

from tests.support.events import GROUP, SCORES, SIGNALS, TRADES
from trading_system.ml_refinement.storage import FeatureDatabase
from worker import app
from worker.consumer.batch_handler import BatchResult
from worker.consumer.loop import Consumer
from worker.installation import streams_of
from worker.redis_server.connection import connect
from worker.settings.schema import Settings, load_settings
from worker.supervision.backoff import Backoff


def send(client: redis.Redis, stream: str, event: dict[str, Any] | bytes) -> str:
    """Publish one event; its entry id."""
    data = event if isinstance(event, bytes) else orjson.dumps(event)
    entry_id: Any = client.xadd(stream, {"data": data})
    return str(entry_id.decode())


def scored(client: redis.Redis) -> list[dict[str, Any]]:
    """Every score published so far, in order."""
    rows: Any = client.xrange(SCORES)
    return [orjson.loads(fields[b"data"]) for _, fields in rows]


def pending(client: redis.Redis) -> int:
    """Entries delivered and not acknowledged, over both input streams."""
    return sum(client.xpending(stream, GROUP)["pending"] for stream in (SIGNALS, TRADES))  # type: ignore[index]


def settings_for(state_dir: Any, url: str, **changes: Any) -> Settings:
    """Settings of a worker that does not wait long for anything."""
    quick = {"state_dir": state_dir, "redis_url": url, "block_ms": 20, "metrics_port": 0, "trainer_metrics_port": 0}
    return load_settings(**quick | changes)


class Desk:
    """A worker's parts, driven step by step."""

    def __init__(
        self,
        settings: Settings,
        client: redis.Redis,
        consumer: Consumer,
        store: FeatureDatabase,
        handled: list[BatchResult],
    ) -> None:
        self.settings = settings
        self.client = client
        self.consumer = consumer
        self.store = store
        self.handled = handled

    def drain(self, *, rounds: int = 200) -> BatchResult:
        """Run until all streams are handled; the sum of what was handled."""
        before = len(self.handled)
        for _ in range(rounds):
            stop = _StopAfter(1)
            self.consumer.run(stop)
            if not any(state.pending or state.lag for state in self.states()):
                break
        return sum(self.handled[before:], BatchResult())

    def states(self) -> list[Any]:
        from worker.streams.state import stream_states

        return stream_states(self.client, streams_of(self.settings).inputs, GROUP)


class _StopAfter(threading.Event):
    """Lets the loop take so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._left = steps

    def is_set(self) -> bool:
        self._left -= 1
        return self._left < 0 or super().is_set()


@contextmanager
def desk(settings: Settings) -> Iterator[Desk]:
    """A worker on a real server and store; nothing runs until it is driven."""
    handled: list[BatchResult] = []
    with (
        connect(settings.redis_url or "") as client,
        app.worker_consumer(settings, client, after_batch=lambda _, batch: handled.append(batch)) as consumer,
        FeatureDatabase(settings.store_place) as store,
    ):
        consumer._backoff = Backoff(0.001, 0.01)
        yield Desk(settings, client, consumer, store, handled)
