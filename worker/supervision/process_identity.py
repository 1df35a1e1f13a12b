"""A process by a name that no other has, and whether one that bore such a name is known to be dead."""

from __future__ import annotations

import os
import socket
import sys
import uuid
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_UNKNOWN = "-"


class ProcessIdentity(NamedTuple):
    """Host and process. `kernel` tells hosts of one name apart, and containers, each with process ids of its own."""

    host: str
    pid: int
    kernel: str
    started: str

    def __str__(self) -> str:
        return f"{self.host} {self.pid} {self.kernel} {self.started}"


def this_process() -> ProcessIdentity:
    """Of this process, also after a fork."""
    return ProcessIdentity(socket.gethostname(), os.getpid(), _kernel(), _started(os.getpid()) or _UNKNOWN)


def known_dead(holder: str) -> bool:
    """Whether the process of that name is gone. False too where this process cannot tell, as of another host."""
    words = holder.split()
    if len(words) != len(ProcessIdentity._fields) or not words[1].isdigit():
        return False
    other = ProcessIdentity(words[0], int(words[1]), words[2], words[3])
    if (other.host, other.kernel) != (socket.gethostname(), _kernel()):
        return False
    try:
        os.kill(other.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    started = _started(other.pid)
    return started is None or (_UNKNOWN not in (started, other.started) and started != other.started)


def place_name(holder: str) -> str:
    """Host and process id, as people are told them."""
    host, _, rest = holder.partition(" ")
    return f"process {rest.split(' ')[0]} on {host}" if rest else host


def _kernel() -> str:
    """Of this boot of this host, and of the process ids that this process sees."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    return f"{uuid.getnode():x}"


def _started(pid: int) -> str | None:
    """When a process began, in ticks since the boot; None where it has ended, "-" where the system does not say."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None if sys.platform == "linux" else _UNKNOWN
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in ("Z", "X") else fields[18]
