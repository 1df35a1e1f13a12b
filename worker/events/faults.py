"""What is wrong with an event, in words: every fault with its value, and no credentials that stand in one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import orjson

from worker.errors import DecodeError, Reason
from worker.events.models import PATTERN_WORDS
from worker.settings.masking import masker

#: A value is shown up to this length, and so many faults are.
_MOST_VALUE = 80
_MOST_FAULTS = 20
#: With one of these there is nothing else to say: what was read is not what was meant, or is of another contract.
_ALONE = frozenset({Reason.UNKNOWN_VERSION, Reason.DUPLICATE_KEY, Reason.BAD_JSON, Reason.BAD_ENCODING})
_WORDS = (
    (re.compile(r"^Field required$"), "missing"),
    (re.compile(r"^Input should be "), "must be "),
    (re.compile(r"^(?:String|List) should "), "must "),
    (re.compile(r"greater than or equal to"), "at least"),
    (re.compile(r"less than or equal to"), "at most"),
    (re.compile(r"a valid string"), "text"),
    (re.compile(r"a valid integer"), "a whole number"),
    (re.compile(r"a valid number"), "a number"),
    (re.compile(r"a valid (?:list|array)"), "a list"),
    (re.compile(r"a valid dictionary or instance of \w+"), "an object"),
)
_mask = masker(None)


def shown(value: Any) -> str:
    """A value of an event as it may be told: as JSON, without credentials, cut."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = value[: 4 * _MOST_VALUE] if isinstance(value, str) else value
    try:
        said = _mask(orjson.dumps(text).decode())
    except orjson.JSONEncodeError:  # a number beyond what JSON's readers agree on
        said = _mask(repr(text)[: 4 * _MOST_VALUE])
    return said if len(said) <= _MOST_VALUE else f"{said[: _MOST_VALUE - 3]}..."


def at_fault(said: str, value: Any) -> str:
    """A fault with the value that has it."""
    return f"{said}, and is {shown(value)}"


def fault(item: Any, instead: str | None = None) -> str:
    """One of pydantic's details: the field, what it must be, and what it is."""
    said = instead or in_words(item)
    where = ".".join(map(str, item["loc"]))
    return f"{where}: {said if item['type'] == 'missing' else at_fault(said, item['input'])}"


def in_words(item: Any) -> str:
    """What a field must be, without the notation of patterns."""
    if item["type"] == "string_pattern_mismatch" and (known := PATTERN_WORDS.get(item["ctx"]["pattern"])):
        return f"must be {known}"
    said = str(item["msg"])
    for pattern, words in _WORDS:
        said = pattern.sub(words, said)
    return said


def with_others(error: DecodeError, checks: Iterable[Callable[[], object]]) -> DecodeError:
    """The same refusal, for the same reason, that tells of the other faults too.

    Args:
        error: what the event is refused for.
        checks: each looks at a part of the event, and may raise.
    """
    if error.reason in _ALONE:
        return error
    faults = dict.fromkeys(error.faults)
    for check in checks:
        try:
            check()
        except DecodeError as other:
            faults |= dict.fromkeys(other.faults)
    told = list(faults)[:_MOST_FAULTS]
    more = f"; and {len(faults) - len(told)} more" if len(faults) > len(told) else ""
    return DecodeError(error.reason, "; ".join(told) + more, alike=error.alike, faults=tuple(faults))
