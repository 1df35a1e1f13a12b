"""Feature values as the store holds them: JSON text that people and other tools read, and packed doubles for us."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite

import numpy as np
import orjson

from trading_system.ml_refinement.storage.connection import Row
from trading_system.ml_refinement.typing import FloatArray


def plain_features(features: Mapping[str, float]) -> dict[str, float]:
    """The features as Python floats.

    Raises:
        ValueError: a value is missing, not a number, or not finite.
    """
    plain = {}
    for name, value in features.items():
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"feature {name!r} is not a number: {value!r}") from error
        if not isfinite(number):
            raise ValueError(f"feature {name!r} is not finite: {number}")
        plain[name] = number
    return plain


def feature_texts(names: Sequence[str], values: FloatArray, count: int) -> list[str]:
    """Each row of the matrix, shape (count, len(names)), as the JSON text that is stored.

    Raises:
        ValueError: another shape, or a value that is not finite.
    """
    if values.shape != (count, len(names)):
        raise ValueError(f"values of shape {values.shape} for {count} vectors of {len(names)} features")
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise ValueError(f"feature {names[column]!r} of vector {row} is not finite: {values[row, column]}")
    # As orjson.dumps of a dictionary for each row, in two thirds of the time: the numbers are written all at once.
    numbers = orjson.dumps(np.ascontiguousarray(values, np.float64), option=orjson.OPT_SERIALIZE_NUMPY).decode()
    parts = [part for name in names for part in (f",{orjson.dumps(name).decode()}:", "")]
    texts = []
    for row in numbers[2:-2].split("],[") if values.size else [""] * count:
        parts[1::2] = row.split(",") if row else []
        texts.append(f"{{{''.join(parts)[1:]}}}")
    return texts


def fill(X: FloatArray, rows: Sequence[Row], names: tuple[str, ...], lists: Mapping[int, tuple[str, ...]]) -> None:
    """Fill X, one row for each of (list_id, packed, features, ...); what a vector lacks is left as it was."""
    by_list: dict[int | None, list[int]] = {}
    for index, row in enumerate(rows):
        by_list.setdefault(row[0], []).append(index)
    for list_id, indexes in by_list.items():
        if list_id is None:
            X[indexes] = parse([rows[index][2] for index in indexes], names)
        else:
            stored = lists[list_id]
            values = np.frombuffer(b"".join([rows[index][1] for index in indexes]), dtype="<f8")
            values = values.reshape(len(indexes), len(stored))
            if stored == names:
                X[indexes] = values
            else:
                wanted = [(column, stored.index(name)) for column, name in enumerate(names) if name in stored]
                for column, source in wanted:
                    X[indexes, column] = values[:, source]


def parse(texts: Sequence[str], names: tuple[str, ...]) -> FloatArray:
    """Stored feature texts as a matrix (n, f); NaN where a name is missing."""
    rows = [
        list(document.values()) if tuple(document) == names else [document.get(name) for name in names]
        for document in map(orjson.loads, texts)
    ]
    return np.array(rows, dtype=float).reshape(len(rows), len(names))


def packed_rows(values: FloatArray) -> list[bytes]:
    """Each row of the matrix, shape (n, n_features), as little-endian doubles."""
    joined = np.ascontiguousarray(values, dtype="<f8").tobytes()
    width = 8 * values.shape[1]
    return [joined[start : start + width] for start in range(0, len(joined), width)] if width else [b""] * len(values)
