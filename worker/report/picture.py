"""The evaluation as one picture, to be sent or pinned to a wall."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from trading_system.ml_refinement.evaluation.evaluate import Evaluation
from worker.report import charts
from worker.report.charts import LIGHT
from worker.report.formatting import equity_rows, figure_rows, span

_PANELS = (
    (charts.timeline, "What was fitted on what"),
    (charts.gains, "Log loss gained over the base rate, by window"),
    (charts.reliability, "Is a probability right about itself?"),
    (charts.deciles, "Result by score"),
    (charts.equity, "Walked forward: what it would have been worth"),
    (charts.served_equity, "Served: what following it would have been worth"),
)
_BELOW = ((charts.kinds, "Result by kind of signal"), (charts.importance, "What the scores rest on"))


def png(evaluation: Evaluation, *, dpi: int = 110) -> bytes:
    """The picture's bytes."""
    with mpl.rc_context({**charts.style(), "figure.facecolor": "white"}):
        figure = Figure(figsize=(13.5, 20.5), dpi=dpi, layout="constrained")
        parts: Any = figure.subfigures(4, height_ratios=[1.5, 3.0, 12.0, 4.2])
        head, tables, panels, below = parts
        _head(head.subplots(), evaluation)
        left, right = tables.subplots(1, 2)
        _table(left, "Figures", [("", "found [95 %]", "no skill"), *figure_rows(evaluation)], (0.0, 0.8, 0.98))
        ways = equity_rows(evaluation)
        _table(right, f"Worth, walked forward, at {evaluation.cost_r:g} R a trade", ways, (0.0, 0.42, 0.75, 0.85, 1.0))
        _draw(panels.subplots(3, 2).ravel(), _PANELS, evaluation)
        _draw(below.subplots(1, 2), _BELOW, evaluation)
        for part in (tables, panels, below):
            part.get_layout_engine().set(w_pad=0.16, h_pad=0.16)
        out = io.BytesIO()
        canvas: Any = FigureCanvasAgg(figure)
        canvas.print_png(out, metadata={"Software": None})
    return out.getvalue()


def _draw(places: Sequence[Any], panels: Sequence[tuple[charts.Draw, str]], evaluation: Evaluation) -> None:
    for axes, (draw, title) in zip(places, panels, strict=True):
        axes.set_title(title, loc="left", fontsize=11.5, fontweight="bold", pad=10)
        if draw is charts.served_equity and not evaluation.served_equities:
            _nothing(axes, "nothing with an outcome was served yet")
        elif not len(evaluation.walk):
            _nothing(axes, "nothing could be predicted from earlier signals yet")
        else:
            draw(axes, evaluation)


def _head(axes: Any, evaluation: Evaluation) -> None:
    axes.axis("off")
    axes.text(0, 1.0, "Signal Refinery: evaluation", fontsize=20, fontweight="bold", va="top")
    axes.text(0, 0.60, span(evaluation), color=LIGHT.soft, fontsize=10.5, va="top")
    axes.text(0, 0.34, textwrap.fill(evaluation.words, 110), fontsize=13, va="top", color=LIGHT.accent)


def _table(axes: Any, title: str, rows: list[tuple[str, ...]], places: Sequence[float]) -> None:
    """Rows of text, the first column to the left of its place, the others to the right."""
    axes.axis("off")
    axes.set_title(title, loc="left", fontsize=11.5, fontweight="bold", pad=10)
    for number, row in enumerate(rows):
        height = 0.97 - number * 0.125
        for place, text in zip(places, row, strict=True):
            colour = LIGHT.soft if number == 0 else LIGHT.ink
            axes.text(place, height, text, color=colour, ha="left" if place == 0 else "right", va="top", fontsize=9.6)


def _nothing(axes: Any, words: str) -> None:
    axes.axis("off")
    axes.text(0.5, 0.5, words, ha="center", va="center", color=LIGHT.soft)
