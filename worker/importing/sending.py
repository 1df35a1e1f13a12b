"""Events into their streams, never more at once than a worker soon has handled, and what became of them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from worker.errors import RefineryError, TransientError
from worker.importing.history import PastEvent
from worker.streams.entries import SENT_AT_ONCE_BYTES, append_those_taken
from worker.streams.state import handled_through, number_of

if TYPE_CHECKING:
    import redis

#: So many events of an import wait at most, and so many bytes: no lag that pages, and a live event waits for no more.
MOST_WAITING = 1_000
_MOST_WAITING_BYTES = 4 * SENT_AT_ONCE_BYTES
_AT_ONCE = 250
_LOOK_EVERY_S = 0.02


class NothingHandled(RefineryError):
    """What was sent waits in the stream, and no worker takes it."""


class StreamSender:
    """Sends events to one stream and waits until a worker has handled them.

    Args:
        client: a client that does not retry.
        stream: where they go.
        group: of the workers.
        patience_s: how long nothing may be handled, or the server be away.
        progress: told how many events were handled since it was last told.
    """

    def __init__(
        self,
        client: redis.Redis,
        stream: str,
        group: str,
        *,
        patience_s: float,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._client = client
        self._stream = stream
        self._group = group
        self._give_up_after_s = patience_s
        self._progress = progress
        self._through: tuple[int, int] | None = None
        self._moved_at = 0.0

    def send(self, events: Sequence[PastEvent]) -> list[str]:
        """The entry ids of the events, in their order, when all of them have been handled.

        Raises:
            NothingHandled: no worker handled any of them for `patience_s`.
            TransientError: the server did not take them for as long. Sending them again is harmless.
        """
        ids: list[str] = []
        waiting: deque[tuple[tuple[int, int], int]] = deque()
        trouble: str | None = None
        self._moved_at = time.monotonic()
        while waiting or len(ids) < len(events):
            try:
                done = self._take_handled(waiting)
                sent, trouble = self._send_some(events, ids, waiting)
            except TransientError as error:
                done, sent, trouble = 0, 0, str(error)
                self._client.connection_pool.disconnect(inuse_connections=False)
            self._progress(done)
            if sent:
                self._moved_at = time.monotonic()
                continue
            if time.monotonic() - self._moved_at > self._give_up_after_s:
                self._give_up(trouble, len(waiting))
            time.sleep(_LOOK_EVERY_S)
        return ids

    def _take_handled(self, waiting: deque[tuple[tuple[int, int], int]]) -> int:
        """Forget what was handled; how many that were."""
        through = handled_through(self._client, self._stream, self._group)
        if through != self._through:  # of ours or of what stands before it
            self._through, self._moved_at = through, time.monotonic()
        done = 0
        while waiting and through is not None and waiting[0][0] <= through:
            waiting.popleft()
            done += 1
        return done

    def _send_some(
        self, events: Sequence[PastEvent], ids: list[str], waiting: deque[tuple[tuple[int, int], int]]
    ) -> tuple[int, str | None]:
        """Send what there is room for; how many the server took, and why it did not take one."""
        held = sum(size for _, size in waiting)
        batch: list[tuple[str, bytes]] = []
        for event in events[len(ids) : len(ids) + min(_AT_ONCE, MOST_WAITING - len(waiting))]:
            if waiting and held + len(event.data) > _MOST_WAITING_BYTES:
                break
            held += len(event.data)
            batch.append((self._stream, event.data))
        if not batch:
            return 0, None
        answers, trouble = append_those_taken(self._client, batch)
        # Behind the first that was not taken all are sent again: in order, and known events have no effect twice.
        taken = [one for one in answers[: answers.index(None) if None in answers else None] if one is not None]
        for (_, data), entry_id in zip(batch, taken, strict=False):
            ids.append(entry_id)
            waiting.append((number_of(entry_id), len(data)))
        return len(taken), trouble

    def _give_up(self, trouble: str | None, waiting: int) -> None:
        again = "import again when that is put right: nothing is applied twice"
        if trouble is not None:
            raise TransientError(f"{trouble}; {again}")
        raise NothingHandled(
            f"no worker handled anything for {self._give_up_after_s:g} s, and {waiting} events wait: is one running "
            f"(refinery up, refinery status)? {again}"
        )
