"""The commands of `refinery models`: what was trained, what serves, how that came to be, and back again."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.storage import FeatureDatabase, Promotion
from trading_system.ml_refinement.storage.tables.models import ROLLED_BACK
from worker.cli import output as rendering
from worker.errors import RefineryError
from worker.installation import open_store
from worker.observability.logging import set_up_logging
from worker.settings.schema import Settings, load_settings

if TYPE_CHECKING:
    from trading_system.ml_refinement.models import ModelRegistry

models = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    help="The registry of models: what was trained, what serves, and why.",
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Kind = Annotated[ModelType, typer.Option("--type", help="What the models predict.")]
_QUALITY = ModelType.SIGNAL_QUALITY
#: Of these validation figures the smallest is the best.
_SMALLER_IS_BETTER = frozenset({"log_loss", "brier", "calibration_error"})


def _settings() -> Settings:
    settings = load_settings()
    set_up_logging(settings)
    return settings


def _open(stack: ExitStack) -> tuple[FeatureDatabase, ModelRegistry]:
    """The store and the models' files, for those who need both."""
    from trading_system.ml_refinement.models import ModelRegistry  # loads the learning stack

    settings = _settings()
    store = stack.enter_context(open_store(settings))
    return store, ModelRegistry(model_dir=str(settings.models_dir), db=store)


@models.command("list")
def show_all(
    kind: Kind = _QUALITY, limit: Annotated[int, typer.Option(min=1, max=1000)] = 20, json: Json = False
) -> None:
    """The newest models of a type."""
    with open_store(_settings()) as store:
        rows = store.models.history(kind, limit=limit)
    if json:
        rendering.document([rendering.model_fields(row) for row in rows])
    else:
        rendering.models(rows)


@models.command("show")
def show(model_id: str, json: Json = False) -> None:
    """One model: its training, figures, features, and why it serves or not."""
    with open_store(_settings()) as store:
        row = store.models.get(model_id)
        if row is None:
            raise _unknown(model_id)
        ledger = [entry for entry in store.models.promotions(limit=1000) if entry.model_id == model_id]
    if json:
        rendering.document(rendering.model_fields(row) | {"promotions": [rendering.fields(e) for e in ledger]})
    else:
        rendering.model(row, ledger)


@models.command("compare")
def compare(
    first: Annotated[str | None, typer.Argument(help="A model; with a second one, both on the same signals.")] = None,
    second: Annotated[str | None, typer.Argument(help="The other one.")] = None,
    metric: Annotated[
        str, typer.Option(help="A validation figure, as `refinery models show` names them.")
    ] = "log_loss",
    kind: Kind = _QUALITY,
    json: Json = False,
) -> None:
    """Models by a validation figure, the best first; or two models by what both said of the same signals.

    Validation figures of different trainings are of different times. Only the second form compares like with like: it
    takes the signals that both have scored, as champion or in the shadow, before the outcome was known.
    """
    if (first is None) != (second is None):
        raise typer.BadParameter("name two models, or none", param_hint="SECOND")
    if first is not None and second is not None:
        _compare_two(first, second, json=json)
        return
    with ExitStack() as stack:
        _, registry = _open(stack)
        rows = registry.compare_models(kind, metric)
    if metric in _SMALLER_IS_BETTER:
        rows.sort(key=lambda row: (row["metric"] is None, row["metric"] or 0.0))
    if json:
        rendering.document({"metric": metric, "models": rows})
        return
    table = Table("", Column("model", no_wrap=True), "created", metric.replace("_", " "), box=None, header_style="dim")
    for row in rows:
        figure = "-" if row["metric"] is None else f"{row['metric']:.4f}"
        table.add_row("●" if row["is_active"] else "", row["model_id"], row["created_at"][:19], figure)
    rendering.out().print(table if rows else "no models yet")


def _compare_two(first: str, second: str, *, json: bool) -> None:
    from trading_system.ml_refinement.evaluation.comparison import compare_logged

    settings = _settings()
    with open_store(settings) as store:
        for model_id in (first, second):
            if store.models.get(model_id) is None:
                raise _unknown(model_id)
        found = compare_logged(store, first, second, train_window_days=settings.ml.training.train_window_days)
    if json:
        rendering.document(asdict(found) | {"words": found.words})
        return
    if found.rows:
        table = Table("model", "signals", "log loss", "AUC", "lift, R", box=None, header_style="dim")
        for place, name in enumerate((first, second)):
            figures = (found.log_loss[place], found.auc[place], found.lift[place])
            table.add_row(name, f"{found.rows:,}", *(f"{figure:.4f}" for figure in figures))
        rendering.out().print(table)
        spread = f"[{found.margin_low:+.4f}, {found.margin_high:+.4f}]"
        rendering.line(f"log loss of the first less that of the second: {found.margin:+.4f} {spread}")
    rendering.line(found.words)


@models.command("activate")
def activate(
    model_id: str,
    reason: Annotated[str, typer.Option(help="Kept in the ledger.")] = "activated by hand",
) -> None:
    """Let a registered model serve from the next batch on, whatever the gate said; the ledger keeps why."""
    from trading_system.ml_refinement.models.errors import ModelFileRefused

    with ExitStack() as stack:
        _, registry = _open(stack)
        try:
            done = registry.activate(model_id, reason=reason)
        except ModelFileRefused as error:
            raise RefineryError(f"{model_id} was not activated: {error}") from error
    if not done:
        raise _unknown(model_id)
    rendering.line(f"{model_id} serves from the next batch on")


@models.command("rollback")
def rollback(
    reason: Annotated[str, typer.Option(help="Kept in the ledger.")] = "rolled back by hand",
    kind: Kind = _QUALITY,
    json: Json = False,
) -> None:
    """Let the model that served before serve again, from the next batch on. Again: one step further back."""
    from trading_system.ml_refinement.models.errors import ModelFileRefused
    from trading_system.ml_refinement.models.model_registry import roll_back

    with ExitStack() as stack:
        store, registry = _open(stack)
        try:
            before, now = roll_back(store, registry, kind, reason=reason)
        except ModelFileRefused as error:
            raise RefineryError(f"nothing was changed: {error}") from error
    if json:
        rendering.document({"rolled_back": before, "serves": now})
    else:
        rendering.line(f"{now} serves from the next batch on, in the place of {before}")


@models.command("history")
def history(
    kind: Kind = _QUALITY, limit: Annotated[int, typer.Option(min=1, max=10_000)] = 20, json: Json = False
) -> None:
    """The ledger: every promotion, refusal, demotion and rollback with its reason, newest first."""
    with open_store(_settings()) as store:
        entries = store.models.promotions(limit, kind)
    if json:
        rendering.document([asdict(entry) for entry in entries])
        return
    table = Table("at", "what", Column("model", no_wrap=True), "as", "why", box=None, header_style="dim")
    for entry in entries:
        served_as = ("proven" if entry.proven else "provisional") if entry.action == "activate" else ""
        table.add_row(entry.at[:19], _action(entry), entry.model_id or "", served_as, escape(entry.reason))
    rendering.out().print(table if entries else "the ledger is empty")


def _action(entry: Promotion) -> str:
    return "rollback" if ROLLED_BACK in entry.figures else entry.action


def _unknown(model_id: str) -> RefineryError:
    return RefineryError(f"there is no model {model_id}; `refinery models list` shows those there are")
