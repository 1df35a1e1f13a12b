"""What only the desk knows, as JSON gives it: names to finite numbers, or a reason."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from trading_system.ml_refinement.provided_limits import MOST_PROVIDED, PROVIDED_MAX, is_provided_name
from worker.errors import DecodeError, Reason
from worker.events.faults import at_fault

_SHOWN_CHARACTERS = 64


def provided_from_json(value: Any) -> dict[str, float]:
    """The numbers in a parsed JSON value, by name.

    Raises:
        DecodeError: schema (no object, a name that is none, a value that is no number), too_large or bad_number.
    """
    if type(value) is not dict:
        raise DecodeError(Reason.SCHEMA, "features: not an object")
    if len(value) > MOST_PROVIDED:
        raise DecodeError(Reason.TOO_LARGE, f"features: {len(value)} numbers, at most {MOST_PROVIDED} are allowed")
    _refuse_bad_names(tuple(value))
    numbers = value.values()
    if not set(map(type, numbers)) <= {float, int}:
        name = next(name for name, number in value.items() if type(number) not in (float, int))
        said = f"features.{name}: not a number"
        raise DecodeError(Reason.SCHEMA, at_fault(said, value[name]), alike=said)
    if numbers and not (min(numbers) >= -PROVIDED_MAX and max(numbers) <= PROVIDED_MAX):
        name = next(name for name, number in value.items() if not -PROVIDED_MAX <= number <= PROVIDED_MAX)
        said = f"features.{name}: beyond {PROVIDED_MAX:g}"
        raise DecodeError(Reason.BAD_NUMBER, at_fault(said, value[name]), alike=said)
    return {name: number + 0.0 for name, number in value.items()}


@lru_cache(maxsize=256)  # a producer sends the same names with every signal
def _refuse_bad_names(names: tuple[str, ...]) -> None:
    for name in names:
        if not is_provided_name(name):
            shown = name if len(name) <= _SHOWN_CHARACTERS else f"{name[:_SHOWN_CHARACTERS]}..."
            raise DecodeError(Reason.SCHEMA, f"features: {shown!r} is no name of a-z, 0-9 and _, a letter first")
