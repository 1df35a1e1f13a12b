"""The commands of `refinery dead-letters`: look, replay, edit, discard, export."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from trading_system.ml_refinement.actors import acting_user
from trading_system.ml_refinement.storage import AuditEntry, DeadLetterGroup, DeadLetterRow, FeatureDatabase, Filter
from worker.cli import output
from worker.cli.options import (
    CONTEXT,
    Json,
    complete_letter_ids,
    complete_reasons,
    moment,
    reason_code,
    settings_and_log,
)
from worker.dead_letters import DeadLetters, Pace, ReplayReport, letter_fields, whole_letter
from worker.errors import RefineryError
from worker.installation import existing_store, refuse_other_owner, release, streams_of
from worker.observability.printable import counted
from worker.observability.terminal import Table
from worker.redis_server.connection import server

letters = typer.Typer(
    context_settings=CONTEXT,
    no_args_is_help=True,
    help="Events that could not be used: look at them, replay them, put them away.",
)

Ids = Annotated[
    list[int] | None, typer.Argument(metavar="[ID]...", help="Which ones.", autocompletion=complete_letter_ids)
]
Id = Annotated[int, typer.Argument(metavar="ID", autocompletion=complete_letter_ids)]
Reason = Annotated[
    str | None,
    typer.Option(help="Only this reason code.", callback=reason_code, autocompletion=complete_reasons),
]
Stream = Annotated[str | None, typer.Option(help="Only events of this stream.")]
Symbol = Annotated[str | None, typer.Option(help="Only events of this symbol.")]
Signal = Annotated[str | None, typer.Option("--signal", help="Only events of this signal_id.")]
Fingerprint = Annotated[str | None, typer.Option(help="Only those that failed alike.")]
Since = Annotated[
    str | None,
    typer.Option(callback=moment, help="Dead-lettered at or after, as 2026-03-01 or 2026-03-01T14:00:00Z."),
]
Until = Annotated[str | None, typer.Option(callback=moment, help="Dead-lettered at or before; a day means its end.")]
Every = Annotated[bool, typer.Option("--all", help="All open ones that the filters let through.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many.")]
StatusChoice = Literal["open", "replayed", "discarded", "any"]


def _letters(store: FeatureDatabase) -> DeadLetters:
    return DeadLetters(store, version=release())


def _chosen(ids: list[int] | None, every: bool, wanted: Filter) -> Filter | None:
    """The filter to choose by; None to choose by ids. Filters alone are not enough to act on everything they leave."""
    if bool(ids) == every:
        raise typer.BadParameter("name the ids, or say --all")
    if ids and wanted != Filter():
        raise typer.BadParameter("filters go with --all, not with ids")
    return wanted if every else None


@letters.command("list")
def list_(
    reason: Reason = None,
    stream: Stream = None,
    symbol: Symbol = None,
    signal: Signal = None,
    fingerprint: Fingerprint = None,
    since: Since = None,
    until: Until = None,
    status: Annotated[StatusChoice, typer.Option(help="Which ones.")] = "open",
    every: Annotated[bool, typer.Option("--all", help="Short for --status any.")] = False,
    groups: Annotated[bool, typer.Option("--groups", help="Count those that failed alike, by fingerprint.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
    after: Annotated[int, typer.Option(min=0, help="Go on after this id.")] = 0,
    json: Json = False,
) -> None:
    """Dead letters in the order they were dead-lettered, or grouped by how they failed."""
    chosen = None if every or status == "any" else status
    wanted = Filter(reason, stream, symbol, fingerprint, signal, chosen, since, until)
    with existing_store(settings_and_log()) as store:
        if groups:
            _show_groups(store, wanted, limit=limit, json=json)
            return
        rows = store.dead_letters.find(wanted, limit=limit, after_id=after)
        total = store.dead_letters.count(wanted)
    if json:
        output.document([letter_fields(row) for row in rows])
        return
    _show_letters(rows)
    if len(rows) < total:
        output.note(f"{len(rows):,} of {total:,}; --limit, --after {rows[-1].id} and --groups show the others")
    if rows:
        output.note("next: `refinery dead-letters show ID`, then replay ID, edit ID, or discard ID --reason WHY")


def _show_groups(store: FeatureDatabase, wanted: Filter, *, limit: int, json: bool) -> None:
    rows = store.dead_letters.groups(limit, wanted)
    errors = store.dead_letters.errors([row.example_id for row in rows])
    symbols = {
        row.fingerprint: store.dead_letters.symbols(replace(wanted, fingerprint=row.fingerprint)) for row in rows
    }
    if json:
        told = {row: {"error": errors[row.example_id], "symbols": symbols[row.fingerprint]} for row in rows}
        output.document([output.fields(row) | told[row] for row in rows])
        return
    _show_letter_groups(rows, errors, symbols)
    if rows:
        output.note(
            "next: `refinery dead-letters list --fingerprint FINGERPRINT`, then "
            "`refinery dead-letters replay --all --fingerprint FINGERPRINT`"
        )


@letters.command()
def show(letter_id: Id, json: Json = False) -> None:
    """One dead letter: reason, error, traceback, the original bytes, and what was done about it."""
    with existing_store(settings_and_log()) as store:
        row = _one(store, letter_id)
        audit = store.dead_letters.audit(letter_id)
    if json:
        output.document(whole_letter(row) | {"audit": [output.fields(entry) for entry in audit]})
    else:
        _show_letter(row, audit)


@letters.command()
def replay(
    ids: Ids = None,
    every: Every = False,
    reason: Reason = None,
    stream: Stream = None,
    symbol: Symbol = None,
    signal: Signal = None,
    fingerprint: Fingerprint = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    rate: Annotated[float | None, typer.Option(min=0.01, max=100_000, help="Events a second.")] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds without progress until we stop; 0 sends and ends.")] = 15,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Append dead letters to their streams again, with their identity and a fresh budget of tries.

    Stops by itself when more than half of them die again. Replaying twice, or again after a kill, is harmless.

    refinery dead-letters replay 17 18

    refinery dead-letters replay --all --reason no_market_data --rate 50

    \f
    Raises:
        typer.Exit: it stopped by itself, with code 1.
    """
    wanted = _chosen(ids, every, Filter(reason, stream, symbol, fingerprint, signal, "open", since, until))
    settings = settings_and_log()
    with ExitStack() as stack:
        store = stack.enter_context(existing_store(settings))
        dead = _letters(store)
        rows = dead.chosen(ids or [], wanted, limit=limit, payloads=not dry_run)
        if dry_run:
            _show_would(rows, "replayed", json=json)
            return
        client = stack.enter_context(server(settings))
        refuse_other_owner(settings, client)
        pace = Pace(rate=rate, give_up_after_s=wait)
        report = dead.replay(client, rows, actor=acting_user(), streams=streams_of(settings), pace=pace)
    _show_replay(report, json=json)
    if report.stopped:
        raise typer.Exit(1)


