"""Figure 8: the whole path beside its own ground, a script that does the same reads and writes and nothing else.

It reads 512 entries, parses them, and writes the rows that the worker writes for each (the vector with its text and
its packed values, a prediction of champion and challenger, the served answer) into the same schema, with its triggers
and indexes, by prepared statements in one transaction that is as durable, and keeps the same counters. Then it
publishes and acknowledges by one script. It checks, looks up, computes and formats nothing, has no metrics and no log.

It is meant to be as quick as Python and SQLite are at that: it reads through the worker's own client, with the worker's
pragmas, allocator and garbage collector; signals in the order of their ids where that spares the indexes; what a row
says beside the event's own fields was written by the worker for another signal, and is bound as it is.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from operator import itemgetter
from typing import Any

import apsw
import orjson
import redis

from benchmarks.contenders import Contender, Drain, Took, contenders, refinery
from benchmarks.environment import Environment, Naming, in_order, publish, small, train
from benchmarks.throughput import Rounds
from trading_system.ml_refinement.storage.counters import ADD
from trading_system.ml_refinement.storage.tables.vectors import INSERT_NEW
from worker.redis_server.connection import connect
from worker.run.process import keep_between_batches
from worker.streams.lua import script

BATCH = 512
#: Signals that the worker handles first: what it wrote for them is written again under other names.
MODELS = 512
VECTORS = """
    SELECT feature_version, complete, features, created_at, list_id, packed
    FROM feature_vectors ORDER BY id DESC LIMIT ?"""
PREDICTIONS = """
    SELECT model_id, predicted_at, quality_score, predicted_r, confidence, role
    FROM prediction_log ORDER BY id DESC LIMIT ?"""
PUT_PREDICTION = """
    INSERT INTO prediction_log (signal_id, model_id, predicted_at, quality_score, predicted_r, confidence, role)
    VALUES (?, ?, ?, ?, ?, ?, ?)"""
SERVED = "SELECT model_id, status, payload FROM served_scores ORDER BY vector_id DESC LIMIT ?"
PUT_SERVED = "INSERT INTO served_scores (vector_id, model_id, status, payload) VALUES (?, ?, ?, ?)"
LAST = "SELECT max(id) FROM feature_vectors"


@contextmanager
def ground(environment: Environment, state: str, naming: Naming = in_order) -> Iterator[Drain]:
    """The script, on a store of its own in which the worker has handled some signals."""
    settings, stream = environment.settings(state), f"{state}.ground"
    with connect(environment.url) as client:
        first = secrets.randbelow(10**6) + 90_000_000
        publish(client, settings.streams.signals_created, [small(first + at, naming) for at in range(MODELS)])
        with refinery(environment, state) as drain_by_worker:
            drain_by_worker(MODELS)
        client.xgroup_create(stream, "bench", id="0", mkstream=True)
        store = apsw.Connection(str(settings.store_path))
        for pragma in ("synchronous = FULL", "cache_size = -65536", "wal_autocheckpoint = 4000", "foreign_keys = ON"):
            store.execute(f"PRAGMA {pragma}")

        def rows_of(sql: str, *bound: object) -> list[Any]:
            return store.execute(sql, bound).fetchall()

        written = rows_of(VECTORS, MODELS)
        models: dict[str, list[Any]] = {}
        for said in rows_of(PREDICTIONS, 2 * MODELS):
            models.setdefault(said[0], []).append(said)
        answers = [(model, status, *_around(payload)) for model, status, payload in rows_of(SERVED, MODELS)]
        settle = script("settle")
        hashes = count()
        keep_between_batches()

        def handle(entries: list[tuple[bytes, dict[bytes, bytes]]]) -> list[bytes]:
            vectors, predicted, served = [], [], []
            told = []
            ((last,),) = rows_of(LAST)
            rows = zip(entries, written, *models.values(), answers, strict=False)
            for vector_id, ((entry_id, fields), own, one, other, answer) in enumerate(rows, last + 1):
                event = orjson.loads(fields[b"data"])
                name = event["signal_id"]
                version, complete, *values = own
                event_hash = next(hashes).to_bytes(16)
                vectors.append(
                    (name, event["timestamp"], event["symbol"], event["asset_class"], event["signal_type"],
                     event["conviction"], version, complete, event_hash, entry_id.decode(), *values)
                )  # fmt: skip
                predicted += [(name, *one), (name, *other)]
                model, status, before, after = answer
                payload = b"%b%b%b" % (before, name.encode(), after)
                told.append(payload)
                served.append((vector_id, model, status, payload))
            predicted.sort(key=itemgetter(0))
            store.execute("BEGIN IMMEDIATE")
            store.executemany(INSERT_NEW, vectors)
            store.executemany(PUT_PREDICTION, predicted)
            store.executemany(PUT_SERVED, served)
            store.execute(ADD, (len(vectors), "signals"))
            store.execute(ADD, (len(predicted), "predictions"))
            store.execute("COMMIT")
            return told

        def drain(wanted: int) -> None:
            seen = 0
            while seen < wanted:
                entries = client.xreadgroup("bench", "one", {stream: ">"}, count=BATCH, block=1000)[0][1]
                told, ids = handle(entries), [entry_id for entry_id, _ in entries]
                head = ("bench", settings.scored_maxlen, len(told))
                client.eval(settle, 2, settings.streams.signals_scored, stream, *head, *told, len(ids), *ids)
                seen += len(entries)

        yield drain
        store.close()


def _around(payload: bytes) -> tuple[bytes, bytes]:
    """An answer without its signal's id: what stands before and after it."""
    before, _, after = payload.partition(orjson.loads(payload)["signal_id"].encode())
    return before, after


def whole_path(
    environment: Environment, *, rounds: int, events: int, naming: Naming = in_order, ready: bool = False
) -> dict[str, Rounds]:
    """The worker and its ground, in turns, each on a store of its own; `ready`: which is there already."""
    ours = environment.settings("whole")
    if not ready:
        for state in ("whole", "ground"):
            train(environment.settings(state))
    made = (
        Contender("refinery", refinery, environment, "whole"),
        Contender("ground", ground, environment, "ground", naming),
    )
    streams = (ours.streams.signals_created, "ground.ground")
    taken: dict[str, list[Took]] = {one.name: [] for one in made}
    numbers = count(1)
    with contenders(*made), redis.Redis.from_url(environment.url) as client:
        for _ in range(rounds + 1):
            batch = [small(next(numbers), naming) for _ in range(events)]
            for one, stream in zip(made, streams, strict=True):
                publish(client, stream, batch)
                taken[one.name].append(one.drain(events))
                client.xtrim(stream, maxlen=0, approximate=False)
    return {name: Rounds.of(took[1:], events) for name, took in taken.items()}
