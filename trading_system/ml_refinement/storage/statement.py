"""A statement in the words of both engines."""

from __future__ import annotations

from typing import Any, Self


class Statement(str):
    """SQL as SQLite reads it, with PostgreSQL's text beside it where that differs in more than form.

    Attributes:
        postgres: the text for PostgreSQL, parameters in the same order.
    """

    __slots__ = ("postgres",)

    postgres: str

    def __new__(cls, sqlite: str, *, postgres: str) -> Self:
        statement = super().__new__(cls, sqlite)
        statement.postgres = postgres
        return statement

    def format(self, *args: Any, **parts: Any) -> Statement:
        """Both texts, filled in with the same parts."""
        return Statement(super().format(*args, **parts), postgres=self.postgres.format(*args, **parts))

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other) and self.postgres == getattr(other, "postgres", None)

    def __hash__(self) -> int:
        return super().__hash__()
