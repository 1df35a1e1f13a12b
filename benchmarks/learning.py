"""What learning is worth, on worlds with known truth, beside the figures it has to reach.

python -m benchmarks.learning             everything; a day of processor time, resumed where it was stopped
python -m benchmarks.learning --quick     a few worlds of each part, in minutes of processor time; nothing is kept
python -m benchmarks.learning --table     only the table, from what is kept in benchmarks/tables/
python -m benchmarks.learning --choosing  on other worlds, those that decisions are made on; kept apart from the tables
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import math
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from loguru import logger

from benchmarks import desks
from benchmarks.learning_table import summary
from benchmarks.results import Results, until
from benchmarks.table_rows import markdown
from trading_system.ml_refinement.config import MLConfig
from trading_system.ml_refinement.training.promotion import judge
from trading_system.ml_refinement.validation.evidence import Evidence
from trading_system.simulation import learning_experiments as parts
from trading_system.simulation.learning_experiments import CELLS, SIZES, Experiment
from trading_system.simulation.seeds import Seeds, generator

RESULTS = Path(__file__).parent / "tables"
#: Cases of each part in a quick run: each cell once.
QUICK = {
    "schedules": 1,
    "drift": 10,
    "canary": 1,
    "null": 12,
    "cells": 16,
    "power": 2,
    "anew": 16,
    "limit": 2,
    "clustered proof": 1,
    "small desk": 1,
    "desk": 0,
    "noise": 1,
}

#: Cells whose limit is known, each with 150, 400 and 1,000 rows.
LIMIT = (("linear", 0.6), ("mixed", 0.7))
#: Repetitions of a cell by its number of rows: larger fits vary less and cost more.
_REPETITIONS = {150: 16, 400: 12, 1000: 8, 3000: 3}
_NULL_REPETITIONS = {150: 30, 400: 30, 1000: 20, 3000: 10}


def plan() -> list[Experiment]:
    """Parts that are the learner's alone, with their cases, cheap ones first."""
    cells = [(*cell, n, k) for k in range(16) for n in SIZES if k < _REPETITIONS[n] for cell in CELLS]
    null = [("null", 0.5, n, k) for k in range(30) for n in SIZES if k < _NULL_REPETITIONS[n]]
    return [
        Experiment("schedules", [(k,) for k in range(20)], parts.of_schedules),
        Experiment("drift", [(k,) for k in range(100)], parts.of_drift),
        Experiment("canary", [(k,) for k in range(10)], parts.of_the_canary),
        Experiment("null", null, parts.of_one_fit),
        Experiment("cells", cells, parts.of_one_fit),
        Experiment("anew", cells, parts.of_one_anew),
        Experiment(
            "limit", [(*cell, n, k) for k in range(12) for n in (150, 400, 1000) for cell in LIMIT], parts.of_the_limit
        ),
    ]


def plan_of_the_gate() -> list[Experiment]:
    """Parts in which the gate decides about single evidence."""
    edges = (("independent .65", 40), ("independent .60", 20), ("clustered .65", 20))
    return [
        Experiment("power", [(kind, k) for kind, count in edges for k in range(count)], parts.of_one_retraining),
        Experiment("noise", [(kind, k) for k in range(100) for kind in parts.NOISES], parts.of_looks_at_noise),
    ]


def behaviour() -> str:
    """What the learner does with one small world, in 12 letters: results of code that does otherwise do not count."""
    return _letters([round(p, 7) for p in _seen().p.tolist()])


def behaviour_of_the_gate() -> str:
    """The same of the learner and what the gate says of it."""
    verdict = judge(_seen(), recipe="ensemble", champion=None)
    return _letters([behaviour(), {name: round(figure, 6) for name, figure in verdict.figures.items()}])


@functools.cache
def _seen() -> Evidence:
    world = parts.noise_or_edge("independent 252", 400, np.random.default_rng(0))
    return parts.evidence(parts.dataset(world), MLConfig())


def _letters(said: object) -> str:
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Book:
    """Parts of which a result counts as long as the code behaves alike, and their results."""

    parts: list[Experiment]
    results: Results

    def measure(self, seeds: Seeds, *, only: list[str], quick: bool, deadline: float) -> None:
        """Measure what is missing, a line each."""
        for part in self.parts:
            if only and part.name not in only:
                continue
            cases = part.cases[: QUICK[part.name]] if quick else part.cases
            for case in until(deadline, self.results.missing(part.name, cases)):
                started = time.process_time()
                figures = part.measure(case, generator(part.name, case, seeds))
                self.results.add(part.name, case, {**figures, "cpu_s": time.process_time() - started})
                print(part.name, *case, file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few cases of each part, nothing kept")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--choosing", action="store_true", help="on the worlds that decisions are made on")
    parser.add_argument("--only", action="append", default=[], help="a part by name; may be repeated")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no case after this long")
    told = parser.parse_args()
    logger.remove()
    seeds = Seeds.CHOOSING if told.choosing else Seeds.REPORTING
    deadline = time.monotonic() + 60.0 * told.minutes
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if told.quick or told.choosing else RESULTS
        kept = (RESULTS / "choosing.jsonl") if told.choosing and not told.quick else folder / "learning.jsonl"
        books = [
            Book(plan(), Results(kept, behaviour())),
            Book(plan_of_the_gate(), Results(kept, behaviour_of_the_gate())),
            Book(desks.plan(), Results(kept, desks.behaviour())),
        ]
        for book in books if not told.table else ():
            book.measure(seeds, only=told.only, quick=told.quick, deadline=deadline)
        names = [{part.name for part in book.parts} for book in books]
        lines = [
            line for book, own in zip(books, names, strict=True) for line in book.results.lines() if line["part"] in own
        ]
        rows = summary(lines)
        (folder / "learning.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(markdown(rows))


if __name__ == "__main__":
    main()
