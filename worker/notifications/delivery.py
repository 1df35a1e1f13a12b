"""One post to the webhook: bounded in time and bytes, over verified TLS, and never redirected."""

from __future__ import annotations

import base64
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from worker.settings.masking import masker
from worker.settings.webhook_url import mask_webhook_url

_PORTS = {"http": 80, "https": 443}
#: These say that this one message is not liked; anything else is about the address, and goes for every message.
_OF_THE_MESSAGE = frozenset({400, 413, 422})


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `status` is None where no answer did; `says` never holds the address."""

    status: int | None
    says: str
    seconds: float

    @property
    def taken(self) -> bool:
        """Whether the receiver has taken the message."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def of_the_message(self) -> bool:
        """Whether it was refused for what it says, so that others may be taken."""
        return self.status in _OF_THE_MESSAGE


def post(url: str, content: bytes, headers: Mapping[str, str], *, timeout_s: float) -> Answer:
    """Post once. Whatever goes wrong is in the answer; nothing is raised for it, and nothing is tried again.

    Args:
        url: one that `check_webhook_url` lets pass.
        content: the body.
        headers: beside those of HTTP itself.
        timeout_s: from the connection to the end of the answer's head; looking up the host's name comes before.
    """
    started = time.monotonic()
    parts = urlsplit(url)
    try:
        status, says = _exchange(parts, content, headers, timeout_s)
    except ssl.SSLCertVerificationError as error:
        status, says = None, f"its certificate is not accepted: {error.verify_message}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        late = isinstance(error, TimeoutError) or time.monotonic() - started >= timeout_s
        status, says = None, f"no answer within {timeout_s:g} s" if late else _cause(error, parts)
    return Answer(status, says, time.monotonic() - started)


def _exchange(parts: SplitResult, content: bytes, headers: Mapping[str, str], timeout_s: float) -> tuple[int, str]:
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    with socket.create_connection((host, port), timeout=timeout_s) as plain:
        connected = plain
        if parts.scheme == "https":
            context = ssl.create_default_context()
            connected = context.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
        # A receiver that answers a byte at a time is within every socket's timeout for ever.
        deadline = threading.Timer(timeout_s, _hang_up, (connected,))
        deadline.daemon = True
        deadline.start()
        try:
            if isinstance(connected, ssl.SSLSocket):
                connected.do_handshake()
            return _asked(connected, parts, content, headers)
        finally:
            deadline.cancel()
            _hang_up(connected)  # a training that was forked meanwhile has the descriptor too
            connected.close()


def _asked(connected: socket.socket, parts: SplitResult, content: bytes, headers: Mapping[str, str]) -> tuple[int, str]:
    connection = http.client.HTTPConnection(parts.hostname or "")
    connection.sock = connected
    target = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
    connection.request("POST", target, content, {**headers, **_of_the_address(parts), "connection": "close"})
    answer = connection.getresponse()
    words = f"{answer.status} {answer.reason}".strip()
    if 300 <= answer.status < 400:
        where = mask_webhook_url(answer.getheader("location") or "")
        return answer.status, f"{words}: redirects to {where} are not followed"
    return answer.status, words


def _of_the_address(parts: SplitResult) -> dict[str, str]:
    named = {"host": parts.netloc.rpartition("@")[2], "user-agent": "signal-refinery"}
    if parts.username is not None:
        who = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        named["authorization"] = f"Basic {base64.b64encode(who.encode()).decode()}"
    return named


def _cause(error: Exception, parts: SplitResult) -> str:
    if isinstance(error, http.client.HTTPException):
        return f"what came back is no HTTP ({type(error).__name__})"
    said = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return masker(parts.geturl())(f"{parts.hostname} is not reached: {said}")


def _hang_up(connected: socket.socket) -> None:
    with suppress(OSError):
        socket.socket.shutdown(connected, socket.SHUT_RDWR)  # of the socket itself: TLS would wait for the other side
