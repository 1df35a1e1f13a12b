"""Clocks that are stepped, forth and back: the server's, and the workers' own."""

from __future__ import annotations

import random
import sys
import time
from datetime import datetime, timedelta
from functools import partial
from typing import Any, ClassVar

from tests.faults.fault_harness import Place, ScheduleRun
from tests.faults.schedules import Life, Schedule, killed
from tests.support.servers import ClockServer, faketime
from trading_system.ml_refinement.storage import times

HOUR_S = 3600.0
#: How far a step leads from the right time: a leap that was made good, a wrong zone, a dead battery.
OFFSETS_S = (
    -2.0,
    5.0,
    -90.0,
    600.0,
    -HOUR_S,
    5 * HOUR_S,
    -30 * 24 * HOUR_S,
    400 * 24 * HOUR_S,
    -10 * 365 * 24 * HOUR_S,
)


def stepped(rng: random.Random, made: Schedule) -> None:
    """Two rounds in which the clocks of server and workers are stepped, each on its own."""
    for _ in range(2):
        lives = [Life(slow_s=rng.choice([0.0, 0.05])) for _ in range(rng.randint(1, 2))]
        made.rounds.append([*lives, killed(rng)] if rng.random() < 0.4 else lives)
    details = made.details
    details["whose"] = rng.choice(["server", "workers", "both"])
    for who in ("server", "workers"):
        steps = [(rng.uniform(0.0, 0.4), rng.choice(OFFSETS_S)) for _ in range(rng.randint(1, 3))]
        details[who] = sorted(steps) if details["whose"] in (who, "both") else []


class SteppedRun(ScheduleRun):
    """A server whose clock can be stepped, where there is a library for it; and workers whose clocks are."""

    # A worker whose clock is years behind takes every signal for one of the future.
    _replayed: ClassVar[tuple[str, ...]] = ("no_market_data", "future_timestamp")

    def _find_place(self) -> Place:
        library = faketime()
        if library is None:
            return super()._find_place()
        shared = self._harness.shared
        if "clock" not in shared:
            directory = self._harness.directory / "clock"
            directory.mkdir()
            server = ClockServer(directory, library)
            shared["clock"] = Place.of(server, directory)
            self._harness.keep(shared["clock"].close)
        place: Place = shared["clock"]
        return place

    def _disturb(self) -> None:
        server = self._place.server
        if isinstance(server, ClockServer):
            self._due = [(at, partial(server.step, offset_s)) for at, offset_s in self._made.details["server"]]

    def _undisturb(self) -> None:
        if isinstance(self._place.server, ClockServer):
            self._place.server.step(0.0)

    def _before_work(self, life: Life) -> None:
        # The worker that ends what is left lives like many another, and its clock is right.
        if any(life is one for lives in self._made.rounds for one in lives):
            step_clock(self._made.details["workers"])


def step_clock(steps: list[tuple[float, float]]) -> None:
    """Step this process's clock: (seconds from now, seconds off the right time), in order."""
    if not steps:
        return
    began, right_s, right_now = time.monotonic(), time.time, times.utc_now

    def offset_s() -> float:
        age_s = time.monotonic() - began
        return next((offset for at, offset in reversed(steps) if age_s >= at), 0.0)

    def now() -> datetime:
        return right_now() + timedelta(seconds=offset_s())

    time.time = lambda: right_s() + offset_s()
    for module in list(sys.modules.values()):
        held: Any = vars(module)
        if held.get("utc_now") is right_now:
            held["utc_now"] = now


PLANS = {"clock": stepped}
RUNS: dict[str, type[ScheduleRun]] = {"clock": SteppedRun}
