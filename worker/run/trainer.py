"""The trainer process with its metrics."""

from __future__ import annotations

import threading
from contextlib import suppress

from loguru import logger

from trading_system.ml_refinement.storage import StoreUnavailable
from worker.errors import StopRequested, TransientError
from worker.installation import check_features, check_recipe, idle_settings, refuse_other_owner
from worker.notifications.sender import sending
from worker.observability import metrics
from worker.redis_server.connection import connect, server_url
from worker.retraining.job import run_trainer as work
from worker.settings.schema import Settings
from worker.supervision.backoff import StartRetry


def run_trainer(settings: Settings, stop: threading.Event) -> None:
    """Run retraining jobs until `stop` is set.

    Raises:
        ConfigurationError: no training could be made with these settings, or another installation handles the streams.
    """
    check_recipe(settings)
    check_features(settings)
    for line in idle_settings(settings):
        logger.warning(line)
    with suppress(StopRequested), server_url(settings, retry=StartRetry(stop)) as url:
        with suppress(TransientError, StoreUnavailable), connect(url) as client:  # then housekeeping looks again
            refuse_other_owner(settings, client)
        port = settings.trainer_metrics_port
        with metrics.served(settings, url, port=port, loop=False), sending(settings):
            work(settings, url, stop)
