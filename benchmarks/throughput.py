"""Figures 1, 2 and 5: how fast streams are drained, the contenders in turns and each in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count
from statistics import median

import orjson
import redis

from benchmarks.contenders import Contender, Took, contenders, faststream, floor, plain, refinery
from benchmarks.environment import Environment, inline, publish, small, train

FIVE = ("signal_id", "timestamp", "symbol", "technical_score", "entry_price")


@dataclass(frozen=True)
class Rounds:
    """What each round of one contender took, for an event, in microseconds."""

    wall: list[float]
    cpu: list[float]

    @classmethod
    def of(cls, taken: list[Took], events: int) -> Rounds:
        return cls([t.wall / events * 1e6 for t in taken], [t.cpu / events * 1e6 for t in taken])

    @property
    def typical(self) -> float:
        """The median on the clock."""
        return median(self.wall)

    @property
    def typical_cpu(self) -> float:
        """The median of the process's own processor time."""
        return median(self.cpu)

    def over(self, other: Rounds) -> float:
        """How many times as long this takes: the median of the ratios of rounds that stood side by side."""
        return median(mine / theirs for mine, theirs in zip(self.wall, other.wall, strict=True))

    def cpu_over(self, other: Rounds) -> float:
        return median(mine / theirs for mine, theirs in zip(self.cpu, other.cpu, strict=True))

    def least_cpu_over(self, other: Rounds) -> float:
        """The same of the cheapest round of each: what it costs where nobody else has the processor."""
        return min(self.cpu) / min(other.cpu)

    @classmethod
    def from_json(cls, said: dict[str, list[float]]) -> Rounds:
        """The inverse of `to_json`."""
        return cls(said["wall_us"], said["cpu_us"])

    def to_json(self) -> dict[str, list[float]]:
        return {"wall_us": [round(v, 2) for v in self.wall], "cpu_us": [round(v, 2) for v in self.cpu]}


def small_events(environment: Environment, *, rounds: int, events: int, plain_events: int = 48) -> dict[str, Rounds]:
    """Figure 1: the worker, FastStream and the plain consumer on small events."""
    ours, simple = environment.settings("small"), environment.settings("plain")
    train(ours)
    train(simple)
    peer = "faststream.in"
    taken: dict[str, list[Took]] = {"refinery": [], "faststream": [], "plain": []}
    made = (
        Contender("refinery", refinery, environment, "small"),
        Contender("faststream", faststream, environment, peer),
        Contender("plain", plain, environment, "plain"),
    )
    numbers = count()
    with contenders(*made), redis.Redis.from_url(environment.url) as client:
        for _ in range(rounds + 1):
            batch = [small(next(numbers)) for _ in range(events)]
            publish(client, ours.streams.signals_created, batch)
            publish(client, peer, [_five(data) for data in batch], field="__data__")
            publish(client, simple.streams.signals_created, batch[:plain_events])
            for one, number in zip(made, (events, events, plain_events), strict=True):
                taken[one.name].append(one.drain(number))
            _forget(client, ours.streams.signals_created, ours.streams.signals_scored, peer)
    sizes = {"refinery": events, "faststream": events, "plain": plain_events}
    return {name: Rounds.of(took[1:], sizes[name]) for name, took in taken.items()}


def inline_bars(environment: Environment, *, rounds: int, events: int, archive: bool = True) -> dict[str, Rounds]:
    """Figure 2: the worker on events with 280 bars, without its archive and, if asked, with it, and the bare floor."""
    names = ("archive off", "archive on")
    settings = [environment.settings("inline", bars=False), environment.settings("archived", bars=False)]
    for one in settings:
        train(one)
    made = (
        Contender("floor", floor, environment, "floor.in"),
        Contender(names[0], refinery, environment, "inline", False, False),
        *([Contender(names[1], refinery, environment, "archived", True, False)] if archive else []),
    )
    streams = ["floor.in", *(one.streams.signals_created for one in settings)]
    taken: dict[str, list[Took]] = {one.name: [] for one in made}
    numbers = count()
    with contenders(*made), redis.Redis.from_url(environment.url) as client:
        for _ in range(rounds + 1):
            batch = [inline(next(numbers)) for _ in range(events)]
            for stream, one in zip(streams, made, strict=False):
                publish(client, stream, batch, chunk=200)
                taken[one.name].append(one.drain(events))
                _forget(client, stream)
    return {name: Rounds.of(took[1:], events) for name, took in taken.items()}


def side_by_side(
    environment: Environment, *, rounds: int, events: int, processes: Sequence[int] = (1, 2, 8)
) -> dict[int, Rounds]:
    """Figure 5: so many workers that share a stream, in turns; for an event of all that were drained.

    Args:
        environment: where.
        rounds: that count.
        events: a round's; as many whole batches for each process.
        processes: how many at a time.
    """
    states = {number: environment.settings(f"of{number}") for number in processes}
    for one in states.values():
        train(one)
    teams = {
        number: [Contender(f"{number}, slot {slot}", refinery, environment, f"of{number}", False, True, slot)
                 for slot in range(number)]
        for number in processes
    }  # fmt: skip
    taken: dict[int, list[Took]] = {number: [] for number in processes}
    numbers = count()
    with contenders(*chain(*teams.values())), redis.Redis.from_url(environment.url) as client:
        for _ in range(rounds + 1):
            batch = [small(next(numbers)) for _ in range(events)]
            for number, team in teams.items():
                stream = states[number].streams.signals_created
                publish(client, stream, batch)
                for one in team:
                    one.start(events // number)
                parts = [one.wait() for one in team]
                taken[number].append(Took(max(p.wall for p in parts), sum(p.cpu for p in parts)))
                _forget(client, stream)
    return {number: Rounds.of(took[1:], events) for number, took in taken.items()}


def _five(data: bytes) -> bytes:
    said = orjson.loads(data)
    return orjson.dumps({name: said[name] for name in FIVE})


def _forget(client: redis.Redis, *streams: str) -> None:
    """Drop what was drained, so that the server's memory stays small."""
    for stream in streams:
        client.xtrim(stream, maxlen=0, approximate=False)
