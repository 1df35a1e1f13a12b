"""The store in PostgreSQL beside the store in SQLite, in turns on the same machine.

python -m benchmarks.engines            with 1,000,000 signals for the status; some minutes
python -m benchmarks.engines --quick    the same on less; nothing is kept

PostgreSQL is on a socket, with fsync and synchronous_commit on, and its processes share the cores. The processor time
is of the worker alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import orjson
import redis
from loguru import logger

from benchmarks.contenders import Contender, Took, contenders, refinery
from benchmarks.environment import Environment, environment, inline, publish, small, train
from benchmarks.growth import fill
from benchmarks.throughput import Rounds
from tests.support.postgres_server import PostgresServer
from trading_system.ml_refinement.storage import ArchivedEvent, FeatureDatabase
from trading_system.ml_refinement.storage.tables.vectors import INSERT_NEW, VectorRow
from trading_system.ml_refinement.storage.times import text_from_us
from worker.installation import copy_a_store, feature_pipeline, open_archive, open_store, upgrade_store
from worker.settings.schema import Settings

RESULTS = Path(__file__).parent / "tables" / "engines.json"
STATES = {"sqlite": "engine", "postgresql": "postgres_engine"}
_START_US = 1_600_000_000_000_000


def whole_worker(place: Environment, *, rounds: int, events: int) -> dict[str, Rounds]:
    """Whole workers, one on each engine."""
    settings = {name: place.settings(state) for name, state in STATES.items()}
    for one in settings.values():
        train(one)
    made = [Contender(name, refinery, place, state) for name, state in STATES.items()]
    taken: dict[str, list[Took]] = {one.name: [] for one in made}
    numbers = count()
    with contenders(*made), redis.Redis.from_url(place.url) as client:
        for _ in range(rounds + 1):
            batch = [small(next(numbers)) for _ in range(events)]
            for one in made:
                stream = settings[one.name].streams.signals_created
                publish(client, stream, batch)
                taken[one.name].append(one.drain(events))
                client.xtrim(stream, maxlen=0, approximate=False)
    return {name: Rounds.of(took[1:], events) for name, took in taken.items()}


def a_batch_of_one(place: Environment, *, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of the transaction that stores one signal and its answer."""
    stores = {name: open_store(place.settings(state)) for name, state in STATES.items()}
    names = feature_pipeline(place.settings("engine")).names
    values = np.random.default_rng(1).normal(size=(1, len(names)))
    taken: dict[str, list[float]] = {name: [] for name in stores}
    for number in range(rounds):
        for name, store in stores.items():
            taken[name].append(_timed(lambda s=store, n=number: stored_vectors(s, f"one-{n}", names, values)))
    for store in stores.values():
        store.close()
    return taken


