"""Figure 7: how fast `refinery publish` fills a stream, beside how fast the worker drains it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import orjson
import redis

from benchmarks.contenders import Contender, contenders, refinery
from benchmarks.environment import Environment, small, train


@dataclass(frozen=True)
class Rates:
    """Events a second on the clock."""

    published: float
    consumed: float


def rates(environment: Environment, *, events: int, drained: int) -> Rates:
    """The real command on a file of so many small events, and a worker on the first of them."""
    settings = environment.settings("publish")
    train(settings)
    path = environment.directory / "events.jsonl"
    with path.open("wb") as file:
        for number in range(events):
            file.write(b'{"type":"signal.created",' + small(number)[1:] + b"\n")
    with redis.Redis.from_url(environment.url) as client:
        began = time.perf_counter()
        _publish(path, environment.url, settings.state_dir, settings.streams.signals_created)
        published = events / (time.perf_counter() - began)
        assert client.xlen(settings.streams.signals_created) == events
        worker = Contender("refinery", refinery, environment, "publish")
        with contenders(worker):
            worker.drain(1024)
            consumed = drained / worker.drain(drained).wall
        client.delete(settings.streams.signals_created)
    return Rates(published, consumed)


def _publish(path: Path, url: str, state: Path, stream: str) -> None:
    command = [str(Path(sys.executable).parent / "refinery"), "publish", str(path), "--json"]
    environment = {
        **os.environ,
        "REFINERY_REDIS_URL": url,
        "REFINERY_STATE_DIR": str(state),
        "REFINERY_STREAMS__SIGNALS_CREATED": stream,
        "REFINERY_LOG_LEVEL": "ERROR",
    }
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert orjson.loads(done.stdout)["refused"] == 0
