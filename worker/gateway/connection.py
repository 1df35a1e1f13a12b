"""One producer's connection: lines in, an answer to each out, in the order of the lines."""

from __future__ import annotations

import select
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from loguru import logger

from worker.errors import EventError, StopRequested
from worker.gateway.door import Door
from worker.gateway.line_reader import LineReader
from worker.gateway.sender import Sender


class ProducerConnection:
    """Serves one connection until its producer ends it.

    What is in hand is one batch of lines and their answers: nothing more is read before they are answered.

    Args:
        connection: of the producer.
        door: what is let in.
        sender: into Redis.
        idle_s: how long a whole line may take to come, and an answer to be read.
    """

    def __init__(self, connection: socket.socket, door: Door, sender: Sender, *, idle_s: float) -> None:
        self._connection = connection
        self._door = door
        self._sender = sender
        self._idle_s = idle_s
        self._lines = LineReader(connection, most_bytes=door.most_bytes, idle_s=idle_s)
        self._number = 0

    def serve(self) -> None:
        """Read, send and answer; what goes wrong ends this connection and nothing else."""
        with self._connection:
            try:
                while lines := self._read():
                    self._reply(self._answers(lines))
            except (OSError, StopRequested) as error:
                logger.debug("a producer's connection ended: {}", error)

    def end_reading(self) -> None:
        """Take what has arrived by now and nothing more; from another thread."""
        try:
            self._connection.shutdown(socket.SHUT_RD)
        except OSError as error:
            logger.debug("a producer's connection had ended: {}", error)

    def _read(self) -> Sequence[bytes | None]:
        try:
            return self._lines.lines()
        except TimeoutError:
            say_closed(self._connection, f"no whole line came for {self._idle_s:g} s")
            return ()

    def _answers(self, lines: Sequence[bytes | None]) -> Sequence[Mapping[str, Any]]:
        """An answer for each line that is not blank. Those of events are made when the server has them all."""
        answers: list[dict[str, Any]] = []
        accepted: list[dict[str, Any]] = []
        events = []
        for line in lines:
            self._number += 1
            if line is not None and not line.strip():
                continue
            answers.append({"line": self._number})
            try:
                events.append(self._door.let_in(line))
                accepted.append(answers[-1])
            except EventError as error:
                answers[-1] |= {"status": "refused", "reason": error.reason.value, "detail": error.detail}
        ids = self._sender.send(events, wanted=self._is_open) if events else []
        for answer, (stream, _), entry_id in zip(accepted, events, ids, strict=True):
            answer |= {"status": "accepted", "stream": stream, "entry_id": entry_id}
        return answers

    def _reply(self, answers: Sequence[Mapping[str, Any]]) -> None:
        self._connection.settimeout(self._idle_s)
        self._connection.sendall(b"".join(orjson.dumps(answer, option=orjson.OPT_APPEND_NEWLINE) for answer in answers))

    def _is_open(self) -> bool:
        """Whether the producer may still read answers; it may have said that it sends no more."""
        asked = select.poll()
        asked.register(self._connection, select.POLLHUP)
        return not asked.poll(0)


def say_closed(connection: socket.socket, detail: str) -> None:
    """Tell why the connection ends, if it can be told without waiting."""
    try:
        connection.setblocking(False)
        connection.send(orjson.dumps({"status": "closed", "detail": detail}, option=orjson.OPT_APPEND_NEWLINE))
    except OSError as error:
        logger.debug("nobody was told that a connection ends: {}", error)
