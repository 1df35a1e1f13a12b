"""Schedules of faults: each is made from its seed, run against real processes, and judged by the invariants.

python -m tests.faults.chaos --schedules 1000 --processes 2
python -m tests.faults.chaos --seed 4711 --schedules 1     # one of them again
python -m tests.faults.chaos --engine postgresql --schedules 500
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Container, Iterator
from itertools import count, islice
from pathlib import Path

import orjson
from loguru import logger

from tests.faults.catalogue import KINDS, KINDS_OF, ON_POSTGRES, run_of, schedule
from tests.faults.fault_harness import EngineName, FaultHarness, Tally
from tests.faults.kinds import full_disk
from tests.faults.schedules import CRASH_POINTS, TRAINING_CRASH_POINTS, Schedule, at_crash_point
from tests.support.processes import fork
from tests.support.small_disk import can_be_mounted
from worker.redis_server.binary import server_version


def run_all(
    schedules: list[Schedule],
    directory: Path,
    *,
    redis_7: Path | None = None,
    engine: EngineName = "sqlite",
    minutes: float = float("inf"),
    verbose: bool = False,
) -> dict[str, Tally]:
    """Run the schedules, or those that are begun within so many minutes; what they came to, by kind."""
    tallies: dict[str, Tally] = {}
    ends = time.monotonic() + 60 * minutes
    with FaultHarness(directory, run_of, redis_7=redis_7, engine=engine, verbose=verbose) as harness:
        for made in schedules:
            if time.monotonic() > ends:
                break
            tally = harness.run(made)
            tallies.setdefault(made.kind, Tally()).add(tally)
            for failure in tally.failures:
                _say(failure)
    return tallies


def table(tallies: dict[str, Tally]) -> str:
    """The summary, one line for each kind and one for all."""
    everything = Tally()
    for tally in tallies.values():
        everything.add(tally)
    heads = ("kind", "schedules", "of them on Redis 7", "events", "processes killed", "lost", "double")
    lines = [f"| {' | '.join((*heads, 'otherwise wrong', 'unfinished', 's each'))} |", "|---" * 10 + "|"]
    for name, t in [*sorted(tallies.items()), ("**all**", everything)]:
        each = t.seconds / max(1, t.schedules)
        lines.append(
            f"| {name} | {t.schedules:,} | {t.on_redis_7:,} | {t.events:,} | {t.killed:,} | {t.lost} |"
            f" {t.double} | {t.wrong} | {t.unfinished} | {each:.2f} |"
        )
    return "\n".join(lines)


def of_kinds(first: int, kinds: Container[str], engine: EngineName) -> Iterator[Schedule]:
    """Schedules of these kinds, from that seed on."""
    known = KINDS_OF[engine]
    return (schedule(seed, engine) for seed in count(first) if known[seed % len(known)] in kinds)


def _redis_7() -> Path | None:
    """The server of Redis 7 that is installed, if one is."""
    found = shutil.which("redis-server")
    return Path(found) if found and server_version(Path(found))[:1] == (7,) else None


def _what(redis_7: Path | None) -> str:
    return "none on Redis 7" if redis_7 is None else f"some on Redis {'.'.join(map(str, server_version(redis_7)))}"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=None, help="of the first schedule")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no schedule after so many")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--crash-points", action="store_true", help="a kill at every labelled crash point besides")
    parser.add_argument("--at", action="append", default=[], help="a kill at this crash point besides")
    parser.add_argument(
        "--kind", action="append", choices=sorted({*KINDS, *ON_POSTGRES}), help="only schedules of this kind, as many"
    )
    parser.add_argument("--redis-7", type=Path, default=_redis_7(), help="its server; every fourth schedule runs on it")
    parser.add_argument("--engine", choices=sorted(KINDS_OF), default="sqlite", help="what holds the stores")
    parser.add_argument("--json", type=Path, help="write the tallies there")
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    first = args.seed if args.seed is not None else random.SystemRandom().randrange(10**6) * 10
    logger.remove()
    # What is killed are processes, so that memory is as good as a disk here, and many times faster.
    memory = Path("/dev/shm")  # noqa: S108
    directory = Path(tempfile.mkdtemp(prefix="chaos-", dir=memory if memory.is_dir() else None))
    kinds = set(args.kind or KINDS_OF[args.engine])
    if not can_be_mounted(directory) and kinds & full_disk.PLANS.keys():
        kinds -= full_disk.PLANS.keys()
        _say("no file system can be mounted here: no schedule fills up a disk")
    made = list(islice(of_kinds(first, kinds, args.engine), args.schedules)) if kinds else []
    _say(f"seeds {first} to {made[-1].seed if made else first}, {_what(args.redis_7)}")
    crash_points = (*CRASH_POINTS, *TRAINING_CRASH_POINTS) if args.crash_points else args.at
    made = [at_crash_point(crash_point) for crash_point in crash_points] + made
    children = {}
    for number in range(args.processes):
        part, place = made[number :: args.processes], directory / str(number)

        def run(part: list[Schedule] = part, place: Path = place) -> None:
            place.mkdir()
            tallies = run_all(
                part, place, redis_7=args.redis_7, engine=args.engine, minutes=args.minutes, verbose=args.verbose
            )
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
