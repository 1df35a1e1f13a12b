"""What becomes of a row that another program wrote: pure functions of the row, for each table of the specification."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, NamedTuple

import orjson

from trading_system.ml_refinement.config import ModelType
from trading_system.ml_refinement.storage.quarantine import Cell
from trading_system.ml_refinement.storage.tables.models import OUR_FILES
from trading_system.ml_refinement.storage.times import parse_bound

Original = Mapping[str, Cell]

#: The tables of outcomes refuse a figure of this size.
_TOO_LARGE = 1e308
#: When a model was made that does not say so: it stands last in a history, and is old to whoever asks its age.
_LONG_AGO = "1970-01-01T00:00:00.000000Z"
_MODEL_TYPES = {kind.value for kind in ModelType}
_STATUSES = ("running", "completed", "failed")


@dataclass
class Judged:
    """What is to become of a row.

    `removed` is why it cannot stay, or None. `changes` are values by column; `reasons` says why, where more than the
    form of a value changes.
    """

    removed: str | None = None
    changes: dict[str, Cell] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def correct(self, column: str, value: Cell, reason: str) -> None:
        """Another value in the place of one that cannot be used."""
        self.changes[column] = value
        self.reasons[column] = reason


class ForeignTable(NamedTuple):
    """A table that another program may have filled: `texts` must be text, `optional` text or NULL."""

    name: str
    texts: tuple[str, ...]
    optional: tuple[str, ...]
    judge: Callable[[Original, Judged, str], None]
    #: Which rows may be another program's in a store that ours has written to: a condition in SQL.
    suspect: str


def judge(table: ForeignTable, row: Original, now: str) -> Judged:
    """What becomes of one row; `now` is the store's text."""
    judged = Judged()
    for column in table.texts:
        if not _is_text(row[column]):
            judged.removed = f"{column} is not text"
            return judged
    for column in table.optional:
        if row[column] is not None and not _is_text(row[column]):
            judged.correct(column, None, f"{column} is not text")
    table.judge(row, judged, now)
    return judged


def _vector(row: Original, judged: Judged, _: str) -> None:
    stamp, target = read_time(row["timestamp"]), row["target_r_multiple"]
    known_at = row["created_at"] if row["updated_at"] is None else row["updated_at"]
    if stamp is None:
        judged.removed = "timestamp is not a time"
    elif fault := _features_fault(row["features"]):
        judged.removed = fault
    elif target is not None and not _is_finite(target):
        judged.removed = "target_r_multiple is not a finite number"
    elif target is not None and row.get("label_time") is None and read_time(known_at) is None:
        judged.removed = "when its outcome was known is not a time"
    else:
        judged.changes["timestamp"] = stamp
        _renew_time(row, judged, "created_at", stamp)
        _renew_time(row, judged, "updated_at", None)
        _vector_targets(row, judged)


def _vector_targets(row: Original, judged: Judged) -> None:
    target, binary = row["target_r_multiple"], row["target_binary"]
    if isinstance(target, int | float):
        if binary != int(target > 0):
            judged.correct("target_binary", int(target > 0), "target_binary is not what target_r_multiple says")
    elif binary not in (None, 0, 1):
        judged.correct("target_binary", None, "target_binary is neither 0 nor 1")
    _drop_unless(_is_finite, row, judged, "target_return_pct", "is not a finite number")


def _model(row: Original, judged: Judged, now: str) -> None:
    if row["model_type"] not in _MODEL_TYPES:
        judged.removed = "model_type is none that exists"
        return
    _renew_time(row, judged, "created_at", _LONG_AGO)
    for column in ("deployed_at", "retired_at"):
        _renew_time(row, judged, column, None)
    for column in ("train_samples", "validation_samples"):
        _drop_unless(_is_integer, row, judged, column, "is not a whole number")
    for column in ("train_metrics", "validation_metrics"):
        _renew_json(row, judged, column, _finite_object)
    _renew_json(row, judged, "feature_importance", _numbers_only)
    _renew_json(row, judged, "feature_names", _names_only)
    if row["is_active"] not in (0, 1):
        judged.correct("is_active", 0, "is_active is neither 0 nor 1")
    if judged.changes.get("model_path", row["model_path"]) is None:
        judged.changes["model_path"] = str(row["model_id"]) + ".pkl"
    if not str(row["model_path"]).endswith(OUR_FILES):
        if row["is_active"] == 1:
            judged.correct("is_active", 0, "its file is a pickle, which is never loaded")
        if judged.changes.get("retired_at", row["retired_at"]) is None:
            judged.changes["retired_at"] = now


def _prediction(row: Original, judged: Judged, _: str) -> None:
    if (at := read_time(row["predicted_at"])) is None:
        judged.removed = "predicted_at is not a time"
        return
    judged.changes["predicted_at"] = at
    for column in ("quality_score", "predicted_r", "confidence", "actual_r"):
        if row[column] is not None and not _is_finite(row[column]):
            judged.removed = f"{column} is not a finite number"
    _drop_unless(_is_finite, row, judged, "prediction_error", "is not a finite number")


