"""Three servers that are one cluster, all on this machine, whose slots can be moved while they are used."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import redis
from redis.crc import key_slot

from tests.support.servers import free_port
from tests.support.waiting import wait_until
from worker.redis_server.binary import find_server

_SLOTS = 16_384


class Member:
    """One server of a cluster, which can be killed and comes back with what it had."""

    def __init__(self, directory: Path, binary: Path) -> None:
        directory.mkdir()
        self.port = free_port()
        self._bus = free_port()
        self._directory = directory
        self._binary = binary
        self._process: subprocess.Popen[bytes] | None = None
        self.client = redis.Redis(port=self.port, socket_timeout=10, protocol=2)

    def start(self) -> None:
        settings = {
            "port": self.port, "cluster-port": self._bus, "bind": "127.0.0.1", "dir": self._directory,
            "cluster-enabled": "yes", "cluster-node-timeout": 2_000, "appendonly": "yes", "appendfsync": "always",
            "maxmemory-policy": "noeviction", "save": "", "logfile": self._directory / "log",
            "cluster-require-full-coverage": "no",
        }  # fmt: skip
        words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        self._process = subprocess.Popen([self._binary, *words], stdout=subprocess.DEVNULL)
        wait_until(self._answers)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    @property
    def name(self) -> str:
        """What the cluster knows it by."""
        return str(self.ask("CLUSTER", "MYID").decode())

    def ask(self, *words: object) -> Any:
        return self.client.execute_command(*words)  # type: ignore[no-untyped-call]


class Cluster:
    """Three primaries with a third of the slots each; a context manager.

    Args:
        directory: for their files; must be there.
    """

    def __init__(self, directory: Path) -> None:
        binary = find_server()
        self.members = [Member(directory / f"m{number}", binary) for number in range(3)]
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{member.port}" for member in self.members)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self.close)
            for number, member in enumerate(self.members):
                member.start()
                bounds = [_SLOTS * part // len(self.members) for part in (number, number + 1)]
                member.ask("CLUSTER", "ADDSLOTSRANGE", bounds[0], bounds[1] - 1)
                member.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            first = self.members[0]
            for member in self.members[1:]:
                first.ask("CLUSTER", "MEET", "127.0.0.1", member.port, member._bus)
            wait_until(lambda: all(self._is_whole(member) for member in self.members))
            stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for member in self.members:
            if member._process is not None:
                member.kill()
            member.client.close()

    def _is_whole(self, member: Member) -> bool:
        said: bytes = member.ask("CLUSTER", "INFO")
        return b"cluster_state:ok" in said and len(member.ask("CLUSTER", "SLOTS")) == len(self.members)

    def owner(self, key: str) -> Member:
        """Which server has the slot of a key."""
        slot = key_slot(key.encode())
        for first, last, primary, *_ in self.members[0].ask("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(member for member in self.members if member.port == _port(primary))
        raise AssertionError(f"nobody has the slot of {key}")

    def begin_to_move(self, key: str, target: Member) -> None:
        """From now on keys of the slot that are not there are asked for at the target (`ASK`)."""
        slot, source = key_slot(key.encode()), self.owner(key)
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.name)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.name)

    def move_keys(self, key: str, target: Member, *, most: int = 1_000) -> int:
        """Move keys of the slot; how many."""
        source = self.owner(key)
        keys = source.ask("CLUSTER", "GETKEYSINSLOT", key_slot(key.encode()), most)
        if keys:
            source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 10_000, "KEYS", *keys)
        return len(keys)

    def end_to_move(self, key: str, target: Member) -> None:
        """From now on the slot is the target's (`MOVED`)."""
        slot, source = key_slot(key.encode()), self.owner(key)
        while self.move_keys(key, target):
            pass
        for member in (target, source, *self.members):
            member.ask("CLUSTER", "SETSLOT", slot, "NODE", target.name)


def _port(node: Any) -> int:
    return int(node[1])
