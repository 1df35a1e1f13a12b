"""What is said about a wrong setting: one line with the variable's name, its value, and what is allowed."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.dataclasses import is_pydantic_dataclass
from pydantic.fields import FieldInfo

from worker.errors import ConfigurationError
from worker.settings.redis_url import mask_url

_Value = TypeVar("_Value", str, "str | None")

PREFIX = "REFINERY_"
CONFIG_VARIABLE = "REFINERY_CONFIG"
#: Read from the working directory where the variable is not set.
CONFIG_NAME = "refinery.toml"

#: As `X_PORT` may be a setting, it is a link by its value alone.
_LINK_NAME = re.compile(
    r"_(?:(PORT)|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?|SERVICE_(?:HOST|PORT(?:_\w+)?))$"
)
_LINK_VALUE = re.compile(r"(?:tcp|udp|sctp)://[^/\s]+:\d+")

#: Fields of the library's configuration that are no settings, with what the paths follow from.
_DERIVED = {
    "model_dir": f"{PREFIX}STATE_DIR replaces it: model files lie in its directory models",
    "feature_db_path": f"{PREFIX}STATE_DIR replaces it: the store is its file features.db",
}


def setting_types(model: type[BaseModel]) -> dict[str, Any]:
    """The environment variables of all settings of `model`, in the order of their definition, with their types."""
    return {variable(path): kind for path, kind in _leaves(model, ())}


def fields_of(group: Any) -> dict[str, FieldInfo] | None:
    """The settings of a group of them by name; None for a type that is no group."""
    if isinstance(group, type) and issubclass(group, BaseModel):
        return group.model_fields
    if is_pydantic_dataclass(group):
        return {name: info for name, info in group.__pydantic_fields__.items() if name not in _DERIVED}
    return None


def variable(path: Sequence[str]) -> str:
    """The environment variable of the setting at `path`."""
    return PREFIX + "__".join(path).upper()


def refuse_unknown(environ: Mapping[str, str], types: Mapping[str, Any]) -> None:
    """Raises ConfigurationError when `environ` has a `REFINERY_*` variable that is no setting."""
    groups = {name.rsplit("__", depth)[0] for name in types for depth in range(1, name.count("__") + 1)}
    known = {*types, *groups, CONFIG_VARIABLE}
    by_key = tuple(f"{name}__" for name, kind in types.items() if get_origin(kind) is dict)
    ours = without_service_links(environ)
    given = sorted(name.upper() for name in ours if name.upper().startswith(PREFIX))
    unknown = [name for name in given if name not in known and not name.startswith(by_key)]
    if unknown:
        raise ConfigurationError("; ".join(_no_such(name, types) for name in unknown))


def refuse_carriage_returns(environ: Mapping[str, str]) -> None:
    """Raises ConfigurationError when a `REFINERY_*` variable ends as lines of a file from Windows do."""
    ending = sorted(name for name, value in environ.items() if name.upper().startswith(PREFIX) and value.endswith("\r"))
    if ending:
        raise ConfigurationError(
            f"{', '.join(ending)}: ends in a carriage return: give the file that it comes from line ends without them"
        )


def without_service_links(environ: Mapping[str, _Value]) -> dict[str, _Value]:
    """`environ` without what Kubernetes adds of its own accord for services whose names begin as our settings do."""
    return {name: value for name, value in environ.items() if not _is_service_link(name, value)}


def service_links(environ: Mapping[str, str]) -> list[str]:
    """The variables of `environ` that have our prefix and are Kubernetes', not ours."""
    return sorted(
        name for name, value in environ.items() if name.upper().startswith(PREFIX) and _is_service_link(name, value)
    )


def _is_service_link(name: str, value: str | None) -> bool:
    linked = _LINK_NAME.search(name.upper())
    return linked is not None and (linked[1] is None or _LINK_VALUE.fullmatch(value or "") is not None)


def config_file() -> str | None:
    """The TOML file of settings: the one that `REFINERY_CONFIG` names; not set, `refinery.toml` where we are, if there.

    The variable set to nothing: none.
    """
    named = os.environ.get(CONFIG_VARIABLE)
    return (CONFIG_NAME if Path(CONFIG_NAME).is_file() else None) if named is None else named or None


def read_config_file(path: str | None, types: Mapping[str, Any]) -> dict[str, Any]:
    """What the file of settings says; nothing where there is none. It may begin with a byte order mark.

    Raises:
        ConfigurationError: it is no TOML, or sets a path.
    """
    if not path:
        return {}
    import tomllib  # few installations have a file

    shown = f"{CONFIG_VARIABLE}={path!r}: must name a" if CONFIG_VARIABLE in os.environ else f"{path}: must be a"
    try:
        given = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigurationError(f"{shown} readable TOML file: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{shown} valid TOML file: {error}") from None
    ml = given.get("ml")
    for name in _DERIVED:
        if isinstance(ml, dict) and name in ml:
            raise ConfigurationError(_no_such(variable(("ml", name)), types))
    return given


def explain(item: Any, types: Mapping[str, Any]) -> str:
    """One line for one of pydantic's error details."""
    path = [str(part) for part in item["loc"]]
    if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return _no_such(variable(path), types)
    while len(path) > 1 and not any(name.startswith(variable(path)) for name in types):
        path.pop()  # an element of a list or of a dictionary: the setting is the whole
    allowed = re.sub(r"^Value error, ", "", item["msg"])
    allowed = re.sub(r"^\w+ should", "must", allowed)
    allowed = allowed.replace("Path does not point to a directory", "must be an existing directory")
    if isinstance(item["input"], dict) or fields_of(type(item["input"])) is not None:
        return f"{variable(path)}: {allowed}"
    name = variable(path)
    allowed = re.sub(r"must have at least (\d+) items after.*", r"must have at least \1 characters", allowed)
    return f"{name}={_shown(name, str(item['input']), types)!r}: {allowed}"


def explain_json(values: Mapping[str, str], types: Mapping[str, Any]) -> str:
    """One line for the variables whose values should have been JSON."""
    wrong = ", ".join(f"{name}={_shown(name.upper(), text, types)!r}" for name, text in sorted(values.items()))
    return f'{wrong}: must be JSON, such as [5, 10] or {{"equity": "SPX"}}'


def _shown(name: str, value: str, types: Mapping[str, Any]) -> str:
    """A value as it may be told: nothing of one that is a secret, or a group with one in it."""
    of_group = (kind for setting, kind in types.items() if setting == name or setting.startswith(f"{name}__"))
    return "***" if any(map(_is_secret, of_group)) else mask_url(value)


def _is_secret(kind: Any) -> bool:
    return kind is SecretStr or any(_is_secret(part) for part in get_args(kind))


def _leaves(group: Any, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, info in (fields_of(group) or {}).items():
        if fields_of(info.annotation) is None:
            yield (*above, name), info.annotation
        else:
            yield from _leaves(info.annotation, (*above, name))


def _no_such(name: str, types: Mapping[str, Any]) -> str:
    for field, replaced in _DERIVED.items():
        if name == variable(("ml", field)):
            return f"{name}: no setting of its own; {replaced}"
    near = difflib.get_close_matches(name, types, n=3, cutoff=0.75)
    return f"{name}: no such setting" + (f"; near names: {', '.join(near)}" if near else "")
