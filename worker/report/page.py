"""The evaluation as one HTML file that needs nothing else."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from trading_system.ml_refinement.evaluation.evaluate import Evaluation
from trading_system.ml_refinement.evaluation.groups import NOT_TAKEN
from trading_system.ml_refinement.training.verdicts import (
    entry_in_words,
    model_in_words,
    run_in_words,
    standing_in_words,
)
from worker.report import charts, formatting

_CHARTS = {
    "timeline": (charts.timeline, 6.4, 4.0),
    "gains": (charts.gains, 6.4, 2.5),
    "reliability": (charts.reliability, 5.6, 4.2),
    "deciles": (charts.deciles, 5.6, 4.2),
    "equity": (charts.equity, 6.4, 3.4),
    "served_equity": (charts.served_equity, 6.4, 3.4),
}


def html(evaluation: Evaluation) -> str:
    """The page: no script, nothing fetched, light or dark as its reader's screen is."""
    environment = Environment(
        loader=PackageLoader("worker.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": formatting.number, "interval": formatting.interval, "digits": formatting.digits}
    environment.filters |= {"run_words": run_in_words, "model_words": model_in_words, "entry_words": entry_in_words}
    drawn = {
        name: _svg(charts.svg(draw, evaluation, label=name, width=width, height=height))
        for name, (draw, width, height) in _CHARTS.items()
        if not (name.startswith("served") and not evaluation.served_equities) and len(evaluation.walk)
    }
    if evaluation.groups:
        height = 0.9 + 0.32 * len(evaluation.groups)
        drawn["kinds"] = _svg(charts.svg(charts.kinds, evaluation, label="kinds", width=6.4, height=height))
    if evaluation.importance:
        height = 0.9 + 0.26 * min(14, len(evaluation.importance))
        drawn["importance"] = _svg(charts.svg(charts.importance, evaluation, label="importance", height=height))
    return environment.get_template("report.html").render(
        e=evaluation,
        charts=drawn,
        span=formatting.span(evaluation),
        proof=standing_in_words(evaluation.standing),
        flat=formatting.flat_share(evaluation.walk),
        not_taken=sorted(NOT_TAKEN),
        palette=charts.LIGHT,
    )


def _svg(text: str) -> Markup:
    return Markup(text)  # noqa: S704 - made by the plotting library; labels are ours, names were checked at the door
