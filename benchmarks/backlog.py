"""Figure 6: a backlog caught up with while a training runs on the same machine and store, beside the same without it.

The training is what `refinery trainer` does when it is asked by `refinery retrain`, on the store that the worker writes
to. It is begun for each round that is with it, and must run from before the first event until after the last.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count

import numpy as np
import redis

from benchmarks.contenders import Contender, Took, contenders, refinery
from benchmarks.environment import Environment, publish, small, train
from benchmarks.growth import variables_of
from benchmarks.throughput import Rounds
from trading_system.simulation.worlds import independent, stored
from worker.installation import feature_pipeline, open_store
from worker.settings.schema import Settings

_STARTS_WITHIN_S = 120.0
#: A training begins with reading; by then it computes.
_READS_S = 1.0


def caught_up(environment: Environment, *, rows: int, events: int, rounds: int) -> tuple[Rounds, Rounds]:
    """A worker that drains so many events, alone and beside a training on so many labelled rows, forty a day."""
    settings = environment.settings("backlog")
    train(settings)
    pipeline = feature_pipeline(settings)
    world = independent(rows, np.random.default_rng(2), kind="linear", per_day=40.0, hold_days=2.0)
    columns = np.arange(len(pipeline.names)) % world.X.shape[1]
    with open_store(settings) as store:
        world = replace(world, X=world.X[:, columns])
        stored(store, world, names=list(pipeline.names), version=pipeline.feature_version)
    numbers = count(70_000_000)
    worker = Contender("backlog", refinery, environment, "backlog")
    alone: list[Took] = []
    beside: list[Took] = []
    with contenders(worker), redis.Redis.from_url(environment.url) as client:

        def drained() -> Took:
            publish(client, "backlog.in", [small(next(numbers)) for _ in range(events)])
            took = worker.drain(events)
            client.xtrim("backlog.in", maxlen=0, approximate=False)
            return took

        drained()
        for _ in range(rounds):
            alone.append(drained())
            with _training(settings, environment.url):
                beside.append(drained())
    return Rounds.of(alone, events), Rounds.of(beside, events)


@contextmanager
def _training(settings: Settings, url: str) -> Iterator[None]:
    """A trainer process whose training runs while the block does; an error where it has ended before."""
    before = _newest(settings)
    variables = os.environ | variables_of(settings, url) | {"REFINERY_TRAINER_METRICS_PORT": "0"}
    command = [sys.executable, "-m", "worker"]
    trainer = subprocess.Popen(
        [*command, "trainer"],
        env=variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        subprocess.run(
            [*command, "retrain"], env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True
        )
        began = time.monotonic()
        while (newest := _newest(settings)) is None or (before is not None and newest[0] == before[0]):
            if time.monotonic() - began > _STARTS_WITHIN_S:
                raise RuntimeError("the training did not begin")
            time.sleep(0.2)
        time.sleep(_READS_S)
        yield
        if _newest(settings) != newest or newest[1] != "running":
            raise RuntimeError("the training ended before the backlog did: give it more rows")
    finally:
        os.killpg(trainer.pid, signal.SIGKILL)
        trainer.wait()
        _forget_queue(url)


def _newest(settings: Settings) -> tuple[str, str] | None:
    """The newest training and its state; one that was killed says `running` until the next one is about to begin."""
    with open_store(settings, read_only=True) as store:
        last = store.runs.last("signal_quality")
    return None if last is None else (last.run_id, last.status)


def _forget_queue(url: str) -> None:
    """Whoever was killed has left its job: the next training is asked for anew."""
    with redis.Redis.from_url(url) as client:
        for key in client.scan_iter("rq:*"):
            client.delete(key)
