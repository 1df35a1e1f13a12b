"""The console over a small installation, and a real browser."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from flask import Flask

from tests.support.console_installation import CHROMIUM, DRIVER, ConsoleInstallation, fill
from tests.support.desk import settings_for
from tests.support.postgres_server import EITHER_ENGINE
from tests.support.waiting import HANGS_AFTER_S
from trading_system.ml_refinement.storage import FeatureDatabase
from worker.console.application import MAX_REQUEST_BYTES, create_app
from worker.console.server import create_server
from worker.redis_server.embedded import EmbeddedServer

#: Modules whose tests change something: these run on both.
BOTH_ENGINES = {
    "test_actors",
    "test_dead_letters",
    "test_train_now",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "place" in metafunc.fixturenames:
        both = metafunc.module.__name__.rpartition(".")[2] in BOTH_ENGINES
        engines = EITHER_ENGINE if both else ("sqlite",)
        metafunc.parametrize("place", engines, indirect=True, scope="module")


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleInstallation]:
    """One filled installation for the tests of a file, in either engine."""
    base = tmp_path_factory.mktemp("console")
    store = {}
    if request.param == "postgresql":
        store["store_url"] = request.getfixturevalue("postgres_server").url(base.name)
        with closing(FeatureDatabase(store["store_url"])) as made:
            made.upgrade()
    with EmbeddedServer(base / "valkey", join=False) as server:
        yield fill(settings_for(base / "var", server.url, **store), server.url)


@pytest.fixture(scope="module")
def flask_app(place: ConsoleInstallation) -> Flask:
    """The application without passwords, as on one's own machine."""
    flask = create_app(place.settings, place.url)
    flask.extensions["refinery"].sample()
    return flask


@pytest.fixture(scope="module")
def address(flask_app: Flask) -> Iterator[str]:
    """The console behind the server it is shipped with."""
    server = create_server(flask_app, host="127.0.0.1", port=0, most_request_bytes=MAX_REQUEST_BYTES)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.effective_port}"
    server.close()
    # A request in hand ends before what it asks is gone, and before another test looks at the log.
    server.task_dispatcher.shutdown(timeout=HANGS_AFTER_S)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("chromium or chromedriver is missing")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_window_size(1280, 1000)
    yield driver
    driver.quit()
