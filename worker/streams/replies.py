"""Replies of the server with a limit to their bytes: what a producer sent must not take the memory of who reads it."""

from __future__ import annotations

from typing import Any

import redis

# There is no public way to a reply before it is whole, and a whole one may be larger than our memory.
from redis._parsers import _HiredisParser

from worker.errors import TransientError

#: The largest reply that is read, where the events that are let in are not larger.
MOST_REPLY_BYTES = 64 * 1024 * 1024


class ReplyTooLarge(redis.ConnectionError, TransientError):
    """A reply has more bytes than are read at once.

    The connection is dropped, and what it handed out is pending.
    """


class _Reader:
    """The parser's reader, which takes so many bytes for one reply and no more."""

    __slots__ = ("_most_bytes", "_reader", "gets", "has_data", "left")

    def __init__(self, reader: Any, most_bytes: int) -> None:
        self._reader = reader
        self._most_bytes = most_bytes
        self.left = most_bytes
        self.gets = reader.gets
        self.has_data = reader.has_data

    def feed(self, buffer: bytearray, start: int, length: int) -> None:
        self.left -= length
        if self.left < 0:
            raise ReplyTooLarge(f"a reply of Redis has more than {self._most_bytes:,} bytes")
        self._reader.feed(buffer, start, length)


def bounded_parser(most_bytes: int) -> type[_HiredisParser]:
    """The client's parser of replies, which gives one up that grows beyond `most_bytes`."""

    class BoundedParser(_HiredisParser):
        def on_connect(self, connection: Any, **kwargs: Any) -> None:
            super().on_connect(connection, **kwargs)  # type: ignore[no-untyped-call]
            self._reader: Any = _Reader(self._reader, most_bytes)

        def read_response(self, *args: Any, **kwargs: Any) -> Any:
            if self._reader is not None:
                self._reader.left = most_bytes
            return super().read_response(*args, **kwargs)

    return BoundedParser
