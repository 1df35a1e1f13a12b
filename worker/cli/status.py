"""The commands that say how an installation is: `status` and `doctor`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import typer

from trading_system.ml_refinement.storage.times import utc_now
from trading_system.ml_refinement.training.verdicts import standing_in_words
from worker.cli import output
from worker.cli.options import Json, settings_and_log
from worker.errors import ConfigurationError
from worker.installation import no_store, open_for_looking
from worker.observability.findings import Finding
from worker.observability.logging import set_up_logging
from worker.observability.printable import counted
from worker.redis_server.connection import server_if_there
from worker.settings.schema import load_settings

if TYPE_CHECKING:
    from rich.text import Text

    from worker.observability.status import Monitoring, Notified, Status, Training


_COLOURS = {"ok": "green", "warn": "yellow", "bad": "bold red"}


def status(json: Json = False) -> None:
    """Streams, labels, dead letters, champion and last training."""
    from worker.observability.status import read_status  # a status alone needs it
    from worker.observability.unknown_fields import unknown_fields  # the same
    from worker.observability.waiting_workers import waiting_workers  # the same

    settings = settings_and_log()
    with ExitStack() as stack:
        client = stack.enter_context(server_if_there(settings))
        store = stack.enter_context(open_for_looking(settings))
        state = read_status(settings, store, client)
    waits_for = tuple(f"worker {slot}: {cause}" for slot, cause in waiting_workers(settings))
    state = replace(state, waits_for=waits_for, unknown_fields=unknown_fields(settings))
    if json:
        output.document(state.to_json())
        return
    _show_status(state)
    if missing := no_store(settings):
        output.note(missing)


def _show_status(state: Status) -> None:
    """The status on one screen, beginning with the sentence that answers whether it is alive and learning."""
    from worker.observability.status import training_waits_for  # a status alone needs it
    from worker.observability.unknown_fields import unknown_in_words  # the same

    output.line(_sentence(state))
    streams = output.new_table("stream", "length", "pending", "lag", box=None, pad_edge=False, header_style="dim")
    for stream in state.streams:
        lag = "unknown" if stream.lag is None else f"{stream.lag:,}"
        streams.add_row(stream.name, f"{stream.length:,}", f"{stream.pending:,}", lag)
    if state.streams:
        output.table(streams)
    output.pairs(
        {
            "redis": state.redis,
            **({} if state.queue is None else {"queue": state.queue}),
            "signals": f"{state.signals:,} stored, {counted(state.predictions, 'prediction')}, "
            f"{state.incomplete:,} incomplete",
            "outcomes": f"{state.outcomes:,} stored, "
            f"{counted(state.waiting_outcomes, 'waits for its signal', 'wait for their signal')}",
            "labels": f"{state.labelled:,}, newest {state.newest_label_at or 'none yet'}",
            "waits for": "; ".join(training_waits_for(state)),
            "champion": _champion(state),
            "proof": standing_in_words(state.standing),
            "last training": _training(state.last_training),
            "dead letters": f"{state.dead_letters:,} open, {counted(state.duplicates, 'duplicate')} dropped",
            "unknown fields": unknown_in_words(state.unknown_fields),
            "monitoring": _monitoring(state.monitoring),
            "notifications": notified_in_words(state.notifications),
        }
    )
    for says, advice in _stream_troubles(state):
        output.line(output.styled("[bold red]![/] {}: {}", says, advice))
    if state.quarantined:
        rows = counted(state.quarantined, "row")
        output.line(f"{rows} of another program kept aside: refinery doctor says why")
    for alarm in state.monitoring.alarms if state.monitoring else ():
        output.line(output.styled("[yellow]![/] {}: {}", alarm["name"].replace("_", " "), alarm["why"]))


def _stream_troubles(state: Status) -> list[tuple[str, str]]:
    if not state.streams:
        return []
    from worker.streams.losses import (
        stream_troubles,
    )  # with the client of Redis, which is loaded where there are streams

    return list(stream_troubles(state.streams, now=utc_now()))


def _training(last: Training | None) -> str:
    if last is None:
        return "none yet"
    if last.status == "running":
        return f"running since {last.started_at[:19]}"
    why = f"; {last.reason}" if last.reason else ""
    return f"{last.words}{why}, at {(last.completed_at or last.started_at)[:19]}"


def _monitoring(found: Monitoring | None) -> str:
    if found is None:
        return "has not looked yet"
    drift = f"{found.features_drifted} of {found.features} features drifted" if found.features else "too few rows yet"
    asked = f", asked for {found.requested}" if found.requested else ""
    return f"{counted(len(found.alarms), 'alarm')}, {drift}, looked at {found.at[:19]}{asked}"


def notified_in_words(found: Notified | None) -> str:
    """Whether somebody is told, and what waits to be."""
    if found is None or found.to is None:
        return "nobody is told: REFINERY_NOTIFY__URL is not set"
    told = f"{found.sent:,} sent to {found.to}"
    if found.waiting:
        told = f"{told}, {found.waiting:,} waiting since {(found.oldest_waiting_at or '')[:19]}"
    lost = "".join(f", {n:,} {what}" for n, what in ((found.given_up, "given up"), (found.dropped, "dropped")) if n)
    return f"{told}{lost}{f'; {found.error}' if found.error else ''}"


def _sentence(state: Status) -> Text:
    if state.other_owner:
        return output.styled("[bold red]This installation handles nothing:[/] {}", state.other_owner)
    if state.waits_for:
        return output.styled("[bold red]Nothing is handled, and nothing is lost.[/] {}", "; ".join(state.waits_for))
    if state.pending is None:
        return output.styled("[bold red]Redis does not answer.[/] What is shown below is what the store holds.")
    if state.dead_letters:
        wait = counted(state.dead_letters, "event waits", "events wait")
        waiting = f"{wait} in the dead letters."
        return output.styled("[bold yellow]{}[/] `refinery dead-letters list`", waiting)
    if state.champion is None:
        return output.styled("[bold]No model serves yet:[/] scores say cold_start until the first one.")
    if not state.champion_fits:
        changed = "[bold yellow]The features have changed since the champion was fitted, and scores say cold_start.[/]"
        return output.styled(f"{changed} `refinery features rebuild`, then `refinery retrain`.")
    provisional = "The champion is not proven: it serves provisionally, and its scores move nothing."
    return output.styled("[bold green]Running.[/] {}", "The champion is proven." if state.proven else provisional)


def _champion(state: Status) -> str:
    if state.champion is None:
        return "none yet"
    return f"{state.champion} ({'proven' if state.proven else 'provisional'}), serves since {state.champion_since}"


def doctor(json: Json = False) -> None:
    """Check settings, Redis, disk, store, models, trainings and market data, and say what is wrong. Changes nothing.

    Exit code 1 when something is bad, 0 when there are warnings only.

    \f
    Raises:
        typer.Exit: something is bad, with code 1.
    """
    from worker.observability import doctor as examination  # loads the learning stack

    try:
        settings = load_settings()
    except ConfigurationError as error:
        findings = [Finding("settings", "bad", str(error), "correct the variable; docs/settings.md lists all")]
    else:
        set_up_logging(settings)
        findings = examination.examine(settings)
    if json:
        output.document([asdict(finding) for finding in findings])
    else:
        _show_findings(findings)
    if any(finding.verdict == "bad" for finding in findings):
        raise typer.Exit(1)


def _show_findings(findings: list[Finding]) -> None:
    table = output.new_table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        colour = _COLOURS[finding.verdict]
        says = output.styled("{}", finding.says)
        if finding.advice:
            says.append("\n").append_text(output.styled("[dim]→ {}[/]", finding.advice))
        table.add_row(output.styled(f"[{colour}]{{}}[/]", finding.verdict), finding.part, says)
    output.table(table)
