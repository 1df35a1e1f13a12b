"""Figure 8: the whole path beside its own ground, a script that does the same reads and writes and nothing else.

It reads 512 entries, parses them, and writes the rows that the worker writes for each (the vector with its text and its
packed values, a prediction of champion and challenger, the served answer) into the same schema, with its triggers and
indexes, by prepared statements in one transaction that is as durable. Then it publishes and acknowledges by one script.
It checks, looks up, computes, counts and logs nothing: what it writes is what the worker wrote for a signal like these,
under other names.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import apsw
import orjson
import redis

from benchmarks.contenders import Contender, Drain, Took, contenders, refinery
from benchmarks.environment import Environment, publish, small, train
from benchmarks.throughput import Rounds
from trading_system.ml_refinement.storage.counters import ADD
from trading_system.ml_refinement.storage.tables.vectors import INSERT_NEW
from worker.streams.lua import script

BATCH = 512
VECTOR = """
    SELECT timestamp, symbol, asset_class, signal_type, conviction, feature_version, complete, event_hash, entry_id,
        features, created_at, list_id, packed
    FROM feature_vectors"""
PREDICTIONS = "SELECT model_id, predicted_at, quality_score, predicted_r, confidence, role FROM prediction_log"
PUT_PREDICTION = """
    INSERT INTO prediction_log (signal_id, model_id, predicted_at, quality_score, predicted_r, confidence, role)
    VALUES (?, ?, ?, ?, ?, ?, ?)"""
SERVED = "SELECT model_id, status, payload FROM served_scores"
PUT_SERVED = "INSERT INTO served_scores (vector_id, model_id, status, payload) VALUES (?, ?, ?, ?)"


@contextmanager
def ground(environment: Environment, state: str) -> Iterator[Drain]:
    """The script, on a store of its own in which the worker has handled one signal."""
    settings, stream = environment.settings(state), f"{state}.ground"
    with redis.Redis.from_url(environment.url, protocol=2) as client:
        publish(client, settings.streams.signals_created, [small(0)])
        with refinery(environment, state) as drain_by_worker:
            drain_by_worker(1)
        client.xgroup_create(stream, "bench", id="0", mkstream=True)
        store = apsw.Connection(str(settings.store_path))
        for pragma in ("synchronous = FULL", "cache_size = -65536", "wal_autocheckpoint = 4000", "foreign_keys = ON"):
            store.execute(f"PRAGMA {pragma}")
        ((_, *labels), *_), predictions = store.execute(VECTOR).fetchall(), store.execute(PREDICTIONS).fetchall()
        model, status, answer = store.execute(SERVED).fetchall()[0]
        before, after = answer.split(orjson.loads(small(0))["signal_id"].encode())
        settle = script("settle")

        def handle(entries: list[tuple[bytes, dict[bytes, bytes]]]) -> list[bytes]:
            vectors, predicted, answers = [], [], []
            for _, fields in entries:
                event = orjson.loads(fields[b"data"])
                name = event["signal_id"]
                vectors.append((name, event["timestamp"], *labels))
                predicted += [(name, *one) for one in predictions]
                answers.append(b"%b%b%b" % (before, name.encode(), after))
            store.execute("BEGIN IMMEDIATE")
            last = store.execute("SELECT max(id) FROM feature_vectors").fetchall()[0][0]
            store.executemany(INSERT_NEW, vectors)
            store.executemany(PUT_PREDICTION, predicted)
            served = [(last + at, model, status, one) for at, one in enumerate(answers, 1)]
            store.executemany(PUT_SERVED, served)
            store.execute(ADD, (len(vectors), "signals"))
            store.execute(ADD, (len(predicted), "predictions"))
            store.execute("COMMIT")
            return answers

        def drain(wanted: int) -> None:
            seen = 0
            while seen < wanted:
                entries = client.xreadgroup("bench", "one", {stream: ">"}, count=BATCH, block=1000)[0][1]
                answers, ids = handle(entries), [entry_id for entry_id, _ in entries]
                head = ("bench", settings.scored_maxlen, len(answers))
                client.eval(settle, 2, settings.streams.signals_scored, stream, *head, *answers, len(ids), *ids)
                seen += len(entries)

        yield drain
        store.close()


def whole_path(environment: Environment, *, rounds: int, events: int) -> dict[str, Rounds]:
    """The worker and its ground, in turns."""
    ours = environment.settings("whole")
    for state in ("whole", "ground"):
        train(environment.settings(state))
    made = (Contender("refinery", refinery, environment, "whole"), Contender("ground", ground, environment, "ground"))
    streams = (ours.streams.signals_created, "ground.ground")
    taken: dict[str, list[Took]] = {one.name: [] for one in made}
    numbers = count(1)
    with contenders(*made), redis.Redis.from_url(environment.url) as client:
        for _ in range(rounds + 1):
            batch = [small(next(numbers)) for _ in range(events)]
            for one, stream in zip(made, streams, strict=True):
                publish(client, stream, batch)
                taken[one.name].append(one.drain(events))
                client.xtrim(stream, maxlen=0, approximate=False)
    return {name: Rounds.of(took[1:], events) for name, took in taken.items()}
