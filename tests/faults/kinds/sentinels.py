"""Failovers by sentinels: the primary is killed, stands still and comes back as what it was, or has to hand over."""

from __future__ import annotations

import random
from typing import Any, ClassVar

from tests.faults.fault_harness import Place, ScheduleRun
from tests.faults.kinds.failover import FailoverRun
from tests.faults.schedules import Life, Schedule, killed
from tests.support.sentinels import Watched


def watched(rng: random.Random, made: Schedule) -> None:
    """A round of workers, in which the sentinels have a replica take over; now and then one of them is killed too."""
    lives = [Life(slow_s=rng.choice([0.0, 0.05])) for _ in range(rng.randint(1, 2))]
    made.rounds.append([*lives, killed(rng)] if rng.random() < 0.4 else lives)
    made.on_redis_7 = False  # servers and sentinels are of one make
    made.details.update(
        how=rng.choice(["dies", "stands still", "hands over"]),
        lags=False,  # what a replica lacks is the kind `failover`; here it is what the old primary is still told
        same_ids=rng.random() < 0.5,
        at=rng.uniform(0.02, 0.3),
    )


class SentinelRun(FailoverRun):
    """Workers that ask sentinels which server is the primary."""

    _changes: ClassVar[dict[str, Any]] = {"allow_plain_remote_redis": True}

    def _find_place(self) -> Place:
        if "watched" not in self._harness.shared:
            directory = self._harness.directory / "watched"
            directory.mkdir()
            self._harness.shared["watched"] = servers = Watched(directory).begun()
            self._harness.keep(servers.close)
        self._servers: Watched = self._harness.shared["watched"]
        self._servers.make_whole()
        place = ScheduleRun._find_place(self)
        return Place(place.server, self._servers.primary().client, place.wire)

    def _address(self) -> str:
        return self._servers.url

    def _fail_over(self) -> None:
        servers, how = self._servers, self._made.details["how"]
        if how == "hands over":
            servers.fail_over()
        else:
            with servers.gone() as before:
                before.kill() if how == "dies" else before.stand_still()
        self._client = servers.primary().client
        if how == "stands still":
            before.go_on()
        self._send_again()


PLANS = {"sentinels": watched}
RUNS: dict[str, type[ScheduleRun]] = {"sentinels": SentinelRun}
