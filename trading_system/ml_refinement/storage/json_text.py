"""JSON columns: written without a number that is not finite, whoever computed it."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import orjson


def finite_json(value: Any) -> str:
    """JSON text of plain and numpy values.

    Raises:
        ValueError: a number in it is not finite, or it holds what JSON cannot.
    """
    try:
        text = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError as error:
        raise ValueError(f"cannot be stored as JSON: {error}") from error
    if b"null" in text:
        _refuse_non_finite(value)
    return text.decode()


def read_features(text: str) -> dict[str, float]:
    """Stored features as Python floats; one that is null is missing."""
    return {name: float(value) for name, value in orjson.loads(text).items() if value is not None}


def _refuse_non_finite(value: Any) -> None:
    """The serialiser writes NaN and infinity as null: look for the number that became one."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if hasattr(value, "tolist"):  # numpy's arrays and numbers, which need numpy only where they come from
        value = value.tolist()
    if isinstance(value, list | tuple):
        for item in value:
            _refuse_non_finite(item)
    elif isinstance(value, float) and not isfinite(value):
        raise ValueError(f"not finite: {value}")
