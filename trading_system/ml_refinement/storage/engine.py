"""What an engine does and tells of a store as a whole; the tables ask its connection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from trading_system.ml_refinement.storage.connection import Connection
from trading_system.ml_refinement.storage.times import Clock


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """Whether a server keeps what it says it kept, and what it costs.

    `synchronous_standbys` is the server's setting, empty where a commit waits for nobody else; `orphans` are rows of
    hot tables that refer to nothing, a thousand at most: what foreign keys would have refused.
    """

    version: str
    fsync: bool
    full_page_writes: bool
    synchronous_commit: str
    standby: bool
    standbys: int
    synchronous_standbys: str
    size_bytes: int
    orphans: int


class Engine(ABC):
    """One engine with one store.

    Attributes:
        connection: what everything is asked through.
        on_a_server: whether a server holds the store, which may change behind its address, and not a file.
    """

    connection: Connection
    on_a_server: ClassVar[bool]

    @abstractmethod
    def initialize(self, clock: Clock) -> None:
        """Have the schema up to date, or refuse the store.

        Raises:
            SchemaMismatch: a newer release made it, or it is only checked here and is not up to date.
        """

    @abstractmethod
    def upgrade(self, clock: Clock, *, shards: int = 1) -> list[int]:
        """Bring the schema up to date on purpose; the steps that were applied.

        Args:
            clock: the present.
            shards: how many a store has that is made by this.

        Raises:
            SchemaMismatch: a newer release made it.
            StoreRefused: the server's role may not make what is needed.
        """

    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """Bytes on disk of what holds the store, by name."""

    def shards(self) -> int:
        """How many transactions of different shards may write at the same time."""
        return 1

    def damage(self) -> str | None:
        """The first damage that a quick check finds; None for a sound store, and where only the server can tell."""
        return None

    def timeline(self) -> str:
        """Which server's history the store is of: another one after a standby took over; empty without a server.

        Raises:
            StoreUnavailable: the server is away.
        """
        return ""

    def place_id(self) -> str:
        """Where on which server the store is: the same on its standbys; empty without one."""
        return ""

    def facts(self) -> ServerFacts | None:
        """What can be seen of the server; None without one."""
        return None

    def go_on_numbering(self, tables: Sequence[str]) -> None:  # noqa: B027 - most engines do so by themselves
        """Have new rows numbered after those that came with their numbers."""


class ArchiveEngine(ABC):
    """One engine with one archive of received events.

    Attributes:
        connection: what everything is asked through.
    """

    connection: Connection

    @abstractmethod
    def initialize(self, clock: Clock) -> None:
        """Have the schema up to date, or refuse the archive.

        Raises:
            SchemaMismatch: a newer release made it, or it is only checked here and is not up to date.
        """

    def make_ahead(self, now: datetime, *, since: datetime | None = None) -> list[str]:  # noqa: ARG002 - for engines with parts
        """Make the parts that events of the next months go to, and of the months since a moment; those that were made.

        Raises:
            StoreRefused: the server's role may not make them.
            StoreUnavailable: they cannot be made now.
        """
        return []

    def missing(self, now: datetime) -> list[str]:  # noqa: ARG002 - for engines with parts
        """The parts of the next months that are not there."""
        return []

    def drop_before(self, table: str, bound: datetime) -> int:  # noqa: ARG002 - for engines with parts
        """Drop the parts in which everything is older; how many rows they had."""
        return 0

    def go_on_numbering(self) -> None:  # noqa: B027 - most engines do so by themselves
        """Have new rows numbered after those that came with their numbers."""
