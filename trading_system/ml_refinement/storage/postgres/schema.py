"""The schema's numbered steps in PostgreSQL. Only an operator's command applies them; everything else checks."""

from __future__ import annotations

from importlib.resources import files

from trading_system.ml_refinement.storage.errors import SchemaMismatch
from trading_system.ml_refinement.storage.postgres.connection import PostgresConnection
from trading_system.ml_refinement.storage.schema import numbered
from trading_system.ml_refinement.storage.times import Clock, utc_text

#: What brings a schema up to date, as messages name it.
COMMAND = "refinery store upgrade"


def steps() -> dict[int, str]:
    """The SQL of each step by its number."""
    return numbered(files(__package__).joinpath("migrations"))


def version(connection: PostgresConnection) -> int:
    """The last step that was applied; 0 where there is no schema."""
    table = f"{connection.schema}.ml_schema_migrations"
    if connection.query("SELECT CAST(to_regclass(?) AS text)", (table,))[0][0] is None:
        return 0
    return int(connection.query("SELECT coalesce(max(version), 0) FROM ml_schema_migrations")[0][0])


def upgrade(connection: PostgresConnection, clock: Clock) -> list[int]:
    """Apply what is missing, all of it or nothing; the steps applied. Two that start at once take turns.

    Raises:
        SchemaMismatch: the schema was made by a newer release.
        StoreRefused: the role may not make what is needed.
    """
    scripts = steps()
    with connection.atomic():
        done = version(connection)
        if done > max(scripts):
            raise SchemaMismatch(_told(connection, done, max(scripts)))
        missing = [number for number in sorted(scripts) if number > done]
        if done == 0 and missing:
            connection.execute_script(f"CREATE SCHEMA IF NOT EXISTS {connection.schema}")
        for number in missing:
            connection.execute_script(scripts[number])
            connection.run(APPLIED, (number, utc_text(clock())))
    return missing


def check(connection: PostgresConnection) -> None:
    """See that the schema is this release's.

    Raises:
        SchemaMismatch: it is older, newer, or not there.
    """
    at, newest = version(connection), max(steps())
    if at != newest:
        raise SchemaMismatch(_told(connection, at, newest))


def _told(connection: PostgresConnection, at: int, newest: int) -> str:
    if at == 0:
        return f"{connection.name}: there is no store in this schema yet: run `{COMMAND}`"
    if at < newest:
        return f"{connection.name}: the schema is at step {at}, this release needs {newest}: run `{COMMAND}`"
    return f"{connection.name}: the schema is at step {at}, this release reads {newest}: a newer release made it"


APPLIED = "INSERT INTO ml_schema_migrations (version, applied_at) VALUES (?, ?)"