def arrays_beside_executemany(place: Environment, *, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of storing 512 vectors as arrays, and a statement for each."""
    store = open_store(place.settings(STATES["postgresql"]))
    names = feature_pipeline(place.settings("engine")).names
    values = np.random.default_rng(1).normal(size=(512, len(names)))
    connection = store._connection
    taken: dict[str, list[float]] = {"arrays": [], "executemany": []}
    packed = [row.tobytes() for row in values]
    text = orjson.dumps(dict(zip(names, values[0].tolist(), strict=True))).decode()
    for number in range(rounds):
        for how in taken:
            rows = [(*row, text, row.timestamp, 1, packed[at]) for at, row in enumerate(_rows(f"{how}-{number}", 512))]

            def write(how: str = how, rows: list[tuple[object, ...]] = rows) -> None:
                with store.atomic():
                    (connection.write_rows if how == "arrays" else connection.run_many)(INSERT_NEW, rows)

            taken[how].append(_timed(write))
    store.close()
    return taken


def archive_appends(place: Environment, event: Callable[[int], bytes], *, rounds: int) -> dict[str, Rounds]:
    """Batches of 512 events appended to the archive of received events."""
    archives = {name: open_archive(place.settings(state)) for name, state in STATES.items()}
    taken: dict[str, list[Took]] = {name: [] for name in archives}
    for archive in archives.values():
        archive.initialize()
    for number in range(rounds + 1):
        ms = int(time.time() * 1000)
        received = text_from_us(1000 * ms)
        entries = range(number * 512, (number + 1) * 512)
        rows = [ArchivedEvent(event.__name__, f"{ms}-{entry}", received, event(entry)) for entry in entries]
        for name, archive in archives.items():
            began, before = time.perf_counter(), time.process_time()
            archive.append(rows)
            taken[name].append(Took(time.perf_counter() - began, time.process_time() - before))
    for archive in archives.values():
        archive.close()
    return {name: Rounds.of(took[1:], 512) for name, took in taken.items()}


def training_rows(place: Environment, *, rows: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of reading so many labelled vectors into a matrix."""
    taken: dict[str, list[float]] = {}
    stores = {}
    for name, state in STATES.items():
        settings = place.settings(f"{state}_rows")
        _begun(settings, rows * 2)  # every second one is labelled
        stores[name] = open_store(settings)
        taken[name] = []
    pipeline = feature_pipeline(settings)
    for _ in range(rounds):
        for name, store in stores.items():
            taken[name].append(
                _timed(
                    lambda s=store: s.vectors.training_matrix(
                        feature_version=pipeline.feature_version, names=pipeline.names
                    )
                )
            )
    for store in stores.values():
        store.close()
    return taken


def status_ms(place: Environment, *, signals: int) -> float:
    """Milliseconds of the counts behind a status, inside a process, at so many signals."""
    settings = place.settings("postgres_engine_rows")
    _begun(settings, signals)
    with open_store(settings) as store:
        store.counts()
        return median(_timed(store.counts) for _ in range(20))


class Copied(NamedTuple):
    """A copy with its comparison row by row."""

    rows: int
    seconds: float


def copies(place: Environment) -> dict[str, Copied]:
    """The store of the status copied out of PostgreSQL, and that copy into PostgreSQL again."""
    source, file, back = (
        place.settings(state) for state in ("postgres_engine_rows", "copied", "postgres_engine_copied")
    )
    return {
        "PostgreSQL to SQLite": _copied(source, file),
        "SQLite to PostgreSQL": _copied(file, back),
    }


def _copied(source: Settings, target: Settings) -> Copied:
    began = time.perf_counter()
    tables = copy_a_store(source.store_place, target.store_place, told=lambda _: None)
    return Copied(sum(table.rows for table in tables), time.perf_counter() - began)


def _begun(settings: Settings, signals: int) -> None:
    upgrade_store(settings)
    with open_store(settings) as store:
        trained = store.models.active_id("signal_quality") is not None
    if not trained:
        train(settings)
    fill(settings, signals)


def _rows(prefix: str, number: int) -> list[VectorRow]:
    return [
        VectorRow(
            f"{prefix}-{at}",
            text_from_us(_START_US + at),
            "SYM",
            "equity",
            "breakout",
            "HIGH",
            "1.0",
            True,
            b"h" * 16,
            f"{at}-1",
        )
        for at in range(number)
    ]


def stored_vectors(store: FeatureDatabase, prefix: str, names: tuple[str, ...], values: np.ndarray) -> None:
    """Store vectors and an answer for each, as a worker does; the rows of `values` are theirs."""
    rows = _rows(prefix, len(values))
    with store.atomic():
        store.vectors.insert_new(rows, names, values)
        store.scores.put_served([(row.signal_id, None, "cold_start", b"{}") for row in rows])


def _timed(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return (time.perf_counter() - began) * 1000


@contextmanager
def both_engines() -> Iterator[Environment]:
    """An environment whose states in PostgreSQL have a server of their own."""
    with PostgresServer() as server, environment() as place:
        database = f"postgresql://refinery@/refinery?host={server.directory}"
        place = replace(place, database=database)
        for state in STATES.values():
            upgrade_store(place.settings(state))
        yield place


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    logger.remove()
    with both_engines() as place:
        workers = whole_worker(place, rounds=3 if quick else 9, events=4_096)
        ones = a_batch_of_one(place, rounds=50 if quick else 300)
        arrays = arrays_beside_executemany(place, rounds=3 if quick else 12)
        reading = training_rows(place, rows=5_000 if quick else 100_000, rounds=3)
        kept = {
            what: archive_appends(place, event, rounds=5 if quick else 30)
            for what, event in (("small events", small), ("events with their bars", inline))
        }
        signals = 20_000 if quick else 1_000_000
        status = status_ms(place, signals=signals)
        copied = copies(place)
    ours, theirs = workers["postgresql"], workers["sqlite"]
    lines = [
        ("whole worker, events a second beside SQLite", 1 / ours.over(theirs), ">= .6"),
        ("whole worker, its processor time beside SQLite's", ours.least_cpu_over(theirs), "<= 1.0"),
        ("a batch of one, beside SQLite", median(ones["postgresql"]) / median(ones["sqlite"]), "<= 2"),
        ("512 vectors by executemany, beside arrays", median(arrays["executemany"]) / median(arrays["arrays"]), ">= 2"),
        ("reading training rows, beside SQLite", median(reading["postgresql"]) / median(reading["sqlite"]), "<= 2"),
        (f"status at {signals:,} signals, ms", status, "<= 300"),
    ]
    lines += [
        (f"{way}: {one.rows:,} rows copied and compared, a second", one.rows / one.seconds, ">= 5,000")
        for way, one in copied.items()
    ]
    for what, by_engine in kept.items():
        there, here = by_engine["postgresql"], by_engine["sqlite"]
        lines += [
            (f"archive, {what}: time of an append beside SQLite's", there.over(here), ""),
            (f"archive, {what}: its processor time beside SQLite's", there.cpu_over(here), ""),
        ]
    print("| figure | measured | goal |\n|---|---|---|")
    for what, figure, goal in lines:
        print(f"| {what} | {figure:.3g} | {goal} |")
    least = f"{min(ours.cpu):.1f} us an event on PostgreSQL, {min(theirs.cpu):.1f} on SQLite"
    print(f"\nworker, least processor time: {least}")
    if not quick:
        figures = {what: round(figure, 4) for what, figure, _ in lines}
        RESULTS.write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2) + b"\n")


if __name__ == "__main__":
    sys.exit(main())
