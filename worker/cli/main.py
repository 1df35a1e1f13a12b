"""The command `refinery`: every command in the order that `--help` lists them; errors to one line and an exit code.

Exit codes: 0 done, 1 failed with a one-line reason, 2 wrong usage.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import Annotated

import typer

from trading_system.ml_refinement.storage import StoreError
from worker.cli import (
    dead_letters,
    events,
    features,
    labelling,
    learning,
    maintenance,
    models,
    output,
    processes,
    status,
)
from worker.cli.options import CONTEXT
from worker.errors import RefineryError
from worker.installation import release
from worker.observability.terminal import drop_stdout, prepare_streams

_COMMANDS = (
    maintenance.backup,
    maintenance.restore,
    maintenance.adopt,
    maintenance.prune,
    processes.console,
    status.doctor,
    events.asyncapi,
    learning.evaluate,
    learning.explain,
    labelling.label,
    learning.tune,
    processes.up,
    processes.worker,
    processes.trainer,
    processes.gateway,
    processes.demo,
    events.publish,
    status.status,
    learning.retrain,
    events.schema,
)

cli = typer.Typer(
    context_settings=CONTEXT,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _command in _COMMANDS:
    cli.command()(_command)
cli.add_typer(models.models, name="models")
cli.add_typer(dead_letters.letters, name="dead-letters")
cli.add_typer(features.features, name="features")


def main() -> None:
    """Run the command line; what is raised on purpose, and what a disk refuses, is one line and exit code 1."""
    prepare_streams()
    _end_on_sigterm_as_first_process()
    try:
        try:
            cli()
        finally:
            sys.stdout.flush()
    except (RefineryError, StoreError) as error:
        output.fail(str(error))
        sys.exit(1)
    except OSError as error:
        drop_stdout()
        if error.errno != errno.EPIPE:
            output.fail(f"{error.filename or 'output'}: {error.strerror or error}")
        sys.exit(1)


def _end_on_sigterm_as_first_process() -> None:
    """The kernel drops SIGTERM for a container's PID 1 that does not say what it shall do, as short commands do not."""
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def _version(wanted: bool) -> None:
    if wanted:
        output.line(f"refinery {release()}")
        raise typer.Exit


@cli.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Signal Refinery: signals that learn from their own trades."""
