"""To a server on another host: its certificate is verified, and nothing is sent where it does not hold."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis
from redis.sentinel import MasterNotFoundError

from worker.redis_client import ask_each
from worker.redis_server.connection import connect

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl")


@dataclass
class TlsServer:
    """Answers whoever its handshake is done with, and keeps what it was sent."""

    certificate: Path
    port: int
    received: list[bytes] = field(default_factory=list)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TlsServer]:
    """One that signed its certificate itself, for the name localhost."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        made = TlsServer(certificate, listening.getsockname()[1])

        def answer() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                try:
                    with context.wrap_socket(connection, server_side=True) as secured:
                        while data := secured.recv(4096):
                            made.received.append(data)
                            for command in re.findall(rb"\*\d+\r\n\$\d+\r\n(\w+)", data):
                                secured.sendall(b"+PONG\r\n" if command == b"PING" else b"+OK\r\n")
                except OSError:
                    continue

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield made
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_a_certificate_that_nobody_vouches_for_is_refused_before_anything_is_sent(server: TlsServer) -> None:
    with connect(f"rediss://:s3cret@localhost:{server.port}") as client, pytest.raises(redis.ConnectionError) as caught:
        client.ping()
    assert "CERTIFICATE_VERIFY_FAILED" in str(caught.value)
    assert server.received == []


def test_a_certificate_of_another_name_is_refused_before_anything_is_sent(server: TlsServer) -> None:
    url = f"rediss://:s3cret@127.0.0.1:{server.port}?ssl_ca_certs={server.certificate}"
    with connect(url) as client, pytest.raises(redis.ConnectionError) as caught:
        client.ping()
    assert "CERTIFICATE_VERIFY_FAILED" in str(caught.value)
    assert server.received == []


def test_sentinels_with_a_certificate_that_nobody_vouches_for_are_sent_nothing(server: TlsServer) -> None:
    url = f"rediss+sentinel://:s3cret@localhost:{server.port}/name?sentinel_password=s3cret"
    with connect(url) as client, pytest.raises(MasterNotFoundError):
        client.ping()
    assert [("CERTIFICATE_VERIFY_FAILED" in one.trouble) for one in ask_each(url)] == [True]
    assert server.received == []


def test_a_certificate_that_holds_is_accepted(server: TlsServer) -> None:
    with connect(f"rediss://localhost:{server.port}?ssl_ca_certs={server.certificate}") as client:
        assert client.ping()
    assert any(b"PING" in data for data in server.received)
