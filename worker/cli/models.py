"""The commands of `refinery models`: what was trained, what serves, how that came to be, and back again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column

from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.storage import FeatureDatabase, Promotion, RegistryRow, UnknownModel
from trading_system.ml_refinement.training.verdicts import entry_in_words, model_in_words, virtual_in_words
from worker.cli import output
from worker.cli.options import CONTEXT, Json, complete_model_ids, settings_and_log
from worker.errors import RefineryError
from worker.installation import existing_store
from worker.observability.terminal import Table

if TYPE_CHECKING:
    from trading_system.ml_refinement.models import ModelRegistry


models = typer.Typer(
    context_settings=CONTEXT,
    no_args_is_help=True,
    help="The registry of models: what was trained, what serves, and why.",
)

Kind = Annotated[ModelType, typer.Option("--type", help="What the models predict.")]
Pin = Annotated[bool, typer.Option("--pin/--no-pin", help="Keep it against later trainings.")]
ModelId = Annotated[
    str,
    typer.Argument(
        help="Its id, or a part of at least 4 signs that no other id has.", autocompletion=complete_model_ids
    ),
]
_QUALITY = ModelType.SIGNAL_QUALITY
#: A shorter part of an id is a slip of the finger. So many ids are named where a part is in several.
_LEAST_PART = 4
_SHOWN_IDS = 5
_PINNED = ", pinned: no training takes its place until `refinery models unpin`"
#: Of these validation figures the smallest is the best.
_SMALLER_IS_BETTER = frozenset({"log_loss", "brier", "calibration_error"})


def _open(stack: ExitStack) -> tuple[FeatureDatabase, ModelRegistry]:
    """The store and the models' files, for those who need both."""
    from trading_system.ml_refinement.models import ModelRegistry  # loads the learning stack

    settings = settings_and_log()
    store = stack.enter_context(existing_store(settings))
    return store, ModelRegistry.from_config(settings.to_ml_config(), store)


@models.command("list")
def show_all(
    kind: Kind = _QUALITY, limit: Annotated[int, typer.Option(min=1, max=1000)] = 20, json: Json = False
) -> None:
    """The newest models of a type."""
    with existing_store(settings_and_log()) as store:
        rows = store.models.history(kind, limit=limit)
    if json:
        output.document([_model_fields(row) for row in rows])
    else:
        _show_models(rows)
        if rows:
            output.note("next: `refinery models show ID`; activate ID, rollback and history; compare ID ID")


@models.command("show")
def show(model_id: ModelId, json: Json = False) -> None:
    """One model: its training, figures, features, and why it serves or not.

    \f
    Raises:
        RefineryError: there is no such model.
    """
    with existing_store(settings_and_log()) as store:
        row = _named(store, model_id)
        ledger = store.models.promotions(limit=1000, model_id=row.model_id)
        run = store.runs.of_candidate(row.model_id, row.run_id)
    virtual = virtual_in_words(run.metrics) if run is not None else ""
    if json:
        output.document(_model_fields(row) | {"promotions": [output.fields(e) for e in ledger]})
    else:
        _show_model(row, ledger)
        if virtual:
            output.line(virtual)


@models.command("compare")
def compare(
    first: Annotated[
        str | None,
        typer.Argument(help="A model; with a second one, both on the same signals.", autocompletion=complete_model_ids),
    ] = None,
    second: Annotated[str | None, typer.Argument(help="The other one.", autocompletion=complete_model_ids)] = None,
    metric: Annotated[
        str, typer.Option(help="A validation figure, as `refinery models show` names them.")
    ] = "log_loss",
    kind: Kind = _QUALITY,
    json: Json = False,
) -> None:
    """Models by a validation figure, the best first; or two models by what both said of the same signals.

    Validation figures of different trainings are of different times. Only the second form compares like with like: it
    takes the signals that both have scored, as champion or in the shadow, before the outcome was known.

    \f
    Raises:
        typer.BadParameter: one model was named, or no model has that figure.
    """
    if (first is None) != (second is None):
        raise typer.BadParameter("name two models, or none", param_hint="SECOND")
    if first is not None and second is not None:
        _compare_two(first, second, json=json)
        return
    with ExitStack() as stack:
        store, registry = _open(stack)
        known = sorted({name for row in store.models.history(kind, 50) for name in row.metadata.validation_metrics})
        if known and metric not in known:
            raise typer.BadParameter(f"no model has a {metric!r}; there are {', '.join(known)}", param_hint="--metric")
        rows = registry.compare_models(kind, metric)
    if metric in _SMALLER_IS_BETTER:
        rows.sort(key=lambda row: (row["metric"] is None, row["metric"] or 0.0))
    if json:
        output.document({"metric": metric, "models": rows})
        return
    table = Table("", Column("model", no_wrap=True), "created", metric.replace("_", " "), box=None, header_style="dim")
    for row in rows:
        figure = "-" if row["metric"] is None else f"{row['metric']:.4f}"
        table.add_row("●" if row["is_active"] else "", row["model_id"], row["created_at"][:19], figure)
    output.table(table, empty="no models yet")


