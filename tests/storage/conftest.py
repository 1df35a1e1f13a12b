"""A store in a file, and a clock that the test moves."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.postgres_server import EITHER_ENGINE
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


#: Modules whose tests hold for a store in either engine.
BOTH_ENGINES = {
    "test_dead_letter_listing",
    "test_event_archive",
    "test_leases",
    "test_store_batches",
    "test_store_dead_letters",
    "test_store_library",
    "test_store_models",
    "test_store_outcomes",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "place" in metafunc.fixturenames:
        both = metafunc.module.__name__.rpartition(".")[2] in BOTH_ENGINES
        engines = EITHER_ENGINE if both else ("sqlite",)
        metafunc.parametrize("place", engines, indirect=True)


@pytest.fixture
def place(request: pytest.FixtureRequest, path: Path) -> str | Path:
    """Where the test's store is."""
    return request.getfixturevalue("postgres_url") if request.param == "postgresql" else path


@pytest.fixture
def db(place: str | Path, clock: SteppingClock) -> Iterator[FeatureDatabase]:
    store = FeatureDatabase(place, clock=clock)
    store.upgrade()
    with store:
        yield store


@pytest.fixture
def db_program() -> str:
    """The head of a program for another process: its first argument is the store's path."""
    return """
import sys, time
from pathlib import Path
from trading_system.ml_refinement.config import FeatureVector
from trading_system.ml_refinement.storage import SqliteConnection, FeatureDatabase
from trading_system.ml_refinement.storage.schema import steps

path = Path(sys.argv[1])

def say_and_wait():
    print("inside", flush=True)
    time.sleep(3600)
"""
