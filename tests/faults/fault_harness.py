"""Where schedules run: real processes, a real server, files of their own, and the invariants at the end."""

from __future__ import annotations

import os
import random
import signal as signals
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import redis
from loguru import logger

from tests.faults.crash_points import Fuse, after_file_operation, arm
from tests.faults.invariants import Key, Verdict, entries_of, judge
from tests.faults.schedules import Life, Schedule
from tests.faults.stores import InFiles, OnAServer, Stores
from tests.faults.traffic import Traffic
from tests.faults.wire import Wire
from tests.support.desk import settings_for
from tests.support.disk import Disk
from tests.support.events import GROUP, START, STREAMS, bars, signal
from tests.support.postgres_server import PostgresServer
from tests.support.processes import fork, until
from tests.support.servers import ServerOf
from tests.support.waiting import HANGS_AFTER_S
from trading_system.ml_refinement.storage import FeatureDatabase, Filter
from worker import app, dead_letters as letters_module
from worker.consumer.batch_handler import BatchHandler, BatchResult
from worker.errors import StopRequested
from worker.installation import open_store, streams_of
from worker.redis_server import connection
from worker.redis_server.connection import connect
from worker.redis_server.embedded import EmbeddedServer
from worker.settings.schema import Settings
from worker.streams.errors import translated
from worker.streams.shards import Streams
from worker.supervision.backoff import Backoff, StartRetry

_CLAIM_IDLE_MS = 100
EngineName = Literal["sqlite", "postgresql"]
#: Every second entry deleted, or the stream trimmed to its newest half, or to nothing.
Trim = Literal["half", "oldest", "all"]
_POOL = 24
#: Of the worker that ends what is left.
LAST_SLOT = 8


