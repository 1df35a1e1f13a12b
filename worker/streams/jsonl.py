"""Publishing events from a file of JSON lines: what `refinery publish` does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from worker.errors import DecodeError, EventError, Reason, RefineryError
from worker.streams.entries import SENT_AT_ONCE_BYTES, append_many
from worker.streams.shards import EventKind, Streams

if TYPE_CHECKING:
    import redis

_CHUNK = 500
_KINDS: tuple[EventKind, ...] = ("signal.created", "trade.closed")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Refused:
    """A line that is no event; nothing was published for it."""

    number: int
    why: str


@dataclass(frozen=True, slots=True)
class Published:
    """What a publication came to: the events that were sent, or would be, and the lines that were not."""

    events: int
    refused: tuple[Refused, ...]


def publish_lines(
    client: redis.Redis | None,
    lines: Iterable[bytes],
    *,
    streams: Streams,
    parse: Callable[[bytes], dict[str, Any]],
    check: Callable[[str, bytes], object] | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Published:
    """Append each line's event to the stream of its `type`, in order; empty lines are passed over, and so is a byte
    order mark at the beginning.

    What reading the line would lose without a word, `parse` refuses. What the worker would dead-letter, `check` does.

    Args:
        client: a client that does not retry; None: nothing is published, the lines are only looked at.
        lines: one JSON object each, with `type` beside the event's fields.
        streams: where events go.
        parse: a line's JSON object; raises `EventError`.
        check: an event's type and bytes; raises `EventError` where the event is not to be sent. None: all are.
        progress: told how many lines were read since it was last told.

    Raises:
        TransientError: Redis is away. Publishing the same file again is harmless: events have an identity.
        RefineryError: the file begins a JSON array, which is not lines; nothing was published.
    """
    events, refused = 0, []
    for chunk in _chunks(_unmarked(lines)):
        ready = []
        for number, line in chunk:
            if not line.strip():
                continue
            try:
                kind, data = addressed(line, parse)
                if check is not None:
                    check(kind, data)
                ready.append((streams.of_event(kind, data), data))
            except EventError as error:
                refused.append(Refused(number, str(error)))
        if client is not None:
            append_many(client, ready)
        events += len(ready)
        progress(len(chunk))
    return Published(events, tuple(refused))


def _chunks(lines: Iterable[bytes]) -> Iterator[list[tuple[int, bytes]]]:
    """The lines with their numbers, so many together as are sent at once, by number and by bytes."""
    chunk: list[tuple[int, bytes]] = []
    held = 0
    for number, line in enumerate(lines, start=1):
        if chunk and (len(chunk) == _CHUNK or held + len(line) > SENT_AT_ONCE_BYTES):
            yield chunk
            chunk, held = [], 0
        chunk.append((number, line))
        held += len(line)
    if chunk:
        yield chunk


def _unmarked(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines, without the byte order mark that some editors put first; an array is refused before the first."""
    begun = False
    for number, line in enumerate(lines):
        text = line.removeprefix(_BYTE_ORDER_MARK) if number == 0 else line
        if not begun and text.lstrip().startswith(b"["):
            raise RefineryError(
                "the file begins a JSON array, and events are one JSON object a line: jq -c '.[]' FILE makes lines"
            )
        begun = begun or bool(text.strip())
        yield text


def addressed(line: bytes, parse: Callable[[bytes], dict[str, Any]]) -> tuple[EventKind, bytes]:
    """The event type of a line and the event's bytes, without the `type` that said it.

    Args:
        line: a JSON object.
        parse: a line's JSON object; raises `EventError`.

    Raises:
        EventError: it is no such object, or its type is none of these.
    """
    fields = parse(line)
    kind = fields.pop("type", None)
    for known in _KINDS:
        if kind == known:
            return known, orjson.dumps(fields)
    raise DecodeError(
        Reason.SCHEMA, f"type must be one of {', '.join(_KINDS)}, and is {repr(kind)[:_SHOWN_CHARACTERS]}"
    )
