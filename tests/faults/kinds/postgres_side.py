"""What happens to the server of a store in PostgreSQL: it dies, it ends sessions, another one takes over from it."""

from __future__ import annotations

import random
import time
from functools import partial

from tests.faults.fault_harness import ScheduleRun
from tests.faults.invariants import Verdict, published
from tests.faults.kinds.redis_side import busy_workers
from tests.faults.schedules import Life, Schedule
from tests.faults.stores import OnAServer, Stores
from tests.support.postgres_server import PostgresServer
from tests.support.waiting import wait_until

ENDS = ("killed", "killed", "crashed", "stopped")


def server_ended(rng: random.Random, made: Schedule) -> None:
    """One or two ends of the server while workers are busy, and a while without it."""
    made.rounds = [[Life()] if rng.random() < 0.5 else busy_workers(rng), busy_workers(rng)]
    at = rng.uniform(0.0, 0.2)
    made.details["ends"] = [(at, rng.choice(ENDS), rng.uniform(0.0, 0.4))]
    if rng.random() < 0.3:
        made.details["ends"].append((at + rng.uniform(0.3, 0.8), rng.choice(ENDS), rng.uniform(0.0, 0.3)))


def sessions_ended(rng: random.Random, made: Schedule) -> None:
    """An administrator, or a firewall, ends every session, again and again."""
    made.rounds = [[Life()], busy_workers(rng)]
    made.details["at"] = sorted(rng.uniform(0.0, 0.6) for _ in range(rng.randint(1, 6)))


def promoted(rng: random.Random, made: Schedule) -> None:
    """A standby takes over from a primary that dies; one that is not synchronous is behind it, now and then far."""
    made.rounds = [[Life()], busy_workers(rng)]
    synchronous = rng.random() < 0.6
    made.details.update(
        synchronous=synchronous,
        how=rng.choice(("killed", "crashed")),
        at=rng.uniform(0.02, 1.0),
        # Nothing of the last round reaches the standby.
        behind=not synchronous and rng.random() < 0.7,
    )
    # A host's own archive finds what the store has lost too; on other hosts, and without one, only the watch does.
    made.archive = made.archive and not made.details["behind"]


class ServerRun(ScheduleRun):
    """The server of everyone's stores ends, and comes back."""

    def _disturb(self) -> None:
        ends = self._made.details["ends"] if self._is_last() else []
        self._due = [(at, partial(self._end, how, for_s)) for at, how, for_s in ends]

    def _is_last(self) -> bool:
        """Whether the round that begins is the one in which events are sent while workers run."""
        pairs = zip(self._children.values(), self._made.rounds[-1], strict=False)
        return all(life is planned for life, planned in pairs)

    def _end(self, how: str, for_s: float) -> None:
        assert isinstance(self.stores, OnAServer)
        server = self.stores.servers[0]
        _end(server, how)
        time.sleep(for_s)
        server.start()


class SessionsRun(ServerRun):
    """Sessions end, whatever is going on in them."""

    def _disturb(self) -> None:
        self._due = [(at, self._terminate) for at in self._made.details["at"]] if self._is_last() else []

    def _terminate(self) -> None:
        assert isinstance(self.stores, OnAServer)
        self.stores.end_sessions(self._state)


class Standby:
    """A primary and its standby. Whoever has taken over gets a new standby before the next schedule."""

    def __init__(self) -> None:
        self.primary = PostgresServer("wal_keep_size = '64MB'").begun()
        self.standby = PostgresServer(standby_of=self.primary).begun()

    def make_whole(self, *, synchronous: bool) -> None:
        """Both run, the one follows the other, and commits wait for it or not."""
        if self.standby.run_sql("SELECT pg_is_in_recovery()") == "f":
            self.primary.remove()
            self.primary = self.standby
            self.standby = PostgresServer(standby_of=self.primary).begun()
        elif not self.primary.run_sql("SELECT 1 FROM pg_stat_replication"):  # cut off, and nobody took over
            self.standby.remove()
            self.standby = PostgresServer(standby_of=self.primary).begun()
        names = "*" if synchronous else ""
        self.primary.run_sql(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        self.primary.run_sql("SELECT pg_reload_conf()")
        wanted = "sync" if synchronous else "async"
        wait_until(lambda: self.primary.run_sql("SELECT sync_state FROM pg_stat_replication") == wanted)

    def caught_up(self) -> None:
        """Wait until the standby has what the primary has."""
        at = self.primary.run_sql("SELECT pg_current_wal_flush_lsn()")
        wait_until(lambda: self.standby.run_sql(f"SELECT pg_last_wal_replay_lsn() >= '{at}'") == "t")

    def cut_off(self) -> None:
        """Nothing reaches the standby any more."""
        self.standby.run_sql("ALTER SYSTEM SET primary_conninfo = ''")
        self.standby.run_sql("SELECT pg_reload_conf()")
        wait_until(lambda: not self.primary.run_sql("SELECT 1 FROM pg_stat_replication"))

    def take_over(self, how: str) -> None:
        """The primary ends, and the standby stands in for it."""
        _end(self.primary, how)
        self.standby.promote()
        self.standby.run_sql("ALTER SYSTEM RESET primary_conninfo")

    def close(self) -> None:
        for server in (self.primary, self.standby):
            server.remove()


class PromotedRun(ServerRun):
    """Workers whose store's address names both servers."""

    _NAME = "primary and standby"

    def _find_stores(self) -> Stores:
        shared = self._harness.shared
        if self._NAME not in shared:
            shared[self._NAME] = Standby()
            self._harness.keep(shared[self._NAME].close)
        self._pair: Standby = shared[self._NAME]
        # Made for each run, since copies are made of what the harness keeps on one server alone.
        self._pair.make_whole(synchronous=self._made.details["synchronous"])
        return OnAServer(self._pair.primary, self._pair.standby)

    def _set_up(self) -> None:
        self._state.parent.mkdir(exist_ok=True)
        self.stores.make(self._state)
        self._pair.caught_up()

    def _round(self, lives: list[Life], events: list[tuple[str, bytes]]) -> None:
        if lives is self._made.rounds[-1] and self._made.details["behind"]:
            self._pair.caught_up()
            self._pair.cut_off()
        super()._round(lives, events)

    def _disturb(self) -> None:
        self._due = [(self._made.details["at"], self._take_over)] if self._is_last() else []

    def _take_over(self) -> None:
        if not self._made.details["behind"] and not self._made.details["synchronous"]:
            self._pair.caught_up()
        self._pair.take_over(self._made.details["how"])
        self.stores = OnAServer(self._pair.standby, self._pair.primary)
        # What the old primary alone had acknowledged was published, and is handled and published once more.
        self.earlier |= published(self._client) if not self._made.details["synchronous"] else set()

    def _judge(self) -> Verdict:
        verdict = super()._judge()
        if self._pair.standby.run_sql("SELECT pg_is_in_recovery()") == "t":
            verdict.other.append("no standby took over")
        return verdict


def _end(server: PostgresServer, how: str) -> None:
    match how:
        case "killed":
            server.kill()
            server.stop("immediate")  # its children may be there for a moment more
        case "crashed":
            server.stop("immediate")
        case "stopped":
            server.stop("fast")


PLANS = {"database": server_ended, "sessions": sessions_ended, "promoted": promoted}
RUNS: dict[str, type[ScheduleRun]] = {"database": ServerRun, "sessions": SessionsRun, "promoted": PromotedRun}
