"""Whether a server is fit for the worker: asked once at the start, refused or warned of before anything is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import redis
from loguru import logger

from worker.errors import ConfigurationError
from worker.streams.errors import translated
from worker.streams.lua import script

_MISSING_COMMANDS = script("missing_commands")


#: What the worker sends beyond plain reads and writes; asked for by name, since version numbers do not tell.
_NEEDED_COMMANDS = ("XAUTOCLAIM", "XREADGROUP", "XPENDING", "XCLAIM")


def check_server(client: redis.Redis, streams: Sequence[str]) -> None:
    """Refuse a server that may throw events away or lacks what we need, and warn about one that may forget them.

    Args:
        client: a client that does not retry.
        streams: the keys that must be streams, or not there yet.

    Raises:
        ConfigurationError: the eviction policy is not `noeviction`, a command is missing, or a key is something else.
        TransientError: it is away.
    """
    with translated():
        _check_commands(client)
        _check_settings(client)
        for stream in streams:
            kind: Any = client.type(stream)
            if kind not in (b"stream", b"none"):
                raise ConfigurationError(f"the key {stream} holds a {kind.decode()}, not a stream: name another one")


def _check_commands(client: redis.Redis) -> None:
    try:
        # The client's own parser of COMMAND INFO breaks on a command that is not there.
        missing: Any = client.eval(_MISSING_COMMANDS, 0, *_NEEDED_COMMANDS)
    except redis.exceptions.NoPermissionError as error:
        raise ConfigurationError(f"this server does not let us run scripts, which we need: {error}") from error
    if missing:
        names = ", ".join(name.decode() for name in missing)
        raise ConfigurationError(f"this server has no {names}: use Valkey, or Redis 6.2 or newer")


def _check_settings(client: redis.Redis) -> None:
    try:
        told = settings_of_each(client, "maxmemory-policy", "appendonly")
    except redis.exceptions.NoPermissionError:
        logger.warning("this server does not let us read its settings: make sure of noeviction and appendonly yes")
        return
    for settings in told:
        _check(settings)


def settings_of_each(client: redis.Redis, *names: str) -> list[Any]:
    """The settings of the server, or of each that takes writes of a cluster.

    Raises:
        redis.RedisError: one of them does not say.
    """
    primaries = getattr(client, "get_primaries", None)
    if primaries is None:
        return [client.config_get(*names)]
    return [client.config_get(*names, target_nodes=node) for node in primaries()]


def _check(settings: Mapping[str, str]) -> None:
    policy = settings.get("maxmemory-policy")
    if policy != "noeviction":
        raise ConfigurationError(f"Redis must have maxmemory-policy noeviction, and has {policy}: it would drop events")
    if settings.get("appendonly") != "yes":
        logger.warning("Redis keeps no append-only file: a crash of the server loses events (set appendonly yes)")
