"""The report's charts: each draws an evaluation on axes it is given, for the page and for the picture alike."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import matplotlib as mpl
import matplotlib.dates
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trading_system.ml_refinement.evaluation.equity import Equity, mean_interval
from trading_system.ml_refinement.evaluation.evaluate import Evaluation
from trading_system.ml_refinement.evaluation.groups import SignalGroup
from trading_system.ml_refinement.typing import FloatArray
from trading_system.ml_refinement.validation import metrics
from trading_system.ml_refinement.validation.evidence import PredictionRecord
from worker.report.formatting import number

#: The plotting library's functions are half typed.
mdates: Any = matplotlib.dates

#: A drawing on the axes of one panel.
Draw = Callable[[Any, Evaluation], None]

_SHOWN_WINDOWS = 24
_SHOWN_FEATURES = 14
#: Letters of a name beside a plot.
_LONGEST_NAME = 30
_DASHED = (0, (4, 3))


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours by what they mean. The page has the same ones as variables, so that they follow light and dark."""

    ink: str = "#1d2530"
    soft: str = "#6b7686"
    line: str = "#dfe3e9"
    accent: str = "#2c6fbb"
    pale: str = "#b9d0ea"
    good: str = "#2b8a5a"
    bad: str = "#c1483d"
    warn: str = "#b9791a"


LIGHT = Palette()


def style() -> Any:
    """Settings of the plotting library, a dictionary of its own keys."""
    return {
        "svg.fonttype": "none",
        "font.size": 9.5,
        "text.color": LIGHT.ink,
        "axes.labelcolor": LIGHT.soft,
        "axes.edgecolor": LIGHT.line,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": LIGHT.line,
        "grid.linewidth": 0.7,
        "xtick.color": LIGHT.soft,
        "ytick.color": LIGHT.soft,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "legend.frameon": False,
        "legend.labelcolor": LIGHT.soft,
        "legend.fontsize": 8.8,
        "axes.unicode_minus": True,
        "errorbar.capsize": 0,
    }


def timeline(axes: Any, evaluation: Evaluation) -> None:
    """What each window was fitted on and what it then predicted: the gap between is the purge."""
    shown = evaluation.windows[-_SHOWN_WINDOWS:]
    for place, window in enumerate(shown):
        low, high, start, end = (
            _date(us) for us in (window.train_from_us, window.train_to_us, window.start_us, window.end_us)
        )
        first = place == 0
        axes.barh(place, high - low, left=low, height=0.62, color=LIGHT.pale, label="fitted on" if first else None)
        axes.barh(place, end - start, left=start, height=0.62, color=LIGHT.accent, label="predicted" if first else None)
    axes.invert_yaxis()
    axes.set_yticks([])
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    total = len(evaluation.windows)
    axes.set_ylabel(f"all {total} windows" if len(shown) == total else f"the last {len(shown)} of {total} windows")
    axes.legend(loc="upper right", ncols=2, borderaxespad=0.0)
    _dates(axes)


def gains(axes: Any, evaluation: Evaluation) -> None:
    """Log loss gained over the base rate in every window, and the running mean of all signals so far."""
    windows = evaluation.windows
    starts = [_date(window.start_us) for window in windows]
    values = np.array([window.gain for window in windows])
    colours = [LIGHT.good if value > 0 else LIGHT.bad for value in values]
    axes.bar(starts, values, width=[0.8 * (_date(w.end_us) - _date(w.start_us)) for w in windows], color=colours,
             align="edge", alpha=0.75)  # fmt: skip
    rows = np.array([window.test_rows for window in windows])
    axes.plot(starts, np.cumsum(values * rows) / np.cumsum(rows), color=LIGHT.ink, linewidth=1.4, label="mean so far")
    axes.axhline(0, color=LIGHT.soft, linewidth=0.9)
    axes.set_ylabel("log loss gained")
    axes.legend(loc="lower right", borderaxespad=0.2)
    _dates(axes)


