"""Results as tables for people, or as one JSON document on stdout; what is said beside them goes to stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from worker.settings.masking import masker

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from rich.progress import Progress


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
