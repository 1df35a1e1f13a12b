"""Servers of other makes and with other clocks than the one that is installed."""

from __future__ import annotations

import threading
from pathlib import Path

from worker.redis_server import embedded
from worker.redis_server.embedded import EmbeddedServer

_turn = threading.Lock()


class ServerOf(EmbeddedServer):
    """The embedded server with another binary; started again when it is killed, as that is."""

    def __init__(self, binary: Path, directory: Path) -> None:
        super().__init__(directory / "data", join=False)
        self._binary = binary

    def _spawn(self, lock: int) -> None:
        with _turn:
            installed, embedded.find_server = embedded.find_server, lambda: self._binary
            try:
                super()._spawn(lock)
            finally:
                embedded.find_server = installed
