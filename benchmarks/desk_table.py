"""The rows of desks: what was served while the edge lived, when it was proven and when not, and what noise proved."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from benchmarks.desk_figures import NOTICE_DAYS, QUARTER_DAYS, YEAR_DAYS
from benchmarks.table_rows import Line, Row, mean_and_error, row_of, share_of
from trading_system.simulation.desks import PLANS
from trading_system.simulation.learning_experiments import CELLS

#: World-years of each kind of noise that the figures are meant to rest on.
NOISE_YEARS = 300
_MONTH_DAYS = YEAR_DAYS / 12


def _desk(lines: list[Line]) -> list[Row]:
    return [
        _mean("desk: share of attainable AUC, as served, while the edge lives", lines, "share", 0.65),
        _mean("desk: ... on the outcomes there were", lines, "share_on_outcomes"),
        _mean("desk: AUC within windows, as served", lines, "auc", decimals=3),
        _mean("desk: ... of the truth", lines, "truth_auc", decimals=3),
        _mean("desk: R a trade, upper half over its week's mean", lines, "uplift", 0.07, decimals=3),
        _mean("desk: ... of the truth", lines, "truth_uplift", decimals=3),
        _proven_in_a_year(lines),
        *_proof_ends("desk", lines),
        *_calibration("desk", lines),
    ]


def _small_desk(lines: list[Line]) -> list[Row]:
    months = sorted(line.get("first_proof", math.inf) / _MONTH_DAYS for line in lines)
    median = float(np.median(months))
    words = f"month {median:.1f}" if math.isfinite(median) else "never"
    told = f"{len(lines)} worlds, proven in {sum(map(math.isfinite, months))}"
    return [
        row_of("small desk: first proven, median", "<= month 10", words, told, median <= 10.0),
        _mean("small desk: share of attainable AUC, as served", lines, "share"),
        *_proof_ends("small desk", lines),
        *_calibration("small desk", lines),
    ]


def _mean(figure: str, lines: list[Line], key: str, target: float | None = None, *, decimals: int = 2) -> Row:
    values = [line[key] for line in lines if math.isfinite(line[key])]
    mean, error = mean_and_error(values) if values else (math.nan, math.nan)
    reached = None if target is None else mean >= target
    wanted = "" if target is None else f">= {target:.2f}"
    return row_of(figure, wanted, f"{mean:.{decimals}f}", _worlds(len(values), error), reached)


def _worlds(count: int, error: float) -> str:
    return f"{count} worlds, s.e. {error:.3f}" if count > 1 else f"{count} world"


def _proven_in_a_year(lines: list[Line]) -> Row:
    hits = sum(line.get("first_proof", math.inf) <= YEAR_DAYS for line in lines)
    before = sum(line["proven_before"] for line in lines)
    words, interval = share_of(hits, len(lines))
    told = f"{hits} of {len(lines)} worlds; {interval}; proven before it began in {before:.0f}"
    name = "desk: proven within 12 months of the edge's beginning"
    return row_of(name, ">= 80 %", words, told, hits / len(lines) >= 0.8)


def _proof_ends(desk: str, lines: list[Line]) -> list[Row]:
    name = f"{desk}: proof ended within {NOTICE_DAYS} days of death"
    at_death = [line["ended_in_time"] for line in lines if "ended_in_time" in line]
    if at_death:
        words, interval = share_of(sum(at_death), len(at_death))
        told = f"{len(at_death)} worlds that were proven at death; {interval}"
        rows = [row_of(name, ">= 75 %", words, told, float(np.mean(at_death)) >= 0.75)]
    else:
        rows = [row_of(name, ">= 75 %", "not known", f"none of {len(lines)} worlds was proven at death", False)]
    lost = [ended for line in lines for ended in line["lost"]]
    name = f"{desk}: ended falsely while alive, per look"
    if not lost:
        return [*rows, row_of(name, "<= .06", "not known", "no look began proven")]
    told = f"{len(lost)} looks that began proven, in {len(lines)} worlds"
    return [*rows, row_of(name, "<= .06", f"{np.mean(lost):.3f}", told, float(np.mean(lost)) <= 0.06)]


def _calibration(desk: str, lines: list[Line]) -> list[Row]:
    """Quarters wholly before, within and after the edge's life."""
    error, slope = {}, {}
    for when in ("before", "while alive", "after"):
        told = [_quarters(desk, line, "error", when) for line in lines]
        values = [value for line, mine in zip(lines, told, strict=True) for value in np.array(line["error"])[mine]]
        if values:
            error[when] = (
                f"{np.mean(values):.3f} {when}",
                f"{len(values)} {when} (s.e. {mean_and_error(values)[1]:.3f})",
            )
        told = [_quarters(desk, line, "slope", when) for line in lines]
        weight = np.concatenate(
            [np.array(line["slope_information"])[mine] for line, mine in zip(lines, told, strict=True)]
        )
        values = np.concatenate([np.array(line["slope"])[mine] for line, mine in zip(lines, told, strict=True)])
        if weight.sum():
            mean = float(values @ weight / weight.sum())
            slope[when] = f"{mean:.2f} {when}", f"{len(values)} {when}, weighed by information"
    return [
        row_of(
            f"{desk}: {figure} by quarter",
            "",
            ", ".join(w for w, _ in by.values()),
            ", ".join(n for _, n in by.values()),
        )
        for figure, by in (("true calibration error", error), ("calibration slope", slope))
    ]


