"""A cluster that speaks TLS: its servers' certificates are verified, by address or by name, and events go over it."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.certificates import Certificates, signed_for
from tests.support.cluster import Cluster
from tests.support.desk import desk, settings_for
from tests.support.events import outcome, signal
from worker.client import RefineryClient
from worker.errors import TransientError
from worker.observability.doctor import examine
from worker.redis_server.connection import connect
from worker.streams.errors import translated

#: The server that is shipped speaks no TLS.
SERVER = shutil.which("redis-server") or shutil.which("valkey-server")
pytestmark = [
    pytest.mark.skipif(shutil.which("openssl") is None or SERVER is None, reason="needs openssl and a server with TLS"),
    pytest.mark.sqlite_file,
]


@contextmanager
def cluster(directory: Path, made: Certificates, **more: str) -> Iterator[Cluster]:
    """A cluster on TLS, to its clients and within."""
    directory.mkdir()
    settings: dict[str, object] = {
        "tls-cluster": "yes", "tls-replication": "yes", "tls-auth-clients": "no", "tls-ca-cert-file": made.authority,
        "tls-cert-file": made.certificate, "tls-key-file": made.key, **more,
    }  # fmt: skip
    signs_in = {"host": "127.0.0.1", "ssl": True, "ssl_ca_certs": made.authority, "ssl_check_hostname": False}
    with Cluster(directory, binary=Path(SERVER or ""), settings=settings, signs_in=signs_in) as servers:
        yield servers


def address(servers: Cluster, authority: Path, *, host: str = "127.0.0.1") -> str:
    return f"{servers.url.replace('redis+', 'rediss+').replace('127.0.0.1', host)}?ssl_ca_certs={authority}"


def test_a_worker_and_a_producer_work_over_tls_and_another_authority_is_refused(
    tmp_path: Path, valkey_url: str
) -> None:
    made = signed_for(tmp_path / "ours", "IP:127.0.0.1")
    with cluster(tmp_path / "cluster", made) as servers:
        url = address(servers, made.authority)
        with RefineryClient(url) as client:
            client.signal_created(**signal(1))
            client.trade_closed(**outcome(1))
        settings = settings_for(tmp_path / "state", url, queue_url=valkey_url)
        with desk(settings) as worker:
            while not worker.store.counts().labelled:
                worker.consumer._step()
        assert [found.says for found in examine(settings) if found.part == "redis" and found.verdict != "ok"] == []
        with RefineryClient(url) as client:
            assert [entry.score.signal_id for entry in client.scores(after="0", wait_s=0)] == ["s-1"]
        other = signed_for(tmp_path / "theirs", "IP:127.0.0.1").authority
        _refused(address(servers, other), "CERTIFICATE_VERIFY_FAILED")
        _refused(url.partition("?")[0], "CERTIFICATE_VERIFY_FAILED")
        with (
            pytest.raises(TransientError, match="CERTIFICATE_VERIFY_FAILED"),
            RefineryClient(address(servers, other), patience_s=0) as client,
        ):
            client.signal_created(**signal(2))
        elsewhere = settings.model_copy(update={"redis_url": address(servers, other)})
        [found] = [one for one in examine(elsewhere) if one.part == "redis"]
        assert found.verdict == "bad"
        assert "CERTIFICATE_VERIFY_FAILED" in found.says


def _refused(url: str, said: str) -> None:
    with connect(url) as client, pytest.raises(TransientError, match=said), translated():
        client.ping()


def _name() -> str | None:
    """What this machine's own address is called. The client takes `localhost` for an address."""
    with suppress(OSError):
        if socket.gethostbyname(socket.gethostname()) == "127.0.0.1":
            return socket.gethostname()
    return None


@pytest.mark.skipif(_name() in (None, "localhost"), reason="this machine has no name for its own address")
def test_certificates_of_names_hold_where_the_cluster_gives_names(tmp_path: Path) -> None:
    name = _name() or ""
    made = signed_for(tmp_path / "ours", f"DNS:{name}")
    names = {"cluster-announce-hostname": name, "cluster-preferred-endpoint-type": "hostname"}
    with (
        cluster(tmp_path / "cluster", made, **names) as servers,
        connect(address(servers, made.authority, host=name)) as client,
    ):
        for shard in range(3):
            client.set(f"{{r{shard}}}.key", shard)
            assert client.get(f"{{r{shard}}}.key") == str(shard).encode()
    with cluster(tmp_path / "by-address", made) as servers:
        _refused(address(servers, made.authority), "CERTIFICATE_VERIFY_FAILED")
