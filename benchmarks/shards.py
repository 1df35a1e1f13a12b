"""Four shards of a store in PostgreSQL beside one: four whole workers, and four writers of the store alone, in turns.

python -m benchmarks.shards            some minutes
python -m benchmarks.shards --quick    the same on less; nothing is kept

PostgreSQL is on a socket, with fsync and synchronous_commit on, and its processes share the cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple, Self

import numpy as np
import orjson
import psutil
import redis
from loguru import logger

from benchmarks.engines import stored_vectors
from benchmarks.environment import Environment, environment, scattered, small, train
from tests.support.postgres_server import PostgresServer
from worker.installation import feature_pipeline, open_store, streams_of, upgrade_store
from worker.redis_server.connection import connect
from worker.settings.schema import Settings
from worker.streams.entries import append_many

RESULTS = Path(__file__).parent / "tables" / "shards.json"
SHARDS = 4
PROCESSES = 4
#: As a standby in another building, or a slow disk, makes it.
SLOW_COMMIT_MS = 5
SMALL_BATCH = 32
_WRITTEN_AT_ONCE: Final = 512
_LONGEST_S = 120.0


class Took(NamedTuple):
    """Of one round: rows a second, and the share of the machine's cores that was busy."""

    rate: float
    busy: float


class Team:
    """Processes that begin together, each time they are told to, and say when each of them had done its part."""

    def __init__(self, work: Callable[..., None], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        for slot in range(PROCESSES):
            ours, theirs = context.Pipe()
            context.Process(target=work, args=(theirs, slot, *arguments), daemon=True).start()
            self._pipes.append(ours)
        for pipe in self._pipes:
            pipe.recv()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.send(None)

    def do(self, what: str, expected: int) -> Took:
        """So many rows together, from the beginning to the last commit of any of them."""
        began, busy = time.monotonic(), _busy_s()
        for pipe in self._pipes:
            pipe.send(what)
        done = [pipe.recv() for pipe in self._pipes if pipe.poll(_LONGEST_S)]
        busy = _busy_s() - busy
        assert sum(handled for handled, _ in done) == expected, "some were not handled in time"
        took_s = max(last for _, last in done) - began
        return Took(expected / took_s, busy / took_s / (os.cpu_count() or 1))


class Workers(Team):
    """Workers of one installation, which drain what is in its streams on demand."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(_handle, settings)
        self._streams = streams_of(settings)

    def drain(self, client: redis.Redis, events: list[bytes]) -> Took:
        """What so many events took."""
        for first in range(0, len(events), 1_000):
            part = events[first : first + 1_000]
            append_many(client, [(self._streams.of_event("signal.created", data), data) for data in part])
        took = self.do("drain", len(events))
        for stream in self._streams.inputs:
            client.xtrim(stream, maxlen=0, approximate=False)
        return took


def _handle(pipe: Connection, slot: int, settings: Settings) -> None:
    from worker import app
    from worker.consumer.batch_result import BatchResult
    from worker.run.process import keep_between_batches

    logger.remove()
    settings = settings.model_copy(update={"consumer_slot": slot})
    handled, last, stop = 0, 0.0, threading.Event()

    def after_batch(_: object, result: BatchResult) -> None:
        nonlocal handled, last
        if result.signals:
            handled, last = handled + result.signals, time.monotonic()
        else:
            stop.set()

    with (
        connect(settings.redis_url or "") as client,
        app.worker_consumer(settings, client, after_batch=after_batch) as consumer,
    ):
        keep_between_batches()
        pipe.send("ready")
        while pipe.recv():
            handled, last = 0, time.monotonic()
            stop.clear()
            consumer.run(stop)
            pipe.send((handled, last))


def _write(pipe: Connection, slot: int, settings: Settings, batches: int) -> None:
    """Batches of vectors and served answers: "one" lock for all writers, or "four" of them."""
    logger.remove()
    names = feature_pipeline(settings).names
    values = np.random.default_rng(slot).normal(size=(_WRITTEN_AT_ONCE, len(names)))
    pipe.send("ready")
    number = 0
    with open_store(settings) as store:
        while (how := pipe.recv()) is not None:
            for number in range(number, number + batches):  # noqa: B020 - goes on where it was
                with store.atomic(shards=[slot] if how == "four" else ()):
                    stored_vectors(store, f"{slot}-{how}-{number}", names, values)
            number += 1
            pipe.send((batches * _WRITTEN_AT_ONCE, time.monotonic()))


def _busy_s() -> float:
    """Processor time of the whole machine so far, in seconds."""
    times = psutil.cpu_times()
    return float(times.user + times.system + times.nice)


@contextmanager
def installations() -> Iterator[tuple[PostgresServer, Environment, dict[str, Settings]]]:
    """One of a single shard and one of four, each with a schema of its own on one server."""
    with PostgresServer() as server, environment() as place:
        place = replace(place, database=f"postgresql://refinery@/refinery?host={server.directory}")
        made = {}
        for state, shards in (("postgres_one", 1), ("postgres_four", SHARDS)):
            made[state] = replace(place, shards=shards).settings(state)
            upgrade_store(made[state])
            train(made[state])
        yield server, place, made


def whole_workers(
    place: Environment,
    made: dict[str, Settings],
    *,
    rounds: int,
    events: int,
    first: int,
    batch_size: int | None = None,
) -> list[list[Took]]:
    """What one shard and four took in each round, after one that warms up."""
    taken: list[list[Took]] = [[], []]
    changes = {} if batch_size is None else {"batch_size": batch_size}
    one, four = (settings.model_copy(update=changes) for settings in made.values())
    with Workers(one) as alone, Workers(four) as sharded, redis.Redis.from_url(place.url) as client:
        for number in range(rounds + 1):
            at = first + number * events
            batch = [small(one, scattered) for one in range(at, at + events)]
            for workers, took in zip((alone, sharded), taken, strict=True):
                took.append(workers.drain(client, batch))
    return [took[1:] for took in taken]


def writers_alone(settings: Settings, *, rounds: int, batches: int) -> list[list[Took]]:
    """What writers that share one lock and those with one each took, after a round that warms up."""
    rows = PROCESSES * batches * _WRITTEN_AT_ONCE
    with Team(_write, settings, batches) as team:
        taken = [(team.do("one", rows), team.do("four", rows)) for _ in range(rounds + 1)]
    return [list(took) for took in zip(*taken[1:], strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    logger.remove()
    rounds, events = (2, 8_192) if quick else (11, 16_384)
    with installations() as (server, place, made):
        whole = whole_workers(place, made, rounds=rounds, events=events, first=0)
        writers = writers_alone(made["postgres_four"], rounds=rounds, batches=2 if quick else 8)
        server.run_sql(f"ALTER SYSTEM SET commit_delay = {1000 * SLOW_COMMIT_MS}")
        server.run_sql("ALTER SYSTEM SET commit_siblings = 0")
        server.run_sql("SELECT pg_reload_conf()")
        slow = whole_workers(place, made, rounds=rounds, events=events // 4, first=10_000_000, batch_size=SMALL_BATCH)
    figures = {}
    print("| four shards beside one | rows a second | least and most of the rounds | cores busy with one | goal |")
    print("|---|---|---|---|---|")
    for what, (one, four), goal in (
        ("whole workers", whole, ">= 1.4"),
        ("writers of the store alone", writers, ">= 1.4"),
        (f"whole workers, batches of {SMALL_BATCH}, each commit {SLOW_COMMIT_MS} ms longer", slow, ""),
    ):
        ratios = sorted(ours.rate / theirs.rate for ours, theirs in zip(four, one, strict=True))
        busy = median(took.busy for took in one)
        print(f"| {what} | {median(ratios):.2f} | {ratios[0]:.2f} to {ratios[-1]:.2f} | {busy:.0%} | {goal} |")
        print(
            f"{what}: {median(took.rate for took in one):,.0f} rows a second with one, "
            f"{median(took.rate for took in four):,.0f} with four",
            file=sys.stderr,
        )
        figures[what] = {"rows a second": round(median(ratios), 4), "cores busy with one": round(busy, 4)}
    if not quick:
        RESULTS.write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2) + b"\n")


if __name__ == "__main__":
    sys.exit(main())
