"""No credential leaves through logs or errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from loguru import logger

from tests.support.desk import settings_for
from worker.cli import output
from worker.observability.logging import set_up_logging
from worker.settings.masking import masker

URL = "rediss://ops:s3cr%2Ft-word@redis.example.com:6379/0"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_password_is_not_logged_however_it_gets_into_a_message(
    log_format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up_logging(settings_for(tmp_path, URL, log_format=log_format))
    try:
        logger.error("cannot reach {}", URL)
        logger.error("AUTH failed for ops with s3cr/t-word")
        try:
            raise ConnectionError(f"could not connect to {URL}")
        except ConnectionError:
            logger.exception("s3cr%2Ft-word in a traceback")
    finally:
        logger.remove()
        logger.add(sys.stderr)
    written = capsys.readouterr().err
    assert written.count("***") >= 4
    assert "redis.example.com:6379/0" in written
    for secret in ("s3cr", "t-word"):
        assert secret not in written


def test_passwords_of_servers_and_sentinels_are_taken_out_wherever_they_stand() -> None:
    url = "rediss+sentinel://ops:s3cr%2Ft-word@[::1]:1,b:2/name?sentinel_password=an%2Fother"
    for said in (url, "AUTH s3cr/t-word", "AUTH an/other", f"cannot use {url}, s3cr%2Ft-word"):
        shown = masker(url)(said)
        assert "***" in shown
        for secret in ("s3cr", "t-word", "other"):
            assert secret not in shown


def test_the_line_a_command_fails_with_shows_no_credentials(capsys: pytest.CaptureFixture[str]) -> None:
    output.fail("Redis does not answer: redis://:hunter22@h:1/0 and rediss://a:b@c@h/0 timed out")
    assert "hunter22" not in (written := capsys.readouterr().err)
    assert "redis://***@h:1/0" in written
    assert "a:b@c" not in written


@pytest.mark.parametrize("command", [["status"], ["status", "--json"], ["doctor"]])
def test_status_shows_no_credentials(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFINERY_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("REFINERY_REDIS_URL", f"unix://ops:s3cr%2Ft-word@{tmp_path}/nobody-listens.sock")
    done = subprocess.run([sys.executable, "-m", "worker", *command], capture_output=True, text=True, check=False)
    written = done.stdout + done.stderr
    assert "nobody-listens.sock" in written
    for secret in ("s3cr", "t-word"):
        assert secret not in written


def test_what_holds_no_credentials_stays_as_it_is() -> None:
    text = "unix:///tmp/x.sock, https://example.com/a@b, mail a@b.c, redis://h:1"
    assert masker(None)(text) == text
    assert masker("redis://:abc@h")("abcabc") == "abcabc"  # too short to hide: it would blacken every line