def _show_replay(report: ReplayReport, *, json: bool) -> None:
    if json:
        sent = [{"id": number, "entry_id": entry_id} for number, entry_id in report.sent]
        output.document(output.fields(report) | {"sent": sent})
        return
    letters_sent = counted(len(report.sent), "dead letter")
    output.line(f"{letters_sent} replayed: {report.handled:,} handled so far, {report.died:,} died again")
    if report.skipped:
        output.note(f"{len(report.skipped):,} skipped: not open any more, or no bytes to send")
    if report.stopped:
        output.fail(f"stopped: {report.stopped}")


@letters.command()
def discard(
    because: Annotated[str, typer.Option("--reason", help="Why they are not wanted; kept in the audit.")],
    ids: Ids = None,
    every: Every = False,
    code: Annotated[
        str | None,
        typer.Option(
            "--code",
            help="With --all: only this reason code.",
            callback=reason_code,
            autocompletion=complete_reasons,
        ),
    ] = None,
    stream: Stream = None,
    symbol: Symbol = None,
    signal: Signal = None,
    fingerprint: Fingerprint = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Put dead letters away that nobody will replay. They stay in the store until they are pruned.

    refinery dead-letters discard 17 18 --reason "the producer sent them again"

    \f
    Raises:
        typer.BadParameter: no reason was given.
        typer.Exit: none of those that were named is open, with code 1.
    """
    if not because.strip():
        raise typer.BadParameter("must say why", param_hint="--reason")
    wanted = _chosen(ids, every, Filter(code, stream, symbol, fingerprint, signal, "open", since, until))
    with existing_store(settings_and_log()) as store:
        dead = _letters(store)
        rows = list(dead.chosen(ids or [], wanted, limit=limit, payloads=False))
        if dry_run:
            _show_would(rows, "discarded", json=json)
            return
        done = dead.discard(rows, because.strip(), actor=acting_user())
    if json:
        output.document({"discarded": done, "skipped": [row.id for row in rows if row.id not in set(done)]})
    else:
        output.line(f"{counted(len(done), 'dead letter')} discarded")
        for row in rows:
            if row.id not in set(done):
                output.note(f"{row.id} is {row.status} already, and stays so")
    if ids and not done:
        raise typer.Exit(1)


@letters.command()
def edit(
    letter_id: Id,
    file: Annotated[
        Path | None, typer.Option(help="The event as it should have been; - is stdin. Else the editor opens.")
    ] = None,
    json: Json = False,
) -> None:
    """Let a replay send a corrected event. The original stays, and the difference is kept in the audit."""
    with existing_store(settings_and_log()) as store:
        row = _one(store, letter_id)
        changes = _letters(store).edit(row, _edited(row, file), actor=acting_user())
    if json:
        output.document({"id": letter_id, "difference": changes})
    else:
        output.block(changes)
        output.note(f"`refinery dead-letters replay {letter_id}` sends it")


def _edited(row: DeadLetterRow, file: Path | None) -> bytes:
    if file is not None:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    current = (row.payload or b"") if row.edited is None else row.edited
    try:
        text = current.decode()
    except UnicodeDecodeError as error:
        raise RefineryError("these bytes are no text: give the corrected event with --file") from error
    import click  # an editor is rarely asked for

    try:
        changed = click.edit(text, extension=".json")
    except click.ClickException as error:
        told = f"no editor: {error.message}; name one in EDITOR, or give the corrected event with --file"
        raise RefineryError(told) from error
    if changed is None:
        raise RefineryError("the editor was left without saving; nothing was changed")
    return changed.rstrip("\n").encode()


@letters.command()
def export(
    file: Annotated[typer.FileBinaryWrite, typer.Argument(help="One JSON line for each; - is stdout.")],
    reason: Reason = None,
    stream: Stream = None,
    symbol: Symbol = None,
    signal: Signal = None,
    fingerprint: Fingerprint = None,
    since: Since = None,
    until: Until = None,
    status: Annotated[StatusChoice, typer.Option(help="Which ones.")] = "any",
    limit: Limit = None,
) -> None:
    """Write dead letters out, whole, one JSON line for each: the bytes are base64, and text where they are text."""
    wanted = Filter(reason, stream, symbol, fingerprint, signal, None if status == "any" else status, since, until)
    count = 0
    with existing_store(settings_and_log()) as store:
        for row in _letters(store).chosen([], wanted, limit=limit):
            file.write(output.json_line(whole_letter(row)))
            count += 1
    file.flush()  # what does not fit on the disk is said before anything is called written
    output.note(f"{counted(count, 'dead letter')} written")


def _one(store: FeatureDatabase, letter_id: int) -> DeadLetterRow:
    row = store.dead_letters.get(letter_id)
    if row is None:
        raise RefineryError(f"there is no dead letter {letter_id}")
    return row


def _show_would(rows: Any, done: str, *, json: bool) -> None:
    """What a dry run would have acted on; those that are not open would be passed over."""
    ids = [row.id for row in rows if row.status == "open"]
    if json:
        output.document({f"would_be_{done}": ids})
    else:
        output.line(f"{counted(len(ids), 'dead letter')} would be {done}")


def _show_letters(rows: Sequence[DeadLetterRow]) -> None:
    """Dead letters, one a line."""
    table = Table("id", "reason", "signal", "symbol", "first seen", "tries", "error", box=None, header_style="dim")
    for row in rows:
        texts = (row.reason, row.signal_id or "", row.symbol or "", row.first_seen[:19], row.attempts, row.error[:100])
        table.add_row(str(row.id), *(str(text) for text in texts))
    output.table(table, empty="no dead letters")


def _show_letter_groups(
    rows: Sequence[DeadLetterGroup], errors: Mapping[int, str], symbols: Mapping[str, Sequence[str]]
) -> None:
    """Dead letters that failed alike, the most frequent first, with what one of them says."""
    columns = ("count", "reason", "fingerprint", "last seen", "symbols", "example", "error")
    table = Table(*columns, box=None, header_style="dim")
    for row in rows:
        texts = (f"{row.count:,}", row.reason, row.fingerprint, row.last_seen[:19])
        named = ", ".join(symbols[row.fingerprint])
        table.add_row(*texts, named, str(row.example_id), errors[row.example_id][:100])
    output.table(table, empty="no dead letters")


def _show_letter(row: DeadLetterRow, audit: Sequence[AuditEntry]) -> None:
    """One dead letter with its bytes and its history."""
    output.pairs(letter_fields(row))
    if row.traceback:
        output.block(row.traceback)
    payload = row.payload or b""
    output.block(payload[:4000].decode("utf-8", "backslashreplace"))
    if len(payload) > 4000:
        output.note(f"({len(payload):,} bytes in all; --json has them whole)")
    for entry in audit:
        output.pairs(asdict(entry))
