"""The schema in PostgreSQL: its numbered steps, and whether it is this release's."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from trading_system.ml_refinement.storage.errors import SchemaMismatch
from trading_system.ml_refinement.storage.postgres.connection import PostgresConnection
from trading_system.ml_refinement.storage.schema import numbered

#: What brings a schema up to date, as messages name it.
COMMAND = "refinery store upgrade"


def steps() -> dict[int, str]:
    """The SQL of each step by its number."""
    return numbered(files(__package__).joinpath("migrations"))


def at_step(connection: PostgresConnection) -> int:
    """The last step that was applied; 0 where there is no schema."""
    table = f"{connection.schema}.ml_schema_migrations"
    if connection.query("SELECT CAST(to_regclass(?) AS text)", (table,))[0][0] is None:
        return 0
    return int(connection.query("SELECT coalesce(max(version), 0) FROM ml_schema_migrations")[0][0])


def check_schema(connection: PostgresConnection) -> None:
    """See that the schema is this release's.

    Raises:
        SchemaMismatch: it is older, newer, or not there.
    """
    at = at_step(connection)
    if at != max(steps()):
        raise SchemaMismatch(mismatch(connection, at))


def mismatch(connection: PostgresConnection, at: int) -> str:
    """What is wrong with a schema that is at another step."""
    newest = max(steps())
    if at == 0:
        return f"{connection.name}: there is no store in this schema yet: run `{COMMAND}`"
    if at < newest:
        return f"{connection.name}: the schema is at step {at}, this release needs {newest}: run `{COMMAND}`"
    return f"{connection.name}: the schema is at step {at}, this release reads {newest}: a newer release made it"


def number_after(connection: PostgresConnection, tables: Sequence[str]) -> None:
    """Have new rows of the tables numbered after those that came with their numbers."""
    with connection.atomic():
        for table in tables:
            connection.query(GO_ON.format(table=table))


# Tables are those of our own schema.
GO_ON = """
    SELECT setval(pg_get_serial_sequence('{table}', 'id'),
        greatest(coalesce((SELECT max(id) FROM {table}), 0), 0) + 1, false)"""
