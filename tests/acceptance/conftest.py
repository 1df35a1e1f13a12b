"""The store of somebody who follows the specification."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from trading_system.ml_refinement.storage import FeatureDatabase


@pytest.fixture
def db(tmp_path: Path) -> Iterator[FeatureDatabase]:
    db = FeatureDatabase(str(tmp_path / "features.db"))
    db.initialize()
    yield db
    db.close()
