"""The server that the console runs behind: whoever connects and does not ask, or asks slowly, keeps nobody out.

A request is handed to a thread when it is there whole, so a slow client costs a connection and no thread. Connections
are bounded, over all and by address; where there are too many, one that waits gives way: the oldest of the address that
holds the most.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from typing import Any, Final

from flask import Flask
from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import MultiSocketServer, TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher

#: Connections at once, over all and of one address; a proxy in front counts for all who are behind it.
MOST: Final = 256
MOST_OF_AN_ADDRESS: Final = 64
#: A request has to be there whole after so long, however steadily it drips.
REQUEST_WITHIN_S: Final = 20.0
_IDLE_S = 30
_THREADS = 4


class _Channel(HTTPChannel):  # type: ignore[misc]  # waitress has no types
    """A connection that knows since when it has been waited for."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.waited_for_since = time.time()
        self.answered = False
        super().__init__(*arguments, **named)

    def received(self, data: bytes) -> Any:
        """Take in a part of a request."""
        if self.request is None and self.answered:
            self.waited_for_since = time.time()
        self.answered = False
        done = super().received(data)
        self.answered = self.request is None
        return done

    @property
    def waits(self) -> bool:
        """Whether it holds no request that is whole, so that nothing is lost with it."""
        return not self.requests and not self.total_outbufs_len and not self.will_close

    def is_late(self, now: float) -> bool:
        """Whether a request should have been there by now."""
        return self.waits and not self.answered and now - self.waited_for_since > REQUEST_WITHIN_S


class _Server(TcpWSGIServer):  # type: ignore[misc]  # waitress has no types
    channel_class = _Channel
    most_of_an_address = MOST_OF_AN_ADDRESS

    def handle_accept(self) -> None:
        """Take the next connection; where there are too many, one that waits is closed."""
        super().handle_accept()
        by_address: defaultdict[str, list[_Channel]] = defaultdict(list)
        for channel in self.active_channels.values():
            if not channel.will_close:
                by_address[str(channel.addr[0])].append(channel)
        most = max(by_address.values(), key=len, default=[])
        if len(most) <= self.most_of_an_address and sum(map(len, by_address.values())) <= MOST:
            return
        waiting = [channel for channel in most if channel.waits]
        if waiting:
            min(waiting, key=lambda channel: channel.waited_for_since).will_close = True

    def maintenance(self, now: float) -> None:
        """Close connections that are idle, and those whose request does not come."""
        super().maintenance(now)
        for channel in self.active_channels.values():
            if channel.is_late(now):
                channel.will_close = True


def create_server(flask: Flask, *, host: str, port: int, most_request_bytes: int, proxied: bool = False) -> Any:
    """A server that listens, to be run by its `run`.

    Args:
        flask: what answers.
        host: name or address to listen on; a name may stand for several addresses.
        port: 0 takes a free one.
        most_request_bytes: a longer request is refused.
        proxied: a proxy stands in front: it has one address for all, and what it says of them is passed on.

    Raises:
        OSError: the address cannot be listened on.
    """
    adjustments = Adjustments(
        host=host,
        port=port,
        threads=_THREADS,
        ident=None,
        max_request_body_size=most_request_bytes,
        channel_timeout=_IDLE_S,
        cleanup_interval=1,
        connection_limit=4 * MOST,
        asyncore_use_poll=True,
        clear_untrusted_proxy_headers=not proxied,
    )
    sockets: dict[int, Any] = {}
    dispatcher = ThreadedTaskDispatcher()
    dispatcher.set_thread_count(adjustments.threads)
    servers = [
        _Server(flask, sockets, dispatcher=dispatcher, adj=adjustments, sockinfo=place) for place in adjustments.listen
    ]
    if proxied:
        for server in servers:
            server.most_of_an_address = MOST
    if len(servers) == 1:
        return servers[0]
    listens = [(server.effective_host, server.effective_port) for server in servers]
    return MultiSocketServer(sockets, adjustments, listens, dispatcher)


def serve(server: Any, stop: threading.Event) -> None:
    """Answer until `stop` is set, which is seen within a second; requests in hand are finished."""
    sockets = server.map if isinstance(server, MultiSocketServer) else server._map
    while not stop.is_set():
        wasyncore.loop(timeout=1, use_poll=server.adj.asyncore_use_poll, map=sockets, count=1)
    server.task_dispatcher.shutdown()
