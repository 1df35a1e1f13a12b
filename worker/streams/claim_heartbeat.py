"""Keeps the claim on a batch while it is in hand, so that no other worker takes it over only because it takes long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from loguru import logger

from worker.errors import TransientError
from worker.streams.entries import Entry
from worker.streams.sharded_reader import Reader


class ClaimHeartbeat:
    """Claims the batch in hand again and again, from a thread of its own; a context manager.

    A worker that is stopped or killed claims nothing, so its batch is taken over; one that hangs claims for
    `at_most_s`. Claiming an entry that was acknowledged meanwhile does nothing.

    Args:
        reader: the input streams.
        every_s: how often; well below the time after which entries are taken over.
        at_most_s: how long one batch may be kept.
    """

    def __init__(self, reader: Reader, *, every_s: float, at_most_s: float) -> None:
        self._reader = reader
        self._every_s = every_s
        self._at_most_s = at_most_s
        self._held: Sequence[Entry] = ()
        self._since = 0.0
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="claim-heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join()

    @contextmanager
    def held(self, entries: Sequence[Entry]) -> Iterator[None]:
        """The entries are in hand while the block runs."""
        self._since = time.monotonic()
        self._held = entries
        try:
            yield
        finally:
            with self._lock:
                self._held = ()

    def _run(self) -> None:
        looked = time.monotonic()
        while not self._closed.wait(self._every_s):
            slept_s, looked = time.monotonic() - looked, time.monotonic()
            with self._lock:
                if slept_s > 3 * self._every_s:
                    self._held = ()  # we were stopped: someone else may have the batch by now
                elif self._held and self._every_s <= looked - self._since <= self._at_most_s:
                    self._renew()

    def _renew(self) -> None:
        try:
            self._reader.renew_claims(self._held)
        except TransientError as error:
            logger.debug("the claim on the batch in hand could not be renewed: {}", error)
