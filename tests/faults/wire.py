"""A wire that fails on purpose: a proxy between worker and server on a socket of its own."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from pathlib import Path

ACTIONS = ("drop_reply", "cut_request", "tear_request", "tear_reply", "delay", "half_open")


class Wire:
    """Forwards bytes; at random, once in `one_in` chunks, does one of the `actions` instead.

    drop_reply: the server did it, the worker never hears of it. cut_request: it never arrives. tear_*: half of it
    arrives, then the connection ends. delay: it arrives late. half_open: nothing arrives any more and nothing ends.
    """

    def __init__(self, listen: Path, server: Path) -> None:
        self._server = str(server)
        self.address = str(listen)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.address)
        self._listener.listen(64)
        self._lock = threading.Lock()
        self._rng = random.Random(0)
        self._actions: tuple[str, ...] = ()
        self._one_in = 10
        self.struck: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def plan(self, actions: tuple[str, ...], *, one_in: int, seed: int) -> None:
        """From now on do this; nothing with no actions."""
        with self._lock:
            self._actions, self._one_in, self._rng = actions, one_in, random.Random(seed)
            self.struck = []

    def lead_to(self, server: Path) -> None:
        """New connections lead there; those that are there stay."""
        self._server = str(server)

    def close(self) -> None:
        """Listen no more; what is connected stays."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                server.connect(self._server)
            except OSError:
                client.close()
                continue
            for source, sink, replies in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pump, args=(source, sink, replies), daemon=True).start()

    def _action(self, replies: bool) -> str | None:
        with self._lock:
            if not self._actions or self._rng.randrange(self._one_in):
                return None
            wrong_way = ("cut_request", "tear_request") if replies else ("drop_reply", "tear_reply")
            choices = [action for action in self._actions if action not in wrong_way]
            if not choices:
                return None
            self.struck.append(self._rng.choice(choices))
            return self.struck[-1]

    def _pump(self, source: socket.socket, sink: socket.socket, replies: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                action = self._action(replies)
                if action == "half_open":
                    time.sleep(2)
                    break
                if action == "delay":
                    time.sleep(0.05)
                elif action in ("drop_reply", "cut_request"):
                    break
                elif action in ("tear_request", "tear_reply"):
                    sink.sendall(data[: len(data) // 2])
                    break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
