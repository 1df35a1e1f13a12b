"""Results as tables for people, or as one JSON document on stdout; what is said beside them goes to stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from types import ModuleType
from typing import TYPE_CHECKING, Any

import orjson

from worker.observability.printable import printable_json
from worker.settings.masking import masker

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from rich.progress import Progress
    from rich.text import Text

    from worker.observability.terminal import Table


def new_table(*columns: str, **looks: Any) -> Table:
    """A table with these columns, whose plain strings are data; `looks` is what rich's table takes."""
    made: Table = _terminal().Table(*columns, **looks)
    return made


def styled(markup: str, *data: str) -> Text:
    """Text with markup of ours; every `{}` in it takes one of `data`, on one line and without a meaning as markup."""
    made: Text = _terminal().styled(markup, *data)
    return made


def table(shown: Table, *, empty: str = "") -> None:
    """A table on stdout; one line instead where it has no rows and there is something to say to that."""
    if empty and not shown.row_count:
        line(empty)
    else:
        _terminal().console(sys.stdout).print(shown)


def line(text: str | Text) -> None:
    """One line on stdout."""
    _terminal().print_line(sys.stdout, text)


def block(text: str) -> None:
    """What somebody else wrote, over several lines on stdout."""
    _terminal().print_block(sys.stdout, text)


def note(text: str | Text) -> None:
    """One line on stderr."""
    _terminal().print_line(sys.stderr, text)


def fail(text: str) -> None:
    """The one line a failed command ends with."""
    note(styled("[bold red]refinery:[/] {}", masker(None)(" ".join(text.split()))))


def document(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.buffer.write(_json(value, orjson.OPT_INDENT_2))
    sys.stdout.buffer.flush()


def json_line(value: Any) -> bytes:
    """A JSON document as a line of a file."""
    return _json(value, 0)


def _json(value: Any, options: int) -> bytes:
    """What a terminal would obey stands in it as an escape, which says the same."""
    return printable_json(orjson.dumps(value, option=options | orjson.OPT_APPEND_NEWLINE).decode()).encode()


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
    err = _terminal().console(sys.stderr)
    return parts.Progress(*columns, parts.TimeElapsedColumn(), console=err, transient=True, disable=not err.is_terminal)


def pairs(values: Mapping[str, Any]) -> None:
    """Names and values, one a line."""
    rows = _terminal().grid(between=2)
    for name, value in values.items():
        rows.add_row(styled("[dim]{}[/]", name.replace("_", " ")), "-" if value is None else str(value))
    table(rows)


def _terminal() -> ModuleType:
    from worker.observability import terminal  # with rich, for which a JSON document has no use

    return terminal
