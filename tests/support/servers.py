"""Servers of other makes and with other clocks than the one that is installed, and pairs of which one replicates."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import redis

from tests.support.processes import until
from worker.redis_server import embedded
from worker.redis_server.binary import find_server
from worker.redis_server.embedded import EmbeddedServer

_turn = threading.Lock()
_FAKETIME = ("/usr/lib", "/usr/local/lib", "/opt")


class ServerOf(EmbeddedServer):
    """The embedded server with another binary, or with more in its environment; started again when it is killed."""

    def __init__(
        self, directory: Path, *, binary: Path | None = None, environment: dict[str, str] | None = None
    ) -> None:
        super().__init__(directory / "data", join=False)
        self._binary = binary
        self._environment = environment or {}

    def _spawn(self, lock: int) -> None:
        with _turn:
            installed = embedded.find_server
            if self._binary is not None:
                embedded.find_server = lambda: self._binary  # type: ignore[assignment, return-value]
            os.environ.update(self._environment)
            try:
                super()._spawn(lock)
            finally:
                embedded.find_server = installed
                for name in self._environment:
                    del os.environ[name]


def faketime() -> Path | None:
    """The library that gives a process another clock (Debian's package `libfaketime`), if it is installed."""
    named = os.environ.get("FAKETIME_LIBRARY")
    if named:
        return Path(named)
    return next((path for root in _FAKETIME for path in Path(root).glob("**/faketime/libfaketimeMT.so.1")), None)


class ClockServer(ServerOf):
    """The installed server with a clock that can be stepped."""

    def __init__(self, directory: Path, library: Path) -> None:
        self._offset = directory / "offset"
        self.step(0.0)
        environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
        super().__init__(directory, environment=environment)

    def step(self, offset_s: float) -> None:
        """From now on its clock is so far from the right one."""
        new = self._offset.with_suffix(".new")
        new.write_text(f"{offset_s:+.0f}\n")
        new.rename(self._offset)


def free_port() -> int:
    """One that nobody listens on just now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Replicated:
    """A server that another can replicate: a socket for clients, a port for its replicas. It keeps no files.

    With `keeps_port` it has the same port whenever it is started again, so that it is known again.
    """

    def __init__(self, directory: Path, binary: Path | None = None, *, keeps_port: bool = False) -> None:
        directory.mkdir(exist_ok=True)
        self._keeps_port = keeps_port
        self.socket = directory / "s.sock"
        self._command = [
            str(binary or find_server()), "--bind", "127.0.0.1", "--unixsocket", str(self.socket), "--save", "",
            "--appendonly", "no", "--dir", str(directory), "--repl-diskless-sync-delay", "0", "--loglevel", "warning",
            "--repl-ping-replica-period", "1", "--maxmemory-policy", "noeviction", "--hz", "500",
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.client = redis.Redis(unix_socket_path=str(self.socket))

    def start(self) -> None:
        """Start it, unless it runs."""
        if self._process is not None and self._process.poll() is None:
            return
        if not (self.port and self._keeps_port):
            self.port = free_port()
        command = [*self._command, "--port", str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self.client.ping)

    def kill(self) -> None:
        """SIGKILL; its connections end with it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self.socket.unlink(missing_ok=True)

    def stand_still(self) -> None:
        """SIGSTOP: its connections stay, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def follow(self, primary: Replicated) -> None:
        """Replicate it, and return when everything is there."""
        self.client.replicaof("127.0.0.1", str(primary.port))
        until(lambda: self._has_all_of(primary))

    def lead(self) -> None:
        """Be a primary from now on."""
        until(lambda: bool(self.client.replicaof("NO", "ONE")))

    def caught_up(self, primary: Replicated) -> None:
        """Return when everything that the primary has by now is there too."""
        until(lambda: self._has_all_of(primary))

    def _has_all_of(self, primary: Replicated) -> bool:
        mine: Any = self.client.info("replication")
        theirs: Any = primary.client.info("replication")
        if mine.get("master_link_status") != "up" or mine["slave_repl_offset"] < theirs["master_repl_offset"]:
            time.sleep(0.002)
            raise redis.ConnectionError("not there yet")
        return True
