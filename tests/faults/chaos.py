"""Schedules of faults: each is made from its seed, played against real processes, and judged by the law.

python -m tests.faults.chaos --schedules 1000 --processes 2
python -m tests.faults.chaos --seed 4711 --schedules 1     # one of them again
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal as signals
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import redis
from loguru import logger

from tests.faults.disk import Disk, DiskPlan
from tests.faults.law import Key, Verdict, entries_of, judge
from tests.faults.wire import ACTIONS, Wire
from tests.worker.worlds import GROUP, SIGNALS, START, TRADES, bars, outcome, settings_for, signal
from trading_system.ml_refinement.storage import Connection, EventArchive, FeatureDatabase, Filter
from worker import app
from worker import dead_letters as letters_module
from worker.embedded import EmbeddedServer
from worker.handlers import BatchHandler, Handled
from worker.settings import Settings
from worker.streams import GroupReader, translated

KINDS = ("kill", "kill", "kill", "several", "disk", "wire", "stop", "server", "server loses", "replay")
#: Where a worker is killed: a method of ours, before it begins or after it is done.
BOUNDARIES = (
    "read", "claimed", "archived", "decoded", "computed", "begin", "written", "outcomes", "buried",
    "before commit", "after commit", "before settle", "sent", "published", "after ack", "charged",
)  # fmt: skip
_CLAIM_IDLE_MS = 100
_DEADLINE_S = 20.0
_POOL = 24


@dataclass
class Life:
    """What happens to one worker."""

    boundary: str | None = None
    nth: int = 1
    disk: DiskPlan | None = None
    through_wire: bool = False
    kill_after_s: float | None = None
    stop_after_s: float | None = None
    role: str = "worker"
    slot: int | None = None


@dataclass
class Schedule:
    """One play: rounds of lives that run beside each other, and what is done to the server meanwhile."""

    seed: int
    kind: str
    rounds: list[list[Life]]
    wire: tuple[str, ...] = ()
    one_in: int = 10
    disaster: str | None = None


@dataclass
class Tally:
    """What schedules came to."""

    schedules: int = 0
    events: int = 0
    lost: int = 0
    double: int = 0
    wrong: int = 0
    unfinished: int = 0
    killed: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        for name in ("schedules", "events", "lost", "double", "wrong", "unfinished", "killed", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.failures += other.failures


def schedule(seed: int) -> Schedule:
    """The schedule of a seed."""
    rng = random.Random(f"schedule {seed}")
    kind = KINDS[seed % len(KINDS)]
    made = Schedule(seed, kind, [])
    if kind == "kill":
        made.rounds = [[_killed(rng)] for _ in range(rng.randint(1, 4))]
    elif kind == "several":
        made.rounds = [[_killed(rng) if rng.random() < 0.6 else Life() for _ in range(rng.randint(2, 3))] for _ in "ab"]
    elif kind == "disk":
        times = rng.choice([1, 1, 2, 5, 1_000_000])
        plan = DiskPlan(rng.choice(["write", "sync"]), rng.randint(1, 12), rng.choice(["EIO", "ENOSPC"]), times)
        made.rounds = [[Life(disk=plan, kill_after_s=1.0 if times > 5 else None)]]
        if rng.random() < 0.3:
            made.rounds.append([Life(disk=DiskPlan("write", rng.randint(1, 9), "EIO", 1), boundary="after commit")])
    elif kind == "wire":
        made.wire = tuple(rng.sample(ACTIONS, rng.randint(1, 3)))
        made.one_in = rng.randint(5, 12)
        made.rounds = [[Life(through_wire=True, kill_after_s=1.5)] * rng.randint(1, 2)]
    elif kind == "stop":
        made.rounds = [[Life(stop_after_s=rng.uniform(0, 0.15)), Life(stop_after_s=rng.choice([None, 0.1]))]]
    elif kind == "server":
        made.disaster = "kill server"
        made.rounds = [[Life() for _ in range(rng.randint(1, 2))]]
    elif kind == "server loses":
        made.disaster = rng.choice(["flush", "destroy group", "trim"])
        made.rounds = [[_killed(rng)], [Life() for _ in range(rng.randint(1, 2))]]
    else:
        made.rounds = [[Life()], [Life(role="replayer", kill_after_s=rng.choice([None, 0.02])), Life(role="replayer")]]
        made.rounds.append([_killed(rng), Life(role="replayer")])
    return made


def at_boundary(boundary: str) -> Schedule:
    """A worker killed at that boundary for certain, and another after it."""
    rounds = [[Life(boundary=boundary)], [Life(boundary=boundary, nth=2)]]
    if boundary == "claimed":
        rounds = [[Life(boundary="read")], [Life(boundary=boundary, slot=1)]]
    if boundary == "charged":
        rounds = [[Life(boundary="computed")] for _ in range(3)] + [[Life(boundary=boundary)]]
    return Schedule(10**9 + BOUNDARIES.index(boundary), f"at {boundary}", rounds)


def _killed(rng: random.Random) -> Life:
    if rng.random() < 0.25:
        return Life(kill_after_s=rng.uniform(0.0, 0.25))
    return Life(boundary=rng.choice(BOUNDARIES), nth=rng.randint(1, 3))


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
        fate = rng.random()
        if fate < 0.7:
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
        elif fate < 0.8:
            self.events.append((TRADES, orjson.dumps(outcome(number, closed_at="2024-02-01T00:00:00Z"))))
        self.labels[signal_id] = right


class Theatre:
    """One server, one template of an empty store, and schedules one after the other.

    Args:
        directory: for everything that is written.
        verbose: let the workers' logs through.
    """

    def __init__(self, directory: Path, *, verbose: bool = False) -> None:
        self._directory = directory
        self._verbose = verbose
        self._server = EmbeddedServer(directory / "valkey", join=False)
        self._template = directory / "template"
        self._pool = [signal(number) for number in range(_POOL)]

    def __enter__(self) -> Theatre:
        self._server.start()
        with FeatureDatabase(self._template / "features.db"), EventArchive(self._template / "events.db"):
            pass
        self._client = redis.Redis.from_url(self._server.url)
        self._wire = Wire(self._directory / "wire.sock", Path(self._server.url.removeprefix("unix://")))
        return self

    def __exit__(self, *_: object) -> None:
        self._wire.close()
        self._server.stop()

    def play(self, made: Schedule) -> Tally:
        """Play a schedule and judge it."""
        started = time.monotonic()
        state = self._directory / f"state-{made.seed}"
        tally = Tally(schedules=1)
        play = _Play(self, made, state)
        try:
            verdict, finished = play.run()
        except Exception:  # noqa: BLE001  a schedule that breaks is a finding, and the others go on
            verdict, finished = Verdict(other=[traceback.format_exc()]), True
        tally.events, tally.killed = len(play.sent), play.killed
        tally.lost, tally.double, tally.wrong = len(verdict.lost), len(verdict.double), len(verdict.other)
        tally.unfinished = int(not finished)
        if not verdict.holds or not finished:
            tally.failures.append(f"seed {made.seed} ({made.kind}): finished {finished}, {verdict}")
        else:
            shutil.rmtree(state)
        tally.seconds = time.monotonic() - started
        return tally


class _Play:
    def __init__(self, theatre: Theatre, made: Schedule, state: Path) -> None:
        self._theatre = theatre
        self._made = made
        self._state = state
        self._client = theatre._client
        self._rng = random.Random(f"play {made.seed}")
        self._market = state / "bars"
        self.sent: list[Key] = []
        self.may: list[Key] = []
        self.killed = 0
        self._traffic = Traffic(self._rng, theatre._pool)

    def run(self) -> tuple[Verdict, bool]:
        _until(lambda: bool(self._client.flushall()))
        _until(lambda: self._client.config_set("hz", 500))  # else a blocking read ends up to 100 ms late
        self._theatre._wire.plan((), one_in=1, seed=0)
        shutil.copytree(self._theatre._template, self._state)
        self._market.mkdir()
        events = self._traffic.events
        first = self._rng.randint(1, len(events))
        for event in events[:first]:
            self._send(*event)
        self._theatre._wire.plan(self._made.wire, one_in=self._made.one_in, seed=self._made.seed)
        for number, lives in enumerate(self._made.rounds):
            last = number == len(self._made.rounds) - 1
            self._round(lives, events[first:] if last else [])
        self._theatre._wire.plan((), one_in=1, seed=0)
        self._supply_bars()
        finished = self._finish()
        return self._judge(), finished

    def _send(self, stream: str, data: bytes) -> None:
        entry_id: Any = _until(lambda: self._client.xadd(stream, {"data": data}))
        self.sent.append((stream, entry_id.decode()))

    def _supply_bars(self) -> None:
        columns = bars(end=START, seed=0)
        lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
        (self._market / ".new").write_text("\n".join(lines) + "\n")
        (self._market / ".new").rename(self._market / "ACME.csv")

    def _settings(self, slot: int, life: Life) -> Settings:
        url = f"unix://{self._theatre._wire.address}" if life.through_wire else self._theatre._server.url
        settings = settings_for(
            self._state, url, consumer_slot=slot, batch_size=4, block_ms=5, market_data_dir=self._market
        )
        return settings.model_copy(update={"claim_idle_ms": _CLAIM_IDLE_MS})

    def _round(self, lives: list[Life], events: list[tuple[str, bytes]]) -> None:
        children = {}
        for place, life in enumerate(lives):
            slot = place if life.slot is None else life.slot
            children[fork(lambda s=slot, li=life: self._live(s, li))] = life
        if events and self._rng.random() < 0.3:
            self._supply_bars()
        for position, event in enumerate(events):
            if position == len(events) // 2:
                self._disaster()
            self._send(*event)
        started = time.monotonic()
        stopped: dict[int, float] = {}
        while children and time.monotonic() - started < 3:
            for pid, life in list(children.items()):
                if self._ended(pid):
                    del children[pid]
                else:
                    self._treat(pid, life, time.monotonic() - started, stopped)
            time.sleep(0.002)
        for pid in children:
            self._kill(pid)

    def _treat(self, pid: int, life: Life, age_s: float, stopped: dict[int, float]) -> None:
        if life.kill_after_s is not None and age_s >= life.kill_after_s:
            os.kill(pid, signals.SIGKILL)
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
                pid = self._theatre._server.pid
                if pid is not None:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signals.SIGKILL)
            case "flush":
                with self._client.pipeline(transaction=True) as pipe:
                    pipe.xrange(SIGNALS)
                    pipe.xrange(TRADES)
                    pipe.flushall()
                    gone = pipe.execute()
                self.may += self.sent
                self.sent = []
                for stream, rows in zip((SIGNALS, TRADES), gone, strict=False):
                    for _, fields in rows:  # the producer has a log of its own, and sends again
                        self._send(stream, fields[b"data"])
            case "destroy group":
                for stream in (SIGNALS, TRADES):
                    with suppress(redis.ResponseError):
                        self._client.xgroup_destroy(stream, GROUP)
            case "trim":
                self._trim()

    def _trim(self) -> None:
        """Take entries away from under the group; those that nobody had read are gone, and nobody can know."""
        for stream in (SIGNALS, TRADES):
            gone = self._client.eval(_TAKE_AWAY, 1, stream, GROUP)
            for entry_id, was_read in gone:  # type: ignore[union-attr]
                key = (stream, entry_id.decode())
                if not was_read and key in self.sent:
                    self.sent.remove(key)
                    self.may.append(key)

    def _live(self, slot: int, life: Life) -> None:
        """In the child: one worker's life, or one who replays dead letters."""
        if self._theatre._verbose:
            logger.add(sys.stderr)
        if life.disk is not None:
            Disk([life.disk])
        app._SOCKET_TIMEOUT_S = 0.25
        settings = self._settings(slot, life)
        if life.role == "replayer":
            _replay_all(settings)
            return
        if life.boundary is not None:
            _arm(life.boundary, life.nth)
        work(settings, patience=3)

    def _finish(self) -> bool:
        """An undisturbed worker ends what is left, and replays what died only for want of bars."""
        deadline = time.monotonic() + _DEADLINE_S
        while time.monotonic() < deadline:
            pid = fork(lambda: self._live(8, Life()))
            while not self._ended(pid):
                if time.monotonic() > deadline:
                    self._kill(pid)
                    return False
                time.sleep(0.003)
            if self._quiet() and not self._replay_left():
                return True
        return False

    def _quiet(self) -> bool:
        for stream in (SIGNALS, TRADES):
            if not self._client.exists(stream):
                continue
            groups: Any = self._client.xinfo_groups(stream)
            if len(groups) != 1 or groups[0]["pending"]:
                return False
            if self._client.xrange(stream, min=f"({groups[0]['last-delivered-id'].decode()}", count=1):
                return False
        return True

    def _replay_left(self) -> int:
        with FeatureDatabase(self._state / "features.db") as store, app.connect(self._theatre._server.url) as client:
            dead = letters_module.DeadLetters(store, version="chaos")
            return len(dead.replay(client, dead.chosen([], Filter(reason="no_market_data")), actor="chaos").sent)

    def _judge(self) -> Verdict:
        known = set(self.sent) | set(self.may)
        self.sent += [key for key in entries_of(self._client) if key not in known]
        labels = self._traffic.labels
        if self.may and self._made.disaster == "trim":  # what nobody had read is gone: some of it may be missed
            labels = {}
        return judge(self._state / "features.db", self._client, must=self.sent, may=self.may, labels=labels)


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
for i, row in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do
    if i % 2 == 0 then
        redis.call('XDEL', KEYS[1], row[1])
        taken[#taken + 1] = {row[1], read[row[1]] and 1 or 0}
    end
end
return taken
"""


def work(settings: Settings, *, patience: int) -> None:
    """A worker that ends by itself after so many idle rounds in a row."""
    stop = threading.Event()
    idle = 0

    def after_batch(_: FeatureDatabase, handled: Handled) -> None:
        nonlocal idle
        idle = 0 if handled != Handled() else idle + 1
        if idle >= patience and not _pending(client):
            stop.set()

    with (
        app.connect(settings.redis_url or "") as client,
        app.worker_consumer(settings, client, after_batch=after_batch) as consumer,
    ):
        consumer._pause_s = (0.01, 0.1)
        consumer._retry_delay_s = 0.02
        consumer.run(stop)


def _pending(client: redis.Redis) -> int:
    with translated():
        return sum(client.xpending(stream, GROUP)["pending"] for stream in (SIGNALS, TRADES))  # type: ignore[index]


def _replay_all(settings: Settings) -> None:
    with app.open_store(settings) as store, app.connect(settings.redis_url or "") as client:
        dead = letters_module.DeadLetters(store, version="chaos")
        dead.replay(client, dead.chosen([], Filter(reason="no_market_data")), actor="chaos")


def fork(work: Callable[[], None]) -> int:
    """A child that does the work and ends; its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    except BaseException:  # noqa: BLE001  the child's only way to tell
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _until(command: Callable[[], Any]) -> Any:
    """The command's reply; the server may be away for a moment."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return command()
        except (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _arm(boundary: str, nth: int) -> None:
    """Make this process kill itself when it comes to the boundary for the nth time."""
    passed = 0

    def die_at_last() -> None:
        nonlocal passed
        passed += 1
        if passed >= nth:
            os.kill(os.getpid(), signals.SIGKILL)

    def around(owner: Any, name: str, *, before: bool = False, only: Callable[..., bool] = lambda *_: True) -> None:
        original = getattr(owner, name)

        def armed(*args: Any, **kwargs: Any) -> Any:
            if before and only(*args):
                die_at_last()
            result = original(*args, **kwargs)
            if not before and only(*args) and result != []:
                die_at_last()
            return result

        setattr(owner, name, armed)

    from trading_system.ml_refinement.storage.attempts import Attempts
    from trading_system.ml_refinement.storage.outcomes import Outcomes
    from trading_system.ml_refinement.storage.vectors import Vectors
    from worker.dead_letters import DeadLetters

    match boundary:
        case "read":
            around(GroupReader, "_read")
        case "claimed":
            around(GroupReader, "claim_idle")
        case "archived":
            around(BatchHandler, "_keep_originals")
        case "decoded":
            around(BatchHandler, "_open")
        case "computed":
            around(BatchHandler, "_compute")
        case "begin":
            around(Connection, "run", only=lambda _, sql, *__: sql == "BEGIN IMMEDIATE")
        case "written":
            around(Vectors, "insert_new")
        case "outcomes":
            around(Outcomes, "record")
        case "buried":
            around(DeadLetters, "bury")
        case "before commit":
            around(Connection, "run", before=True, only=lambda _, sql, *__: sql == "COMMIT")
        case "after commit":
            around(Connection, "run", only=lambda _, sql, *__: sql == "COMMIT")
        case "before settle":
            around(GroupReader, "settle", before=True)
        case "sent":
            around(
                redis.connection.AbstractConnection,
                "send_packed_command",
                only=lambda _, data, *__: b"XACK" in b"".join(data),
            )
        case "published":
            around(redis.Redis, "eval", only=lambda _, script, *__: "XACK" in script)
        case "after ack":
            around(GroupReader, "settle")
        case "charged":
            around(Attempts, "charge")


def play_all(schedules: list[Schedule], directory: Path, *, verbose: bool = False) -> dict[str, Tally]:
    """Play the schedules; what they came to, by kind."""
    tallies: dict[str, Tally] = {}
    with Theatre(directory, verbose=verbose) as theatre:
        for made in schedules:
            tally = theatre.play(made)
            tallies.setdefault(made.kind, Tally()).add(tally)
            for failure in tally.failures:
                _say(failure)
    return tallies


def table(tallies: dict[str, Tally]) -> str:
    """The summary, one line for each kind and one for all."""
    everything = Tally()
    for tally in tallies.values():
        everything.add(tally)
    lines = ["| kind | schedules | events | workers killed | lost | double | otherwise wrong | unfinished | s each |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for name, t in [*sorted(tallies.items()), ("**all**", everything)]:
        each = t.seconds / max(1, t.schedules)
        lines.append(
            f"| {name} | {t.schedules:,} | {t.events:,} | {t.killed:,} | {t.lost} | {t.double} | {t.wrong} |"
            f" {t.unfinished} | {each:.2f} |"
        )
    return "\n".join(lines)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=None, help="of the first schedule")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--boundaries", action="store_true", help="a kill at every labelled boundary besides")
    parser.add_argument("--json", type=Path, help="write the tallies there")
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    first = args.seed if args.seed is not None else random.SystemRandom().randrange(10**6) * 10
    logger.remove()
    _say(f"seeds {first} to {first + args.schedules - 1}")
    # What is killed are processes, so that memory is as good as a disk here, and many times faster.
    memory = Path("/dev/shm")  # noqa: S108
    directory = Path(tempfile.mkdtemp(prefix="chaos-", dir=memory if memory.is_dir() else None))
    made = [schedule(seed) for seed in range(first, first + args.schedules)]
    if args.boundaries:
        made = [at_boundary(boundary) for boundary in BOUNDARIES] + made
    children = {}
    for number in range(args.processes):
        part, place = made[number :: args.processes], directory / str(number)

        def run(part: list[Schedule] = part, place: Path = place) -> None:
            place.mkdir()
            tallies = play_all(part, place, verbose=args.verbose)
            (place / "tally.json").write_bytes(orjson.dumps(tallies))

        children[fork(run)] = place
    total: dict[str, Tally] = {}
    for pid, place in children.items():
        os.waitpid(pid, 0)
        for kind, values in orjson.loads((place / "tally.json").read_bytes()).items():
            total.setdefault(kind, Tally()).add(Tally(**values))
    _say(table(total))
    if args.json:
        args.json.write_bytes(orjson.dumps(total))
    failures = Counter(failure.split(":")[0] for tally in total.values() for failure in tally.failures)
    if failures:
        _say(f"{len(failures)} schedules failed; what is left of them is in {directory}")
        return 1
    shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