def _compare_two(first: str, second: str, *, json: bool) -> None:
    from trading_system.ml_refinement.evaluation.comparison import compare_logged  # loads the learning stack

    settings = settings_and_log()
    with existing_store(settings) as store:
        first, second = (_named(store, model_id).model_id for model_id in (first, second))
        found = compare_logged(store, first, second, train_window_days=settings.ml.training.train_window_days)
    if json:
        output.document(asdict(found) | {"words": found.words})
        return
    if found.rows:
        table = Table("model", "signals", "log loss", "AUC", "lift, R", box=None, header_style="dim")
        for place, name in enumerate((first, second)):
            figures = (found.log_loss[place], found.auc[place], found.lift[place])
            table.add_row(name, f"{found.rows:,}", *(f"{figure:.4f}" for figure in figures))
        output.table(table)
        spread = f"[{found.margin_low:+.4f}, {found.margin_high:+.4f}]"
        output.line(f"log loss of the first less that of the second: {found.margin:+.4f} {spread}")
    output.line(found.words)


@models.command("activate")
def activate(
    model_id: ModelId,
    reason: Annotated[str, typer.Option(help="Kept in the ledger.")] = "activated by hand",
    pin: Pin = True,
) -> None:
    """Let a registered model serve from the next batch on, whatever the gate said; the ledger keeps why.

    It is pinned: trainings go on, and none takes its place until `refinery models unpin`.

    \f
    Raises:
        RefineryError: there is no such model, or its file is refused.
    """
    from trading_system.ml_refinement.models.errors import ModelFileRefused  # loads the learning stack

    with ExitStack() as stack:
        store, registry = _open(stack)
        model_id = _named(store, model_id).model_id
        try:
            registry.promote(model_id, reason=reason, pin=pin)
        except UnknownModel as error:
            raise _unknown(model_id) from error
        except ModelFileRefused as error:
            raise RefineryError(f"{model_id} was not activated: {error}") from error
    output.line(f"{model_id} serves from the next batch on{_PINNED if pin else ''}")


@models.command("rollback")
def rollback(
    reason: Annotated[str, typer.Option(help="Kept in the ledger.")] = "rolled back by hand",
    kind: Kind = _QUALITY,
    pin: Pin = True,
    json: Json = False,
) -> None:
    """Let the model that served before serve again, from the next batch on. Again: one step further back.

    It is pinned: trainings go on, and none takes its place until `refinery models unpin`.

    \f
    Raises:
        RefineryError: the earlier model's file is refused.
    """
    from trading_system.ml_refinement.models.errors import ModelFileRefused  # loads the learning stack
    from trading_system.ml_refinement.models.model_registry import roll_back

    with ExitStack() as stack:
        store, registry = _open(stack)
        try:
            before, now = roll_back(store, registry, kind, reason=reason, pin=pin)
        except ModelFileRefused as error:
            raise RefineryError(f"nothing was changed: {error}") from error
    if json:
        output.document({"rolled_back": before, "serves": now, "pinned": pin})
    else:
        output.line(f"{now} serves from the next batch on, in the place of {before}{_PINNED if pin else ''}")


@models.command("pin")
def pin_model(
    model_id: ModelId, reason: Annotated[str, typer.Option(help="Kept in the ledger.")] = "pinned by hand"
) -> None:
    """Keep a serving model: trainings go on in the shadow, and none takes its place until it is unpinned.

    \f
    Raises:
        RefineryError: there is no such model, or it does not serve.
    """
    with existing_store(settings_and_log()) as store:
        row = _named(store, model_id)
        model_id = row.model_id
        if not row.is_active:
            raise RefineryError(
                f"{model_id} does not serve; `refinery models activate {model_id}` lets it serve, pinned"
            )
        changed = store.models.pin(model_id, reason=reason)
    output.line(f"{model_id} is pinned" if changed else f"{model_id} is pinned already, by {row.pinned_by}")


