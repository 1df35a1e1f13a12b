"""One entry of an input stream, and adding entries."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from worker.errors import TransientError
from worker.streams.errors import cause_of, translated
from worker.streams.shards import stored_id

if TYPE_CHECKING:
    import redis

_DATA = b"data"
_REPLAY_OF = b"replay_of"
_REPLAY = re.compile(rb"([0-9]{1,18})/([0-9]{1,18})")
_REQUEST = b"replay_request"
_NUMBER = re.compile(rb"[0-9]{1,18}")

#: An event of so many times the size that is let in is still read, so that its bytes are kept with the refusal.
_KEPT_TIMES = 4
#: Events are sent together up to so many bytes; a larger one goes alone.
SENT_AT_ONCE_BYTES = 4 * 1024 * 1024
#: How much of a larger one is read.
SHOWN_BYTES = 256


def kept_bytes(largest_event: int) -> int:
    """How many bytes an entry may have to be read whole, where events of `largest_event` bytes are let in."""
    return _KEPT_TIMES * largest_event


class Entry(NamedTuple):
    """One entry of an input stream, as delivered to this consumer."""

    stream: str
    entry_id: str
    fields: Mapping[bytes, bytes]
    #: Delivered before, to us or to another consumer: its effects may be in the store already.
    redelivered: bool = False
    #: Its size, where it has more bytes than are read of any; `fields` then has what its data begins with.
    oversized: int | None = None
    #: It is pending for us, and nothing of it was read yet.
    is_unread: bool = False
    #: It is not pending any more: nothing is to be acknowledged, and what has its id by then may be another event.
    struck_off: bool = False

    @property
    def data(self) -> bytes | None:
        """The event's bytes; None when the entry was trimmed away while pending, is oversized, or has no such field."""
        return self.fields.get(_DATA) if self.oversized is None else None

    @property
    def beginning(self) -> bytes:
        """What the data begins with; for an oversized entry all there is of it."""
        return self.fields.get(_DATA, b"")[:SHOWN_BYTES]

    @property
    def is_lost(self) -> bool:
        """True when the server no longer has the entry: it was trimmed or deleted while it was pending."""
        return not self.fields

    @property
    def key(self) -> tuple[str, str]:
        """What tells this entry from every other: stream and entry id."""
        return self.stream, self.entry_id

    @property
    def stored_id(self) -> str:
        """What tells it from every other entry of its kind, in whichever shard."""
        return stored_id(self.stream, self.entry_id)

    @property
    def added_ms(self) -> int:
        """When the server got the entry, by its clock, as its id says."""
        return int(self.entry_id.partition("-")[0])

    @property
    def replay(self) -> tuple[int, int] | None:
        """The dead letter that this entry says it replays, and which replay of it this is."""
        if _REPLAY_OF not in self.fields:
            return None
        match = _REPLAY.fullmatch(self.fields[_REPLAY_OF])
        return (int(match[1]), int(match[2])) if match else None

    @property
    def replay_request(self) -> int | None:
        """The request that this entry says its replay was sent for."""
        match = _NUMBER.fullmatch(self.fields.get(_REQUEST, b""))
        return int(match[0]) if match else None


def append(
    client: redis.Redis,
    stream: str,
    data: bytes,
    *,
    replay: tuple[int, int] | None = None,
    request: int | None = None,
) -> str:
    """Add one event to a stream, as a replay and for the request of it if need be; returns its entry id.

    Raises:
        TransientError: Redis is away; the event may have been written, and identity makes a second try harmless.
    """
    fields: dict[Any, Any] = {_DATA: data}
    if replay is not None:
        fields[_REPLAY_OF] = b"%d/%d" % replay
    if request is not None:
        fields[_REQUEST] = b"%d" % request
    with translated():
        entry_id: Any = client.xadd(stream, fields)
        return str(entry_id.decode())


def append_many(client: redis.Redis, events: Sequence[tuple[str, bytes]]) -> None:
    """Add (stream, event) pairs in order, in one round trip.

    Raises:
        TransientError: Redis is away; any number of them may have been written.
    """
    _, trouble = append_those_taken(client, events)
    if trouble is not None:
        raise TransientError(trouble)


def append_those_taken(client: redis.Redis, events: Sequence[tuple[str, bytes]]) -> tuple[list[str | None], str | None]:
    """Add (stream, event) pairs in order, in one round trip: each one's entry id, and why the server refused one.

    Raises:
        TransientError: Redis is away; any number of them may have been written.
    """
    with translated(), client.pipeline(transaction=False) as pipe:
        for stream, data in events:
            pipe.xadd(stream, {_DATA: data})
        answers = pipe.execute(raise_on_error=False)
    refused = next((answer for answer in answers if isinstance(answer, Exception)), None)
    ids = [None if isinstance(answer, Exception) else answer.decode() for answer in answers]
    return ids, None if refused is None else cause_of(refused)
