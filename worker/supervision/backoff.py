"""Waiting at start for our own side: store, disk and server may be away for a moment then as at any other time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from loguru import logger

from trading_system.ml_refinement.storage import StoreUnavailable
from worker.errors import ConfigurationError, StopRequested, TransientError
from worker.state_dir import may_pass

Found = TypeVar("Found")


class Patience:
    """Tries again, with growing pauses, what our own side cannot do just now.

    Args:
        stop: ends the waiting when it is set.
        still_here: called before each pause, for whoever watches that the process lives.
        pauses_s: first and longest pause.
    """

    def __init__(
        self,
        stop: threading.Event,
        *,
        still_here: Callable[[], None] = lambda: None,
        pauses_s: tuple[float, float] = (0.1, 5.0),
    ) -> None:
        self._stop = stop
        self._still_here = still_here
        self._pauses_s = pauses_s

    def until_possible(self, attempt: Callable[[], Found]) -> Found:
        """What the attempt gives. It must leave nothing behind when it fails. That we wait is logged once.

        Raises:
            StopRequested: told to stop before it was possible.
            ConfigurationError: a path is wrong, or not ours to write.
            Exception: whatever else waiting does not help against, as the attempt raised it: a damaged store, a schema
                of a newer release, a wrong setting.
        """
        pause_s, longest_s = self._pauses_s
        failures = 0
        while not self._stop.is_set():
            try:
                found = attempt()
            except (StoreUnavailable, TransientError, OSError) as error:
                if isinstance(error, OSError) and not may_pass(error):
                    raise ConfigurationError(f"cannot start: {error}") from error
                if not failures:
                    logger.error("waiting to start, nothing is lost: {}", error)
                failures += 1
                self._still_here()
                self._stop.wait(pause_s)
                pause_s = min(longest_s, pause_s * 2)
            else:
                if failures:
                    logger.info("waited long enough: possible after {} failed tries", failures)
                return found
        raise StopRequested("told to stop before it could start")
