"""The embedded server's first start on a disk without space: it is waited for, and begins when there is room."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.real_processes import REFINERY, Installation
from tests.support.small_disk import SmallDisk
from tests.support.waiting import HANGS_AFTER_S, wait_until
from worker.errors import TransientError
from worker.redis_server.embedded import EmbeddedServer, socket_path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A file system of two megabytes."""
    try:
        disk = SmallDisk(tmp_path / "disk", megabytes=2)
    except OSError as error:
        pytest.skip(str(error))
    yield disk
    disk.close()


def test_a_server_that_cannot_begin_on_a_full_disk_says_that_it_may_later(small_disk: SmallDisk) -> None:
    small_disk.fill()
    with pytest.raises(TransientError, match="No space left on device"), EmbeddedServer(small_disk.place / "valkey"):
        pass
    small_disk.make_room()
    with EmbeddedServer(small_disk.place / "valkey"):
        pass


@pytest.mark.parametrize("command", ["worker", "trainer", "up"])
def test_a_fresh_start_on_a_full_disk_waits_for_room(command: str, small_disk: SmallDisk) -> None:
    small_disk.fill()
    here = Installation(small_disk.place / "var", "")
    del here.environment["REFINERY_REDIS_URL"]
    log = small_disk.place.parent / "log"
    with log.open("wb") as told:
        process = subprocess.Popen([*REFINERY, command], env=here.environment, stderr=told)
        try:
            wait_until(lambda: b"waiting to start, nothing is lost" in log.read_bytes() or process.poll() is not None)
            assert process.poll() is None, log.read_text()
            small_disk.make_room()
            wait_until(lambda: b"possible after" in log.read_bytes() or process.poll() is not None)
            socket = socket_path(small_disk.place / "var" / "valkey")
            wait_until(lambda: socket.exists() or process.poll() is not None)
            assert process.poll() is None, log.read_text()
        finally:
            process.terminate()
            code = process.wait(HANGS_AFTER_S)
    assert code == 0, log.read_text()


def test_a_worker_that_waits_for_room_ends_when_it_is_told_to(small_disk: SmallDisk) -> None:
    small_disk.fill()
    here = Installation(small_disk.place / "var", "")
    del here.environment["REFINERY_REDIS_URL"]
    process = here.start("worker")
    assert process.stderr is not None
    while b"waiting to start" not in process.stderr.readline():
        assert process.poll() is None
    process.terminate()
    process.stderr.close()
    assert process.wait(HANGS_AFTER_S) == 0
