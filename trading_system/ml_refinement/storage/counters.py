"""How much there is of everything, read in one step."""

from __future__ import annotations

from dataclasses import dataclass

from trading_system.ml_refinement.storage.connection import Connection
from trading_system.ml_refinement.storage.statement import Statement


@dataclass(frozen=True, slots=True)
class StoreCounts:
    """Kept by triggers and by what inserts in batches, so that reading them costs the same in a store of any size.

    `labels_total` counts labelled and complete vectors, each at its first label, and never falls: a training run's
    watermark is taken from it. `newest_label` is when the last trade closed, as the store's text;
    `quarantined` counts the rows of another program that were kept aside.
    """

    signals: int
    labelled: int
    labels_total: int
    incomplete: int
    predictions: int
    outcomes: int
    waiting_outcomes: int
    duplicates: int
    dead_letters: int
    dead_letters_open: int
    quarantined: int
    newest_label: str | None


def read_counts(connection: Connection, *, now: str) -> StoreCounts:
    """All counters at one moment; an outcome of a later time than `now` is not the newest."""
    with connection.snapshot() as reads:
        counters = totals(reads)
        newest = reads.query(NEWEST_LABEL, (now,))[0][0]
    return StoreCounts(**counters, newest_label=newest)


def totals(connection: Connection) -> dict[str, int]:
    """Every counter by its name."""
    return dict(connection.query(COUNTERS))


def count_inserted(connection: Connection, name: str, rows: int) -> None:
    """Add to a counter that no trigger keeps; belongs in the transaction that inserted the rows."""
    if rows:
        connection.run(ADD, (rows, name))


ADD = Statement(
    "UPDATE counters SET value = value + ? WHERE name = ?",
    postgres="SELECT add_to_counter(CAST(?2 AS text), CAST(?1 AS bigint))",
)
# In PostgreSQL each shard has rows of its own, of which one alone may be below zero.
COUNTERS = "SELECT name, CAST(sum(value) AS bigint) FROM counters GROUP BY name"
NEWEST_LABEL = "SELECT max(label_time) FROM feature_vectors WHERE label_time IS NOT NULL AND label_time <= ?"
