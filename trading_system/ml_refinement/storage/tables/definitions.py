"""What each feature means, as the extractors declare it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from trading_system.ml_refinement.storage.connection import Connection
from trading_system.ml_refinement.storage.json_text import finite_json
from trading_system.ml_refinement.storage.times import Clock, utc_text


@dataclass(frozen=True, slots=True)
class DefinitionRow:
    """One feature: what it means (`description`), how it is computed, and the data it needs."""

    name: str
    category: str
    description: str
    computation: str
    dependencies: tuple[str, ...]
    data_type: str = "float"


class Definitions:
    """The table `feature_definitions`."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    def put(self, rows: Sequence[DefinitionRow]) -> None:
        """Enter the definitions, over those of the same names; the time of the first entry stays."""
        now = utc_text(self._clock())
        params = [
            (r.name, r.category, r.description, r.data_type, r.computation, finite_json(list(r.dependencies)), now)
            for r in rows
        ]
        with self._connection.atomic():
            self._connection.run_many(PUT, params)

    def all(self) -> list[DefinitionRow]:
        """Every definition, by category and name."""
        return [
            DefinitionRow(name, category, description, computation, tuple(orjson.loads(needs)), data_type)
            for name, category, description, computation, needs, data_type in self._connection.query(ALL)
        ]


PUT = """
    INSERT INTO feature_definitions (name, category, description, data_type, computation, dependencies, created_at)
    VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (name) DO UPDATE SET category = excluded.category, description = excluded.description,
        data_type = excluded.data_type, computation = excluded.computation, dependencies = excluded.dependencies"""
ALL = """
    SELECT name, category, description, computation, dependencies, data_type
    FROM feature_definitions ORDER BY category, name"""
