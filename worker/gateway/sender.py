"""Events into Redis: nothing is answered before the server has it, and while it is away one waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import redis
from loguru import logger

from worker.errors import StopRequested, TransientError
from worker.streams.entries import append_those_taken
from worker.supervision.backoff import Backoff

_TOLD_AGAIN_S = 60.0


class Sender:
    """Appends for all connections; each call is its own round trip.

    Args:
        client: a client that does not retry.
        stop: ends the waiting for a server that is away.
    """

    def __init__(self, client: redis.Redis, stop: threading.Event) -> None:
        self._client = client
        self._stop = stop
        self._turn = threading.Lock()
        self._told_at: dict[str, float] = {}

    def send(self, events: Sequence[tuple[str, bytes]], *, wanted: Callable[[], bool]) -> list[str]:
        """The entry ids of (stream, event) pairs, once the server has all of them.

        What the server has already is not sent again, unless its answer was lost; events have an identity.

        Args:
            events: in order.
            wanted: asked before each further try whether anybody still waits for the answer.

        Raises:
            StopRequested: told to stop, or nobody waits, before the server had all of them.
        """
        ids: list[str | None] = [None] * len(events)
        backoff = Backoff(0.05, 2.0)
        while True:
            left = [at for at, entry_id in enumerate(ids) if entry_id is None]
            trouble = self._append(ids, left, events)
            if trouble is None:
                if backoff.failures:
                    self._tell("INFO", "Redis takes events again")
                return [entry_id for entry_id in ids if entry_id is not None]
            if self._stop.wait(backoff.next_s()) or not wanted():
                raise StopRequested("nobody waits for the answer any more")

    def _append(self, ids: list[str | None], left: Sequence[int], events: Sequence[tuple[str, bytes]]) -> str | None:
        """Fill in the ids of what the server takes; why it does not take all."""
        trouble: str | None
        try:
            taken, trouble = append_those_taken(self._client, [events[at] for at in left])
        except TransientError as error:
            trouble = str(error)
            # The connections that are there may lead to a server that was demoted.
            self._client.connection_pool.disconnect(inuse_connections=False)
        else:
            for at, entry_id in zip(left, taken, strict=True):
                ids[at] = entry_id
        if trouble is not None:
            self._tell("ERROR", f"events wait, and none is answered: {trouble}")
        return trouble

    def _tell(self, level: str, line: str) -> None:
        """Log a line at most once a minute, however many connections have it to say."""
        with self._turn:
            now = time.monotonic()
            self._told_at = {said: at for said, at in self._told_at.items() if now - at < _TOLD_AGAIN_S}
            if line not in self._told_at:
                self._told_at[line] = now
                logger.log(level, "{}", line)