def _quarters(desk: str, line: Line, key: str, when: str) -> np.ndarray:
    """Which of a line's quarters lie wholly before, within or after the edge's life."""
    edge = PLANS[desk].edge
    assert edge is not None
    first = np.array(line[f"{key}_quarter"]) * QUARTER_DAYS
    last = first + QUARTER_DAYS
    inside: np.ndarray = {
        "before": last <= edge.begins,
        "while alive": (first >= edge.begins) & (last <= edge.ends),
        "after": first >= edge.ends,
    }[when]
    return inside


def _anew(lines: list[Line]) -> list[Row]:
    sizes = sorted({line["case"][2] for line in lines})
    cells = [
        mine
        for cell in ((kind, auc, n) for kind, auc in CELLS for n in sizes)
        if (mine := [line for line in lines if tuple(line["case"][:3]) == cell])
    ]
    told = f"{len(lines)} worlds in {len(cells)} cells, each a family of its own"
    means = {
        key: np.array([np.mean([line[key] for line in cell]) for cell in cells])
        for key in ("ranked", "served", "specification")
    }
    rows = []
    for key, words, target in (("ranked", "ranking", 0.64), ("served", "as served", 0.63)):
        mean = float(means[key].mean())
        name = f"families drawn anew: mean share of attainable AUC, {words}"
        rows.append(row_of(name, f">= {target}", f"{mean:.3f}", f"{told}{_spread(lines, key)}", mean >= target))
    above = int((means["served"] > means["specification"]).sum())
    name = "families drawn anew: cells above the specification's recipe, as served"
    rows.append(row_of(name, "", f"{above} of {len(cells)}", told))
    return rows


def _spread(lines: list[Line], key: str) -> str:
    """The standard error of the mean over cells, from the spread within each; empty with one world a cell."""
    by_cell: dict[tuple[object, ...], list[float]] = {}
    for line in lines:
        by_cell.setdefault(tuple(line["case"][:3]), []).append(line[key])
    if min(map(len, by_cell.values())) < 2:
        return ""
    errors = [mean_and_error(values)[1] for values in by_cell.values()]
    return f", s.e. {np.sqrt(np.sum(np.square(errors))) / len(errors):.3f}"


def _clustered_proof(lines: list[Line]) -> list[Row]:
    hits = sum(line["by_day"] for line in lines)
    words, interval = share_of(hits, len(lines))
    firsts = [line.get("first_proof", math.inf) for line in lines]
    told = f"{len(lines)} worlds, a look every 42 days; {interval}; median first proof on day {np.median(firsts):.0f}"
    return [row_of("clustered .65: proven by day 273", ">= 95 %", words, told, hits / len(lines) >= 0.95)]


def _noise(lines: list[Line]) -> list[Row]:
    """Looks are counted by world, since those of one share their evidence; years by year."""
    rows = []
    for kind in sorted({line["case"][0] for line in lines}):
        mine = [line for line in lines if line["case"][0] == kind]
        for step, how in ((21, "every 21 days"), (7, "weekly")):
            proven = [float(np.mean(line[f"proven_{step}"])) for line in mine]
            years = [year for line in mine for year in line[f"years_{step}"]]
            looks = sum(len(line[f"proven_{step}"]) for line in mine)
            words, interval = share_of(sum(proven), len(proven))
            told = f"{looks} looks in {len(mine)} worlds; {interval}, a world counted once"
            each = float(np.mean(proven)) <= 0.02
            rows.append(row_of(f"false proofs per retraining, {how}, {kind}", "<= 2 %", words, told, each))
            words, interval = share_of(sum(years), len(years))
            any_of = float(np.mean(years)) <= 0.10
            told = f"{len(years)} years of {NOISE_YEARS}; {interval}"
            rows.append(row_of(f"years with any false proof, looks {how}, {kind}", "<= 10 %", words, told, any_of))
    return rows


MAKERS: dict[str, Callable[[list[Line]], list[Row]]] = {
    "desk": _desk,
    "small desk": _small_desk,
    "anew": _anew,
    "clustered proof": _clustered_proof,
    "noise": _noise,
}
