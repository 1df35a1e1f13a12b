"""The loop: fetch a batch, handle it, settle it. What to do about a failure is one pure function, `after_failure`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from enum import Enum, auto
from typing import Protocol

from loguru import logger

from worker.consumer.batch_result import BatchResult
from worker.consumer.retry_budget import RetryBudget
from worker.errors import EventError, StoreUnusable, TransientError, WorkerDied
from worker.streams.claim_heartbeat import ClaimHeartbeat
from worker.streams.entries import Entry
from worker.streams.replies import ReplyTooLarge
from worker.streams.sharded_reader import Reader
from worker.supervision.backoff import Backoff

#: A batch that was handed out so often without being settled may hold an event that kills its worker.
_SUSPECT_AT = 3


class FailureAction(Enum):
    """What to do when handling failed."""

    DEAD_LETTER = auto()
    RETRY = auto()
    PAUSE = auto()
    STOP = auto()


def after_failure(error: Exception, tries: int, max_tries: int) -> FailureAction:
    """Retry, dead-letter, pause or stop, from the error and how often the event was tried alone; nothing else counts.

    A fault of our own side pauses or stops, and is never charged to the event, however often it was delivered.
    """
    if isinstance(error, TransientError):
        return FailureAction.PAUSE
    if isinstance(error, StoreUnusable):
        return FailureAction.STOP
    if isinstance(error, EventError) or tries >= max_tries:
        return FailureAction.DEAD_LETTER
    return FailureAction.RETRY


class Handler(Protocol):
    """What the loop needs of a handler of batches."""

    def handle(self, entries: Sequence[Entry]) -> BatchResult:
        """Apply a batch whole, or raise and leave no trace of it."""

    def dead_letter(self, entry: Entry, error: Exception, attempts: int) -> BatchResult:
        """Put one event into the dead letters."""


class Consumer:
    """Fetches, handles and settles until it is told to stop; it never holds more than one batch.

    Args:
        reader: the input streams.
        handler: applies batches to the store.
        retry_budget: how often each event was tried alone.
        max_tries: an event that failed so often is dead-lettered; what our own side did wrong does not count.
        retry_delay_s: how long our own pending entries rest before they are read again.
        claim_every_s: how often our own pending entries and other consumers' idle ones are looked for.
        backoff: the pauses while our own side is at fault.
        after_batch: called after each settled batch and each idle read.
        heartbeat: keeps the claim on the batch in hand while it takes long; None keeps none.
        struck_off: entries that were read and not settled, and that nobody delivers again.
        on_pause: told the cause whenever our own side is at fault.
        admit: asked at the start and after each pause whether anything may be read.
    """

    def __init__(
        self,
        reader: Reader,
        handler: Handler,
        retry_budget: RetryBudget,
        *,
        max_tries: int,
        retry_delay_s: float,
        claim_every_s: float,
        backoff: Backoff | None = None,
        after_batch: Callable[[BatchResult], None] = lambda _: None,
        heartbeat: ClaimHeartbeat | None = None,
        struck_off: Callable[[], list[Entry]] = list,
        on_pause: Callable[[str], None] = lambda _: None,
        admit: Callable[[], None] = lambda: None,
    ) -> None:
        self._reader = reader
        self._handler = handler
        self._retry_budget = retry_budget
        self._max_tries = max_tries
        self._retry_delay_s = retry_delay_s
        self._claim_every_s = claim_every_s
        self._backoff = backoff or Backoff(0.1, 5.0)
        self._after_batch = after_batch
        self._heartbeat = heartbeat
        self._struck_off = struck_off
        self._on_pause = on_pause
        self._admit = admit
        self._said = ""
        self._own_due = 0.0
        self._claim_due = 0.0
        self._groups_are_there = False
        self._retrying = False
        self._unsettled = False
        self._wrongly_charged: list[Entry] = []
        #: Read, and not settled because our own side failed: what others do to the pending list must not lose them.
        self._kept: list[Entry] = []

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; the batch in hand is finished first, and what cannot be finished is released.

        Raises:
            StoreUnusable: the store is damaged; nothing of the batch was acknowledged.
        """
        try:
            while not stop.is_set():
                try:
                    self._step()
                except Exception as error:
                    if self._action(error) is not FailureAction.PAUSE:
                        raise
                    self._pause(error, stop)
                else:
                    if self._backoff.failures:
                        logger.info("resumed after {} failed tries", self._backoff.failures)
                        self._backoff.reset()
        finally:
            self._release()

    def _action(self, error: Exception, tries: int = 0) -> FailureAction:
        return after_failure(error, tries, self._max_tries)

    def _step(self) -> None:
        if not self._groups_are_there:
            self._admit()
            self._reader.ensure_groups()
            self._groups_are_there = True
        entries = self._fetch()
        self._after_batch(self._handle(entries) if entries else BatchResult())

    def _fetch(self) -> list[Entry]:
        """What a pause interrupted, then our own pending entries when they are due, then what others have left, be it
        pending or struck off, then new ones.
        """
        if self._kept:
            return [entry._replace(redelivered=True) for entry in self._kept]
        now = time.monotonic()
        if now >= self._own_due:
            if entries := self._own():
                return entries
            self._own_due = now + (self._retry_delay_s if self._retrying else self._claim_every_s)
            self._unsettled, self._retrying = self._retrying, False
            self._reader.restart_own()
        if now >= self._claim_due:
            self._claim_due = now + self._claim_every_s
            if entries := self._reader.claim_idle() or self._struck_off():
                return entries
        try:
            return self._reader.read_new()
        except ReplyTooLarge as error:
            logger.warning("{}: the entries are read again, a few at a time", error)
        self._reader.restart_own()
        self._own_due = 0.0
        return self._own()

    def _own(self) -> list[Entry]:
        """The next of our own pending entries; unread ones where one of them may have killed whoever read it."""
        return self._reader.own_suspects(_SUSPECT_AT - 1) or self._reader.read_own()

    def _handle(self, entries: list[Entry]) -> BatchResult:
        unsettled, self._unsettled = self._unsettled, True
        self._kept = entries
        with self._heartbeat.held(entries) if self._heartbeat else nullcontext():
            result = self._in_hand(entries)
        self._kept = []
        self._unsettled = unsettled or self._retrying
        return result

    def _in_hand(self, entries: list[Entry]) -> BatchResult:
        self._repay()
        if self._may_kill(entries):
            logger.warning("a batch of {} was never settled and is tried one by one", len(entries))
            return self._one_by_one(entries)
        try:
            result = self._handler.handle(entries)
        except Exception as error:
            if self._action(error) in (FailureAction.PAUSE, FailureAction.STOP):
                raise
            # One poison event must not take the others with it.
            logger.warning("a batch of {} failed and is tried one by one: {!r:.500}", len(entries), error)
            return self._one_by_one(entries)
        self._reader.settle(entries, result.scores)
        return result

    def _may_kill(self, entries: list[Entry]) -> bool:
        """Whether the batch may hold an event that kills its worker."""
        redelivered = [entry for entry in entries if entry.redelivered]
        if not redelivered:
            return False
        return redelivered[0].is_unread or self._reader.most_deliveries(redelivered) >= _SUSPECT_AT

    def _one_by_one(self, entries: list[Entry]) -> BatchResult:
        total = BatchResult()
        for entry in entries:
            total += self._alone(entry)
        return total

    def _alone(self, entry: Entry) -> BatchResult:
        """Handle one event, charged before it is read and tried: one that kills its worker is dead-lettered in the end.

        One that kills its worker also when it is only read and put away is dead-lettered without its bytes.
        """
        tries = self._retry_budget.charge(entry)
        result: BatchResult | None
        try:
            if entry.is_unread and tries <= 2 * self._max_tries:
                found = self._reader.read_one(entry)
                if found is None:  # another worker has it
                    self._retry_budget.forget(entry)
                    return BatchResult()
                entry = found
            if tries > self._max_tries:
                result = self._handler.dead_letter(entry, _died(tries - 1), tries - 1)
            else:
                result = self._try(entry, tries)
        except Exception as error:
            if self._action(error) is FailureAction.PAUSE:
                self._wrongly_charged.append(entry)
            raise
        if result is None:
            self._retrying = True
            self._own_due = min(self._own_due, time.monotonic() + self._retry_delay_s)
            return BatchResult()
        self._reader.settle([entry], result.scores)
        self._retry_budget.forget(entry)
        return result

    def _try(self, entry: Entry, tries: int) -> BatchResult | None:
        """What the event came to; None when it is to be tried again."""
        try:
            return self._handler.handle([entry])
        except Exception as error:
            match self._action(error, tries):
                case FailureAction.DEAD_LETTER:
                    return self._handler.dead_letter(entry, error, tries)
                case FailureAction.RETRY:
                    logger.bind(stream=entry.stream, entry_id=entry.entry_id).warning(
                        "{} {} failed and will be tried again: {!r:.500}", entry.stream, entry.entry_id, error
                    )
                    return None
                case FailureAction.PAUSE | FailureAction.STOP:
                    raise

    def _repay(self) -> None:
        """Take back the tries that ended in a fault of our own side."""
        if self._wrongly_charged:
            self._retry_budget.take_back(self._wrongly_charged)
            self._wrongly_charged = []

    def _pause(self, error: Exception, stop: threading.Event) -> None:
        """Say what is at fault whenever that changes, wait with back-off, and look at our own pending entries next."""
        if not self._backoff.failures or str(error) != self._said:
            logger.error("paused, nothing is lost: {}", error)
        self._said = str(error)
        self._on_pause(self._said)
        self._reader.drop_connections()
        stop.wait(self._backoff.next_s())
        self._groups_are_there = False
        self._unsettled = True
        self._reader.restart_own()
        self._own_due = 0.0

    def _release(self) -> None:
        """Give back what was read and not settled, so that other workers need not wait for it."""
        if not self._unsettled:
            return
        try:
            self._repay()
        except (TransientError, StoreUnusable) as error:
            logger.warning("a try that failed for our own fault stays charged: {}", error)
        try:
            released = self._reader.release_own()
        except TransientError as error:
            logger.warning("what is pending could not be released, and is taken over when it is idle: {}", error)
        else:
            logger.info("released {} entries for other workers", released)


def _died(tries: int) -> WorkerDied:
    return WorkerDied(f"the worker ended without a word at each of {tries} tries of this event alone")
