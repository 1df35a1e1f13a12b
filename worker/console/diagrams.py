"""The charts that pages share, remembered for as long as the data stay as they are."""

from __future__ import annotations

from markupsafe import Markup

from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.monitoring.served import ServedFigures
from trading_system.ml_refinement.storage import RegistryRow
from trading_system.ml_refinement.storage.times import text_from_us
from trading_system.ml_refinement.validation import metrics
from trading_system.ml_refinement.validation.evidence import PredictionRecord
from worker.console import charts
from worker.console.queries import ConsoleQueries, in_parts
from worker.console.served_parts import ServedPart, read_view

_DIAGRAM_ROWS = 50
_SHOWN_FEATURES = 16


def warm(queries: ConsoleQueries) -> None:
    """Make what the overview, the monitoring page and the models looked at most show, so that nobody waits for it."""
    rows = (queries.champion(), *queries.store.models.history(ModelType.SIGNAL_QUALITY, limit=2))
    for row in {row.model_id: row for row in rows if row}.values():
        served_charts(queries, row.model_id)
        importance_chart(queries, row)
    served_charts(queries)
    monitoring_charts(queries)
    read_view(queries, ServedPart())
    queries.dead_reasons()


def served_charts(queries: ConsoleQueries, model_id: str | None = None) -> dict[str, Markup]:
    """The two diagrams of what champions served, or one of them, where there are enough rows for them."""

    def draw() -> dict[str, Markup]:
        return _two_diagrams(*queries.served(model_id))

    return dict(queries.remembered(("served charts", model_id), queries.version(), draw))


def _two_diagrams(served: PredictionRecord, figures: ServedFigures) -> dict[str, Markup]:
    if len(served) < _DIAGRAM_ROWS:
        return {}
    bins = metrics.reliability(served.won, served.p)
    means = metrics.by_decile(served.r, served.p)
    return {
        "reliability": charts.reliability(bins, label="Observed win rate against predicted probability"),
        "deciles": charts.deciles(means, base=figures.mean_r, label="Mean R-multiple by score decile"),
    }


def part_charts(
    queries: ConsoleQueries, part: ServedPart, *, draw: str | None
) -> tuple[dict[str, Markup], dict[str, str]]:
    """The diagrams of a part of what was served, each where there are enough rows for it; of those still to be drawn,
    the group.

    Drawing them takes longer than the rest of a page: of those that are not remembered only the group `draw` is drawn.
    """
    view, version = read_view(queries, part), queries.version()
    groups = (
        ("scores", ("reliability", "deciles"), lambda: _two_diagrams(view.record, view.figures)),
        ("time", ("log_loss", "calibration", "lift"), lambda: _over_time_charts(in_parts(view.record))),
    )
    drawn: dict[str, Markup] = {}
    waiting: dict[str, str] = {}
    for group, diagrams, make in groups:
        name = ("part charts", group, part)
        if group == draw or len(view.record) < _DIAGRAM_ROWS or queries.is_remembered(name, version):
            drawn |= queries.remembered(name, version, make)
        else:
            waiting |= dict.fromkeys(diagrams, group)
    return drawn, waiting


def importance_chart(queries: ConsoleQueries, row: RegistryRow) -> Markup | None:
    """What a model looks at; None where no feature carries weight."""
    top = sorted(row.metadata.feature_importance.items(), key=lambda item: -item[1])[:14]
    if not top or top[0][1] <= 0:
        return None
    names, values = [name for name, _ in top], [value for _, value in top]
    return queries.remembered(
        ("importance", row.model_id), row.model_id, lambda: charts.bars(names, values, label="Feature importance")
    )


def monitoring_charts(queries: ConsoleQueries) -> dict[str, Markup]:
    """Log loss, calibration and lift over time, and drift by feature, each where there are enough rows for it."""
    return dict(queries.remembered("monitoring charts", queries.version(), lambda: _monitoring_charts(queries)))


def _monitoring_charts(queries: ConsoleQueries) -> dict[str, Markup]:
    drawn = _over_time_charts(queries.served_over_time())
    drift = queries.drift()[:_SHOWN_FEATURES]
    if drift:
        drawn["drift"] = charts.bars(
            [d.name for d in drift], [d.psi for d in drift], [d.limit for d in drift], label="Drift by feature"
        )
    return drawn


def _over_time_charts(over_time: list[tuple[PredictionRecord, ServedFigures]]) -> dict[str, Markup]:
    drawn: dict[str, Markup] = {}
    if over_time:
        figures = [found for _, found in over_time]
        days = [text_from_us(int(part.entered_us[-1]))[:10] for part, _ in over_time]
        months = [day[:7] for day in days]
        when = months if len(set(months)) == len(months) else [day[5:] for day in days]
        drawn["log_loss"] = charts.lines(
            when,
            [
                ("served", [f.log_loss for f in figures], charts.ACCENT),
                ("base rate", [f.base_rate_log_loss for f in figures], charts.SOFT),
            ],
            label="Log loss of what was served, and of the base rate, over time",
        )
        drawn["calibration"] = charts.lines(
            when,
            [
                ("served", [f.calibration_error for f in figures], charts.ACCENT),
                ("by chance", [f.calibration_error_by_chance for f in figures], charts.SOFT),
            ],
            label="Calibration error over time, and what would be chance",
        )
        drawn["lift"] = charts.lines(
            when,
            [("lift", [f.lift for f in figures], charts.GOOD)],
            label="Mean R of the top fifth minus the bottom fifth, over time",
            zero=True,
        )
    return drawn
