"""Four shards of a store in PostgreSQL beside one: whole workers, four on each, in turns on the same machine.

python -m benchmarks.shards            some minutes
python -m benchmarks.shards --quick    the same on less; nothing is kept

PostgreSQL is on a socket, with fsync and synchronous_commit on, and its processes share the cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import orjson
import redis
from loguru import logger

from benchmarks.environment import Environment, environment, scattered, small, train
from tests.support.postgres_server import PostgresServer
from worker.installation import streams_of, upgrade_store
from worker.redis_server.connection import connect
from worker.streams.entries import append_many

RESULTS = Path(__file__).parent / "tables" / "shards.json"
SHARDS = 4
WORKERS = 4
_LONGEST_S = 120.0


class Workers:
    """Four workers of one installation, which drain what is in its streams on demand."""

    def __init__(self, place: Environment, state: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._settings = place.settings(state)
        self._pipes: list[Connection] = []
        for slot in range(WORKERS):
            ours, theirs = context.Pipe()
            context.Process(target=_work, args=(theirs, place, state, slot), daemon=True).start()
            self._pipes.append(ours)
        for pipe in self._pipes:
            pipe.recv()

    def drain(self, client: redis.Redis, events: list[bytes]) -> float:
        """Events a second, from the first read to the last commit of any of them."""
        streams = streams_of(self._settings)
        for first in range(0, len(events), 1_000):
            part = events[first : first + 1_000]
            append_many(client, [(streams.of_event("signal.created", data), data) for data in part])
        began = time.monotonic()
        for pipe in self._pipes:
            pipe.send(True)
        done = [pipe.recv() for pipe in self._pipes if pipe.poll(_LONGEST_S)]
        assert sum(handled for handled, _ in done) == len(events), "some events were not handled in time"
        for stream in streams.inputs:
            client.xtrim(stream, maxlen=0, approximate=False)
        return len(events) / (max(last for _, last in done) - began)

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.send(False)


def _work(pipe: Connection, place: Environment, state: str, slot: int) -> None:
    from worker import app
    from worker.consumer.batch_result import BatchResult
    from worker.run.process import keep_between_batches

    logger.remove()
    settings = place.settings(state, slot=slot)
    handled, last, stop = 0, 0.0, threading.Event()

    def after_batch(_: object, result: BatchResult) -> None:
        nonlocal handled, last
        if result.signals:
            handled, last = handled + result.signals, time.monotonic()
        else:
            stop.set()

    with connect(place.url) as client, app.worker_consumer(settings, client, after_batch=after_batch) as consumer:
        keep_between_batches()
        pipe.send("ready")
        while pipe.recv():
            handled, last = 0, time.monotonic()
            stop.clear()
            consumer.run(stop)
            pipe.send((handled, last))


@contextmanager
def installations() -> Iterator[tuple[Environment, dict[str, Workers]]]:
    """Workers on one shard and on four, each with a schema of its own on one server."""
    with PostgresServer() as server, environment() as place:
        place = replace(place, database=f"postgresql://refinery@/refinery?host={server.directory}")
        made: dict[str, Workers] = {}
        for state, shards in (("postgres_one", 1), ("postgres_four", SHARDS)):
            own = replace(place, shards=shards)
            upgrade_store(own.settings(state))
            train(own.settings(state))
            made[state] = Workers(own, state)
        try:
            yield place, made
        finally:
            for workers in made.values():
                workers.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    logger.remove()
    rounds, events = (3, 8_192) if quick else (11, 16_384)
    rates: dict[str, list[float]] = {}
    with installations() as (place, made), redis.Redis.from_url(place.url) as client:
        for number in range(rounds + 1):
            batch = [small(at, scattered) for at in range(number * events, (number + 1) * events)]
            for state, workers in made.items():
                rates.setdefault(state, []).append(workers.drain(client, batch))
    one, four = (taken[1:] for taken in rates.values())  # the first round warms up
    ratios = [ours / theirs for ours, theirs in zip(four, one, strict=True)]
    print("| figure | measured | goal |\n|---|---|---|")
    print(f"| four shards beside one, whole workers, events a second | {median(ratios):.2f} | >= 1.4 |")
    print(f"\nof {rounds} rounds: {', '.join(f'{ratio:.2f}' for ratio in sorted(ratios))}")
    print(f"events a second: {median(one):,.0f} on one shard, {median(four):,.0f} on four")
    if not quick:
        figures = {
            "four shards beside one": round(median(ratios), 4),
            "rounds": sorted(round(one, 3) for one in ratios),
        }
        RESULTS.write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2) + b"\n")


if __name__ == "__main__":
    sys.exit(main())
