"""An archive of received events copied with its store, and the events of one added to another."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

from trading_system.ml_refinement.storage.connection import Connection
from trading_system.ml_refinement.storage.errors import StoreRefused, StoreUnavailable
from trading_system.ml_refinement.storage.event_archive import INSERT_BLOCKS, INSERT_EVENTS, EventArchive
from trading_system.ml_refinement.storage.shared.copying import CopiedTable, DifferentRows

#: A row may hold a whole event, or a block of them.
_AT_ONCE = 250
_COLUMNS = {"blocks": "id, newest_at, payload", "events": "id, stream, entry_id, received_at, payload, packed"}


def copy_archive(
    source: EventArchive, target: EventArchive, *, told: Callable[[CopiedTable], None] = lambda _: None
) -> list[CopiedTable]:
    """Copy what the target has not got, under the same numbers. Each row is read back there and compared.

    Rows of an archive never change, so a second copy begins where the first one ended, and is not held up by what it
    brought. What the source has pruned since stays in the copy.

    Raises:
        DifferentRows: the target has other events under these numbers.
        StoreRefused: the target's role may not make partitions.
    """
    here, there = source.engine.connection, target.engine.connection
    oldest, last = here.query(SPAN)[0]
    if last is None:
        return []
    # So that what is old lies in partitions too.
    target.make_ahead(since=datetime.fromisoformat(oldest))
    done = []
    # The blocks first, and no event that came since: none stands in a block that is not there.
    for table, upto in (("blocks", _last(here, "blocks")), ("events", last)):
        done.append(_copy_table(here, there, table, upto))
        told(done[-1])
    target.engine.go_on_numbering()
    return done


def _copy_table(here: Connection, there: Connection, table: str, upto: int) -> CopiedTable:
    kept = there.query(LAST.format(table=table))[0][0]
    begin = None if kept is None else here.query(BEGIN.format(table=table), (kept, _AT_ONCE))[0][0]
    rows, already = _copy_after(here, there, table, _before_all(here, table) if begin is None else begin, upto)
    if _lacks(here, there, table, upto):  # events were added below what was copied, or an earlier copy is no copy
        rows, already = _copy_after(here, there, table, _before_all(here, table), upto)
    if _lacks(here, there, table, upto):
        raise DifferentRows(f"{table}: {there.name} has not got what {here.name} has")
    return CopiedTable(table, rows, already)


def _copy_after(here: Connection, there: Connection, table: str, after: int, upto: int) -> tuple[int, int]:
    """Copy the rows from one number on; how many there are, and how many were there already."""
    rows = already = 0
    parts = {"table": table, "names": _COLUMNS[table]}
    while chunk := here.query(AFTER.format(**parts), (after, upto, _AT_ONCE)):
        bounds = chunk[0][0], chunk[-1][0]
        known = there.query(BETWEEN.format(**parts), bounds)
        if known == chunk:
            already += len(chunk)
        else:
            with there.atomic():
                there.write_rows(INSERT_BLOCKS if table == "blocks" else INSERT_EVENTS, chunk)
            if not set(chunk) <= set(there.query(BETWEEN.format(**parts), bounds)):
                raise DifferentRows(
                    f"{table}: {there.name} has other rows than {here.name} from number {chunk[0][0]} on: "
                    "it has received events of its own"
                )
        rows += len(chunk)
        after = chunk[-1][0]
    return rows, already


def _lacks(here: Connection, there: Connection, table: str, upto: int) -> bool:
    first = _before_all(here, table)
    count = COUNT.format(table=table)
    return int(here.query(count, (first, upto))[0][0]) > int(there.query(count, (first, upto))[0][0])


def _before_all(connection: Connection, table: str) -> int:
    return int(connection.query(FIRST.format(table=table))[0][0]) - 1


def _last(connection: Connection, table: str) -> int:
    return int(connection.query(LAST.format(table=table))[0][0] or 0)


def add_archive(source: EventArchive, target: EventArchive, *, told: Callable[[int], None] = lambda _: None) -> int:
    """Add the events of an archive to another one, each once; how many were new there.

    They are numbered before all that it has: whoever follows what is received does not take them for it. May be
    repeated, also after it was broken off, and beside processes that use the target.

    Args:
        source: it is only read.
        target: gets the events.
        told: called with how many were looked at so far.

    Raises:
        StoreDamaged: an event of the source cannot be unpacked; those that were kept after it have been added.
    """
    oldest, last = source.engine.connection.query(SPAN)[0]
    if last is None:
        return 0
    with suppress(StoreRefused, StoreUnavailable):  # the default partition takes them too
        target.make_ahead(since=datetime.fromisoformat(oldest))
    new, seen, before = 0, 0, int(last) + 1
    while rows := source.before(before, limit=_AT_ONCE):
        new += target.add_older([event for _, event in rows])
        seen, before = seen + len(rows), rows[-1][0]
        told(seen)
    return new


# Tables and columns are those of our own schema; every value is bound.
SPAN = "SELECT min(received_at), max(id) FROM events"
FIRST = "SELECT coalesce(min(id), 0) FROM {table}"
LAST = "SELECT max(id) FROM {table}"
#: Some rows before the last one that was copied: a copy that was broken off had not compared them.
BEGIN = "SELECT min(id) - 1 FROM (SELECT id FROM {table} WHERE id <= ? ORDER BY id DESC LIMIT ?) AS newest"
AFTER = "SELECT {names} FROM {table} WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"
BETWEEN = "SELECT {names} FROM {table} WHERE id >= ? AND id <= ? ORDER BY id"
COUNT = "SELECT count(*) FROM {table} WHERE id > ? AND id <= ?"
