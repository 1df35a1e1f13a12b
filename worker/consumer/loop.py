"""The loop: fetch a batch, handle it, settle it. What to do about a failure is one pure function, `after_failure`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Protocol

from loguru import logger

from worker.consumer.batch_handler import Handled
from worker.errors import EventError, StoreUnusable, TransientError, WorkerDied
from worker.streams.claim_heartbeat import ClaimKeeper
from worker.streams.entries import Entry
from worker.streams.reader import GroupReader

#: A batch that was handed out so often without being settled may hold an event that kills its worker.
_SUSPECT_AT = 3


class Decision(Enum):
    """What becomes of an event whose handling failed."""

    BURY = auto()
    RETRY = auto()
    PAUSE = auto()


def after_failure(error: Exception, tries: int, max_tries: int) -> Decision:
    """Retry, bury or pause, from the error and how often the event was tried; nothing else counts.

    A fault of our own side pauses and is never charged to the event, however often it was delivered.
    """
    if isinstance(error, TransientError):
        return Decision.PAUSE
    if isinstance(error, EventError) or tries >= max_tries:
        return Decision.BURY
    return Decision.RETRY


class Handler(Protocol):
    """What the loop needs of the handlers."""

    def handle(self, entries: Sequence[Entry]) -> Handled:
        """Apply a batch whole, or raise and leave no trace of it."""

    def bury(self, entry: Entry, error: Exception, attempts: int) -> Handled:
        """Put one event into the dead letters."""

    def charge(self, entry: Entry) -> int:
        """Charge an event with a try before it is made; how many it has had."""

    def take_back(self, entries: Sequence[Entry]) -> None:
        """Take one try back from each event."""

    def forget(self, entry: Entry) -> None:
        """The event is done with."""


class Consumer:
    """Fetches, handles and settles until it is told to stop; it never holds more than one batch.

    Args:
        reader: the input streams.
        handler: applies batches to the store.
        max_tries: an event that failed so often is buried; what our own side did wrong does not count.
        retry_delay_s: how long our own pending entries rest before they are read again.
        claim_every_s: how often our own pending entries and other consumers' idle ones are looked for.
        pause_s: first and longest pause while our own side is at fault.
        after_batch: called after each settled batch and each idle read.
        claims: keeps the claim on the batch in hand while it takes long; None keeps none.
    """

    def __init__(
        self,
        reader: GroupReader,
        handler: Handler,
        *,
        max_tries: int,
        retry_delay_s: float,
        claim_every_s: float,
        pause_s: tuple[float, float] = (0.1, 5.0),
        after_batch: Callable[[Handled], None] = lambda _: None,
        claims: ClaimKeeper | None = None,
    ) -> None:
        self._reader = reader
        self._handler = handler
        self._max_tries = max_tries
        self._retry_delay_s = retry_delay_s
        self._claim_every_s = claim_every_s
        self._pause_s = pause_s
        self._after_batch = after_batch
        self._claims = claims
        self._own_due = 0.0
        self._claim_due = 0.0
        self._failures = 0
        self._groups_are_there = False
        self._retrying = False
        self._unsettled = False
        self._wrongly_charged: list[Entry] = []

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; the batch in hand is finished first, and what cannot be finished is released.

        Raises:
            StoreUnusable: the store is damaged; nothing of the batch was acknowledged.
        """
        try:
            while not stop.is_set():
                try:
                    self._step()
                except TransientError as error:
                    self._pause(error, stop)
                else:
                    if self._failures:
                        logger.info("resumed after {} failed tries", self._failures)
                        self._failures = 0
        finally:
            self._release()

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
            self._own_due = now + (self._retry_delay_s if self._retrying else self._claim_every_s)
            self._unsettled, self._retrying = self._retrying, False
            self._reader.restart_own()
        if now >= self._claim_due:
            self._claim_due = now + self._claim_every_s
            if entries := self._reader.claim_idle():
                return entries
        return self._reader.read_new()

    def _handle(self, entries: list[Entry]) -> Handled:
        unsettled, self._unsettled = self._unsettled, True
        if self._claims is None:
            handled = self._in_hand(entries)
        else:
            with self._claims.held(entries):
                handled = self._in_hand(entries)
        self._unsettled = unsettled or self._retrying
        return handled

    def _in_hand(self, entries: list[Entry]) -> Handled:
        self._repay()
        redelivered = [entry for entry in entries if entry.redelivered]
        if redelivered and self._reader.most_deliveries(redelivered) >= _SUSPECT_AT:
            logger.warning("a batch of {} was never settled and is tried one by one", len(entries))
            return self._one_by_one(entries)
        try:
            handled = self._handler.handle(entries)
        except (TransientError, StoreUnusable):
            raise
        except Exception as error:  # noqa: BLE001  one poison event must not take the others with it
            logger.warning("a batch of {} failed and is tried one by one: {!r}", len(entries), error)
            return self._one_by_one(entries)
        self._reader.settle(entries, handled.scores)
        return handled

    def _one_by_one(self, entries: list[Entry]) -> Handled:
        total = Handled()
        for entry in entries:
            total += self._alone(entry)
        return total

    def _alone(self, entry: Entry) -> Handled:
        """Handle one event, charged before it is tried, so that one which kills its worker is buried in the end."""
        tries = self._handler.charge(entry)
        handled: Handled | None
        try:
            if tries > self._max_tries:
                handled = self._handler.bury(entry, _died(tries - 1), tries - 1)
            else:
                handled = self._try(entry, tries)
        except TransientError:
            self._wrongly_charged.append(entry)
            raise
        if handled is None:
            self._retrying = True
            self._own_due = min(self._own_due, time.monotonic() + self._retry_delay_s)
            return Handled()
        self._reader.settle([entry], handled.scores)
        self._handler.forget(entry)
        return handled

    def _try(self, entry: Entry, tries: int) -> Handled | None:
        """What the event came to; None when it is to be tried again."""
        try:
            return self._handler.handle([entry])
        except (TransientError, StoreUnusable):
            raise
        except Exception as error:  # noqa: BLE001  what becomes of it is decided here
            if after_failure(error, tries, self._max_tries) is Decision.RETRY:
                logger.bind(stream=entry.stream, entry_id=entry.entry_id).warning(
                    "{} {} failed and will be tried again: {!r}", entry.stream, entry.entry_id, error
                )
                return None
            return self._handler.bury(entry, error, tries)

    def _repay(self) -> None:
        """Take back the tries that ended in a fault of our own side."""
        if self._wrongly_charged:
            self._handler.take_back(self._wrongly_charged)
            self._wrongly_charged = []

    def _pause(self, error: TransientError, stop: threading.Event) -> None:
        """Say once that our side is at fault, wait with capped back-off, and look at our own pending entries next."""
        if not self._failures:
            logger.error("paused, nothing is lost: {}", error)
        first, longest = self._pause_s
        stop.wait(min(longest, first * 2 ** min(self._failures, 16)))
        self._failures += 1
        self._groups_are_there = False
        self._unsettled = True
        self._reader.restart_own()
        self._own_due = 0.0

    def _release(self) -> None:
        """Give back what was read and not settled, so that other workers need not wait for it."""
        if not self._unsettled:
            return
        try:
            released = self._reader.release_own()
        except TransientError as error:
            logger.warning("what is pending could not be released, and is taken over when it is idle: {}", error)
        else:
            logger.info("released {} entries for other workers", released)


def _died(tries: int) -> WorkerDied:
    return WorkerDied(f"the worker ended without a word at each of {tries} tries of this event alone")
