"""A primary with replicas, and sentinels that watch over them, all on this machine."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.servers import Replicated, free_port
from tests.support.waiting import wait_until
from worker.redis_server.binary import find_server

NAME = "refinery"
#: After how long sentinels take a server for gone: while a test takes one away, and at any other time, so that nobody's
#: standing still for a moment is a failover that no test asked for.
_LOOKING_MS, _CALM_MS = 500, 600_000
#: When a failover that failed is tried again.
_FAILOVER_TIMEOUT_MS = 1_000
#: A failover that was asked for and has not come by then was given up.
_GIVEN_UP_AFTER_S = 10.0


class Watched:
    """One primary, so many replicas, three sentinels; a context manager.

    Args:
        directory: for their files; must be there.
        replicas: how many.
        binary: of another server than the installed one.
        password: of the servers; None: they ask for none.
        sentinel_password: of the sentinels, the same way.
    """

    def __init__(
        self,
        directory: Path,
        *,
        replicas: int = 1,
        binary: Path | None = None,
        password: str | None = None,
        sentinel_password: str | None = None,
    ) -> None:
        self._password = password
        self._sentinel_password = sentinel_password
        self._directory = directory
        self._binary = binary or find_server()
        self.servers = [Replicated(directory / f"s{number}", binary, keeps_port=True) for number in range(replicas + 1)]
        self.ports: list[int] = []
        self._sentinels: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self.begun()

    def begun(self) -> Self:
        """All of them, once each knows of the others."""
        with ExitStack() as stack:
            stack.callback(self.close)
            primary, *replicas = self.servers
            primary.start()
            for replica in replicas:
                replica.start()
                replica.follow(primary)
            for number in range(3):
                self._begin_sentinel(number, primary.port)
            wait_until(self._all_are_known, self.told)
            if self._password is not None:
                self._ask_for_passwords()
            stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The sentinels' address."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        credentials = "" if self._password is None else f":{self._password}@"
        theirs = "" if self._sentinel_password is None else f"?sentinel_password={self._sentinel_password}"
        return f"redis+sentinel://{credentials}{hosts}/{NAME}{theirs}"

    def primary(self) -> Replicated:
        """The server that most sentinels call the primary, once they agree, and which says so itself."""
        found: list[Replicated] = []

        def agreed() -> bool:
            named = {sentinel.sentinel_get_master_addr_by_name(NAME)[1] for sentinel in self.clients()}
            found[:] = [server for server in self.servers if named == {server.port}]
            return bool(found) and _said_of_replication(found[0])["role"] == "master"

        wait_until(agreed, self.told)
        return found[0]

    def fail_over(self) -> None:
        """Have a sentinel hand over to a replica while everything runs, and wait until it is done."""
        before, ask_due = self.primary(), 0.0

        def handed_over() -> bool:
            nonlocal ask_due
            if self.primary() is not before:
                return True
            # One that a sentinel gives up, as where the replica was away for a moment, it does not begin again.
            if time.monotonic() >= ask_due and self._asked_for_failover():
                ask_due = time.monotonic() + _GIVEN_UP_AFTER_S
            return False

        wait_until(handed_over, self.told)

    @contextmanager
    def gone(self) -> Iterator[Replicated]:
        """The primary, for whoever takes it away in here; when this ends the sentinels have agreed on another one."""
        before = self.primary()
        self._take_for_gone_after(_LOOKING_MS)
        try:
            yield before
            self.wait_for_another_than(before)
        finally:
            self._take_for_gone_after(_CALM_MS)

    def wait_for_another_than(self, before: Replicated) -> None:
        """Return when the sentinels have agreed on another primary."""
        wait_until(lambda: self.primary() is not before, self.told)

    def wait_for_replicas(self) -> None:
        """Return when every server but the primary follows it."""
        primary = self.primary()
        for server in self.servers:
            if server is not primary:
                wait_until(lambda: _follows(server, primary), self.told)  # noqa: B023 - asked at once
                server.caught_up(primary)

    def make_whole(self) -> None:
        """Every server runs, empty, and follows the primary."""
        for server in self.servers:
            server.start()
            server.go_on()
        self.wait_for_replicas()
        self.primary().client.flushall()
        self.wait_for_replicas()

    def told(self) -> str:
        """What sentinels and servers say, for a test that hangs."""
        said = []
        for port in self.ports:
            try:
                with redis.Redis("127.0.0.1", port, socket_timeout=2) as client:
                    said.append(str(client.sentinel_masters()))
            except redis.RedisError as error:
                said.append(f"{port}: {error!r}")
        return "\n".join(said)

    def end_sentinels(self) -> None:
        """Kill the sentinels, and nothing else."""
        for process in self._sentinels:
            process.kill()
            process.wait()

    def close(self) -> None:
        """Kill everything."""
        self.end_sentinels()
        for server in self.servers:
            server.kill()

    def _begin_sentinel(self, number: int, primary_port: int) -> None:
        directory = self._directory / f"sentinel{number}"
        directory.mkdir()
        port = free_port()
        lines = (
            f"port {port}",
            "bind 127.0.0.1",
            f"dir {directory}",
            f"sentinel monitor {NAME} 127.0.0.1 {primary_port} 2",
            f"sentinel down-after-milliseconds {NAME} {_CALM_MS}",
            f"sentinel failover-timeout {NAME} {_FAILOVER_TIMEOUT_MS}",
        )
        config = directory / "sentinel.conf"
        config.write_text("\n".join((*lines, "")))
        with (directory / "log").open("wb") as log:
            command = [str(self._binary), str(config), "--sentinel"]
            self._sentinels.append(subprocess.Popen(command, stdout=log, stderr=log))
        self.ports.append(port)

    def _take_for_gone_after(self, milliseconds: int) -> None:
        for sentinel in self.clients():
            sentinel.sentinel_set(NAME, "down-after-milliseconds", milliseconds)

    def clients(self) -> list[redis.Redis]:
        return [redis.Redis("127.0.0.1", port, socket_timeout=5) for port in self.ports]

    def _ask_for_passwords(self) -> None:
        """From now on. Sentinels sign in to servers and to each other with the same."""
        for sentinel in self.clients():
            sentinel.sentinel_set(NAME, "auth-pass", self._password)
        for server in self.servers:
            server.client.config_set("masterauth", self._password or "")
            server.client.config_set("requirepass", self._password or "")
        for sentinel in self.clients() if self._sentinel_password else ():
            command: Any = sentinel.execute_command
            command("SENTINEL", "CONFIG", "SET", "sentinel-pass", self._sentinel_password)
            command("ACL", "SETUSER", "default", f">{self._sentinel_password}")

    def _all_are_known(self) -> bool:
        try:
            states = [sentinel.sentinel_master(NAME) for sentinel in self.clients()]
        except redis.ConnectionError:
            return False
        return all(
            state["num-other-sentinels"] == 2 and state["num-slaves"] == len(self.servers) - 1 for state in states
        )

    def _asked_for_failover(self) -> bool:
        try:
            client: Any = self.clients()[0]
            client.execute_command("SENTINEL", "FAILOVER", NAME)
        except redis.ResponseError:  # one is under way, or no replica is good enough yet
            return False
        return True


def _said_of_replication(server: Replicated) -> dict[str, Any]:
    """What the server says of itself; that it is away where it does not answer."""
    with redis.Redis(unix_socket_path=str(server.socket), socket_timeout=1, retry=Retry(NoBackoff(), 0)) as client:
        try:
            told: dict[str, Any] = client.info("replication")
        except (redis.ConnectionError, redis.TimeoutError):
            return {"role": "away"}
    return told


def _follows(server: Replicated, primary: Replicated) -> bool:
    told = _said_of_replication(server)
    return bool(told["role"] == "slave" and told["master_port"] == primary.port)
