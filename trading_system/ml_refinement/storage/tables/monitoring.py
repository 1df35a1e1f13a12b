"""What monitoring found each time it looked, the newest of which the status shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import orjson

from trading_system.ml_refinement.storage.connection import Connection, Row
from trading_system.ml_refinement.storage.json_text import finite_json
from trading_system.ml_refinement.storage.notifications.occasions import Occasion
from trading_system.ml_refinement.storage.notifications.table import Notifications
from trading_system.ml_refinement.storage.statement import Statement
from trading_system.ml_refinement.storage.times import utc_text

Cause = Literal["schedule", "training"]

#: So many of the newest reports are looked at for alarms that were told: hourly ones, and those after trainings.
LOOKS_A_DAY = 200
#: Older reports are dropped: a year of hourly ones.
KEPT = 9_000
#: An alarm that was raised within this time is not told again: one that stays is told once, and so is one that flaps.
TOLD_AGAIN_AFTER = timedelta(days=1)


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

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._notifications = Notifications(connection)

    def add(
        self,
        cause: Cause,
        *,
        at: str,
        model_id: str | None,
        newest_run: int,
        alarms: Sequence[Mapping[str, str]],
        figures: Mapping[str, Any],
        features: Sequence[Mapping[str, Any]],
    ) -> int:
        """Enter what was found at a time, the store's text; its id.

        Raises:
            ValueError: a figure is not finite.
        """
        documents = finite_json(list(alarms)), finite_json(dict(figures)), finite_json(list(features))
        with self._connection.atomic():
            known = self._alarms_since(utc_text(datetime.fromisoformat(at) - TOLD_AGAIN_AFTER)) if alarms else set()
            found = self._connection.query(ADD, (at, cause, model_id, newest_run, *documents))
            number = int(found[0][0])
            self._connection.run("DELETE FROM monitoring_reports WHERE id <= ?", (number - KEPT,))
            for alarm in alarms:
                if alarm["name"] not in known:
                    details = {"alarm": alarm["name"], "reason": alarm["why"], "model_id": model_id}
                    self._notifications.add(Occasion.ALARM, details, at=at)
        return number

    def _alarms_since(self, at: str) -> set[str]:
        return {str(name) for (name,) in self._connection.query(ALARMS_SINCE, (LOOKS_A_DAY, at))}

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

    def requests_since(self, at: str) -> list[str]:
        """When trainings were asked for since then, newest first."""
        rows = self._connection.query(REQUESTS, (at,))
        return [str(row[0]) for row in rows]


# The literals are ours alone; every value is bound.
ADD = """
    INSERT INTO monitoring_reports (at, cause, model_id, newest_run, alarms, figures, features)
    VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id"""
SELECT = "SELECT id, at, cause, model_id, newest_run, alarms, figures, features, requested FROM monitoring_reports"
ALARMS_SINCE = Statement(
    """
    SELECT DISTINCT alarm.value ->> 'name'
    FROM (SELECT at, alarms FROM monitoring_reports ORDER BY id DESC LIMIT ?) AS report,
        json_each(report.alarms) AS alarm
    WHERE report.at > ?""",
    postgres="""
    SELECT DISTINCT alarm.value ->> 'name'
    FROM (SELECT at, alarms FROM monitoring_reports ORDER BY id DESC LIMIT ?) AS report,
        jsonb_array_elements(CAST(report.alarms AS jsonb)) AS alarm
    WHERE report.at > ?""",
)
REQUESTS = "SELECT at FROM monitoring_reports WHERE requested IS NOT NULL AND at > ? ORDER BY id DESC"


def _report(row: Row) -> StoredReport:
    fields = list(row)
    fields[5:8] = [orjson.loads(text) for text in row[5:8]]
    return StoredReport(*fields)
