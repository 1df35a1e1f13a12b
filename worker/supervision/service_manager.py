"""What systemd is told of a process (Type=notify, WatchdogSec), where it is there to listen.

The loop that does the work tells that it lives, when it has come round, and no thread beside it: one that goes on while
the loop hangs would keep a dead worker.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

from loguru import logger


class ServiceManager:
    """Tells the service manager; without one nothing happens.

    Args:
        environment: `NOTIFY_SOCKET` is where it listens, `WATCHDOG_USEC` how long it waits for a word, `WATCHDOG_PID`
            from which process; None: this process's own.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        given = os.environ if environment is None else environment
        address = given.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        #: A child that is forked has nothing to say for its parent.
        self._pid = os.getpid()
        watched = given.get("WATCHDOG_PID") in (None, str(os.getpid()))
        watchdog_us = given.get("WATCHDOG_USEC", "")
        self._every_s = int(watchdog_us) / 4e6 if watched and watchdog_us.isdecimal() else None
        self._due = 0.0
        self._is_ready = False
        self._status = ""

    def ready(self) -> None:
        """The process does its work, which it says once; and it lives."""
        if not self._is_ready:
            self._is_ready = True
            self._send("READY=1")
        self.status("")
        self.alive()

    def alive(self) -> None:
        """The work has gone on; told as often as the service manager wants to hear it."""
        if self._every_s is not None and (now := time.monotonic()) >= self._due:
            self._due = now + self._every_s
            self._send("WATCHDOG=1")

    def waits(self, cause: str) -> None:
        """The process waits for something, and lives."""
        self.status(f"waits: {cause}")
        self.alive()

    def status(self, line: str) -> None:
        """A line for `systemctl status`, where it has changed."""
        if line != self._status:
            self._status = line
            self._send(f"STATUS={' '.join(line.split())}")

    def stopping(self) -> None:
        """The process ends."""
        self._send("STOPPING=1")

    def _send(self, words: str) -> None:
        if not self._address or os.getpid() != self._pid:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
                out.setblocking(False)  # it must never be waited for
                out.sendto(words.encode(), self._address)
        except OSError as error:
            logger.debug("the service manager was not told {}: {}", words, error)
