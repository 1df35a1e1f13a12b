"""What systemd is told: that a process works, that it lives while its loop goes on, and nothing by one that hangs."""

from __future__ import annotations

import os
import signal as signals
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.support.desk import send
from tests.support.events import SIGNALS, signal
from tests.support.processes import fork
from tests.support.real_processes import REFINERY, Installation
from tests.support.servers import Replicated
from tests.support.waiting import HANGS_AFTER_S, wait_until
from worker.supervision.service_manager import ServiceManager

#: So long systemd would wait for a word.
WATCHDOG_S = 1.0
PING = "WATCHDOG=1"


class Systemd:
    """The socket that systemd listens on."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))}

    def hears(self, within_s: float = HANGS_AFTER_S) -> str | None:
        """The next word; None where none comes in time."""
        self._socket.settimeout(within_s)
        try:
            return self._socket.recv(4096).decode()
        except TimeoutError:
            return None

    def until(self, word: str) -> list[str]:
        """What is heard up to this word."""
        heard: list[str] = []
        while not heard or not heard[-1].startswith(word):
            said = self.hears()
            assert said is not None, (word, heard)
            heard.append(said)
        return heard

    def forget(self) -> None:
        """Drop what has been said by now."""
        while self.hears(0.2) is not None:
            pass


@pytest.fixture
def systemd(tmp_path: Path) -> Systemd:
    return Systemd(tmp_path / "notify")


@contextmanager
def started(
    installation: Installation, systemd: Systemd, *words: str, **more: str
) -> Iterator[subprocess.Popen[bytes]]:
    environment = installation.environment | systemd.environment | more
    process = subprocess.Popen([*(words or (*REFINERY, "worker"))], env=environment, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait(HANGS_AFTER_S)


def test_a_worker_is_ready_when_it_works_lives_also_while_redis_is_away_and_is_silent_when_it_is_stopped(
    installation: Installation, systemd: Systemd, tmp_path: Path
) -> None:
    server = Replicated(tmp_path / "server")
    try:
        with started(installation, systemd, REFINERY_REDIS_URL=f"unix://{server.socket}") as worker:
            early = systemd.until("STATUS=waits: ") + systemd.until(PING)
            assert not any(word.startswith("READY") for word in early)
            server.start()
            heard = systemd.until("READY=1")
            assert heard.count("READY=1") == 1
            for _ in range(4):
                assert systemd.until(PING)[-1] == PING  # idle
            server.kill()
            systemd.until("STATUS=waits: Redis does not answer")
            for _ in range(3):
                systemd.until(PING)  # paused
            worker.send_signal(signals.SIGSTOP)
            wait_until(lambda: Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
            systemd.forget()
            assert systemd.hears(2 * WATCHDOG_S) is None
            worker.send_signal(signals.SIGCONT)
            systemd.until(PING)
            worker.terminate()
            assert "READY=1" not in systemd.until("STOPPING=1")
            assert worker.wait(HANGS_AFTER_S) == 0
    finally:
        server.kill()


STUCK = """
import sys, time
from worker.consumer.batch_handler import BatchHandler
from worker.cli.main import main
BatchHandler.handle = lambda self, entries: open(sys.argv.pop(), "w").close() or time.sleep(1e6)
main()
"""


def test_a_worker_that_hangs_in_an_event_says_nothing_though_its_threads_go_on(
    installation: Installation, systemd: Systemd, valkey: redis.Redis, tmp_path: Path
) -> None:
    stuck = tmp_path / "stuck"
    code = STUCK.replace("sys.argv.pop()", repr(str(stuck)))
    with started(installation, systemd, sys.executable, "-c", code, "worker", REFINERY_CLAIM_IDLE_MS="1000"):
        systemd.until("READY=1")
        send(valkey, SIGNALS, signal(1))
        wait_until(stuck.exists)
        systemd.forget()
        assert systemd.hears(3 * WATCHDOG_S) is None


def test_a_trainer_is_ready_when_it_waits_for_trainings_and_lives(installation: Installation, systemd: Systemd) -> None:
    with started(installation, systemd, *REFINERY, "trainer") as trainer:
        systemd.until("READY=1")
        systemd.until(PING)
        systemd.until(PING)
        trainer.terminate()
        systemd.until("STOPPING=1")
        assert trainer.wait(HANGS_AFTER_S) == 0


def test_a_gateway_and_a_parent_of_several_workers_are_watched_themselves(
    installation: Installation, systemd: Systemd, tmp_path: Path
) -> None:
    place = str(tmp_path / "s")
    for words in ((*REFINERY, "gateway"), (*REFINERY, "worker", "--processes", "2")):
        with started(installation, systemd, *words, REFINERY_GATEWAY__SOCKET=place) as process:
            heard = systemd.until("READY=1")
            for _ in range(3):
                heard += systemd.until(PING)
            assert heard.count("READY=1") == 1, "children say nothing of their own"
            process.terminate()
            systemd.until("STOPPING=1")
            assert process.wait(HANGS_AFTER_S) == 0
            systemd.forget()


def test_abstract_sockets_are_spoken_to_and_without_any_nothing_happens(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        name = f"refinery-{os.getpid()}"
        listener.bind(f"\0{name}")
        listener.settimeout(HANGS_AFTER_S)
        told = ServiceManager({"NOTIFY_SOCKET": f"@{name}", "WATCHDOG_USEC": "60000000"})
        for _ in range(3):
            told.ready()
            told.waits("for\n the  disk")
        told.stopping()
        waits = "STATUS=waits: for the disk"
        said = [listener.recv(99).decode() for _ in range(8)]
        assert said == ["READY=1", PING, waits, "STATUS=", waits, "STATUS=", waits, "STOPPING=1"]
    told.ready()  # nobody listens any more
    for environment in ({}, {"NOTIFY_SOCKET": str(tmp_path / "nobody"), "WATCHDOG_USEC": "x"}):
        ServiceManager(environment).ready()
        ServiceManager(environment).stopping()


def test_another_process_is_not_spoken_for(systemd: Systemd) -> None:
    told = ServiceManager(systemd.environment | {"WATCHDOG_PID": str(os.getppid())})
    told.alive()
    assert systemd.hears(0.2) is None
    told = ServiceManager(systemd.environment)
    assert os.waitpid(fork(told.ready), 0)[1] == 0
    assert systemd.hears(0.2) is None
    told.ready()
    assert systemd.hears() == "READY=1"
