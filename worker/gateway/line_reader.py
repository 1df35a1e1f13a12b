"""Lines from a connection, bounded in bytes and in time, whatever the other side sends."""

from __future__ import annotations

import socket
import time

_RECEIVED_AT_ONCE = 65536
_MOST_LINES = 500


class LineReader:
    """Whole lines as they come.

    Args:
        connection: where they come from.
        most_bytes: of a line; of a longer one nothing is kept, and it is passed over.
        idle_s: how long the next whole line may take to come.
    """

    def __init__(self, connection: socket.socket, *, most_bytes: int, idle_s: float) -> None:
        self._connection = connection
        self._most_bytes = most_bytes
        self._idle_s = idle_s
        self._buffer = bytearray()
        self._looked = 0
        self._passing_over = False
        self._ended = False

    def lines(self) -> list[bytes | None]:
        """The lines that have come, at least one, without their ends; None in the place of one that is too long.

        Empty when the other side has ended; what it sent last needs no line end.

        Raises:
            TimeoutError: no whole line came in time.
            OSError: the connection broke.
        """
        deadline = time.monotonic() + self._idle_s
        while not (found := self._whole_lines()):
            if self._ended:
                return self._rest()
            self._receive(deadline)
        return found

    def _whole_lines(self) -> list[bytes | None]:
        found: list[bytes | None] = []
        start = 0
        while len(found) < _MOST_LINES and (end := self._buffer.find(b"\n", max(start, self._looked))) >= 0:
            too_long = self._passing_over or end - start > self._most_bytes
            found.append(None if too_long else bytes(self._buffer[start:end]))
            self._passing_over = False
            start = end + 1
        del self._buffer[:start]
        self._looked = 0 if found else len(self._buffer)
        if self._looked > self._most_bytes:
            self._buffer.clear()
            self._looked, self._passing_over = 0, True
        return found

    def _rest(self) -> list[bytes | None]:
        rest: list[bytes | None] = [None] if self._passing_over else [bytes(self._buffer)] if self._buffer else []
        self._buffer.clear()
        self._passing_over = False
        return rest

    def _receive(self, deadline: float) -> None:
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0:
            raise TimeoutError
        self._connection.settimeout(remaining_s)
        received = self._connection.recv(_RECEIVED_AT_ONCE)
        self._buffer += received
        self._ended = not received
