"""Fails where the worker has become much slower than it was, beside the same baselines: `python -m benchmarks.guard`.

Only ratios of processor time are compared, the quick set's with those in benchmarks/tables/speed.json, and with room:
a machine that is busy, or of another make, moves them by a fifth or two; what is looked for is a factor.
"""

from __future__ import annotations

import sys

import orjson
from loguru import logger

from benchmarks import throughput
from benchmarks.__main__ import RESULTS
from benchmarks.environment import environment
from benchmarks.throughput import Rounds

ROOM = 2.0


def ratios(small: dict[str, Rounds], inline: dict[str, Rounds]) -> dict[str, float]:
    """How many times the baseline's processor time ours takes."""
    return {
        "small events, beside FastStream": small["refinery"].cpu_over(small["faststream"]),
        "280 bars, beside read-parse-acknowledge": inline["archive off"].cpu_over(inline["floor"]),
    }


def main() -> int:
    logger.remove()
    kept = orjson.loads(RESULTS.read_bytes())
    was = ratios(*({name: Rounds.from_json(one) for name, one in kept[number]["raw"].items()} for number in "12"))
    with environment() as place:
        small = throughput.small_events(place, rounds=3, events=1_024, plain_events=8)
        inline = throughput.inline_bars(place, rounds=3, events=512)
    slower = [name for name, now in ratios(small, inline).items() if now > was[name] * ROOM]
    for name, now in ratios(small, inline).items():
        print(f"{name}: {now:.2f} times its processor time; kept is {was[name]:.2f}, at most {was[name] * ROOM:.2f}")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
