"""What a market-data directory holds, by the content of its files, so that those of several hosts can be compared."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from worker.market_data.files import SUFFIXES, FileVersion, version_of

#: In the place of a digest, for a file whose bytes this worker cannot have.
UNREADABLE: Final = "unreadable"
_DIGEST_BYTES = 8


class Contents:
    """Digests of a directory's files. A file is read when it is first seen, and again when it has changed.

    Args:
        directory: where the files are; None: there is no source, which is as good as an empty one.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._known: dict[str, tuple[FileVersion, str]] = {}

    def look(self) -> dict[str, str]:
        """The digest of each file of bars, by its name; `UNREADABLE` for one that cannot be read now.

        Raises:
            OSError: the directory cannot be read now.
        """
        if self._directory is None:
            return {}
        found = {}
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if entry.name.endswith(SUFFIXES) and (known := self._of(entry)) is not None:
                    found[entry.name] = known
        self._known = {name: known for name, known in found.items() if known[1] != UNREADABLE}
        return {name: digest for name, (_, digest) in found.items()}

    def _of(self, entry: os.DirEntry[str]) -> tuple[FileVersion, str] | None:
        """Version and digest of a file; None where it is gone meanwhile."""
        try:
            version = version_of(entry.stat())  # before it is read: what is written meanwhile makes another one
            known = self._known.get(entry.name)
            return known if known is not None and known[0] == version else (version, _digest(entry.path))
        except FileNotFoundError:
            return None
        except OSError:
            return (0, 0, 0, 0), UNREADABLE


def digest_of(files: Mapping[str, str]) -> str:
    """One digest of all that a directory holds."""
    lines = "".join(f"{name}\0{digest}\n" for name, digest in sorted(files.items()))
    return hashlib.blake2b(lines.encode(errors="surrogateescape"), digest_size=_DIGEST_BYTES).hexdigest()


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES)).hexdigest()
