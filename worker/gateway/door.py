"""A line to an event as it goes into its stream, by the contract that the worker itself reads with."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from worker.errors import DecodeError, Reason
from worker.events.decoding import Limits, decode
from worker.events.strict_json import parse_line
from worker.streams.jsonl import addressed
from worker.streams.shards import Streams

#: What a line may have beside its event: the type, and blanks.
ROOM_BYTES = 1024


class Door:
    """Lets in what the worker would let in, and refuses the rest with the worker's own reasons.

    Args:
        streams: where events go.
        limits: what the worker lets in.
        clock: the present.
    """

    def __init__(self, streams: Streams, limits: Limits, clock: Callable[[], datetime]) -> None:
        self._streams = streams
        self._limits = limits
        self._clock = clock

    @property
    def most_bytes(self) -> int:
        """Of a line."""
        return self._limits.max_bytes + ROOM_BYTES

    def let_in(self, line: bytes | None) -> tuple[str, bytes]:
        """The stream of a line's event, and its bytes. None is a line that was too long to be kept.

        Raises:
            DecodeError: the worker would refuse it.
        """
        if line is None:
            raise DecodeError(Reason.TOO_LARGE, f"a line of more than {self.most_bytes} bytes")
        kind, data = addressed(line, parse_line)
        decode(kind, data, now=self._clock(), limits=self._limits)
        return self._streams.of_event(kind, data), data
