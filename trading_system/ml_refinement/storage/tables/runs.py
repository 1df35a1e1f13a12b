"""Training runs: what was tried, on which labels, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from trading_system.ml_refinement.storage.connection import Connection, Row
from trading_system.ml_refinement.storage.json_text import finite_json
from trading_system.ml_refinement.storage.notifications.occasions import Occasion
from trading_system.ml_refinement.storage.notifications.table import Notifications
from trading_system.ml_refinement.storage.statement import Statement
from trading_system.ml_refinement.storage.times import Clock, utc_text

Status = Literal["running", "completed", "failed"]


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """One run. `token` is its fencing token; `label_watermark` is `counts().labels_total` of its data."""

    token: int
    run_id: str
    model_type: str
    started_at: str
    completed_at: str | None
    status: Status
    config: dict[str, Any]
    label_watermark: int
    train_samples: int | None
    validation_samples: int | None
    best_iteration: int | None
    metrics: dict[str, Any]
    model_id: str | None
    verdict: str | None
    #: How the candidate served after it: `proven`, `provisional` or `no`; None where there was none.
    serves: str | None
    error_message: str | None
    data_digest: str | None
    seconds: float | None
    #: Who asked for it: a user, or the schedule; None where it was not kept.
    requested_by: str | None = None

    @property
    def reason(self) -> str | None:
        """The words of the verdict, or of what made the run fail; None while it runs."""
        return self.error_message or self.metrics.get("reason")

    @property
    def samples_found(self) -> int | None:
        """How many samples there were, where they were too few and nothing was trained; else None."""
        held = self.status == "completed" and self.model_id is None
        return self.metrics.get("samples") if held else None


class Runs:
    """The table `training_runs`."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._notifications = Notifications(connection)

    def start(
        self,
        run_id: str,
        model_type: str,
        config: Mapping[str, Any],
        *,
        label_watermark: int,
        requested_by: str | None = None,
    ) -> int:
        """Enter a run as running; its fencing token, which outdates the tokens of all runs before it.

        Raises:
            ConstraintRefused: the run id is taken (a retried job needs a fresh one).
        """
        params = (run_id, model_type, utc_text(self._clock()), finite_json(dict(config)), label_watermark, requested_by)
        with self._connection.atomic():
            return int(self._connection.query(START, params)[0][0])

    def finish(
        self,
        run_id: str,
        status: Literal["completed", "failed"],
        *,
        train_samples: int | None = None,
        validation_samples: int | None = None,
        best_iteration: int | None = None,
        metrics: Mapping[str, Any] | None = None,
        model_id: str | None = None,
        verdict: str | None = None,
        serves: str | None = None,
        error_message: str | None = None,
        data_digest: str | None = None,
        seconds: float | None = None,
    ) -> bool:
        """End a running run. False when it was not running: ended before."""
        now = utc_text(self._clock())
        params = (
            now,
            status,
            train_samples,
            validation_samples,
            best_iteration,
            finite_json(dict(metrics or {})),
            model_id,
            verdict,
            serves,
            error_message,
            data_digest,
            seconds,
            run_id,
        )
        with self._connection.atomic():
            ended = self._connection.query(FINISH, params)
            for model_type, requested_by in ended if status == "failed" else ():
                details = {"run_id": run_id, "model_type": model_type, "reason": error_message}
                self._notifications.add(Occasion.TRAINING_FAILED, details | {"requested_by": requested_by}, at=now)
        return bool(ended)

    def get(self, run_id: str) -> TrainingRun | None:
        """One run."""
        return _first(self._connection.query(f"{SELECT} WHERE run_id = ?", (run_id,)))

    def of_candidate(self, model_id: str, run_id: str | None) -> TrainingRun | None:
        """The run whose candidate the model is; its verdict and figures are no other model's that it trained too."""
        run = self.get(run_id) if run_id is not None else None
        return run if run is not None and run.model_id == model_id else None

    def last(self, model_type: str, status: Status | None = None) -> TrainingRun | None:
        """The newest run of a model type, of any status or of one."""
        condition, params = ("AND status = ?", (model_type, status)) if status else ("", (model_type,))
        sql = f"{SELECT} WHERE model_type = ? {condition} ORDER BY id DESC LIMIT 1"
        return _first(self._connection.query(sql, params))

    def last_with_model(self, model_type: str) -> TrainingRun | None:
        """The newest run of a model type that trained a model, whether it serves or not."""
        return _first(self._connection.query(LAST_WITH_MODEL, (model_type,)))

    def last_figure(self, model_type: str, name: str) -> float | None:
        """That figure of the newest completed run that has it; None where none does."""
        row = self._connection.one(LAST_FIGURE, (name, model_type))
        return None if row is None else float(row[0])

    def recent(self, limit: int = 50) -> list[TrainingRun]:
        """Runs of all model types, newest first."""
        return [_run(row) for row in self._connection.query(f"{SELECT} ORDER BY id DESC LIMIT ?", (limit,))]

    def count_by_ending(self) -> dict[tuple[str, str], int]:
        """How many runs there are by what the gate said, or by their status where it said nothing, and how they serve.

        Those that found too few samples and trained nothing are `too_few_samples`: `hold` is of candidates. How the
        candidate serves is empty where there is none.
        """
        return {(ended, serves): number for ended, serves, number in self._connection.query(COUNT_BY_ENDING)}


# The literals are ours alone; every value is bound.
START = """
    INSERT INTO training_runs (run_id, model_type, started_at, status, config, label_watermark, requested_by)
    VALUES (?, ?, ?, 'running', ?, ?, ?) RETURNING id"""
FINISH = """
    UPDATE training_runs
    SET completed_at = ?, status = ?, train_samples = ?, validation_samples = ?, best_iteration = ?, metrics = ?,
        model_id = ?, verdict = ?, serves = ?, error_message = ?, data_digest = ?, seconds = ?
    WHERE run_id = ? AND status = 'running' RETURNING model_type, requested_by"""
LAST_FIGURE = Statement(
    """
    SELECT metrics ->> ? AS figure FROM training_runs
    WHERE model_type = ? AND status = 'completed' AND figure IS NOT NULL ORDER BY id DESC LIMIT 1""",
    postgres="""
    SELECT CAST(metrics AS jsonb) ->> CAST($1 AS text) FROM training_runs
    WHERE model_type = $2 AND status = 'completed' AND CAST(metrics AS jsonb) ->> CAST($1 AS text) IS NOT NULL
    ORDER BY id DESC LIMIT 1""",
)
COUNT_BY_ENDING = """
    SELECT CASE WHEN verdict = 'hold' AND model_id IS NULL THEN 'too_few_samples' ELSE coalesce(verdict, status) END
            AS ended,
        CASE WHEN model_id IS NULL THEN '' ELSE coalesce(serves, '') END AS served, count(*)
    FROM training_runs GROUP BY ended, served"""
SELECT = """
    SELECT id, run_id, model_type, started_at, completed_at, status, config, label_watermark, train_samples,
        validation_samples, best_iteration, metrics, model_id, verdict, serves, error_message, data_digest, seconds,
        requested_by
    FROM training_runs"""
LAST_WITH_MODEL = f"""{SELECT}
    WHERE model_type = ? AND status = 'completed' AND model_id IS NOT NULL ORDER BY id DESC LIMIT 1"""


def _first(rows: list[Row]) -> TrainingRun | None:
    return _run(rows[0]) if rows else None


def _run(row: Row) -> TrainingRun:
    fields = list(row)
    fields[6], fields[11] = (orjson.loads(text) if text else {} for text in (row[6], row[11]))
    return TrainingRun(*fields)
