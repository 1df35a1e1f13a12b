"""The pages: every route here only reads."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, abort, render_template, request, url_for
from flask.typing import ResponseReturnValue

from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.evaluation.rescored import NotRescored, Rescored, compare_rescored
from trading_system.ml_refinement.models import ModelRegistry
from trading_system.ml_refinement.models.errors import ModelFileRefused
from trading_system.ml_refinement.monitoring.drift import DRIFTED_SHARE
from trading_system.ml_refinement.monitoring.served import OUT_OF_DISTRIBUTION_SHARE
from trading_system.ml_refinement.standing import read_standing
from trading_system.ml_refinement.storage import RegistryRow
from trading_system.ml_refinement.training.verdicts import standing_in_words, virtual_in_words
from worker.console.diagrams import importance_chart, monitoring_charts, part_charts, served_charts
from worker.console.model_columns import model_columns
from worker.console.overview import verdict
from worker.console.queries import PAGE_ROWS, console_queries
from worker.console.served_parts import RANGES, ServedPart, read_view
from worker.installation import streams_of
from worker.observability.status import training_waits_for
from worker.observability.unknown_fields import unknown_fields, unknown_in_words

blueprint = Blueprint("pages", __name__)

#: What is compared between two models, in this order: (figure, meaning, whether more is better).
FIGURES = (
    ("auc", "AUC, walk-forward", True),
    ("log_loss", "log loss", False),
    ("base_rate_log_loss", "log loss of the base rate", False),
    ("log_loss_gain", "gain over the base rate", True),
    ("brier", "Brier score", False),
    ("calibration_error", "calibration error", False),
    ("calibration_error_by_chance", "… of perfect scores, by chance", False),
    ("calibration_slope", "calibration slope", True),
    ("information_coefficient", "rank correlation with R", True),
    ("mean_r_top_tenth", "mean R of the top tenth", True),
    ("newest_window_auc", "AUC of the newest window", True),
    ("newest_window_log_loss", "log loss of the newest window", False),
    ("rows", "out-of-sample rows", True),
    ("blocks", "blocks of time", True),
)


@blueprint.app_context_processor
def _open_letters() -> dict[str, object]:
    def open_letters() -> int:
        return console_queries().store.counts().dead_letters_open

    return {"open_letters": open_letters}


@blueprint.get("/")
def overview() -> ResponseReturnValue:
    """Is it alive, is it learning?"""
    queries = console_queries()
    seen = queries.overview()
    served, figures = queries.served()
    return render_template(
        "overview.html",
        seen=seen,
        status=seen.status,
        verdict=verdict(seen),
        waits=training_waits_for(seen.status),
        unknown=unknown_in_words(found) if (found := unknown_fields(queries.settings)) else "",
        proof=standing_in_words(seen.status.standing),
        streams=streams_of(queries.settings).by_shard[0],
        champion=queries.champion(),
        expires=queries.expires_days(),
        runs=queries.runs(5),
        served=served,
        figures=figures,
        charts=served_charts(queries),
    )


@blueprint.get("/models")
def models() -> ResponseReturnValue:
    """Registry and ledger, of one type of models."""
    store, kind = console_queries().store, model_type()
    return render_template(
        "models.html",
        kind=kind,
        kinds=list(ModelType),
        rows=store.models.history(kind, limit=PAGE_ROWS),
        ledger=store.models.promotions(PAGE_ROWS, kind.value),
    )


def model_type() -> ModelType:
    """The type of models that a request is about."""
    try:
        return ModelType(request.values.get("type", _QUALITY))
    except ValueError:
        return abort(404, "There are no models of that type.")


def model_or_404(model_id: str) -> RegistryRow:
    """The model."""
    row = console_queries().store.models.get(model_id)
    if row is None:
        abort(404, f"There is no model {model_id}.")
    return row


@blueprint.get("/models/<model_id>")
def model(model_id: str) -> ResponseReturnValue:
    """One model: how it was validated, and what it did when it served."""
    queries, row = console_queries(), model_or_404(model_id)
    served, figures = queries.served(model_id)
    drawn = served_charts(queries, model_id)
    importance = importance_chart(queries, row)
    if importance is not None:
        drawn["importance"] = importance
    run = queries.store.runs.of_candidate(model_id, row.run_id)
    return render_template(
        "model.html",
        row=row,
        about=row.metadata,
        figures=figures,
        served=served,
        charts=drawn,
        columns=model_columns(queries, row),
        names=FIGURES,
        run=run,
        proof=standing_in_words(read_standing(queries.store.models, row.metadata.model_type))
        if row.is_active
        else None,
        folds=_folds(run.metrics if run else {}),
        virtual=virtual_in_words(run.metrics if run else {}),
        ledger=queries.store.models.promotions(PAGE_ROWS, model_id=model_id),
    )


@blueprint.get("/models/compare")
def compare() -> ResponseReturnValue:
    """Two models side by side: each by itself, and both on the same signals."""
    queries = console_queries()
    first, second = (model_or_404(request.args.get(side, "")) for side in ("a", "b"))
    lives = [queries.served(row.model_id)[1] for row in (first, second)]
    both, not_both = _rescored(first, second)
    return render_template(
        "compare.html", a=first, b=second, names=FIGURES, lives=lives, rescored=both, not_rescored=not_both
    )


def _rescored(first: RegistryRow, second: RegistryRow) -> tuple[Rescored | None, str]:
    """Both models on the same stored vectors, or why that cannot be."""
    queries = console_queries()
    config = queries.settings.to_ml_config()
    registry = ModelRegistry.from_config(config, queries.store)

    def compared() -> Rescored:
        days = config.training.train_window_days
        return compare_rescored(queries.store, registry, first.model_id, second.model_id, train_window_days=days)

    try:
        key = ("rescored", first.model_id, second.model_id)
        return queries.remembered(key, queries.version(), compared), ""
    except (NotRescored, ModelFileRefused) as error:
        return None, str(error)


@blueprint.get("/monitoring")
def monitoring() -> ResponseReturnValue:
    """Calibration and lift over time, of all that was served or a part of it; drift by feature."""
    queries = console_queries()
    part = ServedPart.asked_for(request.args)
    view = read_view(queries, part)
    drawn = served_charts(queries) | monitoring_charts(queries)
    later: dict[str, str] = {}
    if not part.is_usual:
        shown, waiting = part_charts(queries, part, draw=request.args.get("drawn"))
        symbol, kind = part.symbol or None, part.kind or None
        for name, group in waiting.items():
            later[name] = url_for("pages.monitoring", days=part.days, symbol=symbol, kind=kind, drawn=group)
        drawn = shown | {name: chart for name, chart in drawn.items() if name == "drift"}
    return render_template(
        "monitoring.html",
        champion=queries.champion(),
        served=view.record,
        figures=view.figures,
        part=part,
        ranges=RANGES,
        symbols=view.symbols,
        kinds=view.kinds,
        charts=drawn,
        later=later,
        drift=queries.drift(),
        drifted_share=DRIFTED_SHARE,
        unlike=queries.out_of_distribution_share(),
        unlike_share=OUT_OF_DISTRIBUTION_SHARE,
        report=queries.monitoring(),
        newest_label=queries.store.counts().newest_label,
    )


def _folds(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """The walk-forward's folds, where the run has kept them one by one."""
    found = figures.get("fold_figures") or figures.get("windows") or []
    return [fold for fold in found if isinstance(fold, dict)] if isinstance(found, list) else []


_QUALITY = ModelType.SIGNAL_QUALITY.value
