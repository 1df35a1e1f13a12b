"""The socket that producers connect to, and a thread for each of them."""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from loguru import logger

from worker.errors import ConfigurationError, ServerBusy
from worker.gateway.connection import ProducerConnection, say_closed
from worker.gateway.door import Door
from worker.gateway.sender import Sender
from worker.state_dir import take_lock

_LOOK_EVERY_S = 0.5
#: A connection that waits costs next to nothing, and one that is not let wait is refused.
_WAITING_AT_THE_DOOR = 4096


@contextmanager
def listening(path: Path, *, group: str | None) -> Iterator[socket.socket]:
    """A Unix-domain socket for this user and a group, mode 0660; it is removed when the block ends.

    Args:
        path: where; what a gateway left that was killed is replaced.
        group: who may connect, beside this user; None: this process's own group.

    Raises:
        ServerBusy: another gateway listens there.
        ConfigurationError: there can be no such socket, or something else is there.
    """
    try:
        lock = take_lock(path.with_name(f"{path.name}.lock"))
    except OSError as error:
        raise ConfigurationError(f"{path.parent} cannot hold the gateway's socket: {error.strerror}") from error
    if lock is None:
        raise ServerBusy(f"another gateway listens on {path}")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            _bind(listener, path, group)
            listener.listen(_WAITING_AT_THE_DOOR)
            try:
                yield listener
            finally:
                path.unlink(missing_ok=True)
    finally:
        os.close(lock)


def _bind(listener: socket.socket, path: Path, group: str | None) -> None:
    if path.exists() or path.is_symlink():
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigurationError(f"{path} is there and is no socket: name another path")
        path.unlink()
    before = os.umask(0o177)  # nobody else may connect before the group is set
    try:
        listener.bind(str(path))
    except OSError as error:
        raise ConfigurationError(f"the gateway cannot listen on {path}: {error.strerror or error}") from error
    finally:
        os.umask(before)
    try:
        if group is not None and (number := grp.getgrnam(group).gr_gid) != path.stat().st_gid:
            os.chown(path, -1, number)
        path.chmod(0o660)
    except KeyError:
        raise ConfigurationError(f"REFINERY_GATEWAY__GROUP: there is no group {group!r} here") from None
    except OSError as error:
        raise ConfigurationError(
            f"the gateway cannot give {path} to the group {group}: {error.strerror}; its user has to be in that group"
        ) from error


class Gateway:
    """Takes connections, each served by a thread of its own, until it is told to stop.

    Args:
        listener: from `listening`.
        door: what is let in.
        sender: into Redis.
        most_connections: one more is told so and closed.
        idle_s: how long a whole line may take to come, and an answer to be read.
    """

    def __init__(
        self, listener: socket.socket, door: Door, sender: Sender, *, most_connections: int, idle_s: float
    ) -> None:
        self._listener = listener
        self._door = door
        self._sender = sender
        self._most_connections = most_connections
        self._idle_s = idle_s
        self._serving: dict[threading.Thread, ProducerConnection] = {}
        self._turn = threading.Lock()

    def serve(self, stop: threading.Event, *, came_round: Callable[[], None] = lambda: None) -> None:
        """Take connections until `stop` is set; `came_round` is called now and then while they can be taken."""
        self._listener.settimeout(_LOOK_EVERY_S)
        while not stop.is_set():
            came_round()
            with suppress(TimeoutError):
                try:
                    connection, _ = self._listener.accept()
                except OSError as error:
                    if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ECONNABORTED):
                        raise
                    logger.warning("a connection could not be taken: {}", error.strerror)
                    stop.wait(_LOOK_EVERY_S)
                else:
                    self._take(connection)

    def drain(self, *, grace_s: float) -> None:
        """Answer what has arrived, and end every connection; who does not read its answers is left after the grace."""
        self._listener.close()
        with self._turn:
            serving = dict(self._serving)
        for one in serving.values():
            one.end_reading()
        deadline = time.monotonic() + grace_s
        for thread in serving:
            thread.join(max(0.0, deadline - time.monotonic()))
        if left := sum(thread.is_alive() for thread in serving):
            logger.warning("{} connections are closed that did not read their answers in time", left)

    def _take(self, connection: socket.socket) -> None:
        one = ProducerConnection(connection, self._door, self._sender, idle_s=self._idle_s)
        thread = threading.Thread(target=self._serve, args=(one,), name="producer", daemon=True)
        with self._turn:
            room = len(self._serving) < self._most_connections
            if room:
                self._serving[thread] = one
        if room:
            thread.start()
            return
        with connection:
            say_closed(connection, f"there are {self._most_connections} connections already")

    def _serve(self, one: ProducerConnection) -> None:
        try:
            one.serve()
        finally:
            with self._turn:
                del self._serving[threading.current_thread()]