def _run(row: Original, judged: Judged, _: str) -> None:
    if (started := read_time(row["started_at"])) is None:
        judged.removed = "started_at is not a time"
    elif row["status"] not in _STATUSES:
        judged.removed = "status is none that exists"
    else:
        judged.changes["started_at"] = started
    _renew_time(row, judged, "completed_at", None)
    for column in ("train_samples", "validation_samples", "best_iteration"):
        _drop_unless(_is_integer, row, judged, column, "is not a whole number")
    for column in ("config", "metrics"):
        _renew_json(row, judged, column, _finite_object)


def _definition(row: Original, judged: Judged, now: str) -> None:
    _renew_time(row, judged, "created_at", now)
    _renew_json(row, judged, "dependencies", _names_only)
    if judged.changes.get("dependencies", row["dependencies"]) is None:
        judged.changes["dependencies"] = "[]"


#: In this order: a model that leaves takes its predictions along.
FOREIGN_TABLES = (
    ForeignTable(
        "model_registry",
        ("model_id", "model_type", "version"),
        ("train_start_date", "train_end_date", "model_path"),
        _model,
        "artefact_sha256 IS NULL",
    ),
    ForeignTable(
        "feature_vectors",
        ("signal_id", "features", "feature_version"),
        ("symbol", "asset_class", "signal_type", "conviction"),
        _vector,
        "packed IS NULL AND event_hash IS NULL",
    ),
    ForeignTable("prediction_log", ("signal_id", "model_id"), (), _prediction, "length(predicted_at) <> 27"),
    ForeignTable("training_runs", ("run_id", "model_type"), ("model_id", "error_message"), _run, "data_digest IS NULL"),
    ForeignTable(
        "feature_definitions", ("name", "category", "data_type"), ("description", "computation"), _definition, "TRUE"
    ),
)


def read_time(value: Cell) -> str | None:
    """The store's text of an ISO 8601 date or time, blanks around it left aside, UTC without an offset; else None."""
    if not isinstance(value, str):
        return None
    try:
        return parse_bound(value.strip(), end=False)
    except ValueError:
        return None


def _is_text(value: Cell) -> bool:
    """A NUL ends a text for many of those who read it."""
    return isinstance(value, str) and "\0" not in value


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and isfinite(value) and abs(value) < _TOO_LARGE


def _is_integer(value: Any) -> bool:
    return isinstance(value, int)


def _features_fault(text: Cell) -> str | None:
    """Why the features cannot be read; null is a feature that is missing."""
    try:
        features = orjson.loads(str(text))
    except orjson.JSONDecodeError:
        return "a feature is not a finite number" if _holds_non_finite(str(text)) else "features are not JSON"
    if not isinstance(features, dict):
        return "features are not an object"
    if any(value is not None and not isinstance(value, int | float) for value in features.values()):
        return "a feature is not a number"
    return None


def _holds_non_finite(text: str) -> bool:
    """Whether the text is JSON but for NaN and Infinity, as Python's own writer makes it."""
    found: list[str] = []
    try:
        json.loads(text, parse_constant=found.append)
    except (ValueError, RecursionError):
        return False
    return bool(found)


def _renew_time(row: Original, judged: Judged, column: str, otherwise: Cell) -> None:
    """The store's form of a time; `otherwise` where there is none to be read."""
    if row[column] is None:
        return
    text = read_time(row[column])
    if text is None:
        judged.correct(column, otherwise, f"{column} is not a time")
    else:
        judged.changes[column] = text


def _drop_unless(fits: Callable[[Any], bool], row: Original, judged: Judged, column: str, fault: str) -> None:
    if row[column] is not None and not fits(row[column]):
        judged.correct(column, None, f"{column} {fault}")


def _renew_json(row: Original, judged: Judged, column: str, clean: Callable[[Any], Any]) -> None:
    """A JSON text that our reader takes; NULL where nothing can be made of it."""
    if row[column] is None:
        return
    try:
        document = json.loads(str(row[column]) if isinstance(row[column], str) else "")
        fit = clean(document)
        text = None if fit is None else orjson.dumps(fit).decode()
        if fit == document and orjson.loads(str(row[column])) == fit:
            return
    except (ValueError, TypeError, RecursionError):
        text = None
    judged.correct(column, text, f"{column} cannot be read whole")


def _finite_object(document: Any) -> Any:
    return _without_non_finite(document) if isinstance(document, dict) else None


def _without_non_finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_non_finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_without_non_finite(one) for one in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _numbers_only(document: Any) -> Any:
    if not isinstance(document, dict):
        return None
    return {name: value for name, value in document.items() if _is_finite(value)}


def _names_only(document: Any) -> Any:
    return document if isinstance(document, list) and all(isinstance(name, str) for name in document) else None
