"""Forked children, and a server that may be away for a moment."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import redis

from tests.support.waiting import HANGS_AFTER_S


def fork(work: Callable[[], None]) -> int:
    """A child that does the work and ends; its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    except BaseException:  # noqa: BLE001  the child's only way to tell
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def until(command: Callable[[], Any]) -> Any:
    """The command's reply; the server may be away for a moment."""
    deadline = time.monotonic() + HANGS_AFTER_S
    while True:
        try:
            return command()
        except (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
