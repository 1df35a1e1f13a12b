"""Figure 3: from XADD to the score on the stream of scores, at fifty events a second; the bare round trip beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

import numpy as np
import redis

from benchmarks.contenders import Contender, contenders, refinery
from benchmarks.environment import Environment, small, train

PAUSE_S = 0.02


@contextmanager
def echo(environment: Environment, stream: str, answers: str) -> Iterator[Callable[[int], None]]:
    """Reads an entry, acknowledges it and adds one to another stream: what no worker can do without."""
    with redis.Redis.from_url(environment.url, protocol=2) as client:
        client.xgroup_create(stream, "bench", id="0", mkstream=True)

        def drain(number: int) -> None:
            seen = 0
            while seen < number:
                reply = client.xreadgroup("bench", "one", {stream: ">"}, count=256, block=1000)
                for entry_id, fields in reply[0][1] if reply else ():
                    client.xack(stream, "bench", entry_id)
                    client.xadd(answers, fields)
                    seen += 1

        yield drain


def round_trips(environment: Environment, *, blocks: int, events: int) -> dict[str, np.ndarray]:
    """Milliseconds of every round trip, the two in turns, block by block."""
    settings = environment.settings("latency")
    train(settings)
    streams = {
        "refinery": (settings.streams.signals_created, settings.streams.signals_scored),
        "bare": ("echo.in", "echo.s"),
    }
    made = (
        Contender("refinery", refinery, environment, "latency"),
        Contender("bare", echo, environment, *streams["bare"]),
    )
    numbers = count()
    taken: dict[str, list[float]] = {"refinery": [], "bare": []}
    with contenders(*made), redis.Redis.from_url(environment.url, protocol=2) as client:
        for block in range(blocks + 1):
            for one in made:
                one.start(events)
                times = _ask(client, environment.url, *streams[one.name], [small(next(numbers)) for _ in range(events)])
                one.wait()
                if block:
                    taken[one.name] += times
    return {name: np.array(times) * 1000 for name, times in taken.items()}


def _ask(client: redis.Redis, url: str, stream: str, answers: str, events: list[bytes]) -> list[float]:
    """Seconds from adding each event to reading its answer, by a reader that waits for it."""
    last = client.xrevrange(answers, count=1)
    read: list[float] = []

    def reader() -> None:
        after = last[0][0] if last else b"0"
        with redis.Redis.from_url(url, protocol=2) as own:
            while len(read) < len(events):
                reply = own.xread({answers: after}, block=2000)
                now = time.perf_counter()
                for after, _ in reply[0][1] if reply else ():  # noqa: B007 - the last one is where to go on
                    read.append(now)

    waiting = threading.Thread(target=reader)
    waiting.start()
    time.sleep(0.05)
    added = []
    for data in events:
        added.append(time.perf_counter())
        client.xadd(stream, {"data": data})
        time.sleep(PAUSE_S)
    waiting.join()
    return [done - began for began, done in zip(added, read, strict=True)]
