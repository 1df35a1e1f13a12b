"""What a command opens: the log, the store, a client of Redis.

Kept apart from the composition root so that looking at a store does not load what learning needs. The clients' own
packages are loaded by whoever calls for one: each takes longer than the look that a status takes at the store.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from trading_system.ml_refinement.storage import FeatureDatabase
from worker.errors import ConfigurationError
from worker.masking import masker
from worker.settings import Settings

if TYPE_CHECKING:
    import redis

#: In the state directory while a restore replaces files; no store is opened beside it.
MARKER = "restore-in-progress.json"
#: Above the longest blocking read, so that a silent server and an empty stream are told apart.
_SOCKET_TIMEOUT_S = 10.0


def release() -> str:
    """The installed version of this distribution."""
    from importlib.metadata import version

    return version("signal-refinery")


def set_up_logging(settings: Settings) -> None:
    """Send logs to stderr, for people or as JSON lines, without credentials."""
    from loguru import logger

    mask = masker(settings.redis_url)

    def write(text: str) -> None:
        sys.stderr.write(mask(text))

    logger.remove()
    if settings.log_format == "json":
        logger.add(write, level=settings.log_level, serialize=True, backtrace=False, diagnose=False)
        return
    line = "<green>{time:HH:mm:ss.SSS}</green> <level>{level: <7}</level> {message}"
    in_colour = sys.stderr.isatty()
    logger.add(write, level=settings.log_level, format=line, colorize=in_colour, backtrace=False, diagnose=False)


def connect(url: str) -> redis.Redis:
    """A client that neither retries nor decodes: for everything that writes to or reads from streams."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return redis.Redis.from_url(
        url,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=_SOCKET_TIMEOUT_S,
        socket_connect_timeout=_SOCKET_TIMEOUT_S,
        protocol=2,
    )


def open_store(settings: Settings, *, read_only: bool = False) -> FeatureDatabase:
    """The store of this installation, with its schema up to date unless it is only read.

    Raises:
        StoreUnavailable: it cannot be opened now.
        StoreDamaged: it is no store, or a damaged one.
        ConfigurationError: a restore of it was interrupted.
    """
    refuse_half_restored(settings)
    store = FeatureDatabase(str(settings.store_path), read_only=read_only)
    if not read_only:
        store.initialize()
    return store


def refuse_half_restored(settings: Settings) -> None:
    """Refuse to work on a state directory whose files are being replaced.

    Raises:
        ConfigurationError: a restore is going on, or was interrupted.
    """
    if (settings.state_dir / MARKER).exists():
        raise ConfigurationError(f"a restore of {settings.state_dir} was interrupted: run `refinery restore` again")
