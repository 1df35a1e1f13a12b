"""The trainer process with its metrics."""

from __future__ import annotations

from loguru import logger

from worker.installation import check_features, check_recipe, idle_settings
from worker.observability import metrics
from worker.redis_server.connection import server_url
from worker.retraining.job import run_trainer as work
from worker.settings.schema import Settings


def run_trainer(settings: Settings) -> None:
    """Run retraining jobs until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: no training could be made with these settings.
    """
    check_recipe(settings)
    check_features(settings)
    for line in idle_settings(settings):
        logger.warning(line)
    with server_url(settings) as url, metrics.served(settings, url, port=settings.trainer_metrics_port, loop=False):
        work(settings, url)
