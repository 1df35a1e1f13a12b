"""What the environment says of the settings, as nested plain values, before the model of the settings checks them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from worker.settings.messages import PREFIX, fields_of, without_service_links

_BETWEEN = "__"


class NotJsonError(ValueError):
    """Variables of lists, dictionaries or groups whose values are no JSON; `values` by name."""

    def __init__(self, values: Mapping[str, str]) -> None:
        super().__init__(", ".join(values))
        self.values = values


def from_environment(model: type[BaseModel], environ: Mapping[str, str]) -> dict[str, Any]:
    """The settings of `model` that `REFINERY_*` variables give; a variable set to nothing gives none.

    The names count in any case. A list, a dictionary and a group are JSON; what is in one of the last two may also have
    a variable of its own, which wins: `REFINERY_ML__ENABLED` over `REFINERY_ML`.

    Raises:
        NotJsonError: what should be JSON is none.
    """
    ours = sorted(_paths(model, environ), key=lambda found: len(found[1]))  # a group before what is in it
    given: dict[str, Any] = {}
    wrong = {}
    for name, path, text in ours:
        kind = _kind(model, path)
        value: Any = text
        if _is_json(kind):
            try:
                value = _own_names(json.loads(text), kind)
            except (ValueError, RecursionError):
                wrong[name] = text
        _put(given, path, value)
    if wrong:
        raise NotJsonError(wrong)
    return given


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """What both say, group by group; where they differ, the first is right."""
    result = {**second, **first}
    for name in first.keys() & second.keys():
        if isinstance(first[name], dict) and isinstance(second[name], dict):
            result[name] = merged(first[name], second[name])
    return result


def _paths(model: type[BaseModel], environ: Mapping[str, str]) -> Iterator[tuple[str, list[str], str]]:
    for name, text in without_service_links(environ).items():
        if text and name.upper().startswith(PREFIX):
            path = name[len(PREFIX) :].lower().split(_BETWEEN)
            if path[0] in model.model_fields:  # REFINERY_CONFIG is none, and others were refused
                yield name, path, text


def _kind(group: Any, path: Sequence[str]) -> Any:
    """The type of what is at `path`; None where nothing is."""
    for name in path:
        fields = fields_of(group)
        if fields is not None:
            group = fields[name].annotation if name in fields else None
        else:
            group = get_args(group)[-1] if get_origin(group) is dict else None
    return group


def _is_json(kind: Any) -> bool:
    return get_origin(kind) in (list, dict) or fields_of(kind) is not None


def _own_names(value: Any, kind: Any) -> Any:
    """The value of a group with its names as they are defined, in whatever case they were written."""
    fields = fields_of(kind)
    if fields is None or not isinstance(value, dict):
        return value
    known = {name: name.lower() if name.lower() in fields else name for name in value}
    return {known[name]: _own_names(inner, _kind(kind, [known[name]])) for name, inner in value.items()}


def _put(given: dict[str, Any], path: Sequence[str], value: Any) -> None:
    *groups, last = path
    group: Any = given
    for name in groups:
        group = group.setdefault(name, {})
        if not isinstance(group, dict):
            return  # a group's variable that holds none: the model of the settings refuses it
    group[last] = value
