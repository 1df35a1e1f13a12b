"""Figure 4: what a large store costs: throughput, the worker's memory, `refinery status` and the overview page.

The large store is filled by the store's own methods, a thousand signals to a transaction, from what a worker has
computed: signals, answers, two predictions each, an outcome for every second one. A filling that was stopped goes on
where it was.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import redis
from werkzeug.test import TestResponse

from benchmarks.console_pages import add_letters, page_times
from benchmarks.contenders import Contender, Took, contenders, refinery
from benchmarks.environment import Environment, Naming, publish, scattered, small, train
from benchmarks.ground import ground
from benchmarks.throughput import Rounds
from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.storage import FeatureDatabase, OutcomeRow, PredictionRow, VectorRow
from trading_system.ml_refinement.storage.times import text_from_us
from worker.console.application import create_app
from worker.installation import feature_pipeline, open_store
from worker.observability.status import read_status
from worker.redis_server.connection import connect
from worker.settings.schema import Settings

CHUNK = 1_000
MINUTE_US = 60_000_000
START_US = 1_500_000_000_000_000
FEW = 1_000
#: Number of the first signal that a store is filled with: no event has it.
FIRST = 10**9
MEMORY_STEP = 10_240
#: Runs of the command that count, after one that warms the disk's cache.
COMMANDS = 7


def _old(number: int) -> str:
    return f"old-{number - FIRST:08d}"


@dataclass(frozen=True)
class Growth:
    """`few` and `many` as `Rounds`; MB of memory by events handled; milliseconds of the views and of the command."""

    few: Rounds
    many: Rounds
    rss_mb: dict[int, float]
    status_ms: float
    overview_ms: float
    #: The first request for each page, by its name.
    pages_ms: dict[str, float]
    command_ms: list[float]

    @property
    def slowest_page(self) -> tuple[str, float]:
        """The page that the first request took longest for."""
        return max(self.pages_ms.items(), key=lambda page: page[1])


def measure(
    environment: Environment, *, signals: int, rounds: int, events: int, memory_events: int, keep: Path | None = None
) -> Growth:
    """A store of a thousand signals and one of so many, in turns; then the large one's worker alone, for its memory."""
    environment = replace(environment, keep=keep)
    few, many = environment.settings("few"), environment.settings("many")
    for one, size in ((few, FEW), (many, signals)):
        if not one.store_path.exists():
            train(one)
        fill(one, size)
    with open_store(many) as store:
        numbers = count(50_000_000 + store.counts().signals)
    made = {name: Contender(name, refinery, environment, name) for name in ("few", "many")}
    taken: dict[str, list[Took]] = {name: [] for name in made}
    rss: dict[int, float] = {}
    with contenders(*made.values()), redis.Redis.from_url(environment.url) as client:
        for _ in range(rounds + 1):
            batch = [small(next(numbers)) for _ in range(events)]
            for name, one in made.items():
                stream = f"{name}.in"
                publish(client, stream, batch)
                taken[name].append(one.drain(events))
                client.xtrim(stream, maxlen=0, approximate=False)
        handled = (rounds + 1) * events
        while handled < memory_events:
            publish(client, "many.in", [small(next(numbers)) for _ in range(MEMORY_STEP)])
            made["many"].drain(MEMORY_STEP)
            client.xtrim("many.in", maxlen=0, approximate=False)
            handled += MEMORY_STEP
            rss[handled] = psutil.Process(made["many"].pid).memory_info().rss / 1e6
    return Growth(
        Rounds.of(taken["few"][1:], events),
        Rounds.of(taken["many"][1:], events),
        rss,
        *_views(many, environment.url),
        _pages_ms(many, environment.url, _old(FIRST + signals // 2)),
        _command_ms(many, environment.url),
    )


def scattered_ids(environment: Environment, *, signals: int, rounds: int, events: int) -> dict[str, Rounds]:
    """The same with ids that have no order, and beside the large store's worker the ground on a copy of that store."""
    few, whole, copy = (environment.settings(state) for state in ("few", "whole", "ground"))
    for one, size in ((few, FEW), (whole, signals)):
        train(one)
        fill(one, size, scattered)
    shutil.copytree(whole.state_dir, copy.state_dir)
    made = {
        "few": Contender("few", refinery, environment, "few"),
        "many": Contender("many", refinery, environment, "whole"),
        "ground": Contender("ground", ground, environment, "ground", scattered),
    }
    streams = {"few": few.streams.signals_created, "many": whole.streams.signals_created, "ground": "ground.ground"}
    numbers = count(1)
    taken: dict[str, list[Took]] = {name: [] for name in made}
    with contenders(*made.values()), redis.Redis.from_url(environment.url) as client:
        for _ in range(rounds + 1):
            batch = [small(next(numbers), scattered) for _ in range(events)]
            for name, one in made.items():
                publish(client, streams[name], batch)
                taken[name].append(one.drain(events))
                client.xtrim(streams[name], maxlen=0, approximate=False)
    return {name: Rounds.of(took[1:], events) for name, took in taken.items()}


def fill(settings: Settings, signals: int, naming: Naming = _old) -> None:
    """Store signals until there are so many."""
    pipeline = feature_pipeline(settings)
    rng = np.random.default_rng(4)
    with open_store(settings) as store:
        champion = store.models.active_id(ModelType.SIGNAL_QUALITY.value)
        challenger = next(m.model_id for m in store.get_model_history("signal_quality", 5) if m.model_id != champion)
        values = rng.normal(size=(CHUNK, len(pipeline.names)))
        while (there := store.counts().signals) < signals:
            ids = [naming(FIRST + there + at) for at in range(min(CHUNK, signals - there))]
            _chunk(store, there, ids, pipeline.names, pipeline.feature_version, values, (str(champion), challenger))


def _chunk(
    store: FeatureDatabase,
    first: int,
    ids: list[str],
    names: tuple[str, ...],
    version: str,
    values: np.ndarray,
    models: tuple[str, str],
) -> None:
    times = [text_from_us(START_US + (first + at) * MINUTE_US) for at in range(len(ids))]
    labels = "equity", "breakout", "HIGH"
    rows = [
        VectorRow(
            name, at, f"SYM{place % 40}", *labels, version, True, name.encode().ljust(16)[:16], f"{first + place}-1"
        )
        for place, (name, at) in enumerate(zip(ids, times, strict=True))
    ]
    answer = b'{"signal_id":"%s"}' + b" " * 330
    with store.atomic():
        store.vectors.insert_new(rows, names, values[: len(ids)])
        store.scores.put_served([(name, models[0], "scored", answer % name.encode()) for name in ids])
        store.scores.log_predictions(
            [
                PredictionRow(name, model, at, 0.5, 0.1, 0.5, role)
                for model, role in zip(models, ("champion", "shadow"), strict=True)
                for name, at in zip(ids, times, strict=True)
            ]
        )
        store.outcomes.record(
            [
                OutcomeRow(name, 0, at, 1.0 if place % 4 else -1.0)
                for place, (name, at) in enumerate(zip(ids, times, strict=True))
                if place % 2
            ]
        )


def _views(settings: Settings, url: str) -> tuple[float, float]:
    page = create_app(settings, url).test_client()
    with open_store(settings, read_only=True) as store, connect(url) as client:
        status = _median_ms(lambda: read_status(settings, store, client))
    return status, _median_ms(lambda: _page(page.get("/")))


def _pages_ms(settings: Settings, url: str, signal: str) -> dict[str, float]:
    """The first request for every page, with a tenth as many dead letters in the store as signals."""
    with open_store(settings) as store:
        counts = store.counts()
        add_letters(store, counts.signals // 10 - counts.dead_letters_open, b'{"signal_id": "x"}')
    return {name: times[0] for name, times in page_times(settings, url, signal, rounds=1).items()}


def _command_ms(settings: Settings, url: str) -> list[float]:
    """`refinery status` as a person waits for it: from before the process is there until it has ended, run by run."""
    variables = os.environ | variables_of(settings, url)
    times = []
    for _ in range(COMMANDS + 1):
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "worker", "status"],
            env=variables,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        times.append((time.perf_counter() - began) * 1000)
    return times[1:]


def variables_of(settings: Settings, url: str) -> dict[str, str]:
    """What tells a command of this installation."""
    streams = {
        f"REFINERY_STREAMS__{name.upper()}": getattr(settings.streams, name)
        for name in ("signals_created", "trades_closed", "signals_scored")
    }
    return {"REFINERY_STATE_DIR": str(settings.state_dir), "REFINERY_REDIS_URL": url} | streams


def _page(answer: TestResponse) -> None:
    assert answer.status_code == 200, answer.status_code


def _median_ms(look: Callable[[], object]) -> float:
    times = []
    for _ in range(7):
        began = time.perf_counter()
        look()
        times.append(time.perf_counter() - began)
    return median(times) * 1000
