"""Several processes at once: `refinery up`, which runs them all and ends them all, and workers that share the load."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec

from loguru import logger

from worker.errors import StopRequested
from worker.installation import check_features, check_recipe
from worker.redis_server.connection import server_url
from worker.settings.schema import Settings
from worker.supervision.backoff import StartRetry
from worker.supervision.children import Children
from worker.supervision.service_manager import ServiceManager
from worker.supervision.slots import workers_at_work


def run_workers(settings: Settings, processes: int, stop: threading.Event) -> None:
    """Run so many workers, each a process of its own in the slots from 0, until `stop` is set.

    Raises:
        ConfigurationError: no training could be made with these settings.
    """
    check_recipe(settings)
    check_features(settings)
    with suppress(StopRequested), server_url(settings, retry=StartRetry(stop)) as url:
        children = _children(settings, url)
        try:
            for slot in range(processes):
                children.start("worker", "--slot", str(slot))
            _tend(children, stop)
        finally:
            children.stop()


def _tend(children: Children, stop: threading.Event) -> None:
    """Keep them running until `stop` is set; each of them is watched by us alone."""
    service = ServiceManager()
    while not stop.wait(0.5):
        children.tend()
        service.ready()
    service.stopping()


def _children(settings: Settings, url: str) -> Children:
    environment = {"REFINERY_REDIS_URL": url, "REFINERY_STATE_DIR": str(settings.state_dir)}
    for name in ("console_port", "metrics_port", "trainer_metrics_port"):  # options of the command may have set them
        environment[f"REFINERY_{name.upper()}"] = str(getattr(settings, name))
    return Children(environment, grace_s=settings.shutdown_grace_s)


@contextmanager
def running(children: Children, *roles: str) -> Iterator[Children]:
    """The processes of these roles while the block runs."""
    try:
        for role in roles:
            children.start(role)
        yield children
    finally:
        children.stop()


def up_roles(settings: Settings) -> tuple[str, ...]:
    """Worker and trainer, and the console where it is installed and not turned off."""
    console = settings.console_port and find_spec("flask") and find_spec("rq_dashboard")
    return ("worker", "trainer", "console") if console else ("worker", "trainer")


def run_up(settings: Settings, stop: threading.Event) -> None:
    """Run everything until `stop` is set.

    Raises:
        ConfigurationError: no training could be made with these settings.
    """
    check_recipe(settings)
    check_features(settings)
    joins = workers_at_work(settings)
    with (
        suppress(StopRequested),
        server_url(settings, retry=StartRetry(stop)) as url,
        running(_children(settings, url), *up_roles(settings)) as children,
    ):
        if joins:
            logger.warning(
                "workers run in {} already: this one joins them and shares their load, and what their ports serve is "
                "not served twice; REFINERY_STATE_DIR names another installation",
                settings.state_dir,
            )
        logger.info(
            "up, with the streams on {}; Ctrl-C stops all", settings.masked_redis_url if settings.redis_url else url
        )
        _tend(children, stop)
