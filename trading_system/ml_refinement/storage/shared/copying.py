"""A store copied into another one, whichever engines hold them: how one moves to a server, and away from it again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import orjson

from trading_system.ml_refinement.storage.connection import Connection, Row
from trading_system.ml_refinement.storage.counters import count_inserted, totals
from trading_system.ml_refinement.storage.errors import StoreError
from trading_system.ml_refinement.storage.feature_db import FeatureDatabase

#: Every table but those of the schema itself and the leases, which are of processes that run; with what its rows are
#: told apart by. What others refer to comes first. Counters are copied by their values, since engines keep them
#: differently, and last: the rows' own triggers have counted too. So is whose store it is: until then nobody works on
#: the copy.
TABLES: dict[str, tuple[str, ...]] = {
    "feature_lists": ("id",),
    "feature_vectors": ("id",),
    "model_registry": ("id",),
    "artefacts": ("sha256",),
    "feature_definitions": ("id",),
    "training_runs": ("id",),
    "prediction_log": ("id",),
    "served_scores": ("vector_id",),
    "trade_outcomes": ("signal_id", "revision"),
    "waiting_payloads": ("signal_id", "revision"),
    "virtual_outcomes": ("signal_id",),
    "duplicate_events": ("stream", "entry_id"),
    "promotions": ("id",),
    "dead_letters": ("id",),
    "dead_letter_audit": ("id",),
    "replays": ("dead_letter_id", "number"),
    "replay_requests": ("id",),
    "attempts": ("stream", "entry_id"),
    "marks": ("name",),
    "monitoring_reports": ("id",),
    "tuning_trials": ("study", "number"),
    "quarantine": ("id",),
    "notifications": ("id",),
    "notification_counts": ("result",),
    "installation": ("only_row",),
}
_APPEND_ONLY = ("promotions", "dead_letter_audit")
_AT_ONCE = 2_000


class CopiedTable(NamedTuple):
    """What came of a table: its rows, and how many of them were there already."""

    name: str
    rows: int
    already: int


class DifferentRows(StoreError):
    """Source and copy do not say the same: the source was written to meanwhile, or the copy by somebody else."""


def copy_store(
    source: FeatureDatabase,
    target: FeatureDatabase,
    *,
    told: Callable[[CopiedTable], None] = lambda _: None,
    archive: Callable[[], list[CopiedTable]] = list,
) -> list[CopiedTable]:
    """Copy every row, and then compare both row by row. What an interrupted copy left is gone on from.

    Nothing may write to the source meanwhile. The copy is the same installation as the source: only one of the two may
    work from then on, which Redis sees to.

    Args:
        source: a store with its schema up to date.
        target: one with its schema up to date, with nothing in it but what an earlier copy of this source left.
        told: called after each table.
        archive: copies the archive that belongs to the source, once it is certain that the target may be written to.

    Raises:
        StoreError: the target is another installation's, with signals or models of its own.
        DifferentRows: the two do not say the same.
    """
    here, there = source.engine.connection, target.engine.connection
    begun = f"copy of {source.installation_id()}"
    _refuse_another(source, target, begun)
    target.marks.put(begun, 1)
    done = archive()
    for table, key in TABLES.items():
        done.append(_copy_table(here, there, table, key))
        told(done[-1])
    done.append(_copy_counters(here, there))
    told(done[-1])
    there.run("DELETE FROM marks WHERE name = ?", (begun,))
    target.engine.go_on_numbering([table for table, key in TABLES.items() if key == ("id",)])
    different = [table for table, key in TABLES.items() if _digest(here, table, key) != _digest(there, table, key)]
    for table in different or (["counters"] if totals(here) != totals(there) else []):
        raise DifferentRows(
            f"{table}: {there.name} does not say what {here.name} says: stop everything that writes, and copy again"
        )
    return done


def _copy_counters(here: Connection, there: Connection) -> CopiedTable:
    counted = totals(here)
    with there.atomic():
        already = totals(there)
        for name, value in counted.items():
            count_inserted(there, name, value - already.get(name, 0))
    return CopiedTable("counters", len(counted), sum(already.get(name) == value for name, value in counted.items()))


def _refuse_another(source: FeatureDatabase, target: FeatureDatabase, begun: str) -> None:
    if source.installation_id() == target.installation_id() or target.marks.get(begun):
        return
    counts = target.counts()
    if counts.signals or counts.outcomes or counts.dead_letters or target.models.history(limit=1):
        raise StoreError(f"the target is another installation, with {counts.signals:,} signals: name an empty store")


def _copy_table(here: Connection, there: Connection, table: str, key: tuple[str, ...]) -> CopiedTable:
    names = here.columns_of(table)
    others = [name for name in names if name not in key]
    # What was copied while the source was still written to may say something else by now; what only grows does not.
    told_again = "NOTHING" if table in _APPEND_ONLY or not others else f"UPDATE SET {_from_excluded(others)}"
    # Table and columns are those of our own schema.
    insert = (
        f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))}) "  # noqa: S608
        f"ON CONFLICT ({', '.join(key)}) DO {told_again}"
    )
    places = [names.index(name) for name in key]
    between = _BETWEEN.format(names=", ".join(names), table=table, **_parts(key))
    rows = already = 0
    for chunk in _in_order(here, table, names, key):
        bounds = [chunk[at][place] for at in (0, -1) for place in places]
        if there.query(between, bounds) == chunk:
            already += len(chunk)
        else:
            with there.atomic():
                there.write_rows(insert, chunk)
        rows += len(chunk)
    return CopiedTable(table, rows, already)


def _from_excluded(names: list[str]) -> str:
    return ", ".join(f"{name} = excluded.{name}" for name in names)


def _in_order(connection: Connection, table: str, names: list[str], key: tuple[str, ...]) -> Iterator[list[Row]]:
    """The rows by their key, some thousands at a time, each time from where the last ended."""
    places = [names.index(name) for name in key]
    chunk = connection.query(_FIRST.format(names=", ".join(names), table=table, **_parts(key)), (_AT_ONCE,))
    after = _AFTER.format(names=", ".join(names), table=table, **_parts(key))
    while chunk:
        yield chunk
        chunk = connection.query(after, (*(chunk[-1][place] for place in places), _AT_ONCE))


def _digest(connection: Connection, table: str, key: tuple[str, ...]) -> str:
    """Of every row in the order of its key, whichever engine has it."""
    names = sorted(connection.columns_of(table))
    digest = hashlib.blake2b(digest_size=16)
    for chunk in _in_order(connection, table, names, key):
        for row in chunk:
            digest.update(orjson.dumps([cell.hex() if isinstance(cell, bytes) else cell for cell in row]))
    return digest.hexdigest()


def _parts(key: tuple[str, ...]) -> dict[str, str]:
    return {"key": ", ".join(key), "marks": ", ".join("?" * len(key))}


# Tables and columns are those of our own schema; every value is bound.
_FIRST = "SELECT {names} FROM {table} ORDER BY {key} LIMIT ?"
_AFTER = "SELECT {names} FROM {table} WHERE ({key}) > ({marks}) ORDER BY {key} LIMIT ?"
_BETWEEN = "SELECT {names} FROM {table} WHERE ({key}) >= ({marks}) AND ({key}) <= ({marks}) ORDER BY {key}"