@dataclass
class Tally:
    """What schedules came to."""

    schedules: int = 0
    on_redis_7: int = 0
    events: int = 0
    lost: int = 0
    double: int = 0
    wrong: int = 0
    unfinished: int = 0
    killed: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        for name in ("schedules", "on_redis_7", "events", "lost", "double", "wrong", "unfinished", "killed", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.failures += other.failures


@dataclass(frozen=True)
class Place:
    """A server with what leads to it."""

    server: EmbeddedServer
    client: redis.Redis
    wire: Wire

    @classmethod
    def at(cls, directory: Path, binary: Path | None = None) -> Place:
        """A server that runs, by default of the make that is installed."""
        directory.mkdir(exist_ok=True)
        return cls.of(ServerOf(directory, binary=binary), directory)

    @classmethod
    def of(cls, server: EmbeddedServer, directory: Path) -> Place:
        """The server, which is started."""
        server.start()
        wire = Wire(directory / "wire.sock", Path(server.url.removeprefix("unix://")))
        return cls(server, redis.Redis.from_url(server.url), wire)

    def close(self) -> None:
        self.wire.close()
        self.client.close()
        self.server.stop()


class FaultHarness:
    """Servers, one template of an empty store, and schedules one after the other.

    Args:
        directory: for everything that is written.
        run_of: what runs a schedule.
        redis_7: a server of Redis 7, for those schedules that ask for it; None: they run on the one that is installed.
        engine: what holds the stores.
        verbose: let the workers' logs through.
    """

    def __init__(
        self,
        directory: Path,
        run_of: Callable[[Schedule], type[ScheduleRun]],
        *,
        redis_7: Path | None = None,
        engine: EngineName = "sqlite",
        verbose: bool = False,
    ) -> None:
        self.directory = directory
        self.verbose = verbose
        self._run_of = run_of
        self.redis_7 = redis_7
        self._engine = engine
        self.stores: Stores = InFiles()
        #: What runs of a kind share: servers of their own.
        self.shared: dict[str, Any] = {}
        self._open = ExitStack()
        self._places: dict[bool, Place] = {}
        self.template = directory / "template"
        self.pool = [signal(number) for number in range(_POOL)]

    def __enter__(self) -> FaultHarness:
        if self._engine == "postgresql":
            # What is killed are processes, which takes nothing from the system that has their writes.
            self.stores = OnAServer(self._open.enter_context(PostgresServer("fsync = off")))
        self.stores.make(self.template)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def keep(self, closing: Callable[[], None]) -> None:
        """Call this when everything is over."""
        self._open.callback(closing)

    def place(self, made: Schedule) -> Place:
        """The server of a schedule; it is there for those that come after."""
        on_redis_7 = made.on_redis_7 and self.redis_7 is not None
        if on_redis_7 not in self._places:
            name, binary = ("redis7", self.redis_7) if on_redis_7 else ("valkey", None)
            self._places[on_redis_7] = Place.at(self.directory / name, binary)
            self.keep(self._places[on_redis_7].close)
        return self._places[on_redis_7]

    def run(self, made: Schedule) -> Tally:
        """Run a schedule and judge it."""
        started = time.monotonic()
        # A directory of its own in one of this run, so that there is room beside it.
        state = self.directory / f"run-{made.seed}" / "var"
        tally = Tally(schedules=1, on_redis_7=int(made.on_redis_7 and self.redis_7 is not None))
        running = self._run_of(made)(self, made, state)
        try:
            verdict, finished = running.run()
        except Exception:  # noqa: BLE001  a schedule that breaks is a finding, and the others go on
            verdict, finished = Verdict(other=[traceback.format_exc()]), True
        tally.events, tally.killed = len(running.sent), running.killed
        tally.lost, tally.double, tally.wrong = len(verdict.lost), len(verdict.double), len(verdict.other)
        tally.unfinished = int(not finished)
        if not verdict.holds or not finished:
            tally.failures.append(f"seed {made.seed} ({made.kind}): finished {finished}, {verdict}")
        else:
            running.stores.remove(state)
        tally.seconds = time.monotonic() - started
        return tally


class ScheduleRun:
    """One schedule and what came of it so far.

    Args:
        harness: where.
        made: what happens.
        state: the state directory of this run.
    """

    _streams: ClassVar[Streams] = STREAMS
    #: A worker ends when it has found nothing so often.
    _idle_rounds: ClassVar[int] = 3
    #: Settings beside those of every run.
    _changes: ClassVar[dict[str, Any]] = {}
    #: What is dead-lettered for these reasons is fit for use in the end, and replayed then.
    _replayed: ClassVar[tuple[str, ...]] = ("no_market_data",)

    def __init__(self, harness: FaultHarness, made: Schedule, state: Path) -> None:
        self._harness = harness
        self._made = made
        self._state = state
        self.stores = self._find_stores()
        self._place = self._find_place()
        self._client = self._place.client
        #: Where workers find the server, and where whoever is not to be disturbed does.
        self._workers_url = self._url = self._place.server.url
        self._rng = random.Random(f"play {made.seed}")
        self._market = state / "bars"
        self.sent: list[Key] = []
        self.may: list[Key] = []
        #: Ids that a server gave to two entries: to one that it lost, and to another one.
        self.twice: set[Key] = set()
        #: Scores that were published of a store which was put back to what it was before.
        self.earlier: set[bytes] = set()
        self.killed = 0
        #: What was found to be wrong before the end.
        self.between: list[str] = []
        self._traffic = Traffic(self._rng, harness.pool)
        self._due: list[tuple[float, Callable[[], None]]] = []
        self._children: dict[int, Life] = {}
        #: Whether every valid signal has to be stored with its label; not so where some may have been lost unread.
        self._labels_hold = True

    def _find_place(self) -> Place:
        return self._harness.place(self._made)

    @property
    def _store(self) -> str | Path:
        """The place of the store."""
        return self.stores.at(self._state)

    def _find_stores(self) -> Stores:
        return self._harness.stores

    def run(self) -> tuple[Verdict, bool]:
        until(lambda: bool(self._client.flushall()))
        until(lambda: self._client.config_set("hz", 500))  # else a blocking read ends up to 100 ms late
        self._place.wire.plan((), one_in=1, seed=0)
        self._set_up()
        self._market.mkdir()
        events = self._traffic.events
        first = self._rng.randint(1, len(events))
        for event in events[:first]:
            self._send(*event)
        self._place.wire.plan(self._made.wire, one_in=self._made.one_in, seed=self._made.seed)
        for number, lives in enumerate(self._made.rounds):
            last = number == len(self._made.rounds) - 1
            self._round(lives, events[first:] if last else [])
        self._undisturb()
        self._place.wire.plan((), one_in=1, seed=0)
        self._supply_bars()
        finished = self._finish()
        return self._judge(), finished

    def _set_up(self) -> None:
        """What is there before anything happens."""
        self.stores.copy(self._harness.template, self._state)

    def _send(self, stream: str, data: bytes) -> None:
        self._append(self._where(stream, data), data)

    def _where(self, stream: str, data: bytes) -> str:
        """The stream that an event is sent to."""
        return stream

    def _append(self, stream: str, data: bytes) -> None:
        entry_id: Any = until(lambda: self._client.xadd(stream, {"data": data}))
        self.sent.append((stream, entry_id.decode()))

    def _supply_bars(self) -> None:
        columns = bars(end=START, seed=0)
        lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
        (self._market / ".new").write_text("\n".join(lines) + "\n")
        (self._market / ".new").rename(self._market / "ACME.csv")

    def _settings(self, slot: int, life: Life) -> Settings:
        url = f"unix://{self._place.wire.address}" if life.through_wire else self._workers_url
        quick = {"consumer_slot": slot, "batch_size": 4, "block_ms": 5, "market_data_dir": self._market}
        archive = {"enabled": self._made.archive}
        settings = settings_for(
            self._state, url, **quick | {"archive": archive} | self._changes | self.stores.settings(self._state)
        )
        return settings.model_copy(update={"claim_idle_ms": _CLAIM_IDLE_MS})

    def _round(self, lives: list[Life], events: list[tuple[str, bytes]]) -> None:
        children = self._children = {}
        # One that is told to end before it listens hears it when it does.
        signals.pthread_sigmask(signals.SIG_BLOCK, {signals.SIGTERM})
        for place, life in enumerate(lives):
            slot = place if life.slot is None else life.slot
            children[fork(partial(self._live, slot, life))] = life
        signals.pthread_sigmask(signals.SIG_UNBLOCK, {signals.SIGTERM})
        if events and self._rng.random() < 0.3:
            self._supply_bars()
        for position, event in enumerate(events):
            if position == len(events) // 2:
                self._disaster()
            self._send(*event)
        try:
            self._watch(children)
        finally:
            for pid in children:  # those of a finding that ended this round must not work on in the next schedule
                with suppress(ProcessLookupError, ChildProcessError):
                    self._kill(pid)

    def _watch(self, children: dict[int, Life]) -> None:
        """Until each has ended, which is then taken out; disturb them meanwhile."""
        started = time.monotonic()
        stopped: dict[int, float] = {}
        self._disturb()
        while children and time.monotonic() - started < HANGS_AFTER_S:
            self._do_what_is_due(started)
            for pid, life in list(children.items()):
                if self._ended(pid):
                    del children[pid]
                else:
                    self._treat(pid, life, time.monotonic() - started, stopped)
            time.sleep(0.002)
        self._do_what_is_due(float("-inf"))
        self.between += ["a worker neither ended nor was killed" for _ in children]

    def _do_what_is_due(self, started: float) -> None:
        while self._due and time.monotonic() - started >= self._due[0][0]:
            self._due.pop(0)[1]()

    def _disturb(self) -> None:
        """What is to happen in this round: entered into `_due` as (seconds since its beginning, what), in order."""

    def _undisturb(self) -> None:
        """After the last round: everything is as it should be from now on."""

    def _treat(self, pid: int, life: Life, age_s: float, stopped: dict[int, float]) -> None:
        if life.kill_after_s is not None and age_s >= life.kill_after_s:
            os.kill(pid, signals.SIGKILL)
        elif life.term_after_s is not None and pid not in stopped and age_s >= life.term_after_s:
            os.kill(pid, signals.SIGTERM)
            stopped[pid] = float("inf")
        elif life.stop_after_s is not None and pid not in stopped and age_s >= life.stop_after_s:
            os.kill(pid, signals.SIGSTOP)
            stopped[pid] = age_s
        elif pid in stopped and age_s >= stopped[pid] + 3 * _CLAIM_IDLE_MS / 1000:
            os.kill(pid, signals.SIGCONT)

    def _ended(self, pid: int) -> bool:
        done, status = os.waitpid(pid, os.WNOHANG)
        if not done:
            return False
        code = os.waitstatus_to_exitcode(status)
        self.killed += code == -signals.SIGKILL
        if code not in (0, -signals.SIGKILL):
            raise RuntimeError(f"a worker ended with {code}")
        return True

    def _kill(self, pid: int) -> None:
        os.kill(pid, signals.SIGKILL)
        os.waitpid(pid, 0)
        self.killed += 1

    def _disaster(self) -> None:
        match self._made.disaster:
            case "kill server":
                pid = self._place.server.pid
                if pid is not None:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signals.SIGKILL)
            case "flush":
                with self._client.pipeline(transaction=True) as pipe:
                    for stream in self._streams.inputs:
                        pipe.xrange(stream)
                    pipe.flushall()
                    gone = pipe.execute()
                self.may += self.sent
                self.sent = []
                for stream, rows in zip(self._streams.inputs, gone, strict=False):
                    for _, fields in rows:  # the producer has a log of its own, and sends again
                        self._append(stream, fields[b"data"])
            case "destroy group":
                for stream in self._streams.inputs:
                    with suppress(redis.ResponseError):
                        self._client.xgroup_destroy(stream, GROUP)
            case "trim":
                self._trim()

    def _trim(self, how: Trim = "half") -> None:
        """Take entries away from under the group; those that nobody had read are gone, and nobody can know."""
        self._labels_hold = False
        for stream in self._streams.inputs:
            gone = self._client.eval(_TAKE_AWAY, 1, stream, GROUP, how)
            for entry_id, was_read in gone:  # type: ignore[union-attr]
                key = (stream, entry_id.decode())
                if not was_read and key in self.sent:
                    self.sent.remove(key)
                    self.may.append(key)

    def _live(self, slot: int, life: Life) -> None:
        """In the child: one worker's life, or one of whoever does something else."""
        stop = threading.Event()
        signals.signal(signals.SIGTERM, lambda *_: stop.set())
        signals.pthread_sigmask(signals.SIG_UNBLOCK, {signals.SIGTERM})
        if self._harness.verbose:
            logger.add(sys.stderr)
        disk = None if life.disk is None else Disk([life.disk])
        if life.at_file_operation is not None:
            disk = after_file_operation(Fuse(life.at_file_operation))
        connection._SOCKET_TIMEOUT_S = 0.25
        settings = self._settings(slot, life)
        if life.role != "worker":
            self._act(life, settings)
            return
        if life.crash_point is not None:
            arm(life.crash_point, life.nth)
        if life.slow_s:
            _slow_down(life.slow_s)
        self._before_work(life)
        work(settings, stop, idle_rounds=self._idle_rounds)
        del disk  # SQLite forgets one that nobody holds

    def _act(self, life: Life, settings: Settings) -> None:
        """In the child: what is done by whoever is no worker; here one who replays dead letters."""
        replay_all(settings)

    def _before_work(self, life: Life) -> None:
        """In the child, before its worker begins."""

    def _finish(self) -> bool:
        """An undisturbed worker ends what is left, and replays what died only for want of bars."""
        deadline = time.monotonic() + HANGS_AFTER_S
        while time.monotonic() < deadline:
            pid = fork(lambda: self._live(LAST_SLOT, Life()))
            while not self._ended(pid):
                if time.monotonic() > deadline:
                    self._kill(pid)
                    return False
                time.sleep(0.003)
            if self._quiet() and not self._replay_left():
                return True
        return False

    def _quiet(self) -> bool:
        for stream in self._streams.inputs:
            if not self._client.exists(stream):
                continue
            groups: Any = self._client.xinfo_groups(stream)
            if len(groups) != 1 or groups[0]["pending"]:
                return False
            if self._client.xrange(stream, min=f"({groups[0]['last-delivered-id'].decode()}", count=1):
                return False
        return True

    def _replay_left(self) -> int:
        with FeatureDatabase(self._store) as store, connect(self._url) as client:
            dead = letters_module.DeadLetters(store, version="chaos")
            letters = [letter for reason in self._replayed for letter in dead.chosen([], Filter(reason=reason))]
            return len(dead.replay(client, letters, actor="chaos").sent)

    def _judge(self) -> Verdict:
        known = set(self.sent) | set(self.may)
        self.sent += [key for key in entries_of(self._client) if key not in known]
        labels = self._traffic.labels if self._labels_hold else {}
        verdict = judge(
            self._store,
            self._client,
            must=self.sent,
            may=self.may,
            twice=self.twice,
            labels=labels,
            earlier=self.earlier,
        )
        verdict.other += self.between
        return verdict


