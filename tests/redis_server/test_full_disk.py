"""The embedded server's first start on a disk without space: it is waited for, and begins when there is room."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.real_processes import REFINERY, Installation
from tests.support.waiting import HANGS_AFTER_S, wait_until
from worker.errors import TransientError
from worker.redis_server.embedded import EmbeddedServer


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(place: Path) -> Path:
    """What takes up all of the space."""
    path = place / "ballast"
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return path


def test_a_server_that_cannot_begin_on_a_full_disk_says_that_it_may_later(small_disk: Path) -> None:
    ballast = fill(small_disk)
    with pytest.raises(TransientError, match="No space left on device"), EmbeddedServer(small_disk / "valkey"):
        pass
    ballast.unlink()
    with EmbeddedServer(small_disk / "valkey"):
        pass


@pytest.mark.parametrize("command", ["worker", "trainer", "up"])
def test_a_fresh_start_on_a_full_disk_waits_for_room(command: str, small_disk: Path) -> None:
    ballast = fill(small_disk)
    here = Installation(small_disk / "var", "")
    del here.environment["REFINERY_REDIS_URL"]
    log = small_disk.parent / "log"
    with log.open("wb") as told:
        process = subprocess.Popen([*REFINERY, command], env=here.environment, stderr=told)
        try:
            wait_until(lambda: b"waiting to start, nothing is lost" in log.read_bytes() or process.poll() is not None)
            assert process.poll() is None, log.read_text()
            ballast.unlink()
            wait_until(lambda: b"possible after" in log.read_bytes() or process.poll() is not None)
            wait_until(lambda: (small_disk / "var" / "valkey" / "valkey.sock").exists() or process.poll() is not None)
            assert process.poll() is None, log.read_text()
        finally:
            process.terminate()
            code = process.wait(HANGS_AFTER_S)
    assert code == 0, log.read_text()


def test_a_worker_that_waits_for_room_ends_when_it_is_told_to(small_disk: Path) -> None:
    fill(small_disk)
    here = Installation(small_disk / "var", "")
    del here.environment["REFINERY_REDIS_URL"]
    process = here.start("worker")
    assert process.stderr is not None
    while b"waiting to start" not in process.stderr.readline():
        assert process.poll() is None
    process.terminate()
    process.stderr.close()
    assert process.wait(HANGS_AFTER_S) == 0
