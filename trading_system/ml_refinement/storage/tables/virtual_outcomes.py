"""What the bars after a signal say that its trade would have come to, beside what trades reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from trading_system.ml_refinement.storage.connection import Connection, Row, id_list
from trading_system.ml_refinement.storage.packing import fill
from trading_system.ml_refinement.storage.tables.vectors import feature_lists
from trading_system.ml_refinement.storage.times import Clock, parse_bound, us_array, us_from_text, utc_text
from trading_system.ml_refinement.typing import FloatArray, StringArray, TimeArray

#: Of a signal's type and asset class, the version that its virtual outcome is of now.
VersionOf = Callable[[str, str], str]

_AT_ONCE = 5_000


class VirtualOutcomeRow(NamedTuple):
    """How a signal's virtual trade ended. `r` and `known_at`, the store's text, are None where there was no trade."""

    signal_id: str
    r: float | None
    ended: str
    known_at: str | None
    version: str


class WalkedSignal(NamedTuple):
    """A stored signal as the labelling looks at it; `version` is that of its virtual outcome, None without one."""

    id: int
    signal_id: str
    timestamp: str
    symbol: str
    asset_class: str
    signal_type: str
    entry_id: str | None
    event_hash: bytes | None
    version: str | None


class Holding(NamedTuple):
    """How long a trade that closed was open, by its signal's type."""

    signal_type: str
    days: float


@dataclass(frozen=True, slots=True)
class VirtualRows:
    """Complete vectors of one feature version without a reported outcome and with a virtual one, by signal time.

    X is (n, f), NaN where a vector lacks the feature; `r` (n,); `timestamp_us` (n,) when the signal was known and
    `known_us` (n,) when the bar that ended the trade had closed; `signal_types` (n,).
    """

    X: FloatArray
    r: FloatArray
    signal_ids: list[str]
    timestamp_us: TimeArray
    known_us: TimeArray
    signal_types: StringArray


@dataclass(frozen=True, slots=True)
class BothOutcomes:
    """Signals that have a reported and a virtual outcome, in the order their trades closed; every array is (n,)."""

    timestamp_us: TimeArray
    closed_us: TimeArray
    known_us: TimeArray
    reported_r: FloatArray
    virtual_r: FloatArray


class VirtualOutcomes:
    """The table `virtual_outcomes`."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    def signals(self, since: str, until: str) -> Iterator[list[WalkedSignal]]:
        """Signals with `since` <= time <= `until`, the store's text, oldest first and some thousands at a time."""
        after: tuple[str, int] = (since, -1)
        while rows := self._connection.query(SIGNALS, (*after, until, _AT_ONCE)):
            yield [_walked(row) for row in rows]
            after = (rows[-1][2], rows[-1][0])

    def put(self, rows: Sequence[VirtualOutcomeRow], *, again: bool = False) -> None:
        """Keep the outcomes. One of the same version stays as it was, unless it is walked `again` on purpose.

        Raises:
            ValueError: a time is not of the store's form.
            ConstraintRefused: a signal is not stored, or an R is not finite; nothing was kept.
        """
        for row in rows:
            if row.known_at is not None:
                us_from_text(row.known_at)
        now = utc_text(self._clock())
        with self._connection.atomic():
            self._connection.run_many(PUT, [(*row, now, again) for row in rows])

    def forget(self, signal_ids: Sequence[str]) -> None:
        """Drop the outcomes of these signals: what they were labelled by does not hold any more."""
        if signal_ids:
            with self._connection.atomic():
                self._connection.run(FORGET, (id_list(signal_ids),))

    def counts(self) -> dict[str, int]:
        """How many there are, by how they ended."""
        return dict(self._connection.query("SELECT ended, count(*) FROM virtual_outcomes GROUP BY ended"))

    def holdings(self, newest: int) -> list[Holding]:
        """How long the trades were open that closed last, newest first."""
        rows = self._connection.query(HOLDINGS, (newest,))
        us = us_array([row[2] for row in rows]) - us_array([row[1] for row in rows])
        return [Holding(row[0] or "", float(one) / 86_400e6) for row, one in zip(rows, us.tolist(), strict=True)]

    def both(self, newest: int, version_of: VersionOf) -> BothOutcomes:
        """Signals with both outcomes, of the trades that closed last; those of another version are left out."""
        rows = [row for row in self._connection.query(BOTH, (newest,)) if row[5] == version_of(row[6], row[7])][::-1]
        entered, closed, known, reported, virtual = (
            (list(column) for column in zip(*(row[:5] for row in rows), strict=True)) if rows else ([],) * 5
        )
        return BothOutcomes(
            us_array(entered),
            us_array(closed),
            us_array(known),
            np.array(reported, dtype=float),
            np.array(virtual, dtype=float),
        )

    def training_rows(
        self, *, feature_version: str, names: Sequence[str], version_of: VersionOf, start: str | None = None
    ) -> VirtualRows:
        """What may be trained on beside the reported outcomes; `start` as `parse_bound` reads it."""
        columns = tuple(names)
        kept: list[Row] = []
        parts = [np.empty((0, len(columns)))]
        bound = parse_bound(start, end=False) if start else ""
        with self._connection.snapshot() as reads:
            lists = feature_lists(reads)
            for chunk in reads.chunks(TRAINING, (bound, feature_version)):
                current = [row for row in chunk if row[8] == version_of(row[7], row[9])]
                X = np.full((len(current), len(columns)), np.nan)
                fill(X, current, columns, lists)
                parts.append(X)
                kept += [row[3:8] for row in current]
        ids, entered, known, r, types = (list(column) for column in zip(*kept, strict=True)) if kept else ([],) * 5
        return VirtualRows(
            np.concatenate(parts),
            np.array(r, dtype=float),
            ids,
            us_array(entered),
            us_array(known),
            np.array(types, dtype=np.str_),
        )


