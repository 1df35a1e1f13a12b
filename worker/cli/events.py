"""The commands about events: `publish`, `schema`, `asyncapi`."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated

import typer

from trading_system.ml_refinement.storage.times import utc_now
from worker.cli import output
from worker.cli.options import Json, settings_and_log
from worker.installation import streams_of
from worker.observability.printable import counted
from worker.redis_server.connection import server
from worker.settings.schema import load_settings

#: So many refused lines are told one by one.
_SHOWN_REFUSALS = 20
KINDS = ("signal.created", "trade.closed", "signal.scored")


def publish(
    file: Annotated[typer.FileBinaryRead, typer.Argument(help="JSON lines with `type`; - is stdin.")],
    only_check: Annotated[bool, typer.Option("--check", help="Only look: nothing is published.")] = False,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Publish events that the worker will refuse, too.")
    ] = False,
    json: Json = False,
) -> None:
    """Publish events from a file of JSON lines to the streams; those that the worker would refuse are not sent.

    A line is {"type": "signal.created", ...} or {"type": "trade.closed", ...}. Publishing a file twice is harmless.
    What is checked is the event itself: whether its signal is known, or its symbol has bars, only the worker can say.

    \f
    Raises:
        typer.BadParameter: both options were given.
        typer.Exit: a line was refused, with code 1.
    """
    from worker.events.decoding import Limits, decode  # loads numpy; publishing alone needs these three
    from worker.events.strict_json import parse_line
    from worker.streams.jsonl import publish_lines

    if only_check and no_check:
        raise typer.BadParameter("--check and --no-check are opposites", param_hint="--check")
    settings = settings_and_log()
    limits, streams = Limits.from_settings(settings), streams_of(settings)

    def check(kind: str, data: bytes) -> None:
        decode(kind, data, now=utc_now(), limits=limits)

    with ExitStack() as stack:
        client = None if only_check else stack.enter_context(server(settings))
        told = stack.enter_context(output.progress("checking" if only_check else "publishing", unit="lines"))
        checked = None if no_check else check
        result = publish_lines(client, file, streams=streams, parse=parse_line, check=checked, progress=told)
    for refused in result.refused[:_SHOWN_REFUSALS]:
        output.note(f"line {refused.number}: {refused.why}")
    if (more := len(result.refused) - _SHOWN_REFUSALS) > 0:
        output.note(f"and {counted(more, 'line')} more")
    if json:
        output.document({"valid" if only_check else "published": result.events, "refused": len(result.refused)})
    else:
        done = "valid, nothing was published" if only_check else "published"
        output.line(f"{counted(result.events, 'event')} {done}; {counted(len(result.refused), 'line')} refused")
    if result.refused:
        raise typer.Exit(1)


def schema(
    kind: Annotated[str | None, typer.Argument(help=f"One of {', '.join(KINDS)}; all when left out.")] = None,
) -> None:
    """Print the JSON Schema of the events.

    \f
    Raises:
        typer.BadParameter: there is no such event.
    """
    from worker.events.models import json_schema  # builds the models of events, which few commands need

    if kind is not None and kind not in KINDS:
        raise typer.BadParameter(f"must be one of {', '.join(KINDS)}", param_hint="KIND")
    output.document(json_schema(kind) if kind else {name: json_schema(name) for name in KINDS})


def asyncapi() -> None:
    """Print the AsyncAPI 3 document of the events, with the streams' configured names, and their shards."""
    from worker.events.asyncapi import document  # builds the models of events, which few commands need

    settings = load_settings()
    output.document(document(settings.streams, shards=settings.shards, on_cluster=settings.on_cluster))
