"""A store in a file, and a clock that the test moves."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from trading_system.ml_refinement.storage import FeatureDatabase


class SteppingClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2024, 6, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def move(self, **by: float) -> None:
        self.now += timedelta(**by)


@pytest.fixture
def clock() -> SteppingClock:
    return SteppingClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "features.db"


@pytest.fixture
def db(path: Path, clock: SteppingClock) -> Iterator[FeatureDatabase]:
    with FeatureDatabase(path, clock=clock) as store:
        yield store
