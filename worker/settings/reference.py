"""The page of settings, made from the settings themselves: `python -m worker.settings.reference > docs/settings.md`."""

from __future__ import annotations

import ast
import inspect
import json
import sys
import types
from collections.abc import Iterator
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import SecretStr
from pydantic.dataclasses import is_pydantic_dataclass
from pydantic.fields import FieldInfo

from trading_system.ml_refinement.config import MLConfig
from trading_system.ml_refinement.config_effects import EFFECTS
from worker.settings.messages import CONFIG_NAME, CONFIG_VARIABLE, fields_of, variable
from worker.settings.schema import Settings

_HEAD = f"""# Settings

Environment variables, or a TOML file (`REFINERY_ML__TRAINING__MAX_FEATURES` is `max_features` in its table
`[ml.training]`): the one that `{CONFIG_VARIABLE}` names, or where it is not set, `{CONFIG_NAME}` in the working
directory. `{CONFIG_VARIABLE}=` (nothing) reads none. A variable wins over the file. They are read once, when a process
starts. A wrong or unknown one stops the start with a line that names it, its value and what is allowed.

What Kubernetes adds for services whose names begin as our settings do (`REFINERY_SERVICE_HOST`,
`REFINERY_CONSOLE_PORT=tcp://10.0.0.1:8700`) is no setting and is ignored: a setting of that name keeps its default, and
`refinery doctor` names the variables. `enableServiceLinks: false` in the pod keeps them away.

This page is generated: `python -m worker.settings.reference > docs/settings.md`.
"""

_EFFECTS_HEAD = """## What the settings of learning change

`training.max_features` is `REFINERY_ML__TRAINING__MAX_FEATURES` here and `MLConfig().training.max_features` in the
library. Worker and trainer log at their start, and `refinery doctor` tells, which of those that were given a value do
nothing beside the others. Every setting of features but the two on scaling is part of the feature version.
"""


def page() -> str:
    """The page."""
    parts = [_HEAD]
    for heading, rows in _groups(Settings, (), "Installation"):
        head = (f"## {heading}\n", "| variable | default | allowed | meaning |", "|---|---|---|---|")
        lines = [f"| `{variable(path)}` | {_default(f)} | {_allowed(f)} | {text} |" for path, f, text in rows]
        parts.append("\n".join([*head, *lines]))
    parts += [_EFFECTS_HEAD, effects_table()]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def effects_table() -> str:
    """What each field of the library's configuration changes, as Markdown."""
    lines = ["| field of `MLConfig` | default | changes | acts |", "|---|---|---|---|"]
    for name, effect in EFFECTS.items():
        group: Any = MLConfig
        *above, field = name.split(".")
        for part in above:
            group = group.__pydantic_fields__[part].annotation
        info = group.__pydantic_fields__[field]
        default = "" if is_pydantic_dataclass(info.annotation) else _default(info)
        lines.append(f"| `{name}` | {default} | {effect.changes} | {effect.acts} |")
    return "\n".join(lines)


def _groups(
    group: Any, above: tuple[str, ...], heading: str
) -> Iterator[tuple[str, list[tuple[tuple[str, ...], FieldInfo, str]]]]:
    plain, nested, means = [], [], meanings(group)
    for name, field in (fields_of(group) or {}).items():
        kind: Any = field.annotation
        if fields_of(kind) is not None:
            nested.append((kind, (*above, name), means.get(name, name).rstrip(".")))
        else:
            plain.append(((*above, name), field, means.get(name, "").replace("|", "\\|")))
    yield heading, plain
    for kind, path, title in nested:
        yield from _groups(kind, path, title)


def meanings(group: type) -> dict[str, str]:
    """What is written under each field of a group of settings, on one line.

    Read from the source, which is at hand where the page is made, and not by pydantic as it makes the class: that would
    parse every group again each time a command starts.
    """
    body = ast.parse(inspect.getsource(group)).body[0]
    assert isinstance(body, ast.ClassDef)  # noqa: S101 - what else could the source of a class be
    texts = {}
    for field, text in pairwise(body.body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            texts[field.target.id] = " ".join(str(ast.literal_eval(text.value)).split())
    return texts


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or value in ([], {}, ""):
        return "" if value is None else "empty"
    if isinstance(value, Path):
        return f"`./{value}`"
    if isinstance(value, Enum):
        return f"`{value.value}`"
    if isinstance(value, list):
        return f"`{json.dumps(value)}`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _allowed(field: FieldInfo) -> str:
    bounds = []
    for rule in field.metadata:
        for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
            if getattr(rule, name, None) is not None:
                bounds.append(f"{sign} {getattr(rule, name)}")
        if isinstance(rule, annotated_types.MinLen) and rule.min_length:
            bounds.append("not empty")
    return ", ".join([_kind(field.annotation), *bounds])


def _kind(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        return _kind(next(part for part in inner if part is not type(None)))
    if origin is list:
        return "JSON list"
    if origin is dict:
        return "JSON object"
    if hasattr(kind, "__metadata__"):
        return _kind(kind.__origin__)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(f"`{member.value}`" for member in kind)
    if isinstance(kind, type) and issubclass(kind, Path):
        return "path"
    names = {bool: "true, false", int: "integer", float: "number", str: "text", SecretStr: "secret text"}
    return names.get(kind, "path" if "Path" in str(kind) else "text")


if __name__ == "__main__":
    sys.stdout.write(page())
