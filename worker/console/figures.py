"""The figures and charts that pages share, remembered for as long as the data stay as they are."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from markupsafe import Markup

from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.storage import RegistryRow
from trading_system.ml_refinement.storage.times import text_from_us
from trading_system.ml_refinement.validation import metrics
from worker.console import charts
from worker.console.queries import Reading
from worker.observability import live

_BLOCKS = 12


def warm(eyes: Reading) -> None:
    """Draw what the overview, the monitoring page and the models looked at most show, so that nobody waits for it."""
    champion = live.champion_of(eyes.store)
    for row in {row.model_id: row for row in (champion, *eyes.store.models.history(_QUALITY, limit=2)) if row}.values():
        figures_of(eyes, row.model_id, row)
        importance_chart(eyes, row)
    figures_of(eyes, None, champion)
    eyes.remembered("over time", eyes.version(), lambda: over_time(eyes, champion))
    eyes.remembered("drift", eyes.version(), lambda: live.feature_drift(eyes.store, champion))


def figures_of(
    eyes: Reading, model_id: str | None, base: RegistryRow | None
) -> tuple[live.Served, live.Quality, dict[str, Markup]]:
    """What was served, its figures, and its two diagrams where there are enough rows for them."""

    def make() -> tuple[live.Served, live.Quality, dict[str, Markup]]:
        served = live.served_rows(eyes.store, model_id=model_id)
        figures = live.quality(served, base_rate=live.base_rate_of(base))
        drawn: dict[str, Markup] = {}
        if len(served) >= 50:
            bins = metrics.reliability(served.won, served.p)
            means = metrics.by_decile(served.r, served.p)
            drawn["reliability"] = charts.reliability(bins, label="Observed win rate against predicted probability")
            drawn["deciles"] = charts.deciles(means, base=figures.mean_r, label="Mean R-multiple by score decile")
        return served, figures, dict(drawn)

    served, figures, drawn = eyes.remembered(("served", model_id), eyes.version(), make)
    return served, figures, dict(drawn)


def importance_chart(eyes: Reading, row: RegistryRow) -> Markup | None:
    top = sorted(row.metadata.feature_importance.items(), key=lambda item: -item[1])[:14]
    if not top or top[0][1] <= 0:
        return None
    names, values = [name for name, _ in top], [value for _, value in top]
    return eyes.remembered(
        ("importance", row.model_id), row.model_id, lambda: charts.bars(names, values, label="Feature importance")
    )


def over_time(eyes: Reading, champion: RegistryRow | None) -> dict[str, Markup]:
    served = live.served_rows(eyes.store)
    drawn: dict[str, Markup] = {}
    if len(served) >= 20 * 4:
        edges = np.linspace(0, len(served), min(_BLOCKS, len(served) // 20) + 1).astype(int)
        parts = [served.part(start, stop) for start, stop in pairwise(edges)]
        base = live.base_rate_of(champion)
        figures = [live.quality(part, base_rate=base) for part in parts]
        when = [text_from_us(int(part.label_us[-1]))[:7] for part in parts]
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
    drift = live.feature_drift(eyes.store, champion)[:16]
    if drift:
        drawn["drift"] = charts.bars(
            [d.name for d in drift], [d.psi for d in drift], [d.limit for d in drift], label="Drift by feature"
        )
    return drawn


_QUALITY = ModelType.SIGNAL_QUALITY.value
