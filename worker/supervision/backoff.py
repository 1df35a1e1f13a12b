"""Growing pauses between tries, and waiting at the start for what may be away then too: store, disk and server."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from loguru import logger

from trading_system.ml_refinement.storage import StoreUnavailable
from worker.errors import ConfigurationError, StopRequested, TransientError
from worker.state_dir import may_pass

Found = TypeVar("Found")


class Backoff:
    """Pauses that double from `first_s` up to `longest_s`, until `reset`."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._next_s = first_s
        self.failures = 0

    def next_s(self) -> float:
        """How long to pause after one more failure, in seconds."""
        pause_s, self._next_s = self._next_s, min(self._longest_s, self._next_s * 2)
        self.failures += 1
        return pause_s

    def reset(self) -> None:
        """Something went well: the next pause is the first one again."""
        self._next_s = self._first_s
        self.failures = 0


class StartRetry:
    """Tries again, with back-off, what our own side cannot do just now.

    Args:
        stop: ends the waiting when it is set.
        waits: told before each pause what is waited for.
        backoff: the pauses.
    """

    def __init__(
        self,
        stop: threading.Event,
        *,
        waits: Callable[[str], None] = lambda _: None,
        backoff: Backoff | None = None,
    ) -> None:
        self._stop = stop
        self._waits = waits
        self._backoff = backoff or Backoff(0.1, 5.0)

    def until_possible(self, attempt: Callable[[], Found]) -> Found:
        """What the attempt gives. It must leave nothing behind when it fails.

        Why we wait is logged whenever that changes.

        Raises:
            StopRequested: told to stop before it was possible.
            ConfigurationError: a path is wrong, or not ours to write.
            Exception: whatever else waiting does not help against, as the attempt raised it: a damaged store, a schema
                of a newer release, a wrong setting.
        """
        self._backoff.reset()
        said = ""
        while not self._stop.is_set():
            try:
                found = attempt()
            except (StoreUnavailable, TransientError, OSError) as error:
                if isinstance(error, OSError) and not may_pass(error):
                    raise ConfigurationError(f"cannot start: {error}") from error
                if str(error) != said:
                    logger.error("waiting to start, nothing is lost: {}", error)
                said = str(error)
                self._waits(said)
                self._stop.wait(self._backoff.next_s())
            else:
                if self._backoff.failures:
                    logger.info("waited long enough: possible after {} failed tries", self._backoff.failures)
                return found
        raise StopRequested("told to stop before it could start")
