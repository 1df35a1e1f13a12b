"""Waiting for what other threads and processes do.

No test says how fast anything is. A deadline here only ends a test that hangs, so it is minutes, and no busy machine
comes near it; pytest's own is beyond it. What has to happen in some order is made to: by a barrier, by a file that is
waited for, by a process that stops at a place in our code.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import psutil
import redis

#: What has not happened after so long does not happen.
HANGS_AFTER_S = 600.0


def wait_until(condition: Callable[[], Any], tell: Callable[[], object] = lambda: "waited too long") -> None:
    """Return as soon as `condition` holds; what `tell` says is in the failure of a test that hangs."""
    assert comes_true(condition), tell()


def comes_true(condition: Callable[[], Any]) -> bool:
    """Whether `condition` came to hold."""
    deadline = time.monotonic() + HANGS_AFTER_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def join(*threads: threading.Thread) -> None:
    """Wait for the threads to end."""
    for thread in threads:
        thread.join(HANGS_AFTER_S)
        assert not thread.is_alive(), f"{thread.name} does not end"


def runs(pid: int) -> bool:
    """Whether process `pid` is there and no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def answers(client: redis.Redis) -> bool:
    """Whether the server is there."""
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
