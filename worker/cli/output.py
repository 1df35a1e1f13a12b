"""Results as tables for people, or as one JSON document on stdout; what is said beside them goes to stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from worker.dead_letters import letter_fields
from worker.settings.masking import masker

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from rich.progress import Progress

    from trading_system.ml_refinement.storage import AuditEntry, DeadLetterGroup, DeadLetterRow, Promotion, RegistryRow
    from worker.observability.status import Monitoring, Status


def out() -> Console:
    """The console of stdout, made when it is used so that a redirected stdout is seen; a pipe gets whole lines."""
    width = None if sys.stdout.isatty() else 200
    return Console(file=sys.stdout, highlight=False, width=width)


def line(text: str) -> None:
    """One plain line on stdout."""
    out().print(escape(text), soft_wrap=True)


def note(text: str) -> None:
    """One plain line on stderr."""
    Console(stderr=True, highlight=False).print(escape(text), soft_wrap=True)


def fail(text: str) -> None:
    """The one line a failed command ends with."""
    first = masker(None)(" ".join(text.split()))
    Console(stderr=True, highlight=False).print(f"[bold red]refinery:[/] {escape(first)}", soft_wrap=True)


def document(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()


def fields(row: DataclassInstance) -> dict[str, Any]:
    """A record as plain values."""
    return asdict(row)


def model_fields(row: RegistryRow) -> dict[str, Any]:
    """A registry row as plain values."""
    return asdict(row.metadata) | {
        "model_path": row.model_path,
        "artefact_sha256": row.artefact_sha256,
        "feature_version": row.feature_version,
        "recipe": row.recipe,
        "run_id": row.run_id,
        "proven": row.proven,
        "retired_at": row.retired_at,
    }


@contextmanager
def progress(label: str, *, unit: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A counter on stderr while something long runs; shown on a terminal only."""
    with _bar(unit) as bar:
        task = bar.add_task(label, total=total)
        yield lambda count: bar.advance(task, count)


