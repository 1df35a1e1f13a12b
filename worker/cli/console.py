"""The commands `refinery console`, `refinery doctor` and `refinery asyncapi`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from worker.cli import output as rendering
from worker.errors import ConfigurationError
from worker.observability.logging import set_up_logging
from worker.redis_server.connection import server_url
from worker.settings.schema import load_settings

if TYPE_CHECKING:
    from worker.observability.doctor import Finding

_COLOURS = {"ok": "green", "warn": "yellow", "bad": "bold red"}


def add_to(cli: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (console, doctor, asyncapi):
        cli.command()(command)


def console() -> None:
    """Serve the console until stopped: pages for ops, and the RQ dashboard under them.

    REFINERY_CONSOLE_PORT=8800 refinery console
    """
    settings = load_settings()
    set_up_logging(settings)
    try:
        from worker.console.application import run_console  # its packages are an extra
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{error.name} is missing: pip install 'signal-refinery[console]'") from error
    with server_url(settings) as url:
        run_console(settings, url)


def doctor(json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False) -> None:
    """Check settings, Redis, disk, store, models and market data, and say what is wrong. Changes nothing.

    Exit code 1 when something is bad, 0 when there are warnings only.
    """
    from worker.observability import doctor as examination

    try:
        settings = load_settings()
    except ConfigurationError as error:
        findings = [
            examination.Finding("settings", "bad", str(error), "correct the variable; docs/settings.md lists all")
        ]
    else:
        set_up_logging(settings)
        findings = examination.examine(settings)
    if json:
        rendering.document([asdict(finding) for finding in findings])
    else:
        _show(findings)
    if any(finding.verdict == "bad" for finding in findings):
        raise typer.Exit(1)


def asyncapi() -> None:
    """Print the AsyncAPI 3 document of the events, with the streams' configured names."""
    from worker.events.asyncapi import document

    rendering.document(document(load_settings().streams))


def _show(findings: list[Finding]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        colour = _COLOURS[finding.verdict]
        advice = f"\n[dim]→ {escape(finding.advice)}[/]" if finding.advice else ""
        table.add_row(f"[{colour}]{finding.verdict}[/]", finding.part, escape(finding.says) + advice)
    rendering.out().print(table)
