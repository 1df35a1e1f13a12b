"""An installation for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.rebuild_installation import RebuildInstallation, rebuild_installation


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[RebuildInstallation]:
    with rebuild_installation(tmp_path / "var") as one:
        yield one
