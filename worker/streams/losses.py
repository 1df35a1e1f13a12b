"""What a producer can do to a stream by the arguments of XADD, which no server's rights forbid: trim it, and end it.

The worker looks now and then, and what it noticed is kept beside the stream, in Redis: so it is told once, whoever of
several workers notices it, and status and metrics have it from there.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import redis
from loguru import logger

from worker.errors import TransientError
from worker.streams.errors import translated
from worker.streams.lua import script

if TYPE_CHECKING:
    from worker.streams.state import StreamState

#: Ids follow the server's clock. One that is so far ahead of ours was given by somebody.
FAR_AHEAD_S = 3600
_LOOK_EVERY_S = 60.0
_TOLD_FOR = timedelta(days=7)
_LAST_ID = f"{2**64 - 1}-{2**64 - 1}"
_UNREAD_GONE = script("unread_gone")


class Noticed(NamedTuple):
    """What was noticed of a stream: entries gone unread ever, when last, and its last id where that is far ahead."""

    gone: int = 0
    at: datetime | None = None
    last_id: str | None = None

    @property
    def at_end(self) -> bool:
        """Whether no id comes after the last one."""
        return self.last_id == _LAST_ID

    def ahead_s(self, now: datetime) -> float:
        """How far the last id is ahead of the clock, in seconds; 0 where it is not far."""
        return 0.0 if self.last_id is None else max(0.0, _milliseconds(self.last_id) / 1000 - now.timestamp())


class StreamWatch:
    """Looks whether unread entries are gone and whether an id is far ahead, and says so once.

    Args:
        client: a client that does not retry.
        streams: the input streams.
        group: the consumer group.
    """

    def __init__(self, client: redis.Redis, streams: Sequence[str], group: str) -> None:
        self._client = client
        self._streams = tuple(streams)
        self._group = group
        self._due = 0.0
        self._said = ""

    def look_if_due(self) -> None:
        """`look`, once a minute."""
        if time.monotonic() >= self._due:
            self.look()

    def look(self) -> None:
        """Look now. What keeps us from looking, as a missing right, is logged once and is nobody's event."""
        try:
            looked = [self._look_at(stream) for stream in self._streams]
            if all(looked):
                self._due = time.monotonic() + _LOOK_EVERY_S
        except TransientError as error:
            self._due = time.monotonic() + _LOOK_EVERY_S
            if str(error) != self._said:
                logger.warning("whether entries were trimmed unread cannot be seen now: {}", error)
            self._said = str(error)

    def _look_at(self, stream: str) -> bool:
        """Whether there is anything to look at: where the group has yet to be made, it is looked again soon."""
        now_ms = int(time.time() * 1000)
        far = f"{now_ms + FAR_AHEAD_S * 1000}-0"
        words = (_key(stream, self._group), self._group, str(now_ms), far)
        with translated():
            try:
                found: Any = self._client.eval(_UNREAD_GONE, 1, stream, *words)
            except redis.ResponseError as error:
                if "no such key" in str(error):
                    return False
                raise
        gone, last = int(found[0]), found[1].decode()
        if gone > 0:
            logger.error("{}", _gone_in_words(stream, gone))
        if last:
            ahead_s = (_milliseconds(last) - now_ms) / 1000
            logger.error("{}", _ahead_in_words(stream, ahead_s, at_end=last == _LAST_ID))
        return gone >= 0


def noticed_of(client: redis.Redis, stream: str, group: str) -> Noticed:
    """What workers noticed of a stream; nothing where the record is not as they write it.

    Raises:
        redis.RedisError: Redis is away, or the record is no record.
    """
    record: Any = client.hmget(_key(stream, group), "gone", "at", "last_id")
    gone, at, last_id = (raw or b"" for raw in record)
    try:
        when = datetime.fromtimestamp(int(at) / 1000, UTC) if at else None
        return Noticed(int(gone or 0), when, _checked(last_id.decode()) if last_id else None)
    except (ValueError, OverflowError, OSError):
        return Noticed()


def stream_troubles(states: Iterable[StreamState], *, now: datetime) -> Iterator[tuple[str, str]]:
    """What is wrong with streams, each with what to do: ids far ahead, and what went unread within a week."""
    for state in states:
        if state.unread_gone and state.unread_gone_at and now - state.unread_gone_at < _TOLD_FOR:
            said = f"{_gone_in_words(state.name, state.unread_gone)}; noticed last {state.unread_gone_at:%F %H:%M} UTC"
            yield said, "publish them again; docs/operations.md, Entries are gone"
        if state.ahead_s > FAR_AHEAD_S:
            said = _ahead_in_words(state.name, state.ahead_s, at_end=state.at_end)
            yield said, "docs/operations.md, Entries are gone, says how to begin it anew"


def _gone_in_words(stream: str, gone: int) -> str:
    return f"{gone:,} entries of {stream} were trimmed or deleted by somebody before a worker had read them"


def _ahead_in_words(stream: str, ahead_s: float, *, at_end: bool) -> str:
    if at_end:
        return f"{stream} holds the last id there is, and Redis takes no more entries of it"
    return f"{stream} holds an id {ahead_s / 3600:,.0f} h ahead of our clock: somebody chose it, and ids go on from it"


def _milliseconds(entry_id: str) -> int:
    return int(entry_id.partition("-")[0])


def _checked(entry_id: str) -> str:
    milliseconds, _, sequence = entry_id.partition("-")
    if max(int(milliseconds), int(sequence)) >= 2**64:
        raise ValueError
    return entry_id


def _key(stream: str, group: str) -> str:
    return f"refinery:noticed:{group}@{stream}"
