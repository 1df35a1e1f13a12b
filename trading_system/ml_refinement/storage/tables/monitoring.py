"""What monitoring found each time it looked, the newest of which the status shows, and the rows that it looks at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import orjson

from trading_system.ml_refinement.storage.connection import Connection, Row
from trading_system.ml_refinement.storage.json_text import finite_json
from trading_system.ml_refinement.storage.times import Clock, us_array, utc_now, utc_text

if TYPE_CHECKING:
    from trading_system.ml_refinement.typing import FloatArray, TimeArray


Cause = Literal["schedule", "training"]

#: Older reports are dropped: a year of hourly ones.
KEPT = 9_000


@dataclass(frozen=True, slots=True)
class StoredReport:
    """One look. `alarms` are {name, why}, `features` {name, psi, limit, ...}; `requested` a training's job id."""

    id: int
    at: str
    cause: Cause
    model_id: str | None
    newest_run: int
    alarms: list[dict[str, str]]
    figures: dict[str, Any]
    features: list[dict[str, Any]]
    requested: str | None


class MonitoringReports:
    """The table `monitoring_reports`."""

    def __init__(self, connection: Connection, clock: Clock = utc_now) -> None:
        self._connection = connection
        self._clock = clock

    def add(
        self,
        cause: Cause,
        *,
        model_id: str | None,
        newest_run: int,
        alarms: Sequence[Mapping[str, str]],
        figures: Mapping[str, Any],
        features: Sequence[Mapping[str, Any]],
    ) -> int:
        """Enter what was found; its id.

        Raises:
            ValueError: a figure is not finite.
        """
        documents = finite_json(list(alarms)), finite_json(dict(figures)), finite_json(list(features))
        with self._connection.atomic():
            found = self._connection.query(ADD, (utc_text(self._clock()), cause, model_id, newest_run, *documents))
            number = int(found[0][0])
            self._connection.run("DELETE FROM monitoring_reports WHERE id <= ?", (number - KEPT,))
        return number

    def note_request(self, report_id: int, job_id: str) -> None:
        """A training was asked for because of this report."""
        with self._connection.atomic():
            self._connection.run("UPDATE monitoring_reports SET requested = ? WHERE id = ?", (job_id, report_id))

    def last(self) -> StoredReport | None:
        """The newest report."""
        return next(iter(self.recent(1)), None)

    def recent(self, limit: int = 100) -> list[StoredReport]:
        """Reports, newest first."""
        return [_report(row) for row in self._connection.query(f"{SELECT} ORDER BY id DESC LIMIT ?", (limit,))]

    def before(self, at: str) -> StoredReport | None:
        """The newest report that is not later than `at`."""
        row = self._connection.one(f"{SELECT} WHERE at <= ? ORDER BY id DESC LIMIT 1", (at,))
        return None if row is None else _report(row)

    def requests_since(self, at: str) -> list[str]:
        """When trainings were asked for since then, newest first."""
        rows = self._connection.query(REQUESTS, (at,))
        return [str(row[0]) for row in rows]


# The literals are ours alone; every value is bound.
ADD = """
    INSERT INTO monitoring_reports (at, cause, model_id, newest_run, alarms, figures, features)
    VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id"""
SELECT = "SELECT id, at, cause, model_id, newest_run, alarms, figures, features, requested FROM monitoring_reports"
REQUESTS = "SELECT at FROM monitoring_reports WHERE requested IS NOT NULL AND at > ? ORDER BY id DESC"


def _report(row: Row) -> StoredReport:
    fields = list(row)
    fields[5:8] = [orjson.loads(text) for text in row[5:8]]
    return StoredReport(*fields)


@dataclass(frozen=True, slots=True)
class RecentRows:
    """What was stored in a span of signal time, oldest first, labelled or not."""

    #: Complete vectors of one feature version, (n, f), NaN where a feature is missing, and their times, (n,).
    X: FloatArray
    timestamp_us: TimeArray
    #: Signals of any version in that span, and those with a failed extractor.
    signals: int
    incomplete: int


def newest_signal(connection: Connection) -> str | None:
    """The time of the newest signal."""
    row = connection.one("SELECT max(timestamp) FROM feature_vectors")
    return None if row is None else row[0]


def nth_newest_signal(connection: Connection, n: int) -> str | None:
    """The time of the n-th newest signal, 1 is the newest; None where there are fewer."""
    row = connection.one("SELECT timestamp FROM feature_vectors ORDER BY timestamp DESC LIMIT 1 OFFSET ?", (n - 1,))
    return None if row is None else str(row[0])


def rows_between(
    connection: Connection, start: str, end: str, *, names: Sequence[str], feature_version: str, limit: int
) -> RecentRows:
    """Signals with `start` < time <= `end`, at most the newest `limit` vectors."""
    import numpy as np  # here, because those who read a report have no arrays

    from trading_system.ml_refinement.storage.packing import fill

    with connection.snapshot() as reads:
        lists = {number: tuple(orjson.loads(text)) for number, text in reads.query("SELECT * FROM feature_lists")}
        vectors = reads.query(VECTORS, (start, end, feature_version, limit))[::-1]
        signals, incomplete = reads.query(COMPLETENESS, (start, end))[0]
    X = np.full((len(vectors), len(names)), np.nan)
    fill(X, vectors, tuple(names), lists)
    return RecentRows(
        X,
        us_array([row[3] for row in vectors]),
        int(signals),
        int(incomplete),
    )


VECTORS = """
    SELECT list_id, packed, iif(packed IS NULL, features, NULL), timestamp
    FROM feature_vectors INDEXED BY idx_fv_timestamp
    WHERE timestamp > ? AND timestamp <= ? AND feature_version = ? AND complete = 1
    ORDER BY timestamp DESC LIMIT ?"""
COMPLETENESS = """
    SELECT count(*), total(1 - complete) FROM feature_vectors INDEXED BY idx_fv_timestamp
    WHERE timestamp > ? AND timestamp <= ?"""
