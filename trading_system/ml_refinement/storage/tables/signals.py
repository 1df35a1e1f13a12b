"""Signals as they are looked for: what they were and when they were known, apart from their features."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from trading_system.ml_refinement.storage.connection import Connection, Row
from trading_system.ml_refinement.storage.json_text import finite_json, read_features
from trading_system.ml_refinement.storage.times import parse_bound

#: What a listing is in the order of, the last first.
Order = Literal["id", "timestamp", "signal_id"]
#: So many signals are looked at between two looks at the clock.
_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class FoundPlace:
    """Where a signal stands in each order."""

    id: int
    timestamp: str
    signal_id: str


@dataclass(frozen=True, slots=True)
class SignalFilter:
    """Which signals; empty text is no condition.

    `signal_id` is how the id begins; `since` and `until` bound the signal's time, as `parse_bound` reads them. `kind`
    is an asset class or a signal type; `outcome` is `won`, `lost` or `open`; `model_id` served its score, and the score
    is at least `score_from` and at most `score_to`.

    One of the conditions is answered by an index, and signals come in that index's order, the last first, so that no
    page is of more rows than it shows: by id where an id's beginning is given, else by time where that is bounded, else
    as they came in.
    """

    signal_id: str = ""
    symbol: str = ""
    since: str = ""
    until: str = ""
    kind: str = ""
    outcome: str = ""
    model_id: str = ""
    score_from: float | None = None
    score_to: float | None = None

    @property
    def order(self) -> Order:
        """What signals are in the order of."""
        if self.signal_id:
            return "signal_id"
        return "timestamp" if self.since or self.until else "id"

    def narrowed(self) -> tuple[str, list[str | float]]:
        """The conditions that are looked at row by row, and their parameters; empty without any.

        Raises:
            ValueError: a bound is no time.
        """
        conditions: list[str] = []
        params: list[str | float] = []
        for condition, value in (
            ("? IN (v.asset_class, v.signal_type)", self.kind),
            ("p.model_id = ?", self.model_id),
            ("p.quality_score >= ?", self.score_from),
            ("p.quality_score <= ?", self.score_to),
            ("v.symbol = ?", self.symbol if self.order != "id" else ""),
        ):
            if value not in ("", None):
                conditions.append(condition)
                params.append(value)
        if self.order == "signal_id" and (self.since or self.until):
            conditions.append(_IN_TIME)
            params += self._bounds()
        if self.outcome:
            conditions.append(_OUTCOMES[self.outcome])
        return " AND ".join(conditions), params

    def where(self, before: FoundPlace | None = None) -> tuple[str, list[str | int]]:
        """The condition that an index answers, and its parameters.

        Args:
            before: the signal to go on before.

        Raises:
            ValueError: a bound is no time.
        """
        conditions: list[str] = []
        params: list[str | int] = []
        if self.order == "signal_id":
            conditions.append("v.signal_id >= ? AND v.signal_id < ?")
            params += [self.signal_id, before.signal_id if before else self.signal_id + "\U0010ffff"]
        elif self.order == "timestamp":
            since, until = self._bounds()
            conditions.append(_IN_TIME)
            params += [since, before.timestamp if before else until]
            if before:
                conditions.append("(v.timestamp, v.id) < (?, ?)")
                params += [before.timestamp, before.id]
        else:
            if self.symbol:
                conditions.append("v.symbol = ?")
                params.append(self.symbol)
            if before:
                conditions.append("v.id < ?")
                params.append(before.id)
        return " AND ".join(conditions or ["TRUE"]), params

    def _bounds(self) -> tuple[str, str]:
        since = parse_bound(self.since, end=False) if self.since else ""
        return since, parse_bound(self.until, end=True) if self.until else "9999"


_IN_TIME = "v.timestamp BETWEEN ? AND ?"
ORDER: dict[Order, str] = {
    "id": "v.id DESC",
    "timestamp": "v.timestamp DESC, v.id DESC",
    "signal_id": "v.signal_id DESC, v.id DESC",
}
_OUTCOMES = {
    "won": "v.target_r_multiple > 0",
    "lost": "v.target_r_multiple <= 0",
    "open": "v.target_r_multiple IS NULL",
}


@dataclass(frozen=True, slots=True)
class FoundSignal:
    """A signal in a listing; `quality_score` is what the champion of its time said, `target_r` what came of it."""

    id: int
    signal_id: str
    timestamp: str
    symbol: str | None
    asset_class: str | None
    signal_type: str | None
    quality_score: float | None
    target_r: float | None
    complete: bool
    model_id: str | None = None


class Look(NamedTuple):
    """What a look through the signals found."""

    rows: list[FoundSignal]
    #: The number of the signal to go on before; None where there are no more.
    more: int | None
    #: So many were looked at, or all where there were fewer.
    looked_at: int


@dataclass(frozen=True, slots=True)
class StoredSignal:
    """One signal whole, as it was stored."""

    timestamp: str
    symbol: str | None
    asset_class: str | None
    signal_type: str | None
    conviction: str | None
    feature_version: str
    complete: bool
    features: dict[str, float]
    created_at: str
    entry_id: str | None


@dataclass(frozen=True, slots=True)
class SignalKind:
    """What a labelled signal was, and how its trade ended; empty where it is not known."""

    asset_class: str
    signal_type: str
    exit_reason: str


class Signals:
    """The table `feature_vectors`, by its signals."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get(self, signal_id: str) -> StoredSignal | None:
        """One signal, or None."""
        row = self._connection.one(GET, (signal_id,))
        return None if row is None else _stored(row)

    def find(self, wanted: SignalFilter, *, limit: int) -> list[FoundSignal]:
        """At most `limit` signals, the last first.

        Raises:
            ValueError: a bound is no time.
        """
        return self.look_through(wanted, limit=limit, most=None).rows

    def look_through(
        self,
        wanted: SignalFilter,
        *,
        limit: int,
        before: int | None = None,
        most: int | None,
        within_s: float = math.inf,
    ) -> Look:
        """At most `limit` signals, the last first, all of them before number `before`.

        Args:
            wanted: which.
            limit: the look ends when so many are found,
            before: number of a signal, as an earlier look gave it; one that is gone is before nothing.
            most: or after a look at so many; None: all,
            within_s: or when it has taken so long.

        Raises:
            ValueError: a bound is no time.
        """
        narrow, more = wanted.narrowed()
        rows: list[FoundSignal] = []
        until = time.monotonic() + within_s
        looked_at, at_once = 0, limit
        while True:
            at_once = min(2 * at_once, _AT_ONCE) if most is None else min(2 * at_once, _AT_ONCE, most - looked_at)
            where, params = wanted.where(self._place(before))
            parts = {"where": where, "narrow": narrow or "TRUE", "order": ORDER[wanted.order]}
            sql = LOOK_THROUGH.format_map(parts)
            rows += map(_found, self._connection.query(sql, (*params, at_once, *more, limit - len(rows))))
            if len(rows) == limit:
                return Look(rows, rows[-1].id, looked_at + at_once)
            last = self._connection.one(LOOKED_AT.format_map(parts), (*params, at_once - 1))
            looked_at += at_once
            if last is None:
                return Look(rows, None, looked_at)
            before = int(last[0])
            if looked_at == most or time.monotonic() > until:
                return Look(rows, before, looked_at)

    def _place(self, number: int | None) -> FoundPlace | None:
        row = None if number is None else self._connection.one(PLACE, (number,))
        return None if row is None else FoundPlace(*row)

    def newest(self) -> str | None:
        """When the newest signal was known; None where there is none."""
        return self.nth_newest(1)

    def nth_newest(self, n: int) -> str | None:
        """When the n-th newest signal was known, 1 is the newest; None where there are fewer."""
        row = self._connection.one(NTH_NEWEST, (n - 1,))
        return None if row is None else str(row[0])

    def kinds(self) -> dict[str, SignalKind]:
        """The kind of every labelled signal, by id."""
        return {row[0]: SignalKind(*(text or "" for text in row[1:])) for row in self._connection.query(KINDS)}

    def symbols_and_kinds(self, signal_ids: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Symbol and signal type of each of the signals, by id; empty where not known."""
        rows = self._connection.query(SYMBOLS_AND_KINDS, (finite_json(list(signal_ids)),))
        return {signal_id: (symbol or "", kind or "") for signal_id, symbol, kind in rows}


# The literals are ours alone; every value is bound.
GET = """
    SELECT timestamp, symbol, asset_class, signal_type, conviction, feature_version, complete, features, created_at,
        entry_id
    FROM feature_vectors WHERE signal_id = ?"""
_LOOKED_THROUGH = """
    FROM (SELECT v.id FROM feature_vectors AS v WHERE {where} ORDER BY {order} LIMIT ?) AS looked
    CROSS JOIN feature_vectors AS v ON v.id = looked.id
    LEFT JOIN prediction_log AS p ON p.id =
        (SELECT id FROM prediction_log AS s WHERE s.signal_id = v.signal_id AND s.role = 'champion' LIMIT 1)
    WHERE {narrow} ORDER BY {order} LIMIT ?"""
LOOK_THROUGH = (
    "SELECT v.id, v.signal_id, v.timestamp, v.symbol, v.asset_class, v.signal_type, p.quality_score, "
    "v.target_r_multiple, v.complete, p.model_id" + _LOOKED_THROUGH
)
LOOKED_AT = "SELECT v.id FROM feature_vectors AS v WHERE {where} ORDER BY {order} LIMIT 1 OFFSET ?"
PLACE = "SELECT id, timestamp, signal_id FROM feature_vectors WHERE id = ?"
NTH_NEWEST = "SELECT timestamp FROM feature_vectors ORDER BY timestamp DESC LIMIT 1 OFFSET ?"
SYMBOLS_AND_KINDS = """
    SELECT v.signal_id, v.symbol, v.signal_type FROM json_each(?) AS wanted
    CROSS JOIN feature_vectors AS v ON v.signal_id = wanted.value"""
KINDS = """
    SELECT v.signal_id, v.asset_class, v.signal_type,
        (SELECT o.exit_reason FROM trade_outcomes AS o WHERE o.signal_id = v.signal_id ORDER BY o.revision DESC LIMIT 1)
    FROM feature_vectors AS v WHERE v.target_r_multiple IS NOT NULL"""


def _stored(row: Row) -> StoredSignal:
    fields = list(row)
    fields[6:8] = bool(row[6]), read_features(row[7])
    return StoredSignal(*fields)


def _found(row: Row) -> FoundSignal:
    fields = list(row)
    fields[8] = bool(row[8])
    return FoundSignal(*fields)
