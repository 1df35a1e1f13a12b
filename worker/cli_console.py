"""The commands `refinery console` and `refinery doctor`."""

from __future__ import annotations

import typer

from worker import app as composition
from worker import processes
from worker.settings import load_settings


def add_to(cli: typer.Typer) -> None:
    """Add the commands to the command line."""
    cli.command()(console)


def console() -> None:
    """Serve the console until stopped: pages for ops, and the RQ dashboard under them.

    REFINERY_CONSOLE_PORT=8800 refinery console
    """
    from worker.console.application import run_console  # its packages are an extra

    settings = load_settings()
    composition.set_up_logging(settings)
    with processes.server_url(settings) as url:
        run_console(settings, url)