@models.command("unpin")
def unpin_model(
    kind: Kind = _QUALITY, reason: Annotated[str, typer.Option(help="Kept in the ledger.")] = "unpinned by hand"
) -> None:
    """Let trainings replace the serving model again, if theirs passes the gate."""
    with existing_store(settings_and_log()) as store:
        model_id = store.models.unpin(kind, reason=reason)
    output.line(f"{model_id} is not pinned any more" if model_id else "no model is pinned")


@models.command("history")
def history(
    kind: Kind = _QUALITY, limit: Annotated[int, typer.Option(min=1, max=10_000)] = 20, json: Json = False
) -> None:
    """The ledger: what began to serve, proven or not, what the gate kept back, and proofs that ended, newest first."""
    with existing_store(settings_and_log()) as store:
        entries = store.models.promotions(limit, kind)
    if json:
        output.document([asdict(entry) for entry in entries])
        return
    table = Table("at", "what", Column("model", no_wrap=True), "who", "why", box=None, header_style="dim")
    for entry in entries:
        texts = (entry.model_id or "", entry.actor or "", entry.reason)
        table.add_row(entry.at[:19], entry_in_words(entry), *texts)
    output.table(table, empty="the ledger is empty")
    if entries:
        output.note("next: `refinery models show ID`; `refinery models rollback` lets the one before serve again")


def _named(store: FeatureDatabase, text: str) -> RegistryRow:
    """The model of this id, or of the only id in which the text stands."""
    row = store.models.get(text)
    if row is not None:
        return row
    found = store.models.with_part(text, limit=_SHOWN_IDS + 1) if len(text) >= _LEAST_PART else []
    if len(found) > 1:
        shown = ", ".join(found[:_SHOWN_IDS]) + (", ..." if len(found) > _SHOWN_IDS else "")
        raise RefineryError(f"several ids have {text} in them, give more of one: {shown}")
    row = store.models.get(found[0]) if found else None
    if row is None:
        raise _unknown(text)
    return row


def _unknown(model_id: str) -> RefineryError:
    return RefineryError(f"there is no model {model_id}; `refinery models list` shows those there are")


def _model_fields(row: RegistryRow) -> dict[str, Any]:
    """A registry row as plain values."""
    return asdict(row.metadata) | {
        "model_path": row.model_path,
        "artefact_sha256": row.artefact_sha256,
        "feature_version": row.feature_version,
        "recipe": row.recipe,
        "run_id": row.run_id,
        "proven": row.proven,
        "retired_at": row.retired_at,
        "pinned_at": row.pinned_at,
        "pinned_by": row.pinned_by,
    }


def _show_models(rows: Sequence[RegistryRow]) -> None:
    """Models, one a line."""
    model = Column("model", overflow="fold", no_wrap=True)
    table = Table("", model, "state", "created", "recipe", "rows", "log loss", "AUC", box=None, header_style="dim")
    for row in rows:
        mark = ("●" if row.proven else "○") if row.is_active else " "
        about, figures = row.metadata, row.metadata.validation_metrics
        table.add_row(
            mark,
            row.model_id,
            model_in_words(row) + (", pinned" if row.pinned_at else ""),
            about.created_at[:19],
            row.recipe or "",
            f"{about.train_samples or 0:,}",
            _figure(figures.get("log_loss")),
            _figure(figures.get("auc")),
        )
    output.table(table, empty="no models yet")


def _show_model(row: RegistryRow, promotions: Sequence[Promotion]) -> None:
    """One model, with what the ledger says of it."""
    shown = {name: value for name, value in _model_fields(row).items() if not isinstance(value, (dict, list))}
    figures = sorted(row.metadata.validation_metrics.items())
    output.pairs(
        {"state": model_in_words(row)} | shown | {f"validation {name}": _figure(value) for name, value in figures}
    )
    used = [item for item in row.metadata.feature_importance.items() if item[1] > 0]
    top = sorted(used, key=lambda item: -item[1])[:10]
    output.pairs({f"importance {name}": _figure(value) for name, value in top})
    ledger = Table("at", "what", "who", "why", box=None, header_style="dim")
    for entry in promotions:
        ledger.add_row(entry.at[:19], entry_in_words(entry), entry.actor or "", entry.reason)
    output.table(ledger, empty="the ledger has nothing about it")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
