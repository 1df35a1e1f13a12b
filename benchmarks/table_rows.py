"""Rows of the tables of learning: a figure, its target, what was measured, on what it rests, whether it is reached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

Line = dict[str, Any]
Row = dict[str, str]


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    columns = ("figure", "target", "measured", "evidence", "reached")
    lines = [columns, tuple("---" for _ in columns), *(tuple(row[name] for name in columns) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def row_of(figure: str, target: str, measured: str, evidence: str, reached: bool | None = None) -> Row:
    """One row; `reached` None where there is no target."""
    words = {True: "yes", False: "NO", None: ""}[reached]
    return {"figure": figure, "target": target, "measured": measured, "evidence": evidence, "reached": words}


def share_interval(hits: float, of: int) -> tuple[float, float]:
    """Clopper-Pearson, 95 %; `hits` may be a fraction, where several answers of one world count as one."""
    low = float(stats.beta.ppf(0.025, hits, of - hits + 1)) if hits > 0 else 0.0
    high = float(stats.beta.ppf(0.975, hits + 1, of - hits)) if hits < of else 1.0
    return low, high


def share_of(hits: float, of: int) -> tuple[str, str]:
    """A share in words, and its interval."""
    low, high = share_interval(hits, of)
    return f"{100 * hits / of:.1f} %", f"95 %: {100 * low:.1f}-{100 * high:.1f} %"


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error; NaN where one value says nothing of it."""
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.nan
    return float(np.mean(values)), error
