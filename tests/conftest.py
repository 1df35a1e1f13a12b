"""Fixtures that more than one area needs."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, settings as hypothesis_settings
from loguru import logger

from tests.support.postgres_server import EITHER_ENGINE, PostgresServer
from tests.support.real_processes import Installation
from tests.support.waiting import HANGS_AFTER_S
from tests.support.workers_on_hosts import Start, workers_on_hosts
from trading_system.ml_refinement.storage import FeatureDatabase
from worker.redis_server.embedded import EmbeddedServer

# How long an example takes says nothing but how busy the machine is.
hypothesis_settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own `REFINERY_*` variables do not reach the tests."""
    for name in [name for name in os.environ if name.upper().startswith("REFINERY_")]:
        monkeypatch.delenv(name)


#: Whose tests hold for a store in either engine, and run on both; but for those that are marked `sqlite_file`. Of
#: modules that start a process for each test those are named that touch the store.
BOTH_ENGINES = (
    "tests/consumer/",
    "tests/cli/test_dead_letters.py",
    "tests/cli/test_label.py",
    "tests/cli/test_models.py",
    "tests/cli/test_pins.py",
    "tests/evaluation/test_evaluate.py::test_signals_without_an_outcome_are_told",
    "tests/evaluation/test_evaluate.py::test_the_page_escapes_what_producers_name",
    "tests/evaluation/test_evaluate.py::test_virtual_outcomes_are_compared_and_change_no_figure_of_reported_ones",
    "tests/importing/test_import.py",
    "tests/maintenance/test_labelling.py",
    "tests/maintenance/test_rebuild.py",
    "tests/maintenance/test_rebuild_command.py",
    "tests/notifications/test_command.py::test_what_waits_is_told_by_notify_status_and_doctor",
    "tests/notifications/test_occasions.py",
    "tests/notifications/test_sending.py",
    "tests/observability/test_doctor.py::test_trainings_that_failed_are_counted_and_the_last_one_says_why",
    "tests/retraining/test_job.py",
    "tests/retraining/test_monitoring.py",
    "tests/retraining/test_training_lease.py",
    "tests/run/test_worker.py",
    "tests/test_dead_letters.py",
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    path = metafunc.definition.path.relative_to(metafunc.config.rootpath).as_posix()
    has_store = "tmp_path" in metafunc.fixturenames  # a test without a directory has none in either engine
    name = f"{path}::{metafunc.definition.originalname}"
    if name.startswith(BOTH_ENGINES) and has_store and metafunc.definition.get_closest_marker("sqlite_file") is None:
        metafunc.parametrize("store_engine", EITHER_ENGINE, indirect=True)


@pytest.fixture(autouse=True)
def store_engine(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, _no_settings_from_outside: None
) -> str:
    """Which engine holds the stores of settings that are read in this test, and by the processes that it starts."""
    engine = str(getattr(request, "param", "sqlite"))
    if engine == "postgresql":
        url = request.getfixturevalue("postgres_url")
        with closing(FeatureDatabase(url)) as store:
            store.upgrade()
        monkeypatch.setenv("REFINERY_STORE_URL", url)
    return engine


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """One real server per test process."""
    with EmbeddedServer(tmp_path_factory.mktemp("valkey"), join=False) as server:
        yield server


@pytest.fixture
def valkey_url(valkey_server: EmbeddedServer) -> str:
    """Address of a real server that is empty at the start of the test."""
    with redis.Redis.from_url(valkey_server.url) as client:
        client.flushall()
        client.config_resetstat()
    return valkey_server.url


@pytest.fixture
def valkey(valkey_url: str) -> Iterator[redis.Redis]:
    """A client of a real server that is empty at the start of the test; replies are bytes."""
    with redis.Redis.from_url(valkey_url) as client:
        yield client


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One real server per test process."""
    # Nothing here outlives the server; tests of crashes have one of their own, which syncs.
    with PostgresServer("fsync = off") as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer, request: pytest.FixtureRequest) -> str:
    """Address of a schema that is of this test alone, and is not made yet."""
    digest = hashlib.blake2b(request.node.nodeid.encode(), digest_size=6).hexdigest()
    return postgres_server.url(f"test_{digest}")


@pytest.fixture
def postgres_store(postgres_url: str) -> Iterator[FeatureDatabase]:
    """The store there, made."""
    with closing(FeatureDatabase(postgres_url)) as store:
        store.upgrade()
        yield store


@pytest.fixture
def start_on_host(
    tmp_path: Path, valkey_url: str, postgres_url: str, postgres_store: FeatureDatabase
) -> Iterator[Start]:
    """Starts a worker with a state directory of that name, as on a host of its own that shares the store."""
    with workers_on_hosts(tmp_path, valkey_url, postgres_url) as start:
        yield start


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """An empty state directory."""
    path = tmp_path / "var"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def installation(state_dir: Path, valkey_url: str) -> Installation:
    """The command line with an empty state directory and an empty server."""
    return Installation(state_dir, valkey_url)


@pytest.fixture
def running(installation: Installation) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Starts a process of the installation, which ends with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(role: str) -> subprocess.Popen[bytes]:
        started.append(installation.start(role))
        return started[-1]

    yield start
    for process in started:
        process.terminate()
        process.wait(HANGS_AFTER_S)


def _logged(level: str) -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(str(message.record["message"])), level=level)
    yield lines
    with suppress(ValueError):  # a command that ran in this process has set up the log anew
        logger.remove(sink)


@pytest.fixture
def errors_logged() -> Iterator[list[str]]:
    """What is logged as an error, as it comes."""
    yield from _logged("ERROR")


@pytest.fixture
def warnings_logged() -> Iterator[list[str]]:
    """What is logged as a warning or worse, as it comes."""
    yield from _logged("WARNING")
