"""Where the store of a directory and its archive are: in files, or where the environment of the test says."""

from __future__ import annotations

import os
from pathlib import Path


def store_place(directory: Path) -> str | Path:
    """The place of the store that processes with this state directory have."""
    return os.environ.get("REFINERY_STORE_URL") or directory / "features.db"


def archive_place(directory: Path) -> str | Path:
    """The place of the archive that processes with this state directory have."""
    return os.environ.get("REFINERY_STORE_URL") or directory / "events.db"
