"""Child processes of ours, started again when they end by themselves, and ended together."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping

from loguru import logger

from worker.supervision.backoff import Backoff
from worker.supervision.parent_death import launch_command


class Children:
    """Our own processes, started again with growing pauses when they end by themselves, and ended together.

    Args:
        environment: added to this process's own.
        grace_s: how long they may take to end once they are told to.
    """

    def __init__(self, environment: Mapping[str, str], *, grace_s: float) -> None:
        # What a service manager asks of this process, it does not ask of its children.
        own = {name: value for name, value in os.environ.items() if name not in ("NOTIFY_SOCKET", "WATCHDOG_USEC")}
        self._environment = {**own, **environment}
        self._grace_s = grace_s
        self._running: dict[tuple[str, ...], subprocess.Popen[bytes]] = {}
        self._backoffs: defaultdict[tuple[str, ...], Backoff] = defaultdict(lambda: Backoff(0.5, 30.0))
        self._start_at: dict[tuple[str, ...], float] = {}

    def start(self, *arguments: str) -> None:
        """Start `refinery ARGUMENTS` in a session of its own, so that Ctrl-C reaches us alone; it dies with us."""
        self._running[arguments] = subprocess.Popen(  # noqa: S603 - our own command line
            launch_command([sys.executable, "-m", "worker", *arguments]), env=self._environment, start_new_session=True
        )

    def tend(self) -> None:
        """Start again what has ended; call it now and then."""
        now = time.monotonic()
        for arguments, process in list(self._running.items()):
            if process.poll() is not None:
                pause_s = self._backoffs[arguments].next_s()
                logger.error("{} ended with {}, starting it again in {:.1f} s", arguments, process.returncode, pause_s)
                del self._running[arguments]
                self._start_at[arguments] = now + pause_s
        for arguments in [name for name, due in self._start_at.items() if now >= due]:
            del self._start_at[arguments]
            self.start(*arguments)

    def stop(self) -> None:
        """Tell all to end, wait for them, and kill what has not ended within the grace."""
        for process in self._running.values():
            process.terminate()
        deadline = time.monotonic() + self._grace_s
        for arguments, process in self._running.items():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                logger.error("{} did not end in {} s and is killed", arguments, self._grace_s)
                process.kill()
                process.wait()
        self._running.clear()
