"""The table: each figure with its target, how much it rests on, and whether it is reached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from benchmarks import desk_table
from benchmarks.table_rows import Line, Row, row_of, share_of
from trading_system.simulation.learning_experiments import CELLS, SIZES

_ERROR_TARGETS = (0.040, 0.029, 0.020, 0.017)
_EXCESS_TARGETS = (0.0055, 0.0025, 0.0008, 0.0002)


def summary(lines: Sequence[Line]) -> list[Row]:
    """Rows of the table for the parts that were measured. Each has figure, target, measured, evidence, reached."""
    by_part: dict[str, list[Line]] = {}
    for line in lines:
        by_part.setdefault(line["part"], []).append(line)
    makers: dict[str, Callable[[list[Line]], list[Row]]] = {
        "cells": _cells,
        "null": _null,
        "limit": _limit,
        "power": _power,
        "canary": _canary,
        "schedules": _schedules,
        "drift": _drift,
        **desk_table.MAKERS,
    }
    return [row for name, maker in makers.items() if name in by_part for row in maker(by_part[name])]


def _cells(lines: list[Line]) -> list[Row]:
    sizes = sorted({line["case"][2] for line in lines})
    cells: dict[tuple[Any, ...], dict[str, float]] = {}
    for cell in ((kind, auc, n) for kind, auc in CELLS for n in sizes):
        mine = [line for line in lines if tuple(line["case"][:3]) == cell]
        if mine:
            cells[cell] = {key: float(np.mean([line[key] for line in mine])) for key in _MEASURED}
    mean = {key: float(np.mean([cell[key] for cell in cells.values()])) for key in _MEASURED}
    worlds = f"{len(lines)} worlds in {len(cells)} cells"
    rows = []
    for key, words, target in (("ranked", "ranking", 0.66), ("served", "as served", 0.65)):
        above = sum(cell[key] > cell["specification"] for cell in cells.values())
        name = f"mean share of attainable AUC, {words}"
        rows.append(row_of(name, f">= {target}", f"{mean[key]:.3f}", worlds, mean[key] >= target))
        name = f"cells above the specification's recipe, {words}"
        rows.append(row_of(name, "16 of 16", f"{above} of {len(cells)}", worlds, above == len(CELLS) * len(SIZES)))
    rows.append(row_of("the specification's recipe, mean share", "", f"{mean['specification']:.3f}", "the same worlds"))
    for (kind, auc, n), cell in cells.items():
        words = f"{cell['ranked']:.2f}, as served {cell['served']:.2f}, specification's {cell['specification']:.2f}"
        worlds = sum(tuple(line["case"][:3]) == (kind, auc, n) for line in lines)
        rows.append(row_of(f"share, {kind} {auc:.2f}, n = {n}", "", words, f"{worlds} worlds"))
    for n, target in zip(SIZES, _ERROR_TARGETS, strict=True):
        errors = [line["calibration_error"] for line in lines if line["case"][2] == n]
        rows += _mean_row(f"true calibration error, n = {n}", target, errors)
    return rows


_MEASURED = ("served", "ranked", "specification")


def _mean_row(figure: str, target: float, values: list[float]) -> list[Row]:
    if not values:
        return []
    mean, error = float(np.mean(values)), float(np.std(values) / np.sqrt(len(values)))
    return [
        row_of(
            figure,
            f"<= {target:.4f}",
            f"{mean:.4f}",
            f"{len(values)} worlds, s.e. {error:.4f}",
            round(mean, 4) <= target,
        )
    ]


def _null(lines: list[Line]) -> list[Row]:
    rows = []
    for n, target in zip(SIZES, _EXCESS_TARGETS, strict=True):
        excess = [line["log_loss_excess"] for line in lines if line["case"][2] == n]
        rows += _mean_row(f"log loss above base rate on null, n = {n}", target, excess)
    return rows


def _limit(lines: list[Line]) -> list[Row]:
    """What is served beside what who knows the family reaches, over worlds with as many of each cell."""
    served, limit = (float(np.mean([line[name] for line in lines])) for name in ("served", "limit"))
    differences = np.array([line["served"] - line["limit"] for line in lines])
    error = differences.std(ddof=1) / np.sqrt(len(lines)) if len(lines) > 1 else np.nan
    cells = len({tuple(line["case"][:3]) for line in lines})
    told = f"{served:.3f} of {limit:.3f} in {len(lines)} worlds of {cells} cells; s.e. of the difference {error:.3f}"
    return [
        row_of("share of the Bayes limit, as served", ">= 0.95", f"{served / limit:.2f}", told, served / limit >= 0.95)
    ]


def _power(lines: list[Line]) -> list[Row]:
    rows = []
    for kind in ("independent .65", "independent .60", "clustered .65"):
        mine = [line for line in lines if line["case"][0] == kind]
        if not mine:
            continue
        hits = sum(line["promoted"] for line in mine)
        percent, interval = share_of(hits, len(mine))
        target = ">= 85 %" if kind == "independent .65" else ""
        reached = hits / len(mine) >= 0.85 if target else None
        rows.append(row_of(f"power, {kind}, 252 days x 4", target, percent, f"{len(mine)} worlds; {interval}", reached))
    return rows


def _canary(lines: list[Line]) -> list[Row]:
    holds, count = sum(line["purged_holds"] for line in lines), len(lines)
    purged, unpurged = (float(np.mean([line[name] for line in lines])) for name in ("purged", "unpurged"))
    spread = float(np.std([line["purged"] for line in lines], ddof=1)) if count > 1 else np.nan
    half = float(stats.t.ppf(0.975, max(count - 1, 1))) * spread / np.sqrt(count)
    lowest = min(line["unpurged"] for line in lines)
    told = (
        f"{count} worlds; 95 % of the mean {purged - half:.3f}-{purged + half:.3f}; {holds:.0f} own intervals hold .5"
    )
    return [
        row_of("canary on null, purged", "interval holds .5", f"{purged:.3f}", told, abs(purged - 0.5) <= half),
        row_of("canary on null, unpurged", ">= .62", f"{unpurged:.3f}", f"lowest {lowest:.3f}", unpurged >= 0.62),
    ]


def _schedules(lines: list[Line]) -> list[Row]:
    total = {name: int(sum(line[name] for line in lines)) for name in ("schedules", "folds", "violations")}
    told = f"{total['schedules']:,} schedules, {total['folds']:,} folds"
    return [row_of("purge violations", "0 of 10,000", str(total["violations"]), told, total["violations"] == 0)]


def _drift(lines: list[Line]) -> list[Row]:
    mean = {name: 100 * float(np.mean([line[name] for line in lines])) for name in ("flagged", "fixed", "moved")}
    told = f"{20 * len(lines)} features in {len(lines)} worlds"
    alarms = f"{mean['flagged']:.1f} %"
    return [
        row_of("drift alarms, persistent features, no drift", "<= 20 %", alarms, told, mean["flagged"] <= 20.0),
        row_of("... with a fixed index of .25", "", f"{mean['fixed']:.1f} %", told),
        row_of(
            "features found that moved by half a deviation", "", f"{mean['moved']:.1f} %", f"{40 * len(lines)} features"
        ),
    ]
