"""Signals as they are looked for: what they were and when they were known, apart from their features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trading_system.ml_refinement.storage.connection import Connection, Row
from trading_system.ml_refinement.storage.json_text import finite_json, read_features
from trading_system.ml_refinement.storage.times import parse_bound


@dataclass(frozen=True, slots=True)
class SignalFilter:
    """Which signals; empty text is no condition.

    `signal_id` is how the id begins; `since` and `until` bound the signal's time, as `parse_bound` reads them. `kind`
    is an asset class or a signal type; `outcome` is `won`, `lost` or `open`; `model_id` served its score, and the score
    is at least `score_from` and at most `score_to`.
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

    def narrowed(self) -> tuple[str, list[str | float]]:
        """The conditions that no index answers, and their parameters; empty without any."""
        conditions: list[str] = []
        params: list[str | float] = []
        for condition, value in (
            ("? IN (v.asset_class, v.signal_type)", self.kind),
            ("p.model_id = ?", self.model_id),
            ("p.quality_score >= ?", self.score_from),
            ("p.quality_score <= ?", self.score_to),
        ):
            if value not in ("", None):
                conditions.append(condition)
                params.append(value)
        if self.outcome:
            conditions.append(_OUTCOMES[self.outcome])
        return " AND ".join(conditions), params

    def where(self, before: int | None) -> tuple[str, list[str | int]]:
        """The condition and its parameters.

        Raises:
            ValueError: a bound is no time.
        """
        conditions: list[str] = []
        params: list[str | int] = []
        if self.since or self.until:
            conditions.append("v.timestamp BETWEEN ? AND ?")
            params.append(parse_bound(self.since, end=False) if self.since else "")
            params.append(parse_bound(self.until, end=True) if self.until else "9999")
        if self.signal_id:
            conditions.append("v.signal_id >= ? AND v.signal_id < ?")
            params += [self.signal_id, self.signal_id + "\U0010ffff"]
        if self.symbol:
            conditions.append("v.symbol = ?")
            params.append(self.symbol)
        if before is not None:
            conditions.append("v.id < ?")
            params.append(before)
        return " AND ".join(conditions or ["TRUE"]), params


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

    def find(self, wanted: SignalFilter, *, limit: int, before: int | None = None) -> list[FoundSignal]:
        """At most `limit` signals, those that came last first, all of them before number `before`.

        Raises:
            ValueError: a bound is no time.
        """
        where, params = wanted.where(before)
        rows = self._connection.query(FIND.format(where=where), (*params, limit))
        return [_found(row) for row in rows]

    def look_through(
        self, wanted: SignalFilter, *, limit: int, before: int | None = None, most: int
    ) -> tuple[list[FoundSignal], int | None]:
        """The same, after a look at `most` signals; and the number to go on before, None where that were all.

        Raises:
            ValueError: a bound is no time.
        """
        where, params = wanted.where(before)
        narrow, more = wanted.narrowed()
        sql = LOOK_THROUGH.format(where=where, narrow=narrow or "TRUE")
        rows = self._connection.query(sql, (*params, most, *more, limit))
        if len(rows) == limit:
            return [_found(row) for row in rows], int(rows[-1][0])
        last = self._connection.one(LOOKED_AT.format(where=where), (*params, most - 1))
        return [_found(row) for row in rows], None if last is None else int(last[0])

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
FIND = """
    SELECT v.id, v.signal_id, v.timestamp, v.symbol, v.asset_class, v.signal_type,
        (SELECT quality_score FROM prediction_log AS p WHERE p.signal_id = v.signal_id AND p.role = 'champion' LIMIT 1),
        v.target_r_multiple, v.complete
    FROM feature_vectors AS v WHERE {where} ORDER BY v.id DESC LIMIT ?"""
_LOOKED_THROUGH = """
    FROM (SELECT v.id FROM feature_vectors AS v WHERE {where} ORDER BY v.id DESC LIMIT ?) AS looked
    CROSS JOIN feature_vectors AS v ON v.id = looked.id
    LEFT JOIN prediction_log AS p ON p.id =
        (SELECT id FROM prediction_log AS s WHERE s.signal_id = v.signal_id AND s.role = 'champion' LIMIT 1)
    WHERE {narrow} ORDER BY v.id DESC LIMIT ?"""
LOOK_THROUGH = (
    "SELECT v.id, v.signal_id, v.timestamp, v.symbol, v.asset_class, v.signal_type, p.quality_score, "
    "v.target_r_multiple, v.complete, p.model_id" + _LOOKED_THROUGH
)
LOOKED_AT = "SELECT v.id FROM feature_vectors AS v WHERE {where} ORDER BY v.id DESC LIMIT 1 OFFSET ?"
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
