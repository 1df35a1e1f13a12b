"""The parameter settings that tuning has tried: what a new recipe pays for at the gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from trading_system.ml_refinement.storage.connection import Connection, Row
from trading_system.ml_refinement.storage.json_text import finite_json


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One setting and what it reached on the inner folds. `window_digest` is of the rows that were looked at."""

    study: str
    number: int
    recipe: str
    parameters: dict[str, Any]
    log_loss_gain: float
    window_digest: str


class TuningTrials:
    """The table `tuning_trials`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(
        self,
        study: str,
        number: int,
        *,
        at: str,
        recipe: str,
        parameters: Mapping[str, Any],
        log_loss_gain: float,
        window_digest: str,
    ) -> None:
        """Enter a trial that ended at a time, the store's text; entering it again changes nothing."""
        document = finite_json(dict(parameters))
        params = (study, number, at, recipe, document, log_loss_gain, window_digest)
        with self._connection.atomic():
            self._connection.run(ADD, params)

    def count(self) -> int:
        """How many settings were ever tried."""
        return int(self._connection.query("SELECT count(*) FROM tuning_trials")[0][0])

    def of_study(self, study: str) -> list[TrialRow]:
        """The trials of one study, the best first."""
        return [_trial(row) for row in self._connection.query(OF_STUDY, (study,))]


# The literals are ours alone; every value is bound.
ADD = """
    INSERT INTO tuning_trials (study, number, at, recipe, parameters, log_loss_gain, window_digest)
    VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (study, number) DO NOTHING"""
OF_STUDY = """
    SELECT study, number, recipe, parameters, log_loss_gain, window_digest FROM tuning_trials
    WHERE study = ? ORDER BY log_loss_gain DESC, number"""


def _trial(row: Row) -> TrialRow:
    study, number, recipe, parameters, gain, digest = row
    return TrialRow(study, number, recipe, orjson.loads(parameters), gain, digest)
