"""Commands on a terminal without Unicode, and on a disk that takes nothing more."""

from __future__ import annotations

import re
import resource
import subprocess
from pathlib import Path
from typing import IO

import pytest
import redis

from tests.support.desk import desk, send
from tests.support.events import SIGNALS
from tests.support.real_processes import REFINERY, Installation
from tests.support.waiting import HANGS_AFTER_S
from worker.settings.schema import load_settings

ASCII = {"PYTHONIOENCODING": "ascii"}
#: Python takes UTF-8 in the C locale unless it is told not to.
C_LOCALE = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"}
#: A store that is opened writes no larger file than its `-shm`.
SHARED_INDEX_BYTES = 32_768


@pytest.fixture
def filled(installation: Installation, valkey: redis.Redis) -> Installation:
    """An installation with one dead letter, whose payload has signs outside ASCII."""
    url = installation.environment["REFINERY_REDIS_URL"]
    with desk(load_settings(state_dir=installation.state_dir, redis_url=url, block_ms=20)) as worker:
        send(valkey, SIGNALS, '{"symbol": "→ Zürich ●"}'.encode())
        worker.drain()
    return installation


@pytest.mark.parametrize("poor", [ASCII, C_LOCALE], ids=["ascii", "c-locale"])
def test_a_terminal_without_unicode_shows_what_it_lacks_in_signs_that_it_has(
    filled: Installation, poor: dict[str, str]
) -> None:
    listed = filled.run("dead-letters", "list", **poor)
    assert listed.returncode == 0
    assert re.fullmatch(rb"next: [ -~]+\n", listed.stderr)
    assert r"-> Z\xfcrich *" in listed.stdout.decode("ascii")


@pytest.mark.parametrize("command", ["status", "status --json", "dead-letters export -"])
def test_a_full_disk_under_the_output_is_one_line_and_exit_1(filled: Installation, command: str) -> None:
    with Path("/dev/full").open("wb") as full:
        code, said = _run(filled, command, stdout=full)
    assert (code, said) == (1, ["refinery: output: No space left on device"])


def test_an_export_that_does_not_fit_on_the_disk_says_so_and_never_that_it_was_written(
    filled: Installation, tmp_path: Path
) -> None:
    code, said = _run(filled, "dead-letters export /dev/full")
    assert (code, said) == (1, ["refinery: output: No space left on device"])
    url = filled.environment["REFINERY_REDIS_URL"]
    with desk(load_settings(state_dir=filled.state_dir, redis_url=url, block_ms=20)) as worker:
        send(worker.client, SIGNALS, b'"' + b"x" * SHARED_INDEX_BYTES + b'"')
        worker.drain()
    code, said = _run(filled, f"dead-letters export {tmp_path / 'letters'}", most_bytes=SHARED_INDEX_BYTES)
    assert (code, said) == (1, ["refinery: output: File too large"])


def test_a_status_of_a_store_on_a_full_disk_is_one_line_that_names_the_store(filled: Installation) -> None:
    code, said = _run(filled, "status", most_bytes=0)
    assert (code, len(said)) == (1, 1), said
    assert said[0].startswith(f"refinery: {filled.state_dir / 'features.db'}: ")


def _run(
    installation: Installation,
    command: str,
    *,
    stdout: IO[bytes] | int = subprocess.PIPE,
    most_bytes: int | None = None,
) -> tuple[int, list[str]]:
    """The exit code, and the lines on stderr; no file may grow beyond `most_bytes`, as on a disk that is full."""

    def limit() -> None:
        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    done = subprocess.run(
        [*REFINERY, *command.split()],
        env=installation.environment | {"REFINERY_LOG_LEVEL": "ERROR"},
        stdout=stdout,
        stderr=subprocess.PIPE,
        timeout=HANGS_AFTER_S,
        check=False,
        preexec_fn=limit,
    )
    return done.returncode, done.stderr.decode().splitlines()
