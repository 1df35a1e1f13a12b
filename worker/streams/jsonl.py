"""Publishing events from a file of JSON lines: what `refinery publish` does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import orjson

from worker.errors import EventError, RefineryError
from worker.streams.entries import append_many

if TYPE_CHECKING:
    import redis

_CHUNK = 500
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Refused:
    """A line that is no event; nothing was published for it."""

    number: int
    why: str


@dataclass(frozen=True, slots=True)
class Published:
    """What a publication came to."""

    events: int
    refused: tuple[Refused, ...]


class BadLine(RefineryError):
    """A line does not say what kind of event it is."""


def publish_lines(
    client: redis.Redis,
    lines: Iterable[bytes],
    *,
    streams: Mapping[str, str],
    parse: Callable[[bytes], dict[str, Any]],
    progress: Callable[[int], None] = lambda _: None,
) -> Published:
    """Append each line's event to the stream of its `type`, in order; empty lines are passed over, and so is a byte
    order mark at the beginning.

    The events themselves are not checked: the worker's door does that, and says why it refuses one. But what reading
    the line would lose without a word, `parse` refuses.

    Args:
        client: a client that does not retry.
        lines: one JSON object each, with `type` beside the event's fields.
        streams: stream name by event type.
        parse: a line's JSON object; raises `EventError`.
        progress: told how many lines were read since it was last told.

    Raises:
        TransientError: Redis is away. Publishing the same file again is harmless: events have an identity.
        RefineryError: the file begins a JSON array, which is not lines; nothing was published.
    """
    events, refused = 0, []
    numbered = enumerate(_unmarked(lines), start=1)
    while chunk := list(islice(numbered, _CHUNK)):
        ready = []
        for number, line in chunk:
            if not line.strip():
                continue
            try:
                ready.append(_addressed(line, streams, parse))
            except BadLine as error:
                refused.append(Refused(number, str(error)))
        append_many(client, ready)
        events += len(ready)
        progress(len(chunk))
    return Published(events, tuple(refused))


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


def _addressed(line: bytes, streams: Mapping[str, str], parse: Callable[[bytes], dict[str, Any]]) -> tuple[str, bytes]:
    """The stream of a line and the event's bytes, without the `type` that addressed it."""
    try:
        fields = parse(line)
    except EventError as error:
        raise BadLine(str(error)) from None
    kind = fields.pop("type", None)
    if kind not in streams:
        raise BadLine(f"type must be one of {', '.join(streams)}, and is {repr(kind)[:_SHOWN_CHARACTERS]}")
    return streams[kind], orjson.dumps(fields)
