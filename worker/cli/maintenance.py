"""The commands that look after an installation: its store, backup, restore, prune."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from trading_system.ml_refinement.config import MOST_DAYS
from trading_system.ml_refinement.storage.shared.copying import CopiedTable
from worker.cli import output
from worker.cli.options import CONTEXT, Json, settings_and_log
from worker.installation import add_archive_file, copy_a_store, open_store, ownership, release, upgrade_store
from worker.observability.printable import counted
from worker.redis_server.connection import server
from worker.settings.schema import MOST_SHARDS
from worker.state_dir import make_private

store = typer.Typer(context_settings=CONTEXT, no_args_is_help=True, help="Look after the store as a whole.")


@store.callback()
def _group() -> None:
    """Commands about one store, and about two."""


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


@store.command(name="copy")
def copy_(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A store: its file, or its postgresql:// address.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="Where it goes: an empty store, or an earlier copy.")],
    shards: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_SHARDS, help="How many a new one has in PostgreSQL; else REFINERY_SHARDS."),
    ] = None,
    json: Json = False,
) -> None:
    """Copy a store into another one, from SQLite to PostgreSQL or back, and compare them row by row.

    Stop workers and trainers first, or copy twice: the first time while they run, the second after they were stopped,
    for what has changed. The copy is the same installation; only one of the two may work from then on. The archive of
    received events goes along: events.db beside a file, in the same schema with an address.
    """
    settings = settings_and_log()
    shards = shards or settings.shards
    done = copy_a_store(source, target, shards=shards, told=lambda table: None if json else _tell(table))
    if json:
        output.document({"tables": [table._asdict() for table in done], "same": True})
        return
    output.line(f"{counted(sum(table.rows for table in done), 'row')}, the same in both")


@store.command(name="add-archive")
def add_archive(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An archive of received events, as events.db.")],
    json: Json = False,
) -> None:
    """Add the events of an archive's file to this installation's archive, each once. The file stays as it is.

    For hosts that kept an archive of their own beside a store in PostgreSQL. May run beside workers, and again.
    """
    settings = settings_and_log()
    seen = 0

    def told(events: int) -> None:
        nonlocal seen
        seen = events

    new = add_archive_file(settings, file, told=told)
    if json:
        output.document({"events": seen, "new": new})
        return
    output.line(f"{counted(seen, 'event')} in {file}, {new:,} of them new")


def _tell(table: CopiedTable) -> None:
    if table.rows:
        there = f", {table.already:,} of them were there" if table.already else ""
        output.note(f"{table.name}: {counted(table.rows, 'row')}{there}")


def backup(
    target: Annotated[Path, typer.Argument(metavar="DEST", help="A directory that does not exist yet.")],
    json: Json = False,
) -> None:
    """Copy store, archive and models as of now; everything goes on running meanwhile."""
    from worker.maintenance import backup as backups  # loads the client of Redis

    done = backups.back_up(settings_and_log(), target, release=release(), now=datetime.now(UTC))
    if json:
        output.document(output.fields(done) | {"directory": str(done.directory)})
        return
    held = f"{counted(done.signals, 'signal')}, {counted(done.files, 'file')}"
    output.line(f"{held}, {done.size_bytes / 1e6:,.1f} MB in {done.directory}")
    if done.missing_models:
        output.note(f"without the files of {', '.join(done.missing_models)}, which were gone or altered already")


def restore(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A directory that `refinery backup` made.")],
    reread: Annotated[
        bool, typer.Option("--reread", help="Have the workers read the streams again from their beginning.")
    ] = False,
    json: Json = False,
) -> None:
    """Put a backup in the place of what is there. Stop the workers and the trainer first.

    Everything is verified before anything is replaced, and what is replaced is kept. --reread recovers the events since
    the backup that are still in the streams; reading an event again is harmless.
    """
    from worker.maintenance import backup as backups  # loads the client of Redis

    settings = settings_and_log()
    done = backups.restore(settings, source, now=datetime.now(UTC))
    if reread:
        with server(settings) as client:
            backups.reread(client, settings)
    if json:
        replaced = None if done.replaced is None else str(done.replaced)
        output.document(output.fields(done) | {"replaced": replaced, "reread": reread})
        return
    if done.resumed:
        output.note("an interrupted restore was finished; run it again to restore another backup")
    output.line(f"restored the backup of {done.created_at}: {counted(done.files, 'file')}")
    if done.replaced is not None:
        output.note(f"what was there before is in {done.replaced}")


def adopt(json: Json = False) -> None:
    """Have this installation handle the streams of its settings, whichever did before.

    After a store was lost or exchanged, or on purpose. The workers of the other one pause within a minute.
    """
    settings = settings_and_log()
    make_private(settings.state_dir)
    make_private(settings.state_dir / "workers")
    with server(settings) as client, open_store(settings) as opened:
        before = ownership(settings, client, opened).adopt()
    if json:
        output.document({"state_dir": str(settings.state_dir), "before": [str(owner) for owner in before]})
        return
    output.line(f"{settings.state_dir} handles the streams of group {settings.streams.group} from here on")
    for owner in before:
        output.note(f"before, {owner} did: its workers pause within a minute, and what it stored stays there")


def prune(
    dead_letters: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_DAYS, metavar="DAYS", help="Replayed and discarded dead letters older than this."),
    ] = None,
    predictions: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_DAYS, metavar="DAYS", help="Predictions of retired models on closed trades."),
    ] = None,
    events: Annotated[
        int | None,
        typer.Option(
            min=1, max=MOST_DAYS, metavar="DAYS", help="Archived events; default: the archive's own retention."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and drop nothing.")] = False,
    json: Json = False,
) -> None:
    """Drop what is old and not needed. Open dead letters, labels, and what a serving model said are never dropped.

    refinery prune --dead-letters 90 --predictions 365
    """
    from worker.maintenance import prune as pruning  # pruning alone needs it

    settings = settings_and_log()
    days = pruning.Days(dead_letters, predictions, events or settings.archive.retention_days)
    done = pruning.prune(settings, days, now=datetime.now(UTC), dry_run=dry_run)
    if json:
        output.document(output.fields(done) | {"dry_run": dry_run})
    else:
        word = "would be dropped" if dry_run else "dropped"
        output.line(
            f"{word}: {counted(done.dead_letters, 'dead letter')}, {counted(done.predictions, 'prediction')}, "
            f"{counted(done.events, 'event')}"
        )