def reliability(axes: Any, evaluation: Evaluation) -> None:
    """Win rate against P(win) in bins of equal mass, walk-forward and served."""
    said, edges = [], [0.5]
    records = [(evaluation.walk, LIGHT.accent), *([(evaluation.served, LIGHT.warn)] if evaluation.served else [])]
    for record, colour in records:
        p, rate, rows = merged(metrics.reliability(record.won, record.p, bins=_bins(record))).T
        half = 1.96 * np.sqrt(np.clip(rate * (1.0 - rate), 0.01, None) / rows)
        look = {"fmt": "o-", "markersize": 5, "linewidth": 1.0, "elinewidth": 1.2, "label": record.name}
        axes.errorbar(p, rate, yerr=half, color=colour, **look)
        said += p.tolist()
        edges += [*(rate - half), *(rate + half), *p]
    middle, half = (min(said) + max(said)) / 2.0, max(0.1, 0.6 * (max(said) - min(said)))
    ends = np.array([max(0.0, middle - half), min(1.0, middle + half)])
    axes.plot(ends, ends, color=LIGHT.soft, linewidth=0.9, linestyle=_DASHED, label="right about itself")
    axes.set(xlim=ends, ylim=(max(0.0, min(edges) - 0.03), min(1.0, max(edges) + 0.12)))
    axes.set(xlabel="P(win) that was said", ylabel="share that won")
    axes.legend(loc="upper left", ncols=len(records) + 1, borderaxespad=0.2)


def merged(bins: FloatArray, *, nearer_than: float = 0.004) -> FloatArray:
    """Bins of the same probability made one: the order inside ties is no rank.

    Args:
        bins: mean probability, win rate and rows of each bin, shape (bins, 3), by probability.
        nearer_than: what counts as the same.

    Returns:
        Shape (m, 3), m at most `bins`.
    """
    found: list[list[float]] = []
    for p, rate, rows in bins.tolist():
        if found and p - found[-1][0] < nearer_than:
            last = found[-1]
            total = last[2] + rows
            found[-1] = [(last[0] * last[2] + p * rows) / total, (last[1] * last[2] + rate * rows) / total, total]
        else:
            found.append([p, rate, rows])
    return np.array(found)


def deciles(axes: Any, evaluation: Evaluation) -> None:
    """Mean R by tenth of score, with intervals over blocks of shared luck."""
    record = evaluation.walk
    count = _bins(record)
    cluster = record.evidence.cluster
    parts = np.array_split(np.argsort(record.p, kind="stable"), count)
    found = [mean_interval(record.r[rows], cluster[rows]) for rows in parts]
    values = np.array([each.value for each in found])
    spread = np.array([[each.value - each.low, each.high - each.value] for each in found]).T
    spread = np.where(np.isfinite(spread), spread, 0.0)
    places = np.arange(1, count + 1)
    axes.bar(places, values, color=[LIGHT.good if value > 0 else LIGHT.bad for value in values], width=0.72, alpha=0.8)
    axes.errorbar(places, values, yerr=spread, fmt="none", ecolor=LIGHT.ink, elinewidth=1.0)
    axes.axhline(0, color=LIGHT.soft, linewidth=0.9)
    mean = float(record.r.mean())
    axes.axhline(
        mean, color=LIGHT.soft, linewidth=0.9, linestyle=_DASHED, label=f"all signals {number(mean, 2, sign=True)}"
    )
    axes.legend(loc="upper left", borderaxespad=0.2)
    axes.grid(visible=False, axis="x")
    axes.set(xlabel=f"{_ORDINAL.get(count, 'parts')} of P(win), lowest first", ylabel="mean R", xticks=places)


_ORDINAL = {10: "tenths", 5: "fifths", 3: "thirds"}


def kinds(axes: Any, evaluation: Evaluation) -> None:
    """Mean R of each kind of signal, with its interval."""
    forest(
        axes, [(_label(group), group.mean_r.value, group.mean_r.low, group.mean_r.high) for group in evaluation.groups]
    )
    axes.set_xlabel("mean R")