# The literals are ours alone; every value is bound.
SIGNALS = """
    SELECT v.id, v.signal_id, v.timestamp, v.symbol, v.asset_class, v.signal_type, v.entry_id, v.event_hash, o.version
    FROM feature_vectors AS v INDEXED BY idx_fv_timestamp
    LEFT JOIN virtual_outcomes AS o ON o.signal_id = v.signal_id
    WHERE (v.timestamp, v.id) > (?, ?) AND v.timestamp <= ? ORDER BY v.timestamp, v.id LIMIT ?"""
PUT = """
    INSERT INTO virtual_outcomes (signal_id, r, ended, known_at, version, labelled_at) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (signal_id) DO UPDATE
    SET r = excluded.r, ended = excluded.ended, known_at = excluded.known_at, version = excluded.version,
        labelled_at = excluded.labelled_at
    WHERE virtual_outcomes.version <> excluded.version OR CAST(? AS INTEGER) = 1"""
FORGET = "DELETE FROM virtual_outcomes WHERE signal_id IN (SELECT value FROM json_each(?))"
HOLDINGS = """
    SELECT signal_type, timestamp, label_time FROM feature_vectors INDEXED BY idx_fv_label_time
    WHERE label_time IS NOT NULL ORDER BY label_time DESC LIMIT ?"""
BOTH = """
    SELECT v.timestamp, v.label_time, o.known_at, v.target_r_multiple, o.r, o.version, coalesce(v.signal_type, ''),
        coalesce(v.asset_class, '')
    FROM feature_vectors AS v INDEXED BY idx_fv_label_time CROSS JOIN virtual_outcomes AS o ON o.signal_id = v.signal_id
    WHERE v.label_time IS NOT NULL AND v.target_r_multiple IS NOT NULL AND o.r IS NOT NULL
    ORDER BY v.label_time DESC LIMIT ?"""
TRAINING = """
    SELECT v.list_id, v.packed, CASE WHEN v.packed IS NULL THEN v.features END, v.signal_id, v.timestamp, o.known_at,
        o.r, coalesce(v.signal_type, ''), o.version, coalesce(v.asset_class, '')
    FROM feature_vectors AS v INDEXED BY idx_fv_timestamp CROSS JOIN virtual_outcomes AS o ON o.signal_id = v.signal_id
    WHERE v.timestamp >= ? AND v.feature_version = ? AND v.complete = 1 AND v.target_r_multiple IS NULL
        AND o.r IS NOT NULL
    ORDER BY v.timestamp, v.signal_id"""


def _walked(row: Row) -> WalkedSignal:
    texts = (text or "" for text in row[3:6])
    return WalkedSignal(*row[:3], *texts, *row[6:])
