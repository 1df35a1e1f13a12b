"""The server of an installation, configured or embedded: its address, and a client of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from worker.settings.schema import Settings
from worker.streams.entries import kept_bytes

if TYPE_CHECKING:
    import redis

    from worker.supervision.backoff import StartRetry


@contextmanager
def server_url(settings: Settings, *, retry: StartRetry | None = None) -> Iterator[str]:
    """Address of the server: the configured one, or the embedded one, hosted or joined while the block runs.

    Args:
        settings: of this process.
        retry: for a disk on which the embedded one cannot start just now; None: that is an error.

    Raises:
        StopRequested: told to stop before it could start.
        ConfigurationError: there is no server to host.
        RefineryError: it does not start.
    """
    if settings.redis_url is not None:
        yield settings.redis_url
        return
    from worker.redis_server.embedded import EmbeddedServer  # with the client of Redis, which takes long to load

    with ExitStack() as stack:

        def hosted() -> str:
            return stack.enter_context(EmbeddedServer(settings.valkey_dir)).url

        yield hosted() if retry is None else retry.until_possible(hosted)


@contextmanager
def server(settings: Settings) -> Iterator[redis.Redis]:
    """A client of the server, which is started where it is embedded and not running yet."""
    with server_url(settings) as url, connect(url) as client:
        yield client


@contextmanager
def server_if_there(settings: Settings) -> Iterator[redis.Redis | None]:
    """A client of the server; None where it is embedded and not running. Starts nothing."""
    url = settings.redis_url
    if url is None:
        from worker.redis_server.embedded import answers, socket_path  # with the log

        socket = socket_path(settings.valkey_dir)
        if not socket.exists() or not answers(socket):
            yield None
            return
        url = f"unix://{socket}"
    with connect(url) as client:
        yield client


#: Above the longest blocking read, so that a silent server and an empty stream are told apart.
_SOCKET_TIMEOUT_S = 10.0


def connect(url: str, *, largest_event: int = 0) -> redis.Redis:
    """A client that neither retries nor decodes: for everything that writes to or reads from streams.

    Args:
        url: address of the server.
        largest_event: bytes of the largest event that is let in. A reply with many times as many, and more than is read
            of any, is given up with `ReplyTooLarge`.
    """
    from redis.backoff import NoBackoff  # takes long to load, and a command without a server does without
    from redis.retry import Retry

    from worker.redis_client import client_at  # loads it too
    from worker.streams.replies import MOST_REPLY_BYTES, bounded_parser  # the same

    return client_at(
        url,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=_SOCKET_TIMEOUT_S,
        socket_connect_timeout=_SOCKET_TIMEOUT_S,
        protocol=2,
        parser_class=bounded_parser(max(MOST_REPLY_BYTES, 3 * kept_bytes(largest_event))),
    )