def _label(group: SignalGroup) -> str:
    return f"{group.name.replace('_', ' ')}  ({group.rows:,})"


def importance(axes: Any, evaluation: Evaluation) -> None:
    """What is lost out of sample without each feature."""
    shown = evaluation.importance[:_SHOWN_FEATURES]
    forest(axes, [(item.name, item.loss, item.low, item.high) for item in shown])
    axes.set_xlabel("log loss lost without it, on unseen signals")


def forest(axes: Any, rows: Sequence[tuple[str, float, float, float]]) -> None:
    """Figures with their intervals, one a line; those that exclude 0 stand out."""
    for place, (_, value, low, high) in enumerate(rows):
        beyond = low > 0 or high < 0
        colour = (LIGHT.good if value > 0 else LIGHT.bad) if beyond else LIGHT.accent
        low, high = (edge if np.isfinite(edge) else value for edge in (low, high))
        axes.plot([low, high], [place, place], color=colour, linewidth=2.2, alpha=0.55, solid_capstyle="round")
        axes.plot([value], [place], "o", color=colour, markersize=6)
    axes.axvline(0, color=LIGHT.soft, linewidth=0.9)
    axes.set_yticks(range(len(rows)), [_shortened(name) for name, *_ in rows])
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", labelcolor=LIGHT.ink)


def _shortened(name: str) -> str:
    """A name that leaves the plot its room; its end, where the rows are told, stays."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 9]}…{name[-8:]}"


def equity(axes: Any, evaluation: Evaluation) -> None:
    """Cumulative R after costs, walk-forward."""
    _curves(axes, evaluation.equities)


def served_equity(axes: Any, evaluation: Evaluation) -> None:
    """The same of what was served."""
    _curves(axes, evaluation.served_equities)


def _curves(axes: Any, equities: Sequence[Equity]) -> None:
    colours = {"all signals": LIGHT.soft, "highest third so far": LIGHT.accent, "sized by score": LIGHT.warn}
    drawn: list[Equity] = []
    for each in equities:
        same = any(np.array_equal(each.curve, other.curve) for other in drawn)
        if not each.trades or same:
            continue
        drawn.append(each)
        colour = colours.get(each.name, LIGHT.good)
        days = np.array([_date(us) for us in each.closes_us.tolist()])
        sized = each.name == "sized by score"
        axes.step(
            days,
            each.curve,
            where="post",
            color=colour,
            linewidth=1.1 if sized else 1.8,
            linestyle=_DASHED if sized else "-",
            label=f"{each.name} ({each.trades:,})",
        )
    axes.axhline(0, color=LIGHT.soft, linewidth=0.9)
    axes.set_ylabel("cumulative R, after costs")
    axes.legend(loc="best", borderaxespad=0.2)
    _dates(axes)


def _bins(record: PredictionRecord) -> int:
    return 10 if len(record) >= 200 else 5 if len(record) >= 60 else 3


def _date(us: int) -> float:
    return float(mdates.date2num(datetime.fromtimestamp(us / 1e6, tz=UTC)))


def _dates(axes: Any) -> None:
    axes.xaxis_date()
    locator = mdates.AutoDateLocator(minticks=3, maxticks=5)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator, show_offset=False))


def svg(draw: Draw, evaluation: Evaluation, *, label: str, width: float = 6.4, height: float = 3.4) -> str:
    """The chart as an SVG element for the page, in the page's colours."""
    with mpl.rc_context({**style(), "figure.facecolor": "none", "svg.hashsalt": label}):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.subplots(), evaluation)
        text = io.StringIO()
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(text, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    body = text.getvalue()
    body = body[body.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.S)
    for name in Palette.__slots__:
        body = body.replace(getattr(LIGHT, name), f"var(--{name})")
    box = re.search(r'viewBox="([^"]+)"', body)
    head = f'<svg class="chart" role="img" aria-label="{label}" viewBox="{box[1] if box else ""}">'
    return re.sub(r"<svg[^>]*>", head, body, count=1).strip()
