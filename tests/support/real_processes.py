"""The command line and its processes, as a person and a script start them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.waiting import HANGS_AFTER_S

REFINERY = [sys.executable, "-m", "worker"]
#: No ports, and time to end in however busy the machine is.
QUIET = {
    "REFINERY_METRICS_PORT": "0",
    "REFINERY_TRAINER_METRICS_PORT": "0",
    "REFINERY_CONSOLE_PORT": "0",
    "REFINERY_BLOCK_MS": "50",
    "REFINERY_SHUTDOWN_GRACE_S": "3600",
}


class Installation:
    """A state directory, a server, and the command with both."""

    def __init__(self, state_dir: Path, url: str) -> None:
        self.state_dir = state_dir
        self.environment = {**os.environ, **QUIET, "REFINERY_STATE_DIR": str(state_dir), "REFINERY_REDIS_URL": url}

    def run(self, *arguments: str, stdin: bytes = b"", **more: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*REFINERY, *arguments],
            input=stdin,
            env=self.environment | more,
            capture_output=True,
            timeout=HANGS_AFTER_S,
            check=False,
        )

    def document(self, *arguments: str) -> Any:
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*REFINERY, *arguments], env=self.environment, stderr=subprocess.PIPE)
