"""Mutated events through both doors and through the worker: no crash, no coercion, no byte of a dead letter changed.

python -m tests.faults.fuzz --cases 200000 --processes 2
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import orjson
from loguru import logger

from tests.events.test_batches import check_read_together
from tests.events.test_laws import check_refused_or_read, mutant
from tests.events.test_plain_signals import check_both_doors, plain_mutant
from tests.faults.invariants import settled
from tests.support.desk import settings_for
from tests.support.events import SIGNALS, TRADES
from tests.support.processes import fork
from trading_system.ml_refinement.storage import FeatureDatabase
from worker import app
from worker.errors import Reason
from worker.installation import open_store
from worker.streams.entries import Entry

_BATCH = 256
_PER_STORE = 20_000


@dataclass
class Found:
    """What the cases came to."""

    cases: int = 0
    read: int = 0
    read_together: int = 0
    crashes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    settled: Counter[str] = field(default_factory=Counter)

    def add(self, other: Found) -> None:
        self.cases += other.cases
        self.read += other.read
        self.read_together += other.read_together
        self.crashes += other.crashes
        self.wrong += other.wrong
        self.settled.update(other.settled)


def fuzz(first: int, cases: int, directory: Path) -> Found:
    """The mutants of seeds `first` and up: each alone at the door, and all of them through a worker's handler."""
    found = Found()
    for start in range(first, first + cases, _PER_STORE):
        place = directory / str(start)
        seeds = range(start, min(first + cases, start + _PER_STORE))
        found.add(_through_one_store(seeds, place))
        shutil.rmtree(place)
    return found


def _through_one_store(seeds: range, place: Path) -> Found:
    found = Found(cases=len(seeds))
    sent: dict[tuple[str, str], bytes] = {}
    listed = {"features": {"provided": ["desk_edge", "never_sent", "funding_rate"]}}
    settings = settings_for(place, "unix:///nowhere", archive={"enabled": False}, ml=listed)
    with open_store(settings) as store:
        handler = app._batch_handler(settings, store, None)
        batch: list[Entry] = []
        for seed in seeds:
            data = mutant(seed)
            try:
                found.read += check_refused_or_read(data)
            except Exception:  # noqa: BLE001  a finding
                found.crashes.append(f"seed {seed}, at the door: {traceback.format_exc(limit=-3)}")
            if seed % 3:  # most get an identity of their own, the others repeat each other or conflict
                data = data.replace(b"sig-1", f"sig-{seed}".encode())
            stream = TRADES if b"r_multiple" in data and b"asset_class" not in data else SIGNALS
            entry = Entry(stream, f"{seed}-0", {b"data": data})
            sent[entry.key] = data
            batch.append(entry)
            if len(batch) == _BATCH or seed == seeds[-1]:
                try:
                    found.read_together += sum(check_read_together([entry.fields[b"data"] for entry in batch]))
                    check_both_doors([plain_mutant(seed - back) for back in range(_BATCH)])
                    handler.handle(batch)
                except Exception:  # noqa: BLE001  a finding
                    found.crashes.append(f"seeds to {seed}, in the worker: {traceback.format_exc(limit=-3)}")
                batch = []
    _judge(settings.store_path, sent, found)
    return found


def _judge(path: Path, sent: dict[tuple[str, str], bytes], found: Found) -> None:
    counted = settled(path)
    found.wrong += [f"{key} has {counted[key]} settled" for key in sent if counted[key] != 1]
    with FeatureDatabase(path, read_only=True) as store:
        after = 0
        while rows := store.dead_letters.find(limit=1000, after_id=after, payloads=True):
            after = rows[-1].id
            for row in rows:
                found.settled[row.reason] += 1
                if row.payload != sent[row.stream, row.entry_id]:
                    found.wrong.append(f"{row.entry_id}: the dead letter's bytes are not its input's")
                if row.reason not in set(Reason) or row.reason == Reason.HANDLER_ERROR:
                    found.wrong.append(f"{row.entry_id}: {row.reason}")
        counts = store.counts()
    found.settled.update({"(signal stored)": counts.signals, "(outcome stored)": counts.outcomes})
    found.settled.update({"(duplicate)": counts.duplicates})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=None, help="of the first case")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    logger.remove()
    first = random.SystemRandom().randrange(10**9) if args.seed is None else args.seed
    each = -(-args.cases // args.processes)
    started = time.monotonic()
    memory = Path("/dev/shm")  # noqa: S108
    directory = Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if memory.is_dir() else None))
    sys.stdout.write(f"seeds {first} to {first + each * args.processes - 1}\n")
    sys.stdout.flush()
    children = {}
    for number in range(args.processes):

        def run(number: int = number) -> None:
            found = fuzz(first + number * each, each, directory / str(number))
            (directory / f"{number}.json").write_bytes(orjson.dumps(found))

        children[fork(run)] = directory / f"{number}.json"
    total = Found()
    for pid, path in children.items():
        os.waitpid(pid, 0)
        total.add(Found(**orjson.loads(path.read_bytes())))
    shutil.rmtree(directory)
    for line in (*total.crashes[:20], *total.wrong[:20]):
        sys.stdout.write(f"{line}\n")
    sys.stdout.write(
        f"{total.cases:,} cases, {total.read:,} read at the door, {total.read_together:,} of them with others,"
        f" {len(total.crashes)} crashes,"
        f" {len(total.wrong)} otherwise wrong, {time.monotonic() - started:.0f} s\n"
    )
    for name, count in total.settled.most_common():
        sys.stdout.write(f"| {name} | {count:,} |\n")
    return 1 if total.crashes or total.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
