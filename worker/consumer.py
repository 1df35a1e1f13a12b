"""The loop: fetch a batch, handle it, settle it. What to do about a failure is one pure function, `after_failure`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Protocol

from loguru import logger

from worker.errors import EventError, TransientError
from worker.handlers import Handled
from worker.streams import Entry, GroupReader


class Decision(Enum):
    """What becomes of an event whose handling failed."""

    BURY = auto()
    RETRY = auto()
    PAUSE = auto()


def after_failure(error: Exception, deliveries: int, max_deliveries: int) -> Decision:
    """Retry, bury or pause, from the error and how often the event was handed out; nothing else counts.

    A fault of our own side pauses and is never charged to the event, however often it was delivered.
    """
    if isinstance(error, TransientError):
        return Decision.PAUSE
    if isinstance(error, EventError) or deliveries >= max_deliveries:
        return Decision.BURY
    return Decision.RETRY


class Handler(Protocol):
    """What the loop needs of the handlers."""

    def handle(self, entries: Sequence[Entry]) -> Handled:
        """Apply a batch whole, or raise and leave no trace of it."""

    def bury(self, entry: Entry, error: Exception, attempts: int) -> None:
        """Put one event into the dead letters."""


class Consumer:
    """Fetches, handles and settles until it is told to stop; it never holds more than one batch.

    Args:
        reader: the input streams.
        handler: applies batches to the store.
        max_deliveries: an event that keeps failing is buried at this many deliveries.
        retry_delay_s: how long our own pending entries rest before they are read again.
        claim_every_s: how often our own pending entries and other consumers' idle ones are looked for.
        pause_s: first and longest pause while our own side is at fault.
        after_batch: called after each settled batch and each idle read.
    """

    def __init__(
        self,
        reader: GroupReader,
        handler: Handler,
        *,
        max_deliveries: int,
        retry_delay_s: float,
        claim_every_s: float,
        pause_s: tuple[float, float] = (0.1, 5.0),
        after_batch: Callable[[Handled], None] = lambda _: None,
    ) -> None:
        self._reader = reader
        self._handler = handler
        self._max_deliveries = max_deliveries
        self._retry_delay_s = retry_delay_s
        self._claim_every_s = claim_every_s
        self._pause_s = pause_s
        self._after_batch = after_batch
        self._own_due = 0.0
        self._claim_due = 0.0
        self._failures = 0
        self._groups_are_there = False

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; the batch in hand is finished first."""
        while not stop.is_set():
            try:
                self._step()
            except TransientError as error:
                self._pause(error, stop)
            else:
                if self._failures:
                    logger.info("resumed after {} failed tries", self._failures)
                    self._failures = 0

    def _step(self) -> None:
        if not self._groups_are_there:
            self._reader.ensure_groups()
            self._groups_are_there = True
        entries = self._fetch()
        self._after_batch(self._handle(entries) if entries else Handled())

    def _fetch(self) -> list[Entry]:
        """Our own pending entries first when they are due, then other consumers' idle ones, then new ones."""
        now = time.monotonic()
        if now >= self._own_due:
            if entries := self._reader.read_own():
                return entries
            self._own_due = now + self._claim_every_s
            self._reader.restart_own()
        if now >= self._claim_due:
            self._claim_due = now + self._claim_every_s
            if entries := self._reader.claim_idle():
                return entries
        return self._reader.read_new()

    def _handle(self, entries: list[Entry]) -> Handled:
        try:
            handled = self._handler.handle(entries)
        except TransientError:
            raise
        except Exception as error:  # noqa: BLE001  one poison event must not take the others with it
            logger.warning("a batch of {} failed and is tried one by one: {!r}", len(entries), error)
            return self._one_by_one(entries)
        self._reader.settle(entries, handled.scores)
        return handled

    def _one_by_one(self, entries: list[Entry]) -> Handled:
        total = Handled()
        for position, entry in enumerate(entries):
            if position % 16 == 0:
                self._reader.keep(entries[position:])
            total += self._alone(entry)
        return total

    def _alone(self, entry: Entry) -> Handled:
        try:
            handled = self._handler.handle([entry])
        except TransientError:
            raise
        except Exception as error:  # noqa: BLE001  what becomes of it is decided below
            deliveries = self._reader.deliveries(entry) if entry.redelivered else 1
            if after_failure(error, deliveries, self._max_deliveries) is Decision.RETRY:
                logger.warning("{} {} failed and will be tried again: {!r}", entry.stream, entry.entry_id, error)
                self._own_due = min(self._own_due, time.monotonic() + self._retry_delay_s)
                return Handled()
            self._handler.bury(entry, error, deliveries)
            handled = Handled(buried=1)
        self._reader.settle([entry], handled.scores)
        return handled

    def _pause(self, error: TransientError, stop: threading.Event) -> None:
        """Say once that our side is at fault, wait with capped back-off, and look at our own pending entries next."""
        if not self._failures:
            logger.error("paused, nothing is lost: {}", error)
        first, longest = self._pause_s
        stop.wait(min(longest, first * 2 ** min(self._failures, 16)))
        self._failures += 1
        self._groups_are_there = False
        self._reader.restart_own()
        self._own_due = 0.0
