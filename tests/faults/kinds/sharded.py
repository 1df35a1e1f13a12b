"""A store in shards: workers in several of them, events in the wrong ones, and what befalls one with a single shard."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import orjson

from tests.faults.fault_harness import FaultHarness, ScheduleRun
from tests.faults.invariants import SHARDS
from tests.faults.kinds.redis_side import busy_workers
from tests.faults.schedules import Life, Schedule, killed
from tests.support.events import SCORES, SIGNALS, TRADES
from worker.streams.shards import EventKind, ShardStreams, Streams

#: When, in seconds after their start, workers have something to do.
_WORKERS_ARE_UP_S = (0.1, 0.6)


def in_shards(rng: random.Random, made: Schedule) -> None:
    """Rounds of workers with homes of their own, some killed or stopped, and now and then a disaster of the server."""
    for _ in range(rng.randint(1, 2)):
        lives = [*busy_workers(rng), Life(), Life(slow_s=rng.choice([0.0, 0.05]))]
        made.rounds.append([*lives, killed(rng)] if rng.random() < 0.5 else lives)
    made.disaster = rng.choice([None, None, "kill server", "flush", "destroy group", "trim"])
    made.details["wrong"] = rng.choice([0.0, 0.3, 1.0])
    made.details["together"] = rng.choice([0.0, 0.5, 1.0])
    made.details["slow_commit_s"] = rng.choice([0.0, 0.05, 0.1])


class ShardRun(ScheduleRun):
    """A store of four shards; so many of the events are sent to any of them.

    What is said of some signals is sent while workers are up, all of it at one moment and to shards of different
    workers: each of them looks up what another one is about to write.
    """

    _streams = Streams(ShardStreams(SIGNALS, TRADES, SCORES), SHARDS)
    _changes: ClassVar[dict[str, Any]] = {"shards": SHARDS}
    _idle_rounds: ClassVar[int] = 30

    def __init__(self, harness: FaultHarness, made: Schedule, state: Path) -> None:
        super().__init__(harness, made, state)
        self._together: list[list[tuple[str, bytes]]] = []
        alone = []
        said = defaultdict[str, list[tuple[str, bytes]]](list)
        for event in self._traffic.events:
            said[_signal_of(event[1])].append(event)
        for signal_id, events in said.items():
            if signal_id and len(events) > 1 and self._rng.random() < made.details["together"]:
                self._together.append(events)
            else:
                alone += events
        self._traffic.events = alone or self._together.pop()

    def _set_up(self) -> None:
        template = self._harness.directory / "sharded"
        if not template.exists():
            self.stores.make(template, shards=SHARDS)
        self.stores.copy(template, self._state)

    def _before_work(self, life: Life) -> None:
        """Transactions take their time, so that what others look up meanwhile would be wrong without a lock."""
        from trading_system.ml_refinement.storage.postgres.connection import PostgresConnection  # loads the driver

        commit = PostgresConnection._commit

        def slowly(connection: PostgresConnection) -> None:
            if connection._writing:
                time.sleep(self._made.details["slow_commit_s"])
            commit(connection)

        PostgresConnection._commit = slowly  # type: ignore[method-assign, assignment]

    def _disturb(self) -> None:
        together, self._together = self._together, []
        self._due = sorted(
            [(self._rng.uniform(*_WORKERS_ARE_UP_S), partial(self._send_apart, events)) for events in together],
            key=lambda due: due[0],
        )

    def _send_apart(self, events: list[tuple[str, bytes]]) -> None:
        first = self._rng.randrange(SHARDS)
        for place, (stream, data) in enumerate(events):
            of_kind = self._streams.created if stream == SIGNALS else self._streams.closed
            self._append(of_kind[(first + place) % SHARDS], data)

    def _where(self, stream: str, data: bytes) -> str:
        kind: EventKind = "signal.created" if stream == SIGNALS else "trade.closed"
        if self._rng.random() < self._made.details["wrong"]:
            of_kind = self._streams.created if kind == "signal.created" else self._streams.closed
            return self._rng.choice(of_kind)
        return self._streams.of_event(kind, data)


def _signal_of(data: bytes) -> str:
    """The signal of a good event; empty for a bad one."""
    try:
        said = orjson.loads(data)
    except orjson.JSONDecodeError:
        return ""
    return str(said["signal_id"]) if isinstance(said, dict) else ""


PLANS = {"sharded": in_shards}
RUNS: dict[str, type[ScheduleRun]] = {"sharded": ShardRun}
