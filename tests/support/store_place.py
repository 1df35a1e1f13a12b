"""Where the store of a directory is: in its file, or where the environment of the test says."""

from __future__ import annotations

import os
from pathlib import Path


def store_place(directory: Path) -> str | Path:
    """The place of the store that processes with this state directory have."""
    return os.environ.get("REFINERY_STORE_URL") or directory / "features.db"
