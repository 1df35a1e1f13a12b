"""Workers with a state directory each, as on hosts that share a store in PostgreSQL and a server of streams."""

from __future__ import annotations

import signal as signals
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.real_processes import Installation
from tests.support.waiting import HANGS_AFTER_S

Start = Callable[..., "subprocess.Popen[bytes]"]


@contextmanager
def workers_on_hosts(directory: Path, valkey_url: str, postgres_url: str) -> Iterator[Start]:
    """Starts a worker with a state directory of that name, which is empty at first."""
    started = []

    def start(name: str, **environment: str) -> subprocess.Popen[bytes]:
        here = Installation(directory / name, valkey_url)
        here.environment |= {"REFINERY_STORE_URL": postgres_url, **environment}
        started.append(here.start("worker"))
        return started[-1]

    yield start
    for process in started:
        process.send_signal(signals.SIGTERM)
        assert process.wait(HANGS_AFTER_S) in (0, -signals.SIGKILL)
