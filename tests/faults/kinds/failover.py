"""Failovers with real replicas: the primary dies or is demoted, what the replica lacks is lost, ids come again."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import redis

from tests.faults.fault_harness import Place, ScheduleRun
from tests.faults.schedules import Life, Schedule, killed
from tests.faults.wire import Wire
from tests.support.events import SIGNALS, TRADES
from tests.support.processes import until
from tests.support.servers import Replicated


def failed_over(rng: random.Random, made: Schedule) -> None:
    """One or two rounds of workers; in the last one the replica takes over, now and then a second time."""
    for _ in range(rng.randint(1, 2)):
        lives = [Life(through_wire=True, slow_s=rng.choice([0.0, 0.05])) for _ in range(rng.randint(1, 2))]
        made.rounds.append([*lives, _behind_the_wire(killed(rng))] if rng.random() < 0.3 else lives)
    made.details.update(
        # Demoted with its clients still connected, by an operator or by the server's own FAILOVER; or dead.
        how=rng.choice(["dies", "dies", "is demoted", "hands over"]),
        lags=rng.random() < 0.5,
        same_ids=rng.random() < 0.5,
        at=rng.uniform(0.02, 0.3),
        for_s=rng.uniform(0.02, 0.15),
    )


def _behind_the_wire(life: Life) -> Life:
    life.through_wire = True
    return life


class Pair:
    """A primary with its replica, and an address that leads to whichever is the primary."""

    def __init__(self, directory: Path, binary: Path | None) -> None:
        directory.mkdir()
        self.primary = Replicated(directory / "a", binary)
        self.replica = Replicated(directory / "b", binary)
        self.primary.start()
        self.wire = Wire(directory / "wire.sock", self.primary.socket)

    def make_whole(self) -> None:
        """Both run, empty, and the one replicates the other."""
        for server in (self.primary, self.replica):
            server.start()
        self.primary.lead()
        until(lambda: bool(self.primary.client.flushall()))
        self.replica.follow(self.primary)

    def swap(self) -> None:
        """New connections lead to the other one from now on."""
        self.primary, self.replica = self.replica, self.primary
        self.wire.lead_to(self.primary.socket)

    def close(self) -> None:
        self.wire.close()
        self.primary.kill()
        self.replica.kill()


class FailoverRun(ScheduleRun):
    """Workers behind an address that leads to the primary, as a name or a proxy does."""

    def _find_place(self) -> Place:
        name = "pair of Redis 7" if self._made.on_redis_7 and self._harness.redis_7 is not None else "pair"
        if name not in self._harness.shared:
            binary = self._harness.redis_7 if name != "pair" else None
            pair = Pair(self._harness.directory / name.replace(" ", "-"), binary)
            self._harness.shared[name] = pair
            self._harness.keep(pair.close)
        self._pair: Pair = self._harness.shared[name]
        self._pair.make_whole()
        place = super()._find_place()
        return Place(place.server, self._pair.primary.client, self._pair.wire)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._workers_url = self._url = self._address()
        #: Everything the producer has sent, in order: it has a log of its own.
        self._log: list[tuple[str, bytes]] = []
        self._failed_over = False

    def _address(self) -> str:
        return f"unix://{self._pair.wire.address}"

    def _send(self, stream: str, data: bytes) -> None:
        super()._send(stream, data)
        self._log.append((stream, data))

    def _disturb(self) -> None:
        details = self._made.details
        if self._failed_over:
            return
        self._failed_over = True
        self._due = [(details["at"], self._cut_off if details["lags"] else self._fail_over)]
        if details["lags"]:
            self._due.append((details["at"] + details["for_s"], self._fail_over))

    def _cut_off(self) -> None:
        """From now on nothing reaches the replica, while workers go on."""
        self._pair.replica.lead()

    def _fail_over(self) -> None:
        pair, how = self._pair, self._made.details["how"]
        if how == "hands over" and not self._made.details["lags"]:
            self._hand_over()
        else:
            if not self._made.details["lags"]:
                pair.replica.caught_up(pair.primary)
            if how == "dies":
                pair.primary.kill()
            pair.replica.lead()
        pair.swap()
        if how in ("is demoted", "hands over"):
            pair.replica.client.replicaof("127.0.0.1", str(pair.primary.port))
        self._client = pair.primary.client
        self._send_again()

    def _hand_over(self) -> None:
        """The server's own: writes wait until the replica has everything, and the roles are swapped."""
        pair = self._pair
        primary: Any = pair.primary.client
        until(lambda: primary.execute_command("FAILOVER", "TO", "127.0.0.1", str(pair.replica.port)))
        until(lambda: _is_primary(pair.replica.client))

    def _send_again(self) -> None:
        """What the new primary lacks, the producer cannot know: everything comes again, some of it under lost ids."""
        there = {
            (stream, entry_id.decode())
            for stream in (SIGNALS, TRADES)
            for entry_id, _ in self._client.xrange(stream)  # type: ignore[union-attr]
        }
        lost = [key for key in self.sent if key not in there]
        self.sent = [key for key in self.sent if key in there]
        self.may += lost
        log, self._log = self._log, []
        self._rng.shuffle(log)
        for stream, data in log:
            ids = [entry_id for of, entry_id in lost if of == stream]
            if ids and self._made.details["same_ids"] and self._is_next(stream, ids[0]):
                lost.remove((stream, ids[0]))
                until(lambda: self._client.xadd(stream, {"data": data}, id=ids[0]))  # noqa: B023 - done within the round
                self.sent.append((stream, ids[0]))
                self.twice.add((stream, ids[0]))
                self._log.append((stream, data))
            else:
                lost = [key for key in lost if key[0] != stream]
                self._send(stream, data)

    def _is_next(self, stream: str, entry_id: str) -> bool:
        """Whether the server would still give out this id."""
        if not self._client.exists(stream):
            return True
        last: Any = self._client.xinfo_stream(stream)
        return _order(entry_id) > _order(last["last-generated-id"].decode())


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)


def _is_primary(client: redis.Redis) -> bool:
    told: Any = client.info("replication")
    if told["role"] != "master":
        raise redis.ConnectionError("not yet")
    return True


PLANS = {"failover": failed_over}
RUNS: dict[str, type[ScheduleRun]] = {"failover": FailoverRun}
