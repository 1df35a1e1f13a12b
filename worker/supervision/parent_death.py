"""A child process dies with the process that started it, also when that one is killed and cannot clean up."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

_LINUX = sys.platform == "linux"
_PR_SET_PDEATHSIG = 1

# Runs in a fresh interpreter: after a fork from a process with threads, Python code before exec could deadlock.
_LAUNCHER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""

_GUARD = 'read -r _; kill -KILL "$0" 2>/dev/null'


def launch_command(command: Sequence[str], *, kernel: bool = _LINUX) -> list[str]:
    """`command` such that, where the kernel can (Linux), the process is killed when the starting *thread* ends.

    Elsewhere the command is returned as it is, and `Guard` does the killing.
    """
    if not kernel:
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command]


class Guard:
    """Kills process `pid` when this process is gone, where the kernel does not do it.

    The guard is a shell that reads from a pipe whose only writer is this process: it reads the end when we die.
    """

    def __init__(self, pid: int, *, needed: bool = not _LINUX) -> None:
        self._shell: subprocess.Popen[bytes] | None = None
        if needed:
            self._shell = subprocess.Popen(  # noqa: S603 - a constant script
                ["/bin/sh", "-c", _GUARD, str(pid)], stdin=subprocess.PIPE, start_new_session=True
            )

    def release(self) -> None:
        """Stops guarding: the process has ended."""
        if self._shell is not None:
            self._shell.kill()
            self._shell.wait()
            if self._shell.stdin is not None:
                self._shell.stdin.close()
            self._shell = None


def die_with_parent(parent: int, *, poll_s: float = 1.0, kernel: bool = _LINUX) -> None:
    """Called in a forked child of process `parent`: end it when that ends, or, on Linux, its forking thread."""
    if kernel:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch_parent, args=(parent, poll_s), daemon=True).start()
    if os.getppid() != parent:
        os._exit(1)


def _watch_parent(parent: int, poll_s: float) -> None:
    pause = threading.Event()
    while os.getppid() == parent:
        pause.wait(poll_s)
    os._exit(1)
