"""The command `import`: a desk's past into the streams."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli import output
from worker.cli.options import Json, settings_and_log
from worker.errors import RefineryError
from worker.redis_server.connection import server

if TYPE_CHECKING:
    from worker.importing.columns import Layout
    from worker.importing.result import ImportResult


_SHOWN_GROUPS = 20


def import_(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="CSV or Parquet: signals, their trades, or both in a row.")
    ],
    map_: Annotated[
        list[str] | None, typer.Option("--map", help="FIELD=COLUMN, where a column is not called like its field.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="FIELD=VALUE, the same for every row.")] = None,
    zone: Annotated[str | None, typer.Option(help="Time zone of times without an offset; else UTC.")] = None,
    time_format: Annotated[
        str | None, typer.Option(help="Form of times, as %d/%m/%Y %H:%M; else ISO 8601 or since 1970.")
    ] = None,
    delimiter: Annotated[str | None, typer.Option(help="Between columns; else seen from the first line.")] = None,
    decimal: Annotated[str | None, typer.Option(help="Before the decimals of a number; else a point.")] = None,
    columns: Annotated[
        Path | None, typer.Option(help="File that remembers all this; else refinery-import.toml beside FILE.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only say what would be refused; send nothing.")] = False,
    give_up_after: Annotated[
        float, typer.Option("--patience", min=1, max=86_400, help="Seconds that nothing may be handled.")
    ] = 60.0,
    json: Json = False,
) -> None:
    """Import a desk's past: rows become events, and go through the same streams and checks as live ones.

    A row has a signal (timestamp, symbol, asset_class, signal_type, ...), its trade (closed_at, r_multiple, ...), or
    both. Importing a file twice applies nothing twice. A worker has to run, as with refinery up.

    refinery import trades.csv --set asset_class=equity --map timestamp="Entry time" --zone America/New_York --check

    \f
    Raises:
        RefineryError: a file cannot be read, or nobody handles events; typer.Exit: something was refused, with code 1.
    """
    from worker.importing.columns import REMEMBERED, read_layout  # reads no settings, and few commands need it
    from worker.importing.run import import_history, read_files  # loads numpy

    settings = settings_and_log()
    remembered = columns or files[0].parent / REMEMBERED
    before = read_layout(remembered)
    layout = before.with_options(
        columns=map_ or (),
        values=set_ or (),
        zone=zone,
        time_format=time_format,
        delimiter=delimiter,
        decimal=decimal,
    )
    with output.progress("reading", unit="rows") as progress:
        history, result = read_files(settings, files, layout, progress=progress)
    if layout != before:
        _remember(remembered, layout)
    if not check:
        total = len(history.signals) + len(history.trades)
        try:
            with server(settings) as client, output.progress("importing", unit="events", total=total) as progress:
                import_history(settings, client, history, result, patience_s=give_up_after, progress=progress)
        except KeyboardInterrupt:
            raise RefineryError("stopped; import again to go on: nothing is applied twice") from None
    _report(result, check=check, json=json)
    if result.refused:
        raise typer.Exit(1)


def _remember(path: Path, layout: Layout) -> None:
    try:
        path.write_text(layout.to_toml(), encoding="utf-8")
    except OSError as error:
        output.note(f"the columns are not remembered: {path}: {error.strerror}")
    else:
        output.note(f"the columns are remembered in {path}")


def _report(result: ImportResult, *, check: bool, json: bool) -> None:
    if json:
        output.document(_document(result, check=check))
        return
    for note in result.notes:
        output.note(note)
    counts = output.new_table("", "valid", *(() if check else ("known", "sent", "applied")))
    for name, one in (("signals", result.signals), ("trades", result.trades)):
        told = (one.valid,) if check else (one.valid, one.known, one.sent, one.applied)
        counts.add_row(name, *(f"{number:,}" for number in told))
    output.table(counts)
    if result.refused:
        refused = output.new_table("refused", "reason", "rows", "such as")
        groups = result.groups()
        for group in groups[:_SHOWN_GROUPS]:
            refused.add_row(f"{group.count:,}", group.reason, ", ".join(group.places), group.example)
        output.table(refused)
        if len(groups) > _SHOWN_GROUPS:
            output.line(f"and {len(groups) - _SHOWN_GROUPS:,} more reasons or symbols: --json has all of them")
    repeated = f", {result.repeated:,} said again what another row says" if result.repeated else ""
    output.line(f"{result.rows:,} rows{repeated}; {len(result.refused):,} refused")
    if result.waiting:
        output.line(f"{result.waiting:,} trades are of signals that never came: they wait for them")
    if check and not result.refused:
        output.line("nothing was sent; without --check it is imported")


def _document(result: ImportResult, *, check: bool) -> dict[str, Any]:
    return {
        "checked_only": check,
        "rows": result.rows,
        "repeated": result.repeated,
        "signals": output.fields(result.signals),
        "trades": output.fields(result.trades),
        "waiting": result.waiting,
        "refused": len(result.refused),
        "reasons": [output.fields(group) for group in result.groups()],
        "notes": result.notes,
    }
