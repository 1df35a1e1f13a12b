"""What stdout and stderr do with signs that they lack, with a crash, and with a reader that is gone."""

from __future__ import annotations

import io
import os
import sys
import threading
import traceback
from types import TracebackType

from worker.observability.printable import READABLE, printable_lines


def prepare_streams() -> None:
    """Let no sign that stdout or stderr cannot encode end a command, and no crash write raw what a producer sent."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=READABLE)
    sys.excepthook = _tell_crash
    threading.excepthook = lambda told: _tell_crash(told.exc_type, told.exc_value, told.exc_traceback)


def drop_stdout() -> None:
    """Give up what stdout still holds: it cannot be written, and would be tried again at the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def _tell_crash(kind: type[BaseException], error: BaseException | None, where: TracebackType | None) -> None:
    if issubclass(kind, SystemExit):
        return
    sys.stderr.write(printable_lines("".join(traceback.format_exception(kind, error, where))))
