"""The bytes of registered models, by their SHA-256: the table `artefacts`."""

from __future__ import annotations

import hashlib
from typing import Final

from trading_system.ml_refinement.storage.connection import Connection
from trading_system.ml_refinement.storage.times import Clock, utc_text

#: The schema step that makes the table: an older store, or a backup of one, has the files alone.
ARTEFACTS_STEP: Final = 19


class Artefacts:
    """The table `artefacts`. What is read from it is verified by whoever reads it, as a file is."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    def keep(self, data: bytes) -> str:
        """Keep the bytes, in the place of what was kept under their hash; the hash."""
        sha256 = hashlib.sha256(data).hexdigest()
        self._connection.run(KEEP, (sha256, data, len(data), utc_text(self._clock())))
        return sha256

    def data(self, sha256: str) -> bytes | None:
        """What is kept under a hash, not verified; None where nothing is."""
        row = self._connection.one("SELECT data FROM artefacts WHERE sha256 = ?", (sha256,))
        return None if row is None else bytes(row[0])

    def sound(self, sha256: str) -> bool:
        """Whether the bytes of that hash are kept."""
        data = self.data(sha256)
        return data is not None and hashlib.sha256(data).hexdigest() == sha256

    def missing(self) -> list[tuple[str, str, str]]:
        """Registered models whose bytes are not kept: id, name of the file, hash."""
        return [(model_id, name, sha256) for model_id, name, sha256 in self._connection.query(MISSING)]


# The literals are ours alone; every value is bound.
KEEP = """
    INSERT INTO artefacts (sha256, data, size, kept_at) VALUES (?, ?, ?, ?)
    ON CONFLICT (sha256) DO UPDATE SET data = excluded.data, size = excluded.size"""
MISSING = """
    SELECT m.model_id, m.model_path, m.artefact_sha256 FROM model_registry AS m
    WHERE m.artefact_sha256 IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM artefacts AS a WHERE a.sha256 = m.artefact_sha256)
    ORDER BY m.model_id"""
