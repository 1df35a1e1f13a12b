"""The speed of the whole, as ratios beside named baselines, in one table.

python -m benchmarks            everything, about twenty minutes
python -m benchmarks --quick    the same on less, in two minutes; nothing is kept
python -m benchmarks --only 1 --only 3
python -m benchmarks --table    what is kept in benchmarks/tables/speed.json, measuring nothing

Contenders take turns, round by round, and a ratio is the median of the ratios of rounds that stood side by side: what a
busy machine does to one of them it does to its neighbour. "cpu" is the same ratio of the processes' own processor time.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from loguru import logger

from benchmarks import backlog, ground, growth, guard, latency, publishing, throughput, training
from benchmarks.environment import environment
from benchmarks.throughput import Rounds

MEMORY_EVENTS = 1_000_000
RESULTS = guard.RESULTS


@dataclass(frozen=True)
class Line:
    """One row of the table. `at_least`: a larger figure is better."""

    what: str
    figure: float
    target: float
    at_least: bool
    beside: str = ""

    @property
    def reached(self) -> bool:
        return self.figure >= self.target if self.at_least else self.figure <= self.target

    def cells(self) -> str:
        sign = "≥" if self.at_least else "≤"
        return f"| {self.what} | {self.figure:.3g} | {sign} {self.target:g} | {_yes(self.reached)} | {self.beside} |"


Found = tuple[list[Line], dict[str, Any]]


def figure_1(quick: bool) -> Found:
    with environment() as place:
        took = throughput.small_events(place, rounds=3 if quick else 9, events=1_024 if quick else 4_096)
    ours, peer, plain = took["refinery"], took["faststream"], took["plain"]
    rate = f"{1e6 / ours.typical:,.0f} events/s; cpu {ours.typical_cpu:.0f} µs an event"
    return [
        Line("1 throughput, beside FastStream with an empty handler", peer.over(ours), 3.0, True,
             f"{rate}; FastStream {1e6 / peer.typical:,.0f}/s; cpu ratio {peer.cpu_over(ours):.2f}"),
        Line("1 throughput, beside the plain consumer", plain.over(ours), 100.0, True,
             f"plain {1e6 / plain.typical:,.0f}/s; cpu ratio {plain.cpu_over(ours):.0f}"),
    ], {name: one.to_json() for name, one in took.items()}  # fmt: skip


def figure_2(quick: bool) -> Found:
    with environment() as place:
        took = throughput.inline_bars(place, rounds=3 if quick else 7, events=512 if quick else 1_024)
    floor, ours, kept = took["floor"], took["archive off"], took["archive on"]
    return [
        Line("2 time with 280 inline bars, beside read-parse-acknowledge", ours.over(floor), 1.5, False,
             f"{1e6 / ours.typical:,.0f} events/s; cpu ratio {ours.cpu_over(floor):.2f}"),
        Line("2 the same, with the archive", kept.over(floor), 2.2, False,
             f"{1e6 / kept.typical:,.0f} events/s; cpu ratio {kept.cpu_over(floor):.2f}"),
    ], {name: one.to_json() for name, one in took.items()}  # fmt: skip


def figure_3(quick: bool) -> Found:
    with environment(fsync="always") as place:  # as the store, and as the embedded server is by default
        took = latency.round_trips(place, blocks=2 if quick else 6, events=50 if quick else 100)
    ours, bare = took["refinery"], took["bare"]
    middle = [float(np.median(one)) for one in (ours, bare)]
    late = [float(np.percentile(one, 99)) for one in (ours, bare)]
    return [
        Line("3 latency at 50 events/s, median, beside the bare round trip", middle[0] / middle[1], 2.0, False,
             f"{middle[0]:.1f} ms, bare {middle[1]:.1f} ms"),
        Line("3 latency at 50 events/s, p99", late[0] / late[1], 3.0, False,
             f"{late[0]:.1f} ms, bare {late[1]:.1f} ms"),
    ], {name: one.round(3).tolist() for name, one in took.items()}  # fmt: skip


def figure_4(quick: bool, signals: int, keep: Path | None) -> Found:
    signals = 20_000 if quick else signals
    with environment() as place:
        grown = growth.measure(
            place,
            signals=signals,
            rounds=3 if quick else 9,
            events=1_024 if quick else 4_096,
            memory_events=MEMORY_EVENTS // 25 if quick else MEMORY_EVENTS,
            keep=keep,
        )
    memory = sorted(grown.rss_mb.items())
    last = memory[-1]
    early = next(one for one in memory if one[0] >= last[0] // 10)
    size = f"at {signals:,} signals"
    return [
        Line(f"4 throughput {size}, beside 1,000", grown.few.over(grown.many), 0.9, True,
             f"cpu ratio {grown.few.cpu_over(grown.many):.2f}"),
        Line(f"4 memory after {last[0]:,} events, beside {early[0]:,}", last[1] / early[1], 1.1, False,
             f"{early[1]:.0f} MB, then {last[1]:.0f} MB"),
        Line(f"4 status {size}, ms", grown.status_ms, 300.0, False),
        Line(f"4 `refinery status` as a command {size}, ms", float(np.median(grown.command_ms)), 300.0, False,
             f"{len(grown.command_ms)} runs, {min(grown.command_ms):.0f} to {max(grown.command_ms):.0f}"),
        Line(f"4 overview page {size}, ms", grown.overview_ms, 300.0, False),
        Line(f"4 slowest page {size}, its first request, ms", grown.slowest_page[1], 300.0, False,
             f"{grown.slowest_page[0]}; {len(grown.pages_ms)} pages and filters"),
    ], {"few": grown.few.to_json(), "many": grown.many.to_json(), "rss_mb": {str(k): v for k, v in memory},
       "pages_ms": {name: round(taken, 1) for name, taken in grown.pages_ms.items()},
       "command_ms": [round(one, 1) for one in grown.command_ms]}  # fmt: skip


def figure_5(quick: bool) -> Found:
    with environment() as place:
        # In rounds of two batches for each of eight most of what is measured is how they begin and end.
        took = throughput.side_by_side(place, rounds=3 if quick else 5, events=4_096 if quick else 32_768)
    one, two, eight = (took[number] for number in (1, 2, 8))
    cores = f"{os.cpu_count()} cores, the server on them too"
    return [
        Line("5 two processes, beside one", one.over(two), 1.8, True,
             f"{cores}; cpu an event {two.cpu_over(one):.2f} of one's"),
        Line("5 eight processes, beside two", two.over(eight), 1.0, True,
             f"{cores}; cpu an event {eight.cpu_over(two):.2f} of two's"),
    ], {str(number): one.to_json() for number, one in took.items()}  # fmt: skip


def figure_6(quick: bool) -> Found:
    with environment() as place:
        read = training.reading(place.directory, rows=10_000 if quick else 100_000, rounds=1 if quick else 3)
        events = 2_048 if quick else 50_000
        alone, with_it = backlog.caught_up(
            place, rows=20_000 if quick else 40_000, events=events, rounds=1 if quick else 3
        )
    beside = alone.over(with_it)
    walked = training.validation(rows=2_000 if quick else 20_000, rounds=1 if quick else 2)
    return [
        Line("6 reading training vectors, beside SELECT and json.loads", read.ratio, 1.3, False,
             f"{min(read.ours):.2f} s, plain {min(read.plain):.2f} s"),
        Line("6 walk-forward of ten folds, beside scikit-learn alone", walked.ratio, 1.3, False,
             f"{min(walked.ours):.1f} s, plain {min(walked.plain):.1f} s"),
        Line(f"6 a backlog of {events:,} caught up with while a training runs, of the speed without", beside, 0.8, True,
             f"{1e6 / with_it.typical:,.0f}/s, without {1e6 / alone.typical:,.0f}/s"),
    ], {"reading": read.to_json(), "walk_forward": walked.to_json(),
        "backlog_alone": alone.to_json(), "backlog_beside": with_it.to_json()}  # fmt: skip


def figure_7(quick: bool) -> Found:
    with environment() as place:
        rates = publishing.rates(place, events=20_000 if quick else 1_000_000, drained=4_096 if quick else 20_480)
    return [
        Line("7 `refinery publish`, beside what a worker consumes", rates.published / rates.consumed, 0.5, True,
             f"{rates.published:,.0f}/s published, {rates.consumed:,.0f}/s consumed"),
    ], asdict(rates)  # fmt: skip


def figure_8(quick: bool, signals: int) -> Found:
    with environment() as place:
        took = ground.whole_path(place, rounds=6 if quick else 24, events=1_024 if quick else 2_048)
    signals = 20_000 if quick else signals
    with environment() as place:
        grown = growth.scattered_ids(
            place, signals=signals, rounds=6 if quick else 24, events=1_024 if quick else 2_048
        )
    size = f"random ids, {signals:,} stored"
    few, many = grown["few"], grown["many"]
    return [
        _beside_ground("8 the whole path, beside the same reads and writes", took["refinery"], took["ground"], 1.6),
        _beside_ground(f"8 the same, {size}", many, grown["ground"], 1.8),
        Line(f"4 throughput, {size}, beside 1,000", few.over(many), 0.9, True, f"cpu ratio {few.cpu_over(many):.2f}"),
    ], {name: one.to_json() for name, one in (took | grown).items() if name != "ground"} | {
        "ground": took["ground"].to_json(), "ground_random": grown["ground"].to_json()}  # fmt: skip


def what_the_guard_keeps(quick: bool) -> Found:
    rounds = {"rounds": 6} if quick else {}
    return [], {name: round(measure(**rounds), 4) for name, measure in guard.FIGURES.items()}


def _beside_ground(what: str, ours: Rounds, bare: Rounds, target: float) -> Line:
    return Line(f"{what}: least processor time", ours.least_cpu_over(bare), target, False,
                f"{min(ours.cpu):.0f} µs an event, ground {min(bare.cpu):.0f}; typical {ours.cpu_over(bare):.2f}; "
                f"on the clock {ours.over(bare):.2f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less of everything, nothing kept")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        help="a figure by number, or guard: what the guard compares with; may be repeated",
    )
    parser.add_argument("--signals", type=int, default=1_000_000, help="signals in the large stores of figures 4 and 8")
    parser.add_argument("--keep", type=Path, help="directory of the large store, made once and used again")
    parser.add_argument("--json", type=Path, help="write what was measured here too")
    told = parser.parse_args()
    logger.remove()
    kept: dict[str, Any] = orjson.loads(RESULTS.read_bytes()) if RESULTS.exists() and not told.quick else {}
    if not told.table:
        kept = measured(told, kept)
    print(table(kept))


def measured(told: argparse.Namespace, kept: dict[str, Any]) -> dict[str, Any]:
    """What is kept, renewed by what was asked for."""
    figures: dict[str, Callable[[], Found]] = {
        "1": lambda: figure_1(told.quick),
        "2": lambda: figure_2(told.quick),
        "3": lambda: figure_3(told.quick),
        "4": lambda: figure_4(told.quick, told.signals, told.keep),
        "5": lambda: figure_5(told.quick),
        "6": lambda: figure_6(told.quick),
        "7": lambda: figure_7(told.quick),
        "8": lambda: figure_8(told.quick, told.signals),
        "guard": lambda: what_the_guard_keeps(told.quick),
    }
    for name, figure in figures.items():
        if told.only and name not in told.only:
            continue
        began = time.perf_counter()
        lines, raw = figure()
        kept[name] = {
            "lines": [asdict(line) for line in lines],
            "raw": raw,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "load": round(os.getloadavg()[0], 1),
            "seconds": round(time.perf_counter() - began),
            "on": {name: version(name) for name in ("faststream", "redis", "apsw", "scikit-learn", "numpy")}
            | {"python": platform.python_version(), "cores": os.cpu_count()},
        }
        for line in lines:
            print(line.cells(), file=sys.stderr)
        for path in ([] if told.quick else [RESULTS]) + ([told.json] if told.json else []):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(orjson.dumps(kept, option=orjson.OPT_INDENT_2))
    return kept


def table(kept: dict[str, Any]) -> str:
    """The table, in Markdown."""
    rows = ["| figure | measured | target | reached | beside |", "|---|---|---|---|---|"]
    return "\n".join(rows + [Line(**line).cells() for name in sorted(kept) for line in kept[name]["lines"]])


def _yes(reached: bool) -> str:
    return "yes" if reached else "no"


if __name__ == "__main__":
    main()
