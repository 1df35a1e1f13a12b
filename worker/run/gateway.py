"""The gateway process: events from producers that have no way to Redis."""

from __future__ import annotations

import threading
from contextlib import ExitStack, suppress

from loguru import logger

from trading_system.ml_refinement.storage.times import utc_now
from worker.errors import StopRequested
from worker.events.decoding import Limits
from worker.gateway.door import Door
from worker.gateway.listener import Gateway, listening
from worker.gateway.sender import Sender
from worker.installation import streams_of
from worker.redis_server.connection import connect, server_url
from worker.settings.schema import Settings
from worker.state_dir import make_private
from worker.supervision.backoff import StartRetry
from worker.supervision.service_manager import ServiceManager


def run_gateway(settings: Settings, stop: threading.Event) -> None:
    """Take events until `stop` is set; what has arrived by then is answered, within the grace.

    Raises:
        ServerBusy: another gateway listens there.
        ConfigurationError: there can be no such socket.
    """
    service = ServiceManager()
    if settings.gateway.socket is None:
        make_private(settings.state_dir)
    limits = Limits.from_settings(settings)
    with ExitStack() as stack, suppress(StopRequested):
        url = stack.enter_context(server_url(settings, retry=StartRetry(stop, waits=service.waits)))
        client = stack.enter_context(connect(url))
        listener = stack.enter_context(listening(settings.gateway_socket, group=settings.gateway.group))
        gateway = Gateway(
            listener,
            Door(streams_of(settings), limits, utc_now),
            Sender(client, stop),
            most_connections=settings.gateway.max_connections,
            idle_s=settings.gateway.idle_s,
        )
        logger.info("gateway on {} is ready", settings.gateway_socket)
        gateway.serve(stop, came_round=service.ready)
        service.stopping()
        gateway.drain(grace_s=settings.shutdown_grace_s)
    logger.info("gateway stopped")
