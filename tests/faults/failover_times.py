"""How long it takes after an asynchronous failover of PostgreSQL until what was lost has its effect again.

Two workers run as they are installed, with their own pauses. They handle signals; then the standby gets nothing any
more, and they handle more, all of it acknowledged. The primary is killed or crashes, the standby takes over, and nobody
does anything else. Measured is from there until the store has every signal that it lacked.

python -m tests.faults.failover_times --failovers 50
python -m tests.faults.failover_times --failovers 3 --known 60000
"""

from __future__ import annotations

import argparse
import random
import signal as signals
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import orjson
import redis

from tests.faults.kinds.postgres_side import Standby
from tests.faults.stores import OnAServer
from tests.support.events import GROUP, SIGNALS, START, bars, signal
from tests.support.real_processes import Installation
from tests.support.servers import ServerOf
from tests.support.waiting import HANGS_AFTER_S, wait_until
from trading_system.ml_refinement.storage import FeatureDatabase

_BARS = bars()
_AT_ONCE = 500


@dataclass(frozen=True)
class Failover:
    """What one came to: seconds from the standby's taking over, and from the primary's end."""

    how: str
    lost: int
    since_promotion_s: float
    since_end_s: float


def fail_over(pair: Standby, server: ServerOf, directory: Path, how: str, *, known: int, lost: int) -> Failover:
    """One failover of a store that has `known` signals on both servers and `lost` on the primary alone."""
    pair.make_whole(synchronous=False)
    stores = OnAServer(pair.primary, pair.standby)
    state = directory / "var"
    stores.make(state)
    with closing(redis.Redis.from_url(server.url)) as client:
        client.flushall()
        with two_workers(directory, server.url, stores.at(state)):
            publish(client, range(known))
            handled(client, stores.at(state), known)
            pair.caught_up()
            pair.cut_off()
            publish(client, range(known, known + lost))
            handled(client, stores.at(state), known + lost)
            ended = time.monotonic()
            pair.take_over(how)
            promoted = time.monotonic()
            with FeatureDatabase(OnAServer(pair.standby).at(state), read_only=True) as store:
                missing = known + lost - store.counts().signals
                wait_until(lambda: store.counts().signals == known + lost)
            back = time.monotonic()
            handled(client, OnAServer(pair.standby).at(state), known + lost)
    OnAServer(pair.standby).remove(state)
    return Failover(how, missing, back - promoted, back - ended)


@contextmanager
def two_workers(directory: Path, url: str, store_url: str) -> Iterator[None]:
    """Two `refinery worker` on hosts of their own, with the settings that they are installed with."""
    started = []
    for name in ("one", "other"):
        here = Installation(directory / "var" / name, url)
        del here.environment["REFINERY_BLOCK_MS"]
        here.environment["REFINERY_STORE_URL"] = store_url
        started.append(here.start("worker"))
    try:
        yield
    finally:
        for process in started:
            process.send_signal(signals.SIGTERM)
        for process in started:
            process.communicate(timeout=HANGS_AFTER_S)


def publish(client: redis.Redis, numbers: range) -> None:
    for first in range(numbers.start, numbers.stop, _AT_ONCE):
        with client.pipeline(transaction=False) as pipe:
            for number in range(first, min(first + _AT_ONCE, numbers.stop)):
                at = START + timedelta(seconds=number)
                event = signal(0, signal_id=f"s-{number}", timestamp=at.isoformat(), bars=_BARS)
                pipe.xadd(SIGNALS, {"data": orjson.dumps(event)})
            pipe.execute()


def handled(client: redis.Redis, url: str, signals: int) -> None:
    """Wait until everything is acknowledged, and see that so many are stored."""
    wait_until(lambda: settled(client))
    with FeatureDatabase(url, read_only=True) as store:
        stored = store.counts().signals
    if stored != signals:
        raise RuntimeError(f"{stored} signals are stored, and not {signals}")


def settled(client: redis.Redis) -> bool:
    """Whether everything is acknowledged."""
    groups: Any = client.xinfo_groups(SIGNALS) if client.exists(SIGNALS) else ()
    return any(row["name"] == GROUP.encode() and not row["pending"] and row["lag"] == 0 for row in groups)


def run(failovers: int, *, known: int, lost: int, seed: int) -> list[Failover]:
    """So many, one after the other; each is printed."""
    rng, done = random.Random(seed), []
    with tempfile.TemporaryDirectory(prefix="failover-") as name, ServerOf(Path(name)) as server:
        pair = Standby()
        try:
            for number in range(failovers):
                directory = Path(name) / str(number)
                how = rng.choice(("killed", "crashed"))
                done.append(fail_over(pair, server, directory, how, known=known, lost=lost))
                sys.stdout.write(f"{number}: {done[-1]}\n")
                sys.stdout.flush()
        finally:
            pair.close()
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--failovers", type=int, default=50)
    parser.add_argument("--known", type=int, default=2000, help="signals that both servers have")
    parser.add_argument("--lost", type=int, default=200, help="signals that the primary alone has")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    done = run(args.failovers, known=args.known, lost=args.lost, seed=args.seed)
    for name in ("since_promotion_s", "since_end_s"):
        times = [getattr(one, name) for one in done]
        sys.stdout.write(f"{name}: median {median(times):.1f}, worst {max(times):.1f}\n")
    sys.stdout.write(f"{len(done)} failovers, {sum(one.lost for one in done):,} signals lost and back\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
