"""The pages of signals: every route here only reads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import orjson
from flask import Blueprint, Response, abort, render_template, request, stream_with_context
from flask.typing import ResponseReturnValue
from markupsafe import Markup

from trading_system.ml_refinement.evaluation.explain import Explanation, NotExplained, explain
from trading_system.ml_refinement.models import ModelRegistry
from trading_system.ml_refinement.models.errors import ModelFileRefused
from trading_system.ml_refinement.storage import Filter, OutcomeRow, UnusableValue
from trading_system.ml_refinement.storage.tables.signals import FoundSignal, Look, SignalFilter
from worker.console.filters import pretty
from worker.console.queries import PAGE_ROWS, ConsoleQueries, console_queries
from worker.console.signals.chart import known_bars, plan_of, price_chart, read_event
from worker.console.signals.export import csv_lines
from worker.console.zones import bound_in_utc
from worker.events.decoding import SignalCreated

blueprint = Blueprint("signals", __name__)

#: So many signals are looked at for a page, and for so long; the next one goes on from there.
MOST_LOOKED_AT = 20_000
_WITHIN_S = 0.1
MOST_EXPORTED = 50_000
#: Rows that the reasons of a score are read from.
_EXPLAINED_BY = 5_000
OUTCOMES = ("won", "lost", "open")
_TEXTS = ("signal_id", "symbol", "since", "until", "kind", "outcome", "model_id")
_BANDS = ("score_from", "score_to")


def _asked() -> tuple[SignalFilter, dict[str, str]]:
    """The filter of the request, and what asks for it again.

    Raises:
        UnusableValue: a bound of the score is no number, or there is no such outcome.
    """
    kept = {name: text for name in (*_TEXTS, *_BANDS) if (text := request.args.get(name, "").strip()[:200])}
    return _filter(kept), kept


def _filter(kept: dict[str, str]) -> SignalFilter:
    texts: dict[str, Any] = {name: kept.get(name, "") for name in _TEXTS}
    texts["since"] = bound_in_utc(texts["since"], end=False) or ""
    texts["until"] = bound_in_utc(texts["until"], end=True) or ""
    if texts["outcome"] not in ("", *OUTCOMES):
        raise UnusableValue("an outcome is won, lost or open")
    texts |= {name: _number(kept[name]) for name in _BANDS if name in kept}
    return SignalFilter(**texts)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UnusableValue(f"no number between 0 and 1: {text!r:.80}")
    return value


@blueprint.get("/signals")
def signals() -> ResponseReturnValue:
    """Search by id, symbol, time, kind, outcome, model and score."""
    kept = {name: request.args.get(name, "").strip()[:200] for name in (*_TEXTS, *_BANDS)}
    found, wrong = Look([], None, 0), None
    try:
        wanted, asked = _asked()
        table = console_queries().store.signals
        before = request.args.get("before", type=int)
        found = table.look_through(wanted, limit=PAGE_ROWS, before=before, most=MOST_LOOKED_AT, within_s=_WITHIN_S)
    except UnusableValue as error:
        asked, wrong = {name: text for name, text in kept.items() if text}, str(error)
    page = render_template(
        "signals.html",
        found=found,
        order=wanted.order if found.rows else "id",
        kept=asked,
        wrong=wrong,
        outcomes=OUTCOMES,
        models=console_queries().store.models.history("signal_quality", limit=PAGE_ROWS),
    )
    return page, 400 if wrong else 200


@blueprint.get("/signals.csv")
def export() -> ResponseReturnValue:
    """What the filter lets through, the newest first, as a table."""
    try:
        wanted, _ = _asked()
        wanted.where()  # what is streamed has no page any more to say it on
    except UnusableValue:
        return signals()
    lines = csv_lines(_every(console_queries(), wanted))
    headers = {"Content-Disposition": "attachment; filename=signals.csv"}
    return Response(stream_with_context(lines), mimetype="text/csv", headers=headers)


def _every(queries: ConsoleQueries, wanted: SignalFilter) -> Iterator[FoundSignal]:
    before, left = None, MOST_EXPORTED
    while left > 0:
        limit = min(left, 1_000)
        rows, before, _ = queries.store.signals.look_through(wanted, limit=limit, before=before, most=MOST_LOOKED_AT)
        yield from rows
        left -= len(rows)
        if before is None:
            return


@blueprint.get("/signals/<signal_id>")
def signal(signal_id: str) -> ResponseReturnValue:
    """A signal: its price, its vector, its predictions and their reasons, its outcome, and the events it came from."""
    queries = console_queries()
    store = queries.store
    row, outcomes = store.signals.get(signal_id), store.outcomes.history(signal_id)
    if row is None and not outcomes:
        abort(404, f"There is no signal {signal_id}.")
    served = store.scores.served([signal_id]).get(signal_id)
    data = queries.archived(row.entry_id if row else None, signal_id)
    received = read_event(data)
    why, not_why = _why(queries, signal_id) if row else (None, "")
    return render_template(
        "signal.html",
        signal_id=signal_id,
        about=row,
        features=sorted(row.features.items()) if row else [],
        served=orjson.loads(served) if served else None,
        predictions=store.scores.of_signal(signal_id),
        outcomes=outcomes,
        event=pretty(data),
        entry_id=row.entry_id if row else None,
        letters=store.dead_letters.find(Filter(signal_id=signal_id, status=None), limit=20),
        repeats=store.duplicates.of_signal(signal_id),
        received=received,
        plan=plan_of(received) if received else None,
        chart=_chart(queries, received, outcomes[-1] if outcomes else None, len(outcomes)) if received else None,
        why=why,
        not_why=not_why,
    )


def _chart(queries: ConsoleQueries, event: SignalCreated, outcome: OutcomeRow | None, told: int) -> Markup | None:
    chart: Markup | None = queries.remembered(
        ("price", event.signal_id), told, lambda: price_chart(event, known_bars(queries.settings, event), outcome)
    )
    return chart


def _why(queries: ConsoleQueries, signal_id: str) -> tuple[Explanation | None, str]:
    """The reasons of its score, or why there are none."""
    registry = ModelRegistry.from_config(queries.settings.to_ml_config(), queries.store)
    try:
        return explain(queries.store, registry, signal_id, most_rows=_EXPLAINED_BY), ""
    except (NotExplained, ModelFileRefused) as error:
        return None, str(error)
