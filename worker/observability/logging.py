"""Where logs go, and how they look."""

from __future__ import annotations

import sys

from worker.settings.masking import masker
from worker.settings.schema import Settings


def set_up_logging(settings: Settings) -> None:
    """Send logs to stderr, for people or as JSON lines, without credentials."""
    from loguru import logger  # with asyncio, which a command that only helps has no use for

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
