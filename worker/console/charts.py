"""Charts as SVG inside the page, in its colours: drawn with placeholders that become the stylesheet's variables."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from trading_system.ml_refinement.typing import FloatArray
from worker.console.filters import signed

INK, SOFT, LINE, ACCENT, GOOD, BAD, WARN = (f"#00000{digit}" for digit in range(1, 8))
_VARIABLES = dict(
    zip(
        (INK, SOFT, LINE, ACCENT, GOOD, BAD, WARN),
        ["ink", "soft", "line", "accent", "good", "bad", "warn"],
        strict=True,
    )
)
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9.5,
    "text.color": SOFT,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.labelcolor": SOFT,
    "axes.unicode_minus": True,
}
#: The library's settings are global; charts are drawn one at a time.
_turn = threading.Lock()


def reliability(bins: FloatArray, *, label: str) -> Markup:
    """Observed win rate against predicted P(win); `bins` is (n, 3): mean probability, win rate, rows."""

    def draw(axes: Any) -> None:
        p, rate, rows = bins.T
        half = 1.96 * np.sqrt(np.clip(rate * (1 - rate), 0.01, None) / rows)
        low, high = min(p.min(), (rate - half).min()), max(p.max(), (rate + half).max())
        low, high = max(0.0, low - 0.04), min(1.0, high + 0.04)
        axes.plot([low, high], [low, high], color=SOFT, linewidth=0.9, linestyle=(0, (4, 4)))
        axes.errorbar(
            p, rate, yerr=half, color=ACCENT, ecolor=ACCENT, elinewidth=1, fmt="o-", markersize=4.5, linewidth=1.6
        )
        axes.set(xlim=(low, high), ylim=(low, high), xlabel="predicted P(win)", ylabel="win rate")

    return drawn(draw, label)


def deciles(means: FloatArray, *, base: float, label: str) -> Markup:
    """Mean R by score decile, shape (deciles,), lowest first."""

    def draw(axes: Any) -> None:
        colours = [GOOD if value > 0 else BAD for value in means]
        bars = axes.bar(range(1, len(means) + 1), means, color=colours, width=0.78, alpha=0.85)
        axes.bar_label(bars, labels=[signed(float(value)) for value in means], padding=2, fontsize=8, color=SOFT)
        axes.axhline(base, color=SOFT, linewidth=0.9, linestyle=(0, (4, 4)))
        axes.axhline(0, color=SOFT, linewidth=0.9)
        axes.margins(y=0.14)
        axes.set(xlabel="score decile, lowest first", ylabel="mean R", xticks=range(1, len(means) + 1))
        axes.grid(visible=False, axis="x")

    return drawn(draw, label)


def bars(names: Sequence[str], values: Sequence[float], limits: Sequence[float] | None = None, *, label: str) -> Markup:
    """Horizontal bars, the first on top; with limits, those beyond theirs stand out."""

    def draw(axes: Any) -> None:
        places = np.arange(len(names))[::-1]
        over = [limits is not None and value > limit for value, limit in zip(values, limits or values, strict=True)]
        axes.barh(places, values, color=[WARN if beyond else ACCENT for beyond in over], height=0.62, alpha=0.9)
        if limits is not None:
            axes.scatter(limits, places, marker="|", s=70, color=INK, linewidths=1.4)
        axes.set_yticks(places, names)
        axes.grid(visible=False, axis="y")
        axes.margins(y=0.02)

    widest = max(len(name) for name in names)
    return drawn(draw, label, height=max(1.4, 0.26 * len(names) + 0.5), left=0.2 + 0.072 * widest)


def lines(
    x: Sequence[str], series: Sequence[tuple[str, Sequence[float], str]], *, label: str, zero: bool = False
) -> Markup:
    """A few series over blocks of time; `series` are (name, values, colour)."""

    def draw(axes: Any) -> None:
        places = np.arange(len(x))
        for name, values, colour in series:
            dashed = colour == SOFT
            axes.plot(
                places, values, color=colour, linewidth=1.2 if dashed else 1.7, label=name,
                linestyle=(0, (4, 4)) if dashed else "-", marker="" if dashed else "o", markersize=3.5,
            )  # fmt: skip
        if zero:
            axes.axhline(0, color=SOFT, linewidth=0.9)
        step = max(1, -(-len(x) // 6))
        axes.set_xticks(places[::step], list(x)[::step])
        axes.margins(y=0.15)
        if len(series) > 1:
            axes.legend(loc="upper left", ncols=len(series), fontsize=8.5, borderaxespad=0.1, handlelength=1.6)

    return drawn(draw, label, height=2.2)


def drawn(draw: Any, label: str, *, height: float = 2.75, left: float = 0.55) -> Markup:
    """What `draw` puts on the axes it is given, as SVG of the page."""
    with _turn, mpl.rc_context({**_STYLE, "svg.hashsalt": label}):
        figure = Figure(figsize=(5.6, height))
        # Margins by hand: the library's own layout takes as long as the drawing.
        space = {"left": left / 5.6, "right": 0.965, "bottom": 0.42 / height, "top": 1 - 0.12 / height}
        draw(figure.subplots(gridspec_kw=space))
        text = io.StringIO()
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(text, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _in_page(text.getvalue(), label)


def _in_page(text: str, label: str) -> Markup:
    """The drawing without its preamble and style attributes (the page's policy forbids them), in the page's colours."""
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.S)
    box = re.search(r'viewBox="([^"]+)"', body)
    body = re.sub(r'style="([^"]*)"', lambda match: _attributes(match[1]), body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    head = f'<svg class="chart" role="img" viewBox="{box[1] if box else ""}"><title>{escape(label)}</title>'
    body = re.sub(r"<svg[^>]*>", lambda _: head, body, count=1)
    return Markup(re.sub(r"\s*\n\s*", " ", body).replace("xlink:href", "href"))  # noqa: S704 - made by the library


def _attributes(style: str) -> str:
    """`a: b; c: d` as presentation attributes; the page's own font is kept."""
    pairs = [part.split(":", 1) for part in style.split(";") if ":" in part]
    kept = {name.strip(): value.strip() for name, value in pairs}
    kept.pop("font-family", None)
    if "font" in kept:
        size = re.search(r"([\d.]+)px", kept.pop("font"))
        kept["font-size"] = f"{size[1]}px" if size else "9px"
    kept.pop("stroke-miterlimit", None)
    return " ".join(f'{name}="{value}"' for name, value in kept.items())
