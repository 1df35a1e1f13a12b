"""What producers send while a schedule runs."""

from __future__ import annotations

import random
from typing import Any

import orjson

from tests.support.events import SIGNALS, TRADES, outcome


class Traffic:
    """The events of one schedule: signals, their outcomes, repeats, conflicts, corrections, early and bad ones."""

    def __init__(self, rng: random.Random, pool: list[dict[str, Any]]) -> None:
        self.labels: dict[str, set[float | None]] = {}
        self.without_bars: list[str] = []
        self.events: list[tuple[str, bytes]] = []
        for number in rng.sample(range(len(pool)), rng.randint(4, 10)):
            self._one(rng, pool[number], number)
        for _ in range(rng.randint(0, 3)):
            bad = rng.choice([b'{"signal_id": NaN}', b"\xff\xfe", b"[]", b'{"signal_id": "x", "signal_id": "y"}'])
            self.events.append((rng.choice([SIGNALS, TRADES]), bad))
        if rng.random() < 0.8:
            rng.shuffle(self.events)

    def _one(self, rng: random.Random, event: dict[str, Any], number: int) -> None:
        signal_id = str(event["signal_id"])
        right: set[float | None] = {None}
        if rng.random() < 0.15:
            event = {name: value for name, value in event.items() if name != "bars"}
            self.without_bars.append(signal_id)
        said = [event]
        if rng.random() < 0.3:
            said.append(dict(reversed(event.items())))
        if rng.random() < 0.15:
            said.append(event | {"technical_score": 1.0})
        self.events += [(SIGNALS, orjson.dumps(one)) for one in said]
        end = rng.random()
        if end < 0.7:
            r = rng.choice([-1.0, 0.5, 2.5])
            told = [outcome(number, r)]
            right = {r}
            if rng.random() < 0.3:
                told.append(outcome(number, r))
            if rng.random() < 0.2:
                told.append(outcome(number, r + 1))
                right = {r, r + 1}
            if rng.random() < 0.25:
                told.append(outcome(number, 9.0, revision=rng.choice([1, 3])))
                right = {9.0}
            self.events += [(TRADES, orjson.dumps(one)) for one in told]
        elif end < 0.8:
            self.events.append((TRADES, orjson.dumps(outcome(number, closed_at="2024-02-01T00:00:00Z"))))
        self.labels[signal_id] = right