@contextmanager
def fraction(label: str, *, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr that is told (done, total); shown on a terminal only."""
    with _bar(unit) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _bar(unit: str) -> Progress:
    from rich import progress as parts  # takes as long to load as the rest of this module

    described, counted = parts.TextColumn("{task.description}"), parts.TextColumn(unit)
    columns = (parts.SpinnerColumn(), described, parts.BarColumn(), parts.MofNCompleteColumn(), counted)
    console = Console(stderr=True)
    return parts.Progress(
        *columns, parts.TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal
    )


def pairs(values: Mapping[str, Any]) -> None:
    """Names and values, one a line."""
    grid = Table.grid(padding=(0, 2))
    for name, value in values.items():
        grid.add_row(f"[dim]{escape(name.replace('_', ' '))}[/]", "-" if value is None else escape(str(value)))
    out().print(grid)


def status(state: Status) -> None:
    """The status on one screen, beginning with the sentence that answers whether it is alive and learning."""
    out().print(_sentence(state))
    streams = Table("stream", "length", "pending", "lag", box=None, pad_edge=False, header_style="dim")
    for stream in state.streams:
        lag = "unknown" if stream.lag is None else f"{stream.lag:,}"
        streams.add_row(stream.name, f"{stream.length:,}", f"{stream.pending:,}", lag)
    if state.streams:
        out().print(streams)
    last = state.last_training
    pairs(
        {
            "redis": state.redis,
            "signals": f"{state.signals:,} stored, {state.predictions:,} predictions, {state.incomplete:,} incomplete",
            "outcomes": f"{state.outcomes:,} stored, {state.waiting_outcomes:,} wait for their signal",
            "labels": f"{state.labelled:,}, newest {state.newest_label_at or 'none yet'}",
            "new labels": f"{state.new_labels:,} of {state.labels_for_retraining:,} for the next training",
            "champion": _champion(state),
            "last training": "none yet"
            if last is None
            else f"{last.status} at {last.completed_at or last.started_at}: {last.reason or last.verdict or 'in hand'}",
            "dead letters": f"{state.dead_letters:,} open, {state.duplicates:,} duplicates dropped",
            "monitoring": _monitoring(state.monitoring),
        }
    )
    for alarm in state.monitoring.alarms if state.monitoring else ():
        out().print(f"[yellow]![/] {escape(alarm['name'].replace('_', ' '))}: {escape(alarm['why'])}")


def _monitoring(found: Monitoring | None) -> str:
    if found is None:
        return "has not looked yet"
    drift = f"{found.features_drifted} of {found.features} features drifted" if found.features else "too few rows yet"
    asked = f", asked for {found.requested}" if found.requested else ""
    return f"{len(found.alarms)} alarms, {drift}, looked at {found.at[:19]}{asked}"


def _sentence(state: Status) -> str:
    if state.pending is None:
        return "[bold red]Redis does not answer.[/] What is shown below is what the store holds."
    if state.dead_letters:
        return f"[bold yellow]{state.dead_letters} events wait in the dead letters.[/] `refinery dead-letters list`"
    if state.champion is None:
        return "[bold]No model serves yet:[/] scores say cold_start until the first training."
    if not state.champion_fits:
        changed = "[bold yellow]The features have changed since the champion was fitted, and scores say cold_start.[/]"
        return f"{changed} `refinery features rebuild`, then `refinery retrain`."
    return "[bold green]Running.[/] " + ("The champion is proven." if state.proven else "The champion is provisional.")


def _champion(state: Status) -> str:
    if state.champion is None:
        return "none yet"
    return f"{state.champion} ({'proven' if state.proven else 'provisional'}) since {state.champion_since}"


def models(rows: Sequence[RegistryRow]) -> None:
    """Models, one a line."""
    model = Column("model", overflow="fold", no_wrap=True)
    table = Table("", model, "created", "recipe", "rows", "log loss", "AUC", box=None, header_style="dim")
    for row in rows:
        mark = ("●" if row.proven else "○") if row.is_active else " "
        about, figures = row.metadata, row.metadata.validation_metrics
        table.add_row(
            mark,
            row.model_id,
            about.created_at[:19],
            row.recipe or "",
            f"{about.train_samples or 0:,}",
            _figure(figures.get("log_loss")),
            _figure(figures.get("auc")),
        )
    out().print(table if rows else "no models yet")
    if rows:
        out().print("[dim]● serves, proven   ○ serves, provisional[/]")


def model(row: RegistryRow, promotions: Sequence[Promotion]) -> None:
    """One model, with what the ledger says of it."""
    shown = {name: value for name, value in model_fields(row).items() if not isinstance(value, (dict, list))}
    figures = sorted(row.metadata.validation_metrics.items())
    pairs(shown | {f"validation {name}": _figure(value) for name, value in figures})
    used = [item for item in row.metadata.feature_importance.items() if item[1] > 0]
    top = sorted(used, key=lambda item: -item[1])[:10]
    pairs({f"importance {name}": _figure(value) for name, value in top})
    for entry in promotions:
        pairs(asdict(entry))


def letters(rows: Sequence[DeadLetterRow]) -> None:
    """Dead letters, one a line."""
    table = Table("id", "reason", "signal", "symbol", "first seen", "tries", "error", box=None, header_style="dim")
    for row in rows:
        texts = (row.reason, row.signal_id or "", row.symbol or "", row.first_seen[:19], row.attempts, row.error[:100])
        table.add_row(str(row.id), *(escape(str(text)) for text in texts))
    out().print(table if rows else "no dead letters")


def letter_groups(rows: Sequence[DeadLetterGroup]) -> None:
    """Dead letters that failed alike, the most frequent first."""
    table = Table("count", "reason", "fingerprint", "first seen", "last seen", "example", box=None, header_style="dim")
    for row in rows:
        texts = (f"{row.count:,}", row.reason, row.fingerprint, row.first_seen[:19], row.last_seen[:19])
        table.add_row(*(escape(text) for text in texts), str(row.example_id))
    out().print(table if rows else "no dead letters")


def letter(row: DeadLetterRow, audit: Sequence[AuditEntry]) -> None:
    """One dead letter with its bytes and its history."""
    pairs(letter_fields(row))
    if row.traceback:
        out().print(escape(row.traceback))
    payload = row.payload or b""
    out().print(escape(payload[:4000].decode("utf-8", "backslashreplace")), soft_wrap=True)
    if len(payload) > 4000:
        note(f"({len(payload):,} bytes in all; --json has them whole)")
    for entry in audit:
        pairs(asdict(entry))


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
