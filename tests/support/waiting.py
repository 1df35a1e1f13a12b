"""Waiting for other processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psutil


def wait_until(condition: Callable[[], Any], within_s: float = 20) -> None:
    """Returns as soon as `condition` holds; an assertion fails when it does not in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def runs(pid: int) -> bool:
    """Whether process `pid` is there and no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
