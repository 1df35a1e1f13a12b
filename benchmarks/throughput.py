"""Figures 1, 2 and 5: how fast streams are drained, the contenders in turns and each in a process of its own."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
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


def inline_bars(environment: Environment, *, rounds: int, events: int) -> dict[str, Rounds]:
    """Figure 2: the worker on events with 280 bars, with and without its archive, and the bare floor."""
    names = ("archive off", "archive on")
    settings = [environment.settings("inline", bars=False), environment.settings("archived", bars=False)]
    for one in settings:
        train(one)
    made = (
        Contender("floor", floor, environment, "floor.in"),
        Contender(names[0], refinery, environment, "inline", False, False),
        Contender(names[1], refinery, environment, "archived", True, False),
    )
    streams = ["floor.in", *(one.streams.signals_created for one in settings)]
    taken: dict[str, list[Took]] = {one.name: [] for one in made}
    numbers = count()
    with contenders(*made), redis.Redis.from_url(environment.url) as client:
        for _ in range(rounds + 1):
            batch = [inline(next(numbers)) for _ in range(events)]
            for stream, one in zip(streams, made, strict=True):
                publish(client, stream, batch, chunk=200)
                taken[one.name].append(one.drain(events))
                _forget(client, stream)
    return {name: Rounds.of(took[1:], events) for name, took in taken.items()}


def two_processes(environment: Environment, *, rounds: int, events: int) -> tuple[Rounds, Rounds]:
    """Figure 5: one worker, and two that share a stream; for an event of all that were drained."""
    alone, shared = environment.settings("alone"), environment.settings("shared")
    train(alone)
    train(shared)
    one = Contender("one", refinery, environment, "alone")
    both = [Contender(f"slot {slot}", refinery, environment, "shared", False, True, slot) for slot in (0, 1)]
    single: list[Took] = []
    double: list[Took] = []
    numbers = count()
    with contenders(one, *both), redis.Redis.from_url(environment.url) as client:
        for _ in range(rounds + 1):
            batch = [small(next(numbers)) for _ in range(events)]
            publish(client, alone.streams.signals_created, batch)
            publish(client, shared.streams.signals_created, batch)
            single.append(one.drain(events))
            for half in both:
                half.start(events // 2)
            halves = [half.wait() for half in both]
            double.append(Took(max(h.wall for h in halves), sum(h.cpu for h in halves)))
            _forget(client, *(s.streams.signals_created for s in (alone, shared)))
    return Rounds.of(single[1:], events), Rounds.of(double[1:], events)


def _five(data: bytes) -> bytes:
    said = orjson.loads(data)
    return orjson.dumps({name: said[name] for name in FIVE})


def _forget(client: redis.Redis, *streams: str) -> None:
    """Drop what was drained, so that the server's memory stays small."""
    for stream in streams:
        client.xtrim(stream, maxlen=0, approximate=False)
