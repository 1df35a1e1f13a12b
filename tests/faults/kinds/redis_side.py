"""What others do to a server that is there: trim its streams, fill it, take rights away; all of it for a while."""

from __future__ import annotations

import random
from contextlib import suppress
from functools import partial
from typing import Any, get_args
from urllib.parse import quote

import redis

from tests.faults.fault_harness import ScheduleRun, Trim
from tests.faults.schedules import Life, Schedule, killed
from tests.support.events import GROUP, SIGNALS, TRADES
from tests.support.processes import until

USER, PASSWORD = "worker", "only-for-schedules"
#: What is taken from the worker's user, in the words of ACL SETUSER.
RIGHTS: dict[str, tuple[str, ...]] = {
    **{f"-{command}": (f"-{command}",) for command in ("xack", "xadd", "xreadgroup", "xclaim", "xpending", "eval")},
    "nothing may be written": ("-@write",),
    "nothing may be done": ("-@all", "+ping", "+auth", "+hello"),
    "one stream": ("resetkeys", f"~{SIGNALS}"),
    "no key": ("resetkeys",),
    "turned off": ("off",),
    "another password": ("resetpass", ">rotated-meanwhile"),
}


def busy_workers(rng: random.Random) -> list[Life]:
    """One or more that take their time over a batch, so that something can happen within it."""
    lives = [Life(slow_s=rng.choice([0.0, 0.03, 0.12])) for _ in range(rng.randint(1, 2))]
    if rng.random() < 0.4:
        lives[-1].term_after_s = rng.uniform(0.02, 0.3)
    if rng.random() < 0.3:
        lives.append(killed(rng))
    return lives


def _busy(rng: random.Random, made: Schedule) -> None:
    made.rounds = [busy_workers(rng) for _ in range(rng.randint(1, 2))]


def _times(rng: random.Random, number: int, until_s: float = 0.4) -> list[float]:
    return sorted(rng.uniform(0.0, until_s) for _ in range(number))


def trimmed(rng: random.Random, made: Schedule) -> None:
    """Others trim the input streams while entries are pending and in hand."""
    _busy(rng, made)
    made.details["trims"] = [(at, rng.choice(get_args(Trim))) for at in _times(rng, rng.randint(1, 3))]


class TrimmedRun(ScheduleRun):
    """Streams that somebody else trims."""

    def _disturb(self) -> None:
        trims: list[tuple[float, Trim]] = self._made.details["trims"]
        self._due = [(at, partial(self._trim, how)) for at, how in trims]


def full(rng: random.Random, made: Schedule) -> None:
    """The server has no memory left for a while; now and then the group is destroyed meanwhile."""
    _busy(rng, made)
    taken, given = _times(rng, 2, 0.5)
    made.details.update(taken=taken, given=given + rng.uniform(0.05, 0.3), group_gone=rng.random() < 0.3)


class FullRun(ScheduleRun):
    """A server that is full for a while."""

    def _disturb(self) -> None:
        details = self._made.details
        self._due = [(details["taken"], self._fill), (details["given"], self._empty)]

    def _fill(self) -> None:
        until(lambda: self._client.config_set("maxmemory", 1))
        if self._made.details["group_gone"]:
            for stream in (SIGNALS, TRADES):
                with suppress(redis.ResponseError):
                    self._client.xgroup_destroy(stream, GROUP)

    def _empty(self) -> None:
        until(lambda: self._client.config_set("maxmemory", 0))

    def _undisturb(self) -> None:
        self._empty()


def rights(rng: random.Random, made: Schedule) -> None:
    """Rights of the worker's user are taken away, and given back; its connections are cut or not."""
    _busy(rng, made)
    details = made.details
    details["what"] = rng.choice(list(RIGHTS))
    details["cut"] = rng.random() < 0.6
    details["times"] = _times(rng, rng.choice([2, 2, 4]), 0.8)


class RightsRun(ScheduleRun):
    """Workers that sign in as a user of their own."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        path = self._url.removeprefix("unix://")
        self._workers_url = f"unix://{USER}:{quote(PASSWORD)}@{path}"

    def _set_up(self) -> None:
        super()._set_up()
        self._give()

    def _disturb(self) -> None:
        times = self._made.details["times"]
        self._due = [(at, self._give if number % 2 else self._take) for number, at in enumerate(times)]

    def _take(self) -> None:
        self._acl(*RIGHTS[self._made.details["what"]])
        if self._made.details["cut"]:
            until(lambda: self._command("CLIENT", "KILL", "USER", USER))

    def _give(self) -> None:
        self._acl("reset", "on", f">{PASSWORD}", "~*", "&*", "+@all")

    def _undisturb(self) -> None:
        self._give()

    def _acl(self, *words: str) -> None:
        until(lambda: self._command("ACL", "SETUSER", USER, *words))

    def _command(self, *words: str) -> Any:
        client: Any = self._client
        return client.execute_command(*words)


PLANS = {"trimmed": trimmed, "full": full, "rights": rights}
RUNS: dict[str, type[ScheduleRun]] = {"trimmed": TrimmedRun, "full": FullRun, "rights": RightsRun}