_TAKE_AWAY = """
local taken, last = {}, '0-0'
local ok, groups = pcall(redis.call, 'XINFO', 'GROUPS', KEYS[1])
if ok then
    for _, flat in ipairs(groups) do
        for i = 1, #flat, 2 do if flat[i] == 'last-delivered-id' then last = flat[i + 1] end end
    end
end
local read = {}
for _, row in ipairs(redis.call('XRANGE', KEYS[1], '-', last)) do read[row[1]] = true end
local rows = redis.call('XRANGE', KEYS[1], '-', '+')
local keep = ARGV[2] == 'all' and 0 or math.floor(#rows / 2)
for i, row in ipairs(rows) do
    if ARGV[2] == 'half' and i % 2 == 0 or ARGV[2] ~= 'half' and i <= #rows - keep then
        if ARGV[2] == 'half' then redis.call('XDEL', KEYS[1], row[1]) end
        taken[#taken + 1] = {row[1], read[row[1]] and 1 or 0}
    end
end
if ARGV[2] ~= 'half' and #rows > 0 then redis.call('XTRIM', KEYS[1], 'MAXLEN', '=', keep) end
return taken
"""


def work(settings: Settings, stop: threading.Event, *, idle_rounds: int) -> None:
    """A worker that ends by itself after so many idle rounds in a row."""
    idle = 0

    def after_batch(_: FeatureDatabase, handled: BatchResult) -> None:
        nonlocal idle
        idle = 0 if handled != BatchResult() else idle + 1
        if idle >= idle_rounds and not _pending(client, streams_of(settings)):
            stop.set()

    retry = StartRetry(stop, backoff=Backoff(0.01, 0.1))
    with (
        suppress(StopRequested),
        connect(settings.redis_url or "") as client,
        app.worker_consumer(settings, client, after_batch=after_batch, retry=retry) as consumer,
    ):
        consumer._backoff = Backoff(0.01, 0.1)
        consumer._retry_delay_s = 0.02
        consumer.run(stop)


def _slow_down(by_s: float) -> None:
    """Let this process, a worker, take so much longer over each batch that it has in hand."""
    compute = BatchHandler._compute

    def slowly(*args: Any) -> Any:
        time.sleep(by_s)
        return compute(*args)

    BatchHandler._compute = slowly  # type: ignore[method-assign, assignment]


def _pending(client: redis.Redis, streams: Streams) -> int:
    with translated():
        return sum(client.xpending(stream, GROUP)["pending"] for stream in streams.inputs)  # type: ignore[index]


def replay_all(settings: Settings) -> None:
    """Replay whatever died only for want of bars."""
    with open_store(settings) as store, connect(settings.redis_url or "") as client:
        dead = letters_module.DeadLetters(store, version="chaos")
        dead.replay(client, dead.chosen([], Filter(reason="no_market_data")), actor="chaos")
