"""The same worker on SQLite and on PostgreSQL, in turns; and what a batch of one costs on each."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import redis

from benchmarks.contenders import Contender, Took, contenders, refinery
from benchmarks.environment import Environment, publish, small, train
from benchmarks.throughput import Rounds
from worker.installation import upgrade_store


def engines(environment: Environment, database: str, *, rounds: int, events: int) -> dict[str, Rounds]:
    """Whole workers on each engine. `database` is the address of a PostgreSQL with fsync on."""
    environment = replace(environment, database=database)
    states = {"sqlite": "engine", "postgresql": "postgres_engine"}
    settings = {name: environment.settings(state) for name, state in states.items()}
    for one in settings.values():
        upgrade_store(one)
        train(one)
    made = [Contender(name, refinery, environment, state) for name, state in states.items()]
    taken: dict[str, list[Took]] = {one.name: [] for one in made}
    numbers = count()
    with contenders(*made), redis.Redis.from_url(environment.url) as client:
        for _ in range(rounds + 1):
            batch = [small(next(numbers)) for _ in range(events)]
            for one in made:
                stream = settings[one.name].streams.signals_created
                publish(client, stream, batch)
                taken[one.name].append(one.drain(events))
                client.xtrim(stream, maxlen=0, approximate=False)
    return {name: Rounds.of(took[1:], events) for name, took in taken.items()}
