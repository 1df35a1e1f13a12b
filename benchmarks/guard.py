"""Fails where the worker has become slower than it was, beside the same baselines: `python -m benchmarks.guard`.

What is compared is the worker's processor time beside that of the bare script which does the same reads and writes, in
the median of many short rounds that stood side by side. On a machine at loads of 7 to 8, two cores, the median of 60
such ratios strayed by half a per cent, that of the cheapest rounds of each by six: docs/performance.md has the figures.
So a tenth is room enough for a busy machine, and a loss of 15 % is seen.

What it was is in benchmarks/tables/speed.json, written by `python -m benchmarks`, measured by the same functions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import orjson
from loguru import logger

from benchmarks import ground, throughput
from benchmarks.environment import environment

RESULTS = Path(__file__).parent / "tables" / "speed.json"
ROOM = 1.1
ROUNDS, EVENTS = 60, 512
INLINE_ROUNDS, INLINE_EVENTS = 40, 256


def small_events(rounds: int = ROUNDS) -> float:
    """How many times the processor time of its ground the whole path takes."""
    with environment() as place:
        took = ground.whole_path(place, rounds=rounds, events=EVENTS)
    return took["refinery"].cpu_over(took["ground"])


def inline_bars(rounds: int = INLINE_ROUNDS) -> float:
    """How many times the processor time of reading, parsing and acknowledging events with 280 bars take."""
    with environment() as place:
        took = throughput.inline_bars(place, rounds=rounds, events=INLINE_EVENTS, archive=False)
    return took["archive off"].cpu_over(took["floor"])


FIGURES: dict[str, Callable[..., float]] = {
    "small events, beside the same reads and writes": small_events,
    "280 bars, beside read-parse-acknowledge": inline_bars,
}


def main() -> int:
    logger.remove()
    kept: dict[str, float] = orjson.loads(RESULTS.read_bytes())["guard"]["raw"]
    slower = False
    for name, measure in FIGURES.items():
        most = kept[name] * ROOM
        now = measure()
        if now > most:  # of two, so that one odd minute of the machine is no loss of ours
            print(f"{name}: {now:.3f}, and again:")
            now = min(now, measure())
        print(f"{name}: {now:.3f} times its processor time; kept is {kept[name]:.3f}, at most {most:.3f}")
        slower = slower or now > most
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
