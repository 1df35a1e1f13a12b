"""The commands about events: `publish`, `schema`, `asyncapi`."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.cli import output
from worker.cli.options import Json, settings_and_log
from worker.redis_server.connection import server, stream_of_kind
from worker.settings.schema import load_settings

KINDS = ("signal.created", "trade.closed", "signal.scored")


def publish(
    file: Annotated[typer.FileBinaryRead, typer.Argument(help="JSON lines with `type`; - is stdin.")],
    json: Json = False,
) -> None:
    """Publish events from a file of JSON lines to the streams.

    A line is {"type": "signal.created", ...} or {"type": "trade.closed", ...}. Publishing a file twice is harmless.

    \f
    Raises:
        typer.Exit: a line was refused, with code 1.
    """
    from worker.events.strict_json import parse_line  # loads numpy; publishing alone needs these two
    from worker.streams.jsonl import publish_lines

    settings = settings_and_log()
    with server(settings) as client, output.progress("publishing", unit="lines") as progress:
        result = publish_lines(client, file, streams=stream_of_kind(settings), parse=parse_line, progress=progress)
    for refused in result.refused[:20]:
        output.note(f"line {refused.number}: {refused.why}")
    if json:
        output.document({"published": result.events, "refused": len(result.refused)})
    else:
        output.line(f"{result.events} published, {len(result.refused)} refused")
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
    """Print the AsyncAPI 3 document of the events, with the streams' configured names."""
    from worker.events.asyncapi import document  # builds the models of events, which few commands need

    output.document(document(load_settings().streams))
