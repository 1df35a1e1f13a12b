"""Where logs go, and how they look."""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING

from worker.observability.printable import printable, printable_json, printable_lines
from worker.settings.masking import masker
from worker.settings.schema import Settings

if TYPE_CHECKING:
    from loguru import Record

_LINE = "<green>{time:HH:mm:ss.SSS}</green> <level>{level: <7}</level> {extra[said]}\n{extra[trace]}"


def set_up_logging(settings: Settings) -> None:
    """Send logs to stderr, for people or as JSON lines, without credentials and with nothing that a terminal obeys."""
    from loguru import logger  # with asyncio, which a command that only helps has no use for

    mask = masker(settings.redis_url, settings.queue_url, settings.store_url, settings.store_read_url)

    def write(text: str) -> None:
        sys.stderr.write(mask(text))

    def write_json(text: str) -> None:
        sys.stderr.write(mask(printable_json(text)))

    logger.remove()
    if settings.log_format == "json":
        logger.add(write_json, level=settings.log_level, serialize=True, backtrace=False, diagnose=False)
        return
    in_colour = sys.stderr.isatty()
    logger.add(write, level=settings.log_level, format=_line, colorize=in_colour, backtrace=False, diagnose=False)


def _line(record: Record) -> str:
    """A line for people, whose message may quote what a producer sent; a traceback below it, set in."""
    error = record["exception"]
    trace = "" if error is None else "".join(traceback.format_exception(error.type, error.value, error.traceback))
    record["extra"]["said"] = printable(record["message"])
    record["extra"]["trace"] = "".join(f"  {line}\n" for line in printable_lines(trace).splitlines())
    return _LINE
