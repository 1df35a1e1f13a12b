"""What others do to a stream that is told: a producer trims it or ends it by the arguments of XADD, which no server's
rights forbid, and an operator moves the group past entries that nobody read.

The worker looks now and then, and what it noticed is kept beside the stream, in Redis: so it is told once, whoever of
several workers notices it, and status and metrics have it from there.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
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
_UNREAD_GONE = script("unread_gone", uses=["entry_ids"])


@dataclass(frozen=True, slots=True)
class PassedOver:
    """Entries that nobody read though later ones were: the last of them, and the last id that was read before them."""

    last: str
    #: `0-0` where nobody knows.
    before: str

    def in_words(self, stream: str) -> str:
        """What is wrong."""
        return f"entries of {stream} up to {self.last} were never read: somebody moved the group past them"


class PassedOverRecord:
    """Keeps in Redis what was passed over, for status and for workers to come.

    Args:
        client: a client that does not retry.
        group: the consumer group.
    """

    def __init__(self, client: redis.Redis, group: str) -> None:
        self._client = client
        self._group = group

    def get(self, stream: str) -> PassedOver | None:
        """What was told of a stream and not forgotten.

        Raises:
            TransientError: Redis is away.
        """
        with translated():
            return noticed_of(self._client, stream, self._group).passed_over

    def tell(self, stream: str, passed: PassedOver) -> None:
        """Keep it, and log it.

        Raises:
            TransientError: Redis is away.
        """
        logger.error("{}: {}", passed.in_words(stream), _deliver(stream, self._group, passed))
        with translated():
            self._client.hset(_key(stream, self._group), "passed_over", f"{passed.last} {passed.before}")

    def forget(self, stream: str) -> None:
        """They were read meanwhile.

        Raises:
            TransientError: Redis is away.
        """
        with translated():
            self._client.hdel(_key(stream, self._group), "passed_over")


class Noticed(NamedTuple):
    """What was noticed of a stream: entries gone unread ever, when last, its last id where that is far ahead, and what
    the group was moved past.
    """

    gone: int = 0
    at: datetime | None = None
    last_id: str | None = None
    passed_over: PassedOver | None = None

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
    record: Any = client.hmget(_key(stream, group), "gone", "at", "last_id", "passed_over")
    gone, at, last_id, passed = (raw or b"" for raw in record)
    try:
        when = datetime.fromtimestamp(int(at) / 1000, UTC) if at else None
        last = _checked(last_id.decode()) if last_id else None
        over = PassedOver(*map(_checked, passed.decode().split(" ", 1))) if passed else None
        return Noticed(int(gone or 0), when, last, over)
    except (ValueError, TypeError, OverflowError, OSError):
        return Noticed()


def stream_troubles(states: Iterable[StreamState], *, now: datetime) -> Iterator[tuple[str, str]]:
    """What is wrong with streams, each with what to do: ids far ahead, what was passed over or went unread of late."""
    for state in states:
        if state.passed_over is not None:
            yield state.passed_over.in_words(state.name), _deliver(state.name, state.group, state.passed_over)
        if state.unread_gone and state.unread_gone_at and now - state.unread_gone_at < _TOLD_FOR:
            said = f"{_gone_in_words(state.name, state.unread_gone)}; noticed last {state.unread_gone_at:%F %H:%M} UTC"
            yield said, "publish them again; docs/operations.md, Entries are gone"
        if state.ahead_s > FAR_AHEAD_S:
            said = _ahead_in_words(state.name, state.ahead_s, at_end=state.at_end)
            yield said, "docs/operations.md, Entries are gone, says how to begin it anew"


def _deliver(stream: str, group: str, passed: PassedOver) -> str:
    return (
        f"`XGROUP SETID {stream} {group} {passed.before}` has them delivered, and what was handled has no effect twice"
    )


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
    if not (milliseconds + sequence).isdecimal() or max(int(milliseconds), int(sequence)) >= 2**64:
        raise ValueError
    return entry_id


def _key(stream: str, group: str) -> str:
    return f"refinery:noticed:{group}@{stream}"
