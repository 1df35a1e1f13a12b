"""The one way to a terminal: every table and text of every command passes here, and is printable when it has.

A `Table` takes plain strings as data: on one line, and never as markup. What is ours and styled is a `Text`, see
`styled`.
Whatever a caller forgets, `console` writes out before it is seen.
"""

from __future__ import annotations

from typing import IO

from rich import table as tables
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook, RenderResult
from rich.markup import escape
from rich.segment import Segment
from rich.style import StyleType
from rich.text import Text

from worker.observability.printable import printable, printable_lines

#: A pipe gets whole lines.
_WIDTH_OF_A_PIPE = 200


class Table(tables.Table):
    """A table whose plain strings are data."""

    def add_row(
        self,
        *cells: RenderableType | None,
        style: StyleType | None = None,
        end_section: bool = False,
    ) -> None:
        """Append a row; a string is shown as it is, on one line."""
        shown = (Text(printable(cell)) if isinstance(cell, str) else cell for cell in cells)
        super().add_row(*shown, style=style, end_section=end_section)


def grid(*, between: int) -> Table:
    """A table without lines and heads, with so many blanks between its columns."""
    return Table(box=None, show_header=False, show_edge=False, pad_edge=False, padding=(0, between))


class _WrittenOut:
    """Something to render, whose texts are printable."""

    def __init__(self, inner: RenderableType) -> None:
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self._inner, options):
            if segment.control:
                yield segment
            else:
                yield Segment(printable_lines(segment.text), segment.style)


class _Guard(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_WrittenOut(one) for one in renderables]


def console(file: IO[str]) -> Console:
    """A console for `file`, made when it is used so that a redirected stream is seen."""
    width = None if file.isatty() else _WIDTH_OF_A_PIPE
    made = Console(file=file, highlight=False, emoji=False, width=width)
    made.push_render_hook(_Guard())
    return made


def styled(markup: str, *data: str) -> Text:
    """Text with markup of ours; every `{}` in it takes one of `data`, on one line and without a meaning as markup."""
    return Text.from_markup(markup.format(*(escape(printable(one)) for one in data)), emoji=False)


def print_line(file: IO[str], text: str | Text) -> None:
    """One line of text, which the terminal wraps."""
    console(file).print(Text(printable(text)) if isinstance(text, str) else text, soft_wrap=True)


def print_block(file: IO[str], text: str) -> None:
    """A text of somebody else's over several lines, each set in, so that none of them passes for one of ours."""
    console(file).print(Text("\n".join(f"  {line}" for line in printable_lines(text).split("\n"))), soft_wrap=True)
