"""The embedded Valkey: one server per directory, on a private socket, gone when its last user is gone.

Whoever comes first hosts the server, the others join it; when the host ends, one of them takes over. Holding a lock on
the directory is what makes a host, and the server inherits that lock: two servers never write to one directory.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from loguru import logger

from worker.errors import RefineryError, ServerBusy, TransientError
from worker.redis_server.binary import find_server
from worker.state_dir import make_private, take_lock, unwritable
from worker.supervision.backoff import Backoff
from worker.supervision.parent_death import Guard, launch_command

#: `sun_path` holds 104 bytes on macOS and 108 on Linux, with the terminating zero.
_SOCKET_PATH_BYTES = 100
_POLL_S = 0.1


class EmbeddedServer:
    """Hosts or joins the server of `directory`; a context manager, `url` is valid inside.

    Args:
        directory: data, lock, log and, where its path is short enough, the socket. Created with mode 0700.
        join: use the server that another process hosts; otherwise that is an error.
        start_timeout_s: how long loading the data may take.
        stop_timeout_s: how long the server may take to write and end.

    Raises (from `start`):
        ServerBusy: another process hosts the server and `join` is off, or it does not answer.
        ConfigurationError: there is no server binary, or the directory cannot be made private.
        TransientError: its disk cannot be written just now.
        RefineryError: the server ended while starting; the message has the end of its log.
    """

    def __init__(
        self, directory: Path, *, join: bool = True, start_timeout_s: float = 60, stop_timeout_s: float = 15
    ) -> None:
        self._directory = directory.absolute()
        self._join = join
        self._start_timeout_s = start_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._socket = socket_path(self._directory)
        self._lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: Guard | None = None
        self._keeper: threading.Thread | None = None
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._failure: BaseException | None = None

    @property
    def url(self) -> str:
        """Address of the server for `redis.Redis.from_url`."""
        return f"unix://{quote(str(self._socket))}"

    @property
    def hosting(self) -> bool:
        """Whether the server is a child of this process."""
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """Process id of the server when this process hosts it."""
        return None if self._process is None else self._process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> str:
        """Hosts or joins, and returns the address once the server answers.

        Raises:
            RefineryError: the server cannot be started, with what it said.
            OSError: its directory cannot be made or is not ours.
        """
        make_private(self._directory)
        make_private(self._socket.parent)
        if self._socket.parent != self._directory:
            (self._directory / "valkey.sock.txt").write_text(f"{self._socket}\n", encoding="utf-8")
        # The server dies with the thread that started it, so that thread has to live as long as this object is open.
        self._keeper = threading.Thread(target=self._keep, name="embedded-valkey", daemon=True)
        self._keeper.start()
        self._ready.wait()
        if self._failure is not None:
            self._keeper.join()
            raise self._failure
        return self.url

    def stop(self) -> None:
        """Ends the server when this process hosts it, after it has written its log of changes; idempotent."""
        self._stopping.set()
        if self._keeper is not None:
            self._keeper.join()

    def _keep(self) -> None:
        backoff = Backoff(0.1, 5.0)
        try:
            while not self._stopping.is_set():
                try:
                    self._host_or_join()
                    backoff.reset()
                    pause_s = _POLL_S
                except (RefineryError, OSError) as error:
                    if not self._ready.is_set():
                        self._failure = error
                        return
                    logger.error("the embedded server cannot be started: {}", error)
                    pause_s = backoff.next_s()
                self._stopping.wait(pause_s)
        finally:
            self._end_server()
            self._ready.set()

    def _host_or_join(self) -> None:
        if self._lock is None:
            self._lock = take_lock(self._directory / "valkey.lock")
        if self._lock is not None:
            self._spawn(self._lock)
            self._wait_for_answer(self._ended)
            logger.debug("hosting the embedded server, pid {}", self.pid)
            self._ready.set()
            self._watch()
        elif not self._ready.is_set():
            if not self._wait_for_answer(lambda: False, or_lock=True):
                return
            if not self._join:
                raise ServerBusy(f"another process already hosts a server on {self._directory}")
            logger.debug("joined the embedded server of another process")
            self._ready.set()

    def _spawn(self, lock: int) -> None:
        binary = find_server()
        command = [str(binary), *_options(self._directory, self._socket)]
        self._process = subprocess.Popen(  # noqa: S603 - our own command line
            launch_command(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(lock,),
            start_new_session=True,  # Ctrl-C is for us; the server ends when its clients have drained
            umask=0o077,
        )
        self._guard = Guard(self._process.pid)

    def _ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def _wait_for_answer(self, ended: Callable[[], bool], *, or_lock: bool = False) -> bool:
        """Waits until the server answers; False when, with `or_lock`, its directory became free meanwhile."""
        deadline = time.monotonic() + self._start_timeout_s
        while not answers(self._socket):
            if ended():
                self._forget_server()
                told = f"the embedded server ended while starting: {self._end_of_log()}"
                if (why := unwritable(self._directory)) is not None:
                    raise TransientError(f"{self._directory} cannot be written just now: {why}; {told}")
                raise RefineryError(told)
            if self._stopping.is_set():
                return False
            if or_lock and (lock := take_lock(self._directory / "valkey.lock")) is not None:
                self._lock = lock
                return False
            if time.monotonic() > deadline:
                raise ServerBusy(f"the server on {self._directory} does not answer on {self._socket}")
            time.sleep(0.02)
        return True

    def _watch(self) -> None:
        while not self._stopping.wait(_POLL_S):
            if self._ended():
                code = None if self._process is None else self._process.returncode
                logger.error("the embedded server ended (status {}), starting it again: {}", code, self._end_of_log())
                self._forget_server()
                return

    def _forget_server(self) -> None:
        if self._guard is not None:
            self._guard.release()
        self._process = self._guard = None

    def _end_server(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(self._stop_timeout_s)
            except subprocess.TimeoutExpired:
                logger.error("the embedded server did not end in {} s, killing it", self._stop_timeout_s)
                self._process.kill()
                self._process.wait()
        self._forget_server()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _end_of_log(self) -> str:
        try:
            lines = (self._directory / "valkey.log").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return "it left no log"
        return " / ".join(line.strip() for line in lines[-3:])


def socket_path(directory: Path) -> Path:
    """Where the server of `directory` listens: inside it, or in a short directory of ours when its path is too long."""
    inside = directory.absolute() / "valkey.sock"
    if len(os.fsencode(inside)) <= _SOCKET_PATH_BYTES:
        return inside
    digest = hashlib.sha256(os.fsencode(directory.absolute())).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"refinery-{os.geteuid()}-{digest}" / "valkey.sock"


def answers(socket: Path) -> bool:
    """Whether a server that has loaded its data answers on `socket`."""
    import redis  # takes long to load, and where there is no socket nobody asks
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    client = redis.Redis(unix_socket_path=str(socket), socket_timeout=2, retry=Retry(NoBackoff(), 0))
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()


def _options(directory: Path, socket: Path) -> list[str]:
    values = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "600",
        "dir": str(directory),
        "logfile": str(directory / "valkey.log"),
        "save": "",
        "appendonly": "yes",
        "appendfsync": "always",
        "no-appendfsync-on-rewrite": "no",
        "aof-use-rdb-preamble": "no",  # a preamble written by Valkey is unreadable to Redis
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    return [part for name, value in values.items() for part in (f"--{name}", value)]
