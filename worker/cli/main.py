"""The command `refinery`: every command in the order that `--help` lists them; errors to one line and an exit code.

Exit codes: 0 done, 1 failed with a one-line reason, 2 wrong usage.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from trading_system.ml_refinement.storage import StoreError
from worker.cli import output
from worker.cli.options import CONTEXT
from worker.errors import RefineryError
from worker.observability.std_streams import drop_stdout, prepare_streams

#: Every command and group of commands, and where it is.
_COMMANDS = {
    "backup": "maintenance.backup",
    "restore": "maintenance.restore",
    "adopt": "maintenance.adopt",
    "prune": "maintenance.prune",
    "store": "maintenance.store",
    "console": "processes.console",
    "doctor": "status.doctor",
    "asyncapi": "events.asyncapi",
    "evaluate": "learning.evaluate",
    "explain": "learning.explain",
    "label": "labelling.label",
    "tune": "learning.tune",
    "up": "processes.up",
    "worker": "processes.worker",
    "trainer": "processes.trainer",
    "gateway": "processes.gateway",
    "demo": "processes.demo",
    "publish": "events.publish",
    "import": "importing.import_",
    "status": "status.status",
    "notify": "notify.notify",
    "retrain": "learning.retrain",
    "schema": "events.schema",
    "hash-password": "passwords.hash_password_",
    "models": "models.models",
    "dead-letters": "dead_letters.letters",
    "features": "features.features",
}


class _Loaded(Mapping[str, Any]):
    """The commands by name: to look one up loads its module, and none of the others."""

    def __getitem__(self, name: str) -> Any:
        module, _, attribute = _COMMANDS[name].rpartition(".")
        found = getattr(import_module(f"worker.cli.{module}"), attribute)
        if not isinstance(found, typer.Typer):
            function = found
            found = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
            found.command(name)(function)
        command = typer.main.get_command(found)
        command.name = name
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(_COMMANDS)

    def __len__(self) -> int:
        return len(_COMMANDS)


class _Commands(TyperGroup):
    def __init__(self, **said: Any) -> None:
        super().__init__(**said)
        self.commands = _Loaded()  # type: ignore[assignment]  # nobody adds to them


cli = typer.Typer(
    cls=_Commands,
    context_settings=CONTEXT,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command line; what is raised on purpose, and what a disk refuses, is one line and exit code 1."""
    # To look for plugins pydantic reads the metadata of everything that is installed, and nobody has any for us.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
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
        from worker.installation import release  # with settings, which no other option has a use for

        output.line(f"refinery {release()}")
        raise typer.Exit


@cli.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Signal Refinery: signals that learn from their own trades."""
