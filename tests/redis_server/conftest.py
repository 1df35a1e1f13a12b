"""Servers that several modules of this area need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three primaries without replicas."""
    (tmp_path / "cluster").mkdir()
    with Cluster(tmp_path / "cluster") as servers:
        yield servers
