"""Every process that runs until it is stopped, told to by SIGTERM and by Ctrl-C, while it starts and while it works."""

from __future__ import annotations

import os
import signal as signals
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.support.composed import free_port
from tests.support.waiting import HANGS_AFTER_S, wait_until

STOPS = (signals.SIGTERM, signals.SIGINT)
PROCESSES = {
    "worker": ["worker"],
    "workers": ["worker", "--processes", "2"],
    "trainer": ["trainer"],
    "console": ["console"],
    "up": ["up"],
}


@contextmanager
def process(
    directory: Path, *arguments: str, program: Sequence[str] = ("-m", "worker"), **settings: str
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """One of ours with its log. It leads a group, as from a shell, where Ctrl-C reaches the group."""
    quiet = {"REFINERY_METRICS_PORT": "0", "REFINERY_TRAINER_METRICS_PORT": "0", "REFINERY_SHUTDOWN_GRACE_S": "3600"}
    environment = {**os.environ, **quiet, "REFINERY_STATE_DIR": str(directory / "var"), **settings}
    log = directory / "log"
    with log.open("wb") as told:
        started = subprocess.Popen(
            [sys.executable, *program, *arguments],
            env=environment,
            stderr=told,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        yield started, log
    finally:
        started.kill()
        started.wait(HANGS_AFTER_S)


def told_to_stop(started: subprocess.Popen[bytes], number: signals.Signals) -> int:
    """How it ended; Ctrl-C reaches its group, SIGTERM it alone."""
    (os.killpg if number == signals.SIGINT else os.kill)(started.pid, number)
    return started.wait(HANGS_AFTER_S)


def catches_sigterm(pid: int) -> bool:
    """Whether the process has said what SIGTERM shall do."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True
    [caught] = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")]
    return bool(int(caught, 16) & (1 << (signals.SIGTERM - 1)))


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel what the process catches")
@pytest.mark.parametrize("number", STOPS, ids=lambda number: number.name)
@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_that_is_told_to_stop_while_it_starts_ends_with_0(
    name: str, number: signals.Signals, tmp_path: Path
) -> None:
    with process(tmp_path, *PROCESSES[name], REFINERY_CONSOLE_PORT=str(free_port())) as (started, log):
        wait_until(lambda: catches_sigterm(started.pid))
        assert told_to_stop(started, number) == 0, log.read_text()
        assert "Traceback" not in log.read_text()


#: The command, told to stop inside a finalizer that runs while its modules are imported: what is raised there is lost.
TOLD_IN_A_FINALIZER = """
import os, signal, sys

class Finalized:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass

class Finder:
    def find_spec(name, path, target=None):
        if name == "loguru" and signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            sys.meta_path.remove(Finder)
            Finalized()

sys.meta_path.insert(0, Finder)
sys.argv[0] = "refinery"
from worker.cli.main import main
main()
"""


@pytest.mark.parametrize("name", ["worker", "trainer", "console", "gateway", "demo"])
def test_a_signal_that_interrupts_what_swallows_exceptions_is_heard(name: str, tmp_path: Path) -> None:
    with process(
        tmp_path,
        *PROCESSES.get(name, [name]),
        program=["-c", TOLD_IN_A_FINALIZER],
        REFINERY_CONSOLE_PORT=str(free_port()),
    ) as (started, log):
        assert started.wait(HANGS_AFTER_S) == (1 if name == "demo" else 0), log.read_text()
        assert ("stopped before its end" in log.read_text()) == (name == "demo")


def is_up(name: str, log: Path, port: int, client: redis.Redis) -> bool:
    """Whether the process does what it is for."""
    if name == "console":
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/login", timeout=HANGS_AFTER_S):
                return True
        except OSError:
            return False
    if name == "trainer":
        return bool(client.scard("rq:workers"))
    words = {"worker": "is ready", "workers": "is ready", "up": "up, with"}[name]
    return log.read_text().count(words) == (2 if name == "workers" else 1)


@pytest.mark.parametrize("number", STOPS, ids=lambda number: number.name)
@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_that_is_told_to_stop_while_it_works_ends_with_0(
    name: str, number: signals.Signals, tmp_path: Path, valkey_url: str, valkey: redis.Redis
) -> None:
    port = free_port()
    settings = {"REFINERY_REDIS_URL": valkey_url, "REFINERY_CONSOLE_PORT": str(port)}
    with process(tmp_path, *PROCESSES[name], **settings) as (started, log):
        wait_until(lambda: started.poll() is not None or is_up(name, log, port, valkey), log.read_text)
        assert started.poll() is None, log.read_text()
        assert told_to_stop(started, number) == 0, log.read_text()
        assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("number", STOPS, ids=lambda number: number.name)
def test_a_replay_that_is_stopped_before_its_end_has_failed_and_says_so(
    number: signals.Signals, tmp_path: Path
) -> None:
    with process(tmp_path, "demo", "--exit") as (started, log):
        wait_until(lambda: started.poll() is not None or "schema steps applied" in log.read_text(), log.read_text)
        assert told_to_stop(started, number) == 1, log.read_text()
        assert "stopped before its end" in log.read_text()
        assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("number", STOPS, ids=lambda number: number.name)
def test_a_demo_that_is_stopped_after_its_replay_ends_with_0(number: signals.Signals, tmp_path: Path) -> None:
    with process(tmp_path, "demo", "--until", "2000-06-30") as (started, log):
        wait_until(lambda: started.poll() is not None or "still up" in log.read_text(), log.read_text)
        assert told_to_stop(started, number) == 0, log.read_text()
        assert "Traceback" not in log.read_text()


AS_FIRST_PROCESS = ["unshare", "--pid", "--fork", "--kill-child"]


def may_be_first() -> bool:
    try:
        return subprocess.run([*AS_FIRST_PROCESS, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not may_be_first(), reason="no process of ours may be the first of a namespace here")
def test_a_short_command_that_is_a_containers_first_process_ends_on_sigterm(tmp_path: Path, valkey_url: str) -> None:
    waits = subprocess.Popen(
        [*AS_FIRST_PROCESS, sys.executable, "-m", "worker", "publish", "-"],
        env={**os.environ, "REFINERY_STATE_DIR": str(tmp_path / "var"), "REFINERY_REDIS_URL": valkey_url},
        stdin=subprocess.PIPE,
    )
    children = Path(f"/proc/{waits.pid}/task/{waits.pid}/children")
    try:
        wait_until(lambda: bool(children.read_text()) and catches_sigterm(int(children.read_text())))
        os.kill(int(children.read_text()), signals.SIGTERM)
        assert waits.wait(HANGS_AFTER_S) == 128 + signals.SIGTERM
    finally:
        waits.kill()
        waits.wait(HANGS_AFTER_S)
        waits.stdin.close()  # type: ignore[union-attr]
