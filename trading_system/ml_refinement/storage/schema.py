"""The schema's numbered steps: applied in order, each in one transaction with its record."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from importlib.resources import files
from importlib.resources.abc import Traversable

from trading_system.ml_refinement.storage.connection import Connection
from trading_system.ml_refinement.storage.errors import SchemaMismatch
from trading_system.ml_refinement.storage.times import Clock, utc_text


def steps(prefix: str = "") -> dict[int, str]:
    """The SQL of each step by its number, from the files `migrations/{prefix}NNN_*.sql`."""
    return numbered(files(__package__).joinpath("migrations"), prefix)


def numbered(folder: Traversable, prefix: str = "") -> dict[int, str]:
    """The SQL files of a folder that are named `{prefix}NNN_*.sql`, by number."""
    scripts = {}
    for file in folder.iterdir():
        if match := re.fullmatch(rf"{prefix}(\d+)_\w+\.sql", file.name):
            scripts[int(match[1])] = file.read_text(encoding="utf-8")
    return scripts


def version(connection: Connection) -> int:
    """The last step that was applied; 0 for an empty file."""
    if not connection.query("SELECT 1 FROM sqlite_schema WHERE name = 'ml_schema_migrations'"):
        return 0
    rows = connection.query("SELECT max(version) FROM ml_schema_migrations")
    return int(rows[0][0] or 0)


def made_at(connection: Connection) -> str | None:
    """When the first step was applied, as it was written then; None for an empty file."""
    rows = connection.query("SELECT min(applied_at) FROM ml_schema_migrations")
    return None if rows[0][0] is None else str(rows[0][0])


def installation_id(connection: Connection) -> str:
    """Which store this is: made with it, and the same in its copies."""
    return str(connection.query("SELECT id FROM installation")[0][0])


def migrate(
    connection: Connection,
    scripts: dict[int, str],
    clock: Clock,
    *,
    prepared: Collection[int] = (),
    prepare: Callable[[int], None] | None = None,
) -> list[int]:
    """Apply what is missing; the steps applied by this call. Two processes may start at once.

    Args:
        connection: the file's.
        scripts: the SQL of each step.
        clock: for the record.
        prepared: steps before which `prepare` is called with the step's number, in the step's transaction.
        prepare: what these steps need beside SQL.

    Raises:
        SchemaMismatch: the file was made by a newer release, or is read-only and not up to date.
    """
    applied = []
    newest = max(scripts)
    while (at := version(connection)) != newest:
        if at > newest or connection.read_only:
            raise SchemaMismatch(f"{connection.name}: the schema is at step {at}, this release reads {newest}")
        if (step := _apply_next(connection, scripts, clock, prepared, prepare)) is not None:
            applied.append(step)
    return applied


def _apply_next(
    connection: Connection,
    scripts: dict[int, str],
    clock: Clock,
    prepared: Collection[int],
    prepare: Callable[[int], None] | None,
) -> int | None:
    """One step, chosen under the write lock: another process may have been faster."""
    with connection.atomic():
        done = version(connection)
        step = min((number for number in scripts if number > done), default=None)
        if step is not None:
            if prepare is not None and step in prepared:
                prepare(step)
            connection.query(scripts[step])
            connection.run(
                "INSERT INTO ml_schema_migrations (version, applied_at) VALUES (?, ?)", (step, utc_text(clock()))
            )
        return step
