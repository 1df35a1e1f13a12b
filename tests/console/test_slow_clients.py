"""Clients that connect and ask nothing, or ask drop by drop, keep nobody out."""

from __future__ import annotations

import socket
import time
import urllib.request
from contextlib import ExitStack
from urllib.parse import urlsplit

from tests.support.waiting import HANGS_AFTER_S, wait_until
from worker.console.server import MOST_OF_AN_ADDRESS, REQUEST_WITHIN_S, _Channel

SLOW = 300


def test_slow_clients_keep_nobody_out_and_their_number_is_bounded(address: str) -> None:
    host, port = urlsplit(address).hostname, urlsplit(address).port
    assert host is not None
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection((host, port), HANGS_AFTER_S)) for _ in range(SLOW)]
        for client in slow:
            try:
                client.sendall(b"POST /login HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
            except OSError:
                continue  # it has been closed already
        for _ in range(3):
            with urllib.request.urlopen(f"{address}/static/console.css", timeout=HANGS_AFTER_S) as answer:  # noqa: S310
                assert answer.status == 200

        def left() -> int:
            return sum(_is_open(client) for client in slow)

        wait_until(lambda: left() <= MOST_OF_AN_ADDRESS)
        assert left() > 0


def _is_open(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def test_a_request_that_drips_is_late_by_the_time_since_it_was_waited_for() -> None:
    channel = _Channel.__new__(_Channel)
    channel.requests, channel.request, channel.answered = [], object(), False
    channel.waited_for_since = channel.last_activity = time.time()
    assert not channel.is_late(channel.waited_for_since + REQUEST_WITHIN_S)
    assert channel.is_late(channel.waited_for_since + REQUEST_WITHIN_S + 1)
    channel.answered = True
    assert not channel.is_late(channel.waited_for_since + REQUEST_WITHIN_S + 1)
