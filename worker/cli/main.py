"""The command `refinery`: arguments to calls, results to tables or JSON, errors to one line and an exit code.

Exit codes: 0 done, 1 failed with a one-line reason, 2 wrong usage.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Annotated, Any

import typer

from trading_system.ml_refinement.storage import StoreError
from worker.cli import (
    console as cli_console,
    dead_letters as cli_dead_letters,
    features as cli_features,
    learning as cli_learning,
    maintenance as cli_upkeep,
    models as cli_models,
    output as rendering,
)
from worker.errors import RefineryError
from worker.installation import open_store, release
from worker.observability.logging import set_up_logging
from worker.redis_server.connection import server, server_if_there, stream_of_kind
from worker.settings.schema import Settings, load_settings

_HELP: dict[str, Any] = {"context_settings": {"help_option_names": ["-h", "--help"]}, "no_args_is_help": True}
cli = typer.Typer(**_HELP, add_completion=True, pretty_exceptions_enable=False, rich_markup_mode=None)
cli.add_typer(cli_models.models, name="models")
cli.add_typer(cli_dead_letters.letters, name="dead-letters")
cli.add_typer(cli_features.features, name="features")
cli_upkeep.add_to(cli)
cli_console.add_to(cli)
cli_learning.add_to(cli)

KINDS = ("signal.created", "trade.closed", "signal.scored")
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def main() -> None:
    """Run the command line, and turn what is raised on purpose into one line and exit code 1."""
    try:
        cli()
    except (RefineryError, StoreError) as error:
        rendering.fail(str(error))
        sys.exit(1)


def _version(wanted: bool) -> None:
    if wanted:
        rendering.line(f"refinery {release()}")
        raise typer.Exit


@cli.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Signal Refinery: signals that learn from their own trades."""


def _settings() -> Settings:
    settings = load_settings()
    set_up_logging(settings)
    return settings


@cli.command()
def up() -> None:
    """Run everything here: embedded Valkey (unless a URL is set), worker, trainer, console. Ctrl-C stops all."""
    from worker.run.up import run_up

    run_up(_settings())


@cli.command()
def worker(
    slot: Annotated[
        int | None, typer.Option(help="Which of several workers on this machine this one is; else the first free one.")
    ] = None,
    processes_: Annotated[
        int, typer.Option("--processes", min=1, max=64, help="So many workers that share the load.")
    ] = 1,
) -> None:
    """Handle events until stopped: features, scores, labels."""
    if processes_ > 1 and slot is not None:
        raise typer.BadParameter("goes with a single process", param_hint="--slot")
    settings = load_settings() if slot is None else load_settings(consumer_slot=slot)
    set_up_logging(settings)
    if processes_ > 1:
        from worker.run.up import run_workers

        run_workers(settings, processes_)
    else:
        from worker.run.worker import run_worker

        run_worker(settings)


@cli.command()
def trainer() -> None:
    """Run retraining jobs until stopped."""
    from worker.run.trainer import run_trainer

    run_trainer(_settings())


@cli.command()
def demo(
    exit_: Annotated[bool, typer.Option("--exit", help="End when the replay has been drained.")] = False,
    json: Json = False,
    until: Annotated[str | None, typer.Option(help="Replay up to this day only, as 2006-12-31.")] = None,
) -> None:
    """Replay thirteen years of real daily prices through the real streams, in lockstep with retraining."""
    from worker.demo import run as replay  # the demo's data packages are an extra

    report = (lambda summary: rendering.document(summary.to_json())) if json else replay.show
    replay.run(_settings(), keep_running=not exit_, until=until, report=report)


@cli.command()
def publish(
    file: Annotated[typer.FileBinaryRead, typer.Argument(help="JSON lines with `type`; - is stdin.")],
    json: Json = False,
) -> None:
    """Publish events from a file of JSON lines to the streams.

    A line is {"type": "signal.created", ...} or {"type": "trade.closed", ...}. Publishing a file twice is harmless.
    """
    from worker.streams.jsonl import publish_lines

    settings = _settings()
    with server(settings) as client, rendering.progress("publishing", unit="lines") as progress:
        result = publish_lines(client, file, streams=stream_of_kind(settings), progress=progress)
    for refused in result.refused[:20]:
        rendering.note(f"line {refused.number}: {refused.why}")
    if json:
        rendering.document({"published": result.events, "refused": len(result.refused)})
    else:
        rendering.line(f"{result.events} published, {len(result.refused)} refused")
    if result.refused:
        raise typer.Exit(1)


@cli.command()
def status(json: Json = False) -> None:
    """Streams, labels, dead letters, champion and last training."""
    from worker.observability.status import read_status

    settings = _settings()
    with ExitStack() as stack:
        client = stack.enter_context(server_if_there(settings))
        store = stack.enter_context(open_store(settings))
        state = read_status(settings, store, client)
    if json:
        rendering.document(state.to_json())
    else:
        rendering.status(state)


@cli.command()
def retrain(
    wait: Annotated[bool, typer.Option("--wait", help="Follow the training to its end.")] = False,
    json: Json = False,
) -> None:
    """Enqueue a retraining now, due or not."""
    from worker.retraining.requests import retrain_now

    result = retrain_now(_settings(), wait=wait)
    if json:
        rendering.document(result)
    else:
        rendering.pairs(result)
    if result.get("status") == "failed":
        raise typer.Exit(1)


@cli.command()
def schema(
    kind: Annotated[str | None, typer.Argument(help=f"One of {', '.join(KINDS)}; all when left out.")] = None,
) -> None:
    """Print the JSON Schema of the events."""
    from worker.events.models import json_schema

    if kind is not None and kind not in KINDS:
        raise typer.BadParameter(f"must be one of {', '.join(KINDS)}", param_hint="KIND")
    rendering.document(json_schema(kind) if kind else {name: json_schema(name) for name in KINDS})
