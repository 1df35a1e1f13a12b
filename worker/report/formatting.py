"""Figures as text: what the page and the picture both say."""

from __future__ import annotations

import math
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from trading_system.ml_refinement.evaluation.equity import Equity, Interval
from trading_system.ml_refinement.evaluation.evaluate import Evaluation
from trading_system.ml_refinement.evaluation.figures import FigureLine
from trading_system.ml_refinement.evaluation.virtual_comparison import VirtualComparison
from trading_system.ml_refinement.validation.evidence import PredictionRecord

_NONE, _MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


def number(value: float | None, digits: int = 3, *, sign: bool = False) -> str:
    """A figure with a real minus, or a dash where there is none."""
    if value is None or not math.isfinite(value):
        return _NONE
    value = round(value, digits) + 0.0
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", _MINUS)


def interval(found: Interval, digits: int = 3, *, sign: bool = False) -> str:
    """A figure with its interval."""
    value = number(found.value, digits, sign=sign)
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return value
    return f"{value} [{number(found.low, digits, sign=sign)}, {number(found.high, digits, sign=sign)}]"


def day(us: int) -> str:
    """A date."""
    return datetime.fromtimestamp(us / 1e6, tz=UTC).strftime("%Y-%m-%d")


def span(evaluation: Evaluation) -> str:
    """What was looked at."""
    walk = evaluation.walk
    if not len(walk):
        return f"{evaluation.rows:,} labelled signals, none of which could be predicted from earlier ones"
    first, last = day(int(walk.entered_us.min())), day(int(walk.entered_us.max()))
    served = f", {len(evaluation.served):,} served" if evaluation.served is not None else ""
    windows = len(evaluation.windows)
    return f"{len(walk):,} signals predicted out of sample in {windows} windows, {first} to {last}{served}"


def flat_share(record: PredictionRecord) -> float:
    """Share of signals that got the bare base rate because nothing was confirmed: their window's scores are equal."""
    flat = 0
    for label in set(record.window.tolist()):
        p = record.p[record.window == label]
        flat += len(p) if len(p) > 1 and float(p.max() - p.min()) < 1e-9 else 0
    return flat / max(1, len(record))


def digits(line: FigureLine) -> int:
    """So many that a figure of its usual size is seen: scores of probabilities move in the third decimal."""
    return 4 if line.name.endswith("gained") else 3


def figure_rows(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """Name, figure with interval, and what it would be without skill."""
    return [
        (line.name, interval(line.found, digits(line)), number(line.without_skill, digits(line)))
        for line in evaluation.figures
    ]


def equity_rows(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """One line for each way of following the scores."""
    head = ("", "trades", "R a trade [95 %]", "sum", "drawdown")
    return [head, *(_equity_row(each) for each in evaluation.equities)]


def _equity_row(each: Equity) -> tuple[str, ...]:
    if not each.trades:
        return (each.name, "0", _NONE, _NONE, _NONE)
    total, fall = number(each.total, 1, sign=True), number(each.drawdown, 1)
    return (each.name, f"{each.trades:,}", interval(each.expectancy, sign=True), total, fall)


def plain(evaluation: Evaluation) -> dict[str, Any]:
    """The figures as plain values, for `--json`; None where there is none."""
    e = evaluation
    lines = {"walk_forward": e.figures, "served": e.served_figures}
    ways = {"walk_forward": e.equities, "served": e.served_equities}
    return {
        "words": e.words,
        "decision": e.verdict.decision.value,
        "reasons": list(e.verdict.reasons),
        "serving": asdict(e.standing) if e.standing is not None else None,
        "signals": len(e.walk),
        "served_signals": len(e.served) if e.served is not None else 0,
        "windows": len(e.windows),
        "cost_r": e.cost_r,
        "figures": {
            name: {line.name: _bounds(line.found) | {"without_skill": _known(line.without_skill)} for line in found}
            for name, found in lines.items()
        },
        "worth": {
            name: {
                way.name: {
                    "trades": way.trades,
                    "expectancy": _bounds(way.expectancy),
                    "total": way.total,
                    "drawdown": way.drawdown,
                }
                for way in found
            }
            for name, found in ways.items()
        },
        "groups": [
            {"kind": g.kind, "name": g.name, "rows": g.rows, "win_rate": g.win_rate, "mean_r": _bounds(g.mean_r)}
            for g in e.groups
        ],
        "importance": {item.name: item.loss for item in e.importance},
        "pause": e.pause_words or None,
        "virtual": plain_comparison(e.virtual) | {"learned": e.virtual_words or None},
    }


def plain_comparison(found: VirtualComparison) -> dict[str, Any]:
    """Virtual against reported outcomes as plain values; None where there is none."""
    intervals = ("difference", "win_difference", "agreement")
    return {
        "rows": found.rows,
        **{name: _known(getattr(found, name)) for name in ("reported_mean_r", "virtual_mean_r", "rank_correlation")},
        **{name: _bounds(getattr(found, name)) for name in intervals},
        "disagree": found.disagree,
        "words": found.words,
    }


def _bounds(found: Interval) -> dict[str, float | None]:
    return {"value": _known(found.value), "low": _known(found.low), "high": _known(found.high)}


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
