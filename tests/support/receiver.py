"""A web server that notifications are posted to, and that answers as it is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson


@dataclass(frozen=True)
class Posted:
    path: str
    headers: Mapping[str, str]
    content: bytes

    @property
    def document(self) -> dict[str, Any]:
        return orjson.loads(self.content)


@dataclass
class Receiver:
    """What came, and what is answered: a status, or whatever `answer` does with the request."""

    port: int = 0
    status: int = 200
    answer: Callable[[BaseHTTPRequestHandler], None] | None = None
    posted: list[Posted] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook/s3cr3t-path"

    @property
    def kinds(self) -> list[str]:
        return [one.document["kind"] for one in self.posted]

    @property
    def ids(self) -> list[str]:
        return [one.headers["webhook-id"] for one in self.posted]


@contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    """A receiver on this machine while the block runs."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["content-length"]))
            named = {name.lower(): value for name, value in self.headers.items()}
            receiver.posted.append(Posted(self.path, named, content))
            if receiver.answer is not None:
                receiver.answer(self)
                return
            self.send_response(receiver.status)
            self.end_headers()

        do_GET = do_POST

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def drip(request: BaseHTTPRequestHandler) -> None:
    """Answer a byte at a time, each soon after the one before, and never to an end."""
    try:
        while True:
            request.wfile.write(b"H")
            request.wfile.flush()
            time.sleep(0.05)
    except OSError:
        pass
