"""`refinery store`: what is done to a store as a whole."""

from __future__ import annotations

import typer

from worker.cli import output
from worker.cli.options import CONTEXT, Json, settings_and_log
from worker.installation import upgrade_store

store = typer.Typer(context_settings=CONTEXT, no_args_is_help=True, help="Look after the store as a whole.")


@store.callback()
def _group() -> None:
    """A group, though it has one command."""


@store.command()
def upgrade(json: Json = False) -> None:
    """Make the store's schema, or bring it up to date. In PostgreSQL nothing else does."""
    settings = settings_and_log()
    steps = upgrade_store(settings)
    if json:
        output.document({"store": settings.masked_store, "steps": steps})
        return
    applied = f"steps {', '.join(map(str, steps))} applied" if steps else "up to date"
    output.line(f"{settings.masked_store}: {applied}")
