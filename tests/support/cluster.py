"""Three servers that are one cluster, all on this machine, whose slots can be moved while they are used; and replicas
that take over from them.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping
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
    """One server of a cluster, which can be killed and comes back with what it had.

    Args:
        directory: for its files; is made.
        binary: the server.
        more: settings beside ours.
        signs_in: how the tests' own client connects, where the server asks for more than its port.
    """

    def __init__(
        self, directory: Path, binary: Path, more: Mapping[str, object], signs_in: Mapping[str, object]
    ) -> None:
        directory.mkdir()
        self.port = free_port()
        self._bus = free_port()
        self._directory = directory
        self._binary = binary
        self._more = more
        self._process: subprocess.Popen[bytes] | None = None
        options: Any = {"socket_timeout": 10, "protocol": 2} | dict(signs_in)
        self.client = redis.Redis(port=self.port, **options)

    def start(self) -> None:
        settings = {
            "port": self.port, "cluster-port": self._bus, "bind": "127.0.0.1", "dir": self._directory,
            "cluster-enabled": "yes", "cluster-node-timeout": 2_000, "appendonly": "yes", "appendfsync": "always",
            "maxmemory-policy": "noeviction", "save": "", "logfile": self._directory / "log",
            "cluster-require-full-coverage": "no", "repl-diskless-sync-delay": 0, "repl-ping-replica-period": 1,
            **self._more,
        }  # fmt: skip
        if "tls-cluster" in settings:
            settings |= {"port": 0, "tls-port": self.port}
        words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        self._process = subprocess.Popen([self._binary, *words], stdout=subprocess.DEVNULL)
        wait_until(self._answers)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def told(self, section: str) -> dict[str, Any]:
        """A section of what it says of itself."""
        said: dict[str, Any] = self.client.info(section)
        return said

    def has_all_of(self, primary: Member) -> bool:
        """Whether everything is here that the primary has by now."""
        written = primary.told("replication")["master_repl_offset"]
        mine = self.told("replication")
        return mine.get("master_link_status") == "up" and bool(mine["slave_repl_offset"] >= written)

    def follow(self, primary: Member) -> None:
        """Be its replica from now on."""
        wait_until(lambda: primary.name in self.ask("CLUSTER", "NODES").decode())
        self.ask("CLUSTER", "REPLICATE", primary.name)
        wait_until(lambda: self.has_all_of(primary))

    def stand_still(self) -> None:
        """SIGSTOP: its connections stay, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

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
        binary: of another server than the installed one.
        with_replicas: whether each of them has one, which takes over when it is gone.
        settings: of each server, beside ours.
        signs_in: how the tests' own clients connect, where the servers ask for more than their ports.
    """

    def __init__(
        self,
        directory: Path,
        *,
        binary: Path | None = None,
        with_replicas: bool = False,
        settings: Mapping[str, object] | None = None,
        signs_in: Mapping[str, object] | None = None,
    ) -> None:
        made = [
            Member(directory / f"m{number}", binary or find_server(), settings or {}, signs_in or {})
            for number in range(6 if with_replicas else 3)
        ]
        self.members, self.replicas = made[:3], made[3:]
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
            for primary, replica in zip(self.members, self.replicas, strict=False):
                replica.start()
                first.ask("CLUSTER", "MEET", "127.0.0.1", replica.port, replica._bus)
                replica.follow(primary)
            wait_until(lambda: all(self._has_replicas(member) for member in (*self.members, *self.replicas)))
            stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for member in (*self.members, *self.replicas):
            if member._process is not None:
                member.kill()
            member.client.close()

    def _is_whole(self, member: Member) -> bool:
        said: bytes = member.ask("CLUSTER", "INFO")
        return b"cluster_state:ok" in said and len(member.ask("CLUSTER", "SLOTS")) == len(self.members)

    def _has_replicas(self, member: Member) -> bool:
        """Whether a server knows them all, which a failover needs."""
        found = [place for _, _, _, *followers in member.ask("CLUSTER", "SLOTS") for place in followers]
        return len(found) == len(self.replicas)

    def owner(self, key: str, *, asked: Member | None = None) -> Member:
        """Which server has the slot of a key, by what one of them says."""
        slot = key_slot(key.encode())
        for first, last, primary, *_ in (asked or self.members[0]).ask("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(one for one in (*self.members, *self.replicas) if one.port == _port(primary))
        raise AssertionError(f"nobody has the slot of {key}")

    def replica_of(self, primary: Member) -> Member:
        """The one that follows this primary from the beginning."""
        return self.replicas[self.members.index(primary)]

    def wait_for_another_than(self, gone: Member, key: str) -> Member:
        """The server that has the slot of a key once all that are left agree that it is no more this one."""
        left = [member for member in (*self.members, *self.replicas) if member is not gone]
        found: list[Member] = []

        def agreed() -> bool:
            found[:] = [self.owner(key, asked=member) for member in left]
            return gone not in found and len(set(found)) == 1

        wait_until(agreed)
        return found[0]

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
