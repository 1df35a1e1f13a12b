"""Hosts of their own on this machine: network namespaces on one bridge, each with a name, whose cable can be pulled."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Self

#: Of this process, since others test beside it.
_PREFIX = f"10.213.{os.getpid() % 250 + 1}"
#: Where servers listen that hosts reach: this machine's end of the bridge.
SERVERS = f"{_PREFIX}.1"


def hosts_are_allowed() -> bool:
    """Whether this user may make namespaces and a bridge; it may as root outside of most containers."""
    if os.geteuid() != 0:
        return False
    try:
        with Hosts("probe"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


class Hosts:
    """A bridge with so many hosts; a context manager."""

    def __init__(self, *names: str) -> None:
        self._tag = f"{os.getpid() % 100_000}"
        self._bridge = f"rb{self._tag}"
        self._names = names

    def __enter__(self) -> Self:
        try:
            _ip("link", "add", self._bridge, "type", "bridge")
            _ip("addr", "add", f"{SERVERS}/24", "dev", self._bridge)
            _ip("link", "set", self._bridge, "up")
            for number, name in enumerate(self._names):
                self._add(name, number)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, name: str, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """A process on that host, which has its name."""
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', name]
        return subprocess.Popen(["ip", "netns", "exec", self._namespace(name), *named, *command], **options)

    def cut_off(self, name: str) -> None:
        """From now on what it sends and is sent vanishes, and nobody is told."""
        # Out of the bridge alone, what the host sends might still be taken in.
        _ip("link", "set", self._cable(name), "nomaster", "down")

    def join(self, name: str) -> None:
        """Plug it in again."""
        _ip("link", "set", self._cable(name), "master", self._bridge, "up")

    def close(self) -> None:
        """Remove all of it."""
        for name in self._names:
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "del", self._namespace(name))
        with suppress(subprocess.CalledProcessError):
            _ip("link", "del", self._bridge)

    def _add(self, name: str, number: int) -> None:
        namespace, cable, inner = self._namespace(name), self._cable(name), f"ri{self._tag}{number}"
        _ip("netns", "add", namespace)
        _ip("link", "add", cable, "type", "veth", "peer", "name", inner)
        _ip("link", "set", inner, "netns", namespace)
        _ip("link", "set", cable, "master", self._bridge, "up")
        _ip("-n", namespace, "addr", "add", f"{_PREFIX}.{number + 2}/24", "dev", inner)
        _ip("-n", namespace, "link", "set", inner, "up")
        _ip("-n", namespace, "link", "set", "lo", "up")

    def _namespace(self, name: str) -> str:
        return f"refinery-{self._tag}-{name}"

    def _cable(self, name: str) -> str:
        return f"ro{self._tag}{self._names.index(name)}"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
